"""From a model and images to a fitted model, its history, and a state to go on from.

`schedules` says how a model is fitted, `batches` in what order and with what `augmentation` it sees
its images, `fitting` fits it, in the precision that suits the `machine`. A fit that was killed
goes on from its last finished epoch: what an epoch draws at random depends on the seed and the
number of the epoch alone.
"""

from brainlib.training.augmentation import Augmentation, Augmenter
from brainlib.training.batches import (
    AugmentedBatches,
    Examples,
    ShuffledBatches,
    class_indices,
    examples,
    tissue_shares,
)
from brainlib.training.fitting import HISTORY_COLUMNS, fit, forget
from brainlib.training.schedules import RECIPES, Schedule, recipe

__all__ = [
    "HISTORY_COLUMNS",
    "RECIPES",
    "Augmentation",
    "AugmentedBatches",
    "Augmenter",
    "Examples",
    "Schedule",
    "ShuffledBatches",
    "class_indices",
    "examples",
    "fit",
    "forget",
    "recipe",
    "tissue_shares",
]
