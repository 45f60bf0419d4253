"""Keras models with their preprocessing inside, their export, and the engines that run them.

Every model takes raw pixels, grey or RGB, of any height and width, and gives the probabilities of
the four classes in the order of `CLASS_NAMES`. `lesion_net` is the network that is released,
`seed_cnn` the one that the project set out from. `engines` runs exported models without TensorFlow,
which is why everything here is loaded when it is first asked for.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "efficientnet": ("block_layers",),
    "files": ("load_model", "save_model"),
    "lesion_net": ("IMAGE_SIZE", "KEPT", "KINDS", "MAP_FACTOR", "NETWORK_LAYER", "Parts",
                   "SECOND_EVIDENCE", "SECOND_READING", "build_cropper", "build_lesion_net",
                   "build_pooler", "calibration_of", "draws_maps", "learner_of", "network_of",
                   "recalibrate", "strongest_evidence", "with_maps"),
    "registry": ("INPUT_SIZE", "MODELS", "TRAINING_SIZES", "build_model", "build_seed_cnn"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(f"{__name__}.backend")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
