"""From a name to a Keras model with its preprocessing inside.

Every model takes raw pixels, 0 to 255, grey or RGB, of any height and width, and gives the
probabilities of the four classes in the order of `CLASS_NAMES`.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers

from brainlib import CLASS_NAMES, paths

INPUT_SIZE = 150
"""Height and width to which the model scales its pictures, pixels."""


class ModelError(ValueError):
    """A model that does not exist, or a file that holds none."""


def build_model(name: str = "seed_cnn", seed: int = 0) -> keras.Model:
    """Build an untrained model by its name.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    seed : int
        Seed of the initial weights and of dropout; it seeds Python, NumPy and the backend too.

    Raises
    ------
    ModelError
        For an unknown name.

    Examples
    --------
    >>> build_model("seed_cnn").count_params()  # doctest: +SKIP
    5402308
    """
    if name not in MODELS:
        raise ModelError(f"no model {name!r}: choose one of {', '.join(MODELS)}")
    keras.utils.set_random_seed(seed)
    return MODELS[name]()


def build_seed_cnn() -> keras.Model:
    """Build the network that the starting project trained: 5,402,308 parameters.

    Three blocks of a 3 by 3 convolution (32, 64, 128 filters) and max pooling, then a dense layer
    of 128, dropout of one half, and the softmax over the classes, on 150 by 150 by 3. `features`
    names the last layer that has a map.
    """
    pixels, x = _preprocessing()
    for block, filters in enumerate((32, 64, 128), start=1):
        name = "features" if block == 3 else f"convolution_{block}"
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D(name=f"pooling_{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", name="dense")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    probabilities = layers.Dense(len(CLASS_NAMES), activation="softmax", name="probabilities")(x)
    return keras.Model(pixels, probabilities, name="seed_cnn")


def _preprocessing() -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return raw pixels of any shape, and the same as 150 by 150 by 3 between 0 and 1."""
    pixels = keras.Input((None, None, None), name="pixels")
    grey = keras.ops.mean(keras.ops.cast(pixels, "float32"), axis=-1, keepdims=True)
    x = layers.Resizing(INPUT_SIZE, INPUT_SIZE, antialias=True, name="resizing")(grey)
    x = layers.Rescaling(1 / 255, name="rescaling")(x)
    return pixels, layers.Concatenate(name="grey_to_rgb")([x, x, x])


MODELS: dict[str, Callable[[], keras.Model]] = {"seed_cnn": build_seed_cnn}


def save_model(model: keras.Model, path: Path) -> None:
    """Save a model for prediction, without loss and optimizer (a third of the size)."""
    # Keras has an argument for this, which the .keras format disregards
    bare = keras.Model(model.inputs, model.outputs, name=model.name)
    with paths.atomic_write(path) as temporary:
        bare.save(temporary)


def load_model(path: Path | str) -> keras.Model:
    """Load a saved model.

    Raises
    ------
    ModelError
        Where the file is absent, is no Keras model, or does not give four probabilities for a
        picture of any size.
    """
    path = paths.resolve(path)
    if not path.is_file():
        raise ModelError(f"there is no model {path}: run notebooks/02_train.ipynb, or `make run`")
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # the archive, its JSON or its weights may be what is damaged
        raise ModelError(f"{path} cannot be loaded as a Keras model: {error}") from error
    _require_probabilities(model, path)
    return model


def _require_probabilities(model: keras.Model, path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 90, 80, 1)).astype("uint8")
    try:
        answer = np.asarray(model.predict_on_batch(noise))
    except Exception as error:
        raise ModelError(
            f"{path} does not take grey pictures of 90 by 80 pixels: a model must take raw "
            f"pictures of any size ({error})"
        ) from error
    is_right = answer.shape == (2, len(CLASS_NAMES)) and (answer >= 0).all()
    if not is_right or not np.allclose(answer.sum(axis=1), 1, atol=1e-3):
        raise ModelError(
            f"{path} does not give a probability for each of {', '.join(CLASS_NAMES)}: its answer "
            f"has the shape {answer.shape} and rows that sum to {answer.reshape(2, -1).sum(axis=1)}"
        )
