"""From a name to a Keras model with its preprocessing inside.

Every model takes raw pixels, 0 to 255, grey or RGB, of any height and width, and gives the
probabilities of the four classes in the order of `CLASS_NAMES`. `seed_cnn` is what the project set
out from, `brain_tumor` the network that it releases; `files` writes and reads both.
"""

from collections.abc import Callable

import keras

from brainlib.models.brain_tumor import (
    MAP_FACTOR,
    NETWORK_LAYER,
    PICTURE_SIZE,
    Parts,
    build_brain_tumor,
    for_release,
    network_of,
    with_maps,
)
from brainlib.models.files import ModelError, load_model, save_model
from brainlib.models.learner import learner_of
from brainlib.models.seed_cnn import INPUT_SIZE, build_seed_cnn

__all__ = [
    "INPUT_SIZE",
    "MAP_FACTOR",
    "MODELS",
    "NETWORK_LAYER",
    "PICTURE_SIZE",
    "TRAINING_SIZES",
    "ModelError",
    "Parts",
    "build_brain_tumor",
    "build_model",
    "build_seed_cnn",
    "for_release",
    "learner_of",
    "load_model",
    "network_of",
    "save_model",
    "with_maps",
]

MODELS: dict[str, Callable[[], keras.Model]] = {
    "brain_tumor": build_brain_tumor,
    "seed_cnn": build_seed_cnn,
}
"""The networks by name, the released one first."""

TRAINING_SIZES = {"brain_tumor": PICTURE_SIZE, "seed_cnn": INPUT_SIZE}
"""Height and width of the pictures that each is trained on, pixels."""


def build_model(name: str = "brain_tumor", seed: int = 0) -> keras.Model:
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
