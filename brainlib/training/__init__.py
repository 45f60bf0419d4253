"""Training: recipes, augmented batches, and a fit that resumes at its last epoch.

`schedules` holds the recipes, `batches` the order of the images, their `augmentation` and what the
`healthy_head` adds to them, `fitting` the fit. What is random in an epoch depends only on the seed
and the epoch, so an interrupted fit ends where an uninterrupted one would.
"""

# ruff: noqa: F401

from brainlib.models import backend  # first, or TensorFlow prints its notices
from brainlib.training.augmentation import Augmentation, Augmenter
from brainlib.training.batches import AugmentedBatches, Examples, examples, tissue_shares
from brainlib.training.calibration import calibrate
from brainlib.training.fitting import HISTORY_COLUMNS, fit, forget
from brainlib.training.reading import add_second_reading
from brainlib.training.schedules import RECIPES, Schedule, recipe
