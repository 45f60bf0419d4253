"""The networks by name, and the one that the project set out from."""

from collections.abc import Callable

import keras
from keras import layers

from brainlib import CLASS_NAMES
from brainlib.models.lesion_net import IMAGE_SIZE, build_lesion_net
from brainlib.paths import BrainlibError

INPUT_SIZE = 150
"""Height and width to which the seed network scales its images, pixels."""


def build_seed_cnn() -> keras.Model:
    """Build the network that the starting project trained: 5,402,308 parameters.

    Three blocks of a 3 by 3 convolution (32, 64, 128 filters) and max pooling, then a dense layer
    of 128, dropout of one half, and the softmax over the classes, on 150 by 150 by 3. `features`
    names the last layer that has a map.
    """
    pixels = keras.Input((None, None, None), name="pixels")
    grey = keras.ops.mean(keras.ops.cast(pixels, "float32"), axis=-1, keepdims=True)
    x = layers.Resizing(INPUT_SIZE, INPUT_SIZE, antialias=True, name="resizing")(grey)
    x = layers.Rescaling(1 / 255, name="rescaling")(x)
    x = layers.Concatenate(name="grey_to_rgb")([x, x, x])
    for block, filters in enumerate((32, 64, 128), start=1):
        name = "features" if block == 3 else f"convolution_{block}"
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D(name=f"pooling_{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", name="dense")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    probabilities = layers.Dense(len(CLASS_NAMES), activation="softmax", name="probabilities")(x)
    return keras.Model(pixels, probabilities, name="seed_cnn")


MODELS: dict[str, Callable[[], keras.Model]] = {
    "lesion_net": build_lesion_net,
    "seed_cnn": build_seed_cnn,
}
"""The networks by name, the released one first."""

TRAINING_SIZES = {"lesion_net": IMAGE_SIZE, "seed_cnn": INPUT_SIZE}
"""Height and width of the images that each is trained on, pixels; 150 for a model without one."""


def build_model(name: str = "lesion_net", seed: int = 0) -> keras.Model:
    """Build a model by its name, ready to be trained.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    seed : int
        Seed of the initial weights and of dropout; it seeds Python, NumPy and the backend too.

    Raises
    ------
    BrainlibError
        For an unknown name.

    Examples
    --------
    >>> build_model("seed_cnn").count_params()  # doctest: +SKIP
    5402308
    """
    if name not in MODELS:
        raise BrainlibError(f"no model {name!r}: choose one of {', '.join(MODELS)}")
    keras.utils.set_random_seed(seed)
    return MODELS[name]()
