"""Models as files: written without their optimizer, and checked when they are read."""

import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np

from brainlib import paths
from brainlib.models import manifest
from brainlib.models.engines import Engine
from brainlib.paths import BrainlibError


def save_model(model: keras.Model, path: Path) -> None:
    """Save a model for prediction, without loss and optimizer (a third of the size).

    The ONNX file of an older model of this name is removed: it would answer in its place.
    """
    # Keras has an argument for this, which the .keras format disregards
    bare = keras.Model(model.inputs, model.output, name=model.name)
    with paths.atomic_write(path) as temporary:
        bare.save(temporary)
        path.with_suffix(".onnx").unlink(missing_ok=True)


def load_model(path: Path | str) -> keras.Model:
    """Load a saved model.

    Raises
    ------
    BrainlibError
        Where the file is absent, is no Keras model, or does not give four probabilities for an
        image of any size.
    """
    path = paths.absolute(path)
    if manifest.read_file(path) is None:
        raise BrainlibError(f"there is no {path}: run notebooks/02_train.ipynb, or `make run`")
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # the archive, its JSON or its weights may be what is damaged
        is_whole = path.suffix != ".keras" or zipfile.is_zipfile(path)
        reason = error if is_whole else "it is empty or damaged"
        raise BrainlibError(f"{path} cannot be loaded as a Keras model: {reason}") from error
    _require_probabilities(model, path)
    return model


def _require_probabilities(model: keras.Model, path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 90, 80, 1)).astype("uint8")

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        # not predict_on_batch, which compiles the model for this one size
        answers = model(images, training=False)
        return {"probabilities": keras.ops.convert_to_numpy(answers)}

    try:
        with warnings.catch_warnings():  # of an input in a list or not: Keras takes either
            warnings.simplefilter("ignore")
            Engine(run, ("probabilities",))(noise)
    except Exception as error:
        raise BrainlibError(
            f"{path} does not classify grey images of 90 by 80 pixels; a model must take raw "
            f"images of any size ({error})"
        ) from error
