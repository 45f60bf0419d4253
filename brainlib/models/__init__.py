"""From a name to a Keras model with its preprocessing inside, its export, and what runs it.

Every model takes raw pixels, 0 to 255, grey or RGB, of any height and width, and gives the
probabilities of the four classes in the order of `CLASS_NAMES`. `seed_cnn` is what the project set
out from, `brain_tumor` the network that it releases; `files` writes and reads both, `export` makes
other formats of them, and `engines` runs these without TensorFlow, which is why everything here is
loaded when it is first asked for.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "brain_tumor": ("MAP_FACTOR", "NETWORK_LAYER", "PICTURE_SIZE", "Parts", "build_brain_tumor",
                    "for_release", "network_of", "with_maps"),
    "files": ("ModelError", "load_model", "save_model"),
    "learner": ("learner_of",),
    "registry": ("MODELS", "TRAINING_SIZES", "build_model"),
    "seed_cnn": ("INPUT_SIZE", "build_seed_cnn"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
