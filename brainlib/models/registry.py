"""The networks by name."""

from collections.abc import Callable

import keras

from brainlib.models.lesion_net import IMAGE_SIZE, build_lesion_net
from brainlib.models.seed_cnn import INPUT_SIZE, build_seed_cnn
from brainlib.paths import BrainlibError

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
