"""Models as files: written without their optimizer, and checked when they are read."""

import warnings
from pathlib import Path

import keras
import numpy as np

from brainlib import CLASS_NAMES, paths
from brainlib.models import manifest
from brainlib.paths import BrainlibError


def save_model(model: keras.Model, path: Path) -> None:
    """Save a model for prediction, without loss and optimizer (a third of the size)."""
    # Keras has an argument for this, which the .keras format disregards
    bare = keras.Model(model.inputs, model.output, name=model.name)
    with paths.atomic_write(path) as temporary:
        bare.save(temporary)


def load_model(path: Path | str) -> keras.Model:
    """Load a saved model.

    Raises
    ------
    BrainlibError
        Where the file is absent, is no Keras model, or does not give four probabilities for a
        image of any size.
    """
    path = paths.resolve(path)
    if manifest.read_file(path) is None:
        raise BrainlibError(f"there is no {path}: run notebooks/02_train.ipynb, or `make run`")
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # the archive, its JSON or its weights may be what is damaged
        raise BrainlibError(f"{path} cannot be loaded as a Keras model: {error}") from error
    _require_probabilities(model, path)
    return model


def _require_probabilities(model: keras.Model, path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 90, 80, 1)).astype("uint8")
    try:
        with warnings.catch_warnings():  # of an input in a list or not: Keras takes either
            warnings.simplefilter("ignore")
            # not predict_on_batch, which compiles the model for this one size
            answer = keras.ops.convert_to_numpy(model(noise, training=False))
    except Exception as error:
        raise BrainlibError(
            f"{path} does not take grey images of 90 by 80 pixels: a model must take raw "
            f"images of any size ({error})"
        ) from error
    is_right = answer.shape == (2, len(CLASS_NAMES)) and (answer >= 0).all()
    if not is_right or not np.allclose(answer.sum(axis=1), 1, atol=1e-3):
        raise BrainlibError(
            f"{path} does not give a probability for each of {', '.join(CLASS_NAMES)}: its answer "
            f"has the shape {answer.shape} and rows that sum to {answer.reshape(2, -1).sum(axis=1)}"
        )
