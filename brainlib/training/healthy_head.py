"""A healthy head in three planes: anatomy that the collection's images without tumour lack.

Nearly all of those are axial, and the base of the skull was taken for a tumour. Colin 27 (Holmes et
al., 1998) is the mean of 27 T1 scans of one man.
"""

from functools import cache
from pathlib import Path

import nibabel
import numpy as np

from brainlib import imaging
from brainlib.training.augmentation import AIR

FILE = Path(__file__).with_name("colin27.nii.gz")

PLANES = (0.25, 0.25, 0.5)
"""How often a sagittal, a coronal and an axial slice is drawn."""

BENT = 2 / 3
"""Share of the slices whose grey values follow a random curve, for other contrasts than T1."""

_HEAD, _KNOTS = 0.2, 5


def draw_healthy(size: int, random: np.random.Generator) -> np.ndarray:
    """Draw a slice of the healthy head: uint8 of shape (size, size)."""
    axis = random.choice(3, p=PLANES)
    image = np.rot90(np.take(_load(), random.choice(_places(axis)), axis))
    margins = np.subtract(max(image.shape), image.shape)
    square = np.pad(image, [(margin // 2, margin - margin // 2) for margin in margins])
    image = imaging.resize(square, size)
    return bend(image, random) if random.random() < BENT else image


def bend(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a uint8 image whose grey values follow a random curve, air left out.

    The curve need not rise: fluid may become brighter than fat, as in other sequences.
    """
    heights = np.cumsum(random.dirichlet(np.ones(_KNOTS))) + random.normal(0, 0.15, _KNOTS)
    knots = np.linspace(AIR, np.percentile(image[image > AIR], 99.5), _KNOTS + 1)
    curve = np.interp(np.arange(256), knots, [AIR, *255 * heights]).clip(AIR, 255)
    curve[:AIR] = np.arange(AIR)
    return curve.round().astype(np.uint8)[image]


@cache
def _load() -> np.ndarray:
    """Return the head, uint8: to the right, to the front and up, 1 mm apart."""
    return np.asarray(nibabel.as_closest_canonical(nibabel.load(FILE)).dataobj, np.uint8)


@cache
def _places(axis: int) -> np.ndarray:
    """Return which slices across an axis show enough of the head."""
    others = tuple(other for other in range(3) if other != axis)
    return np.flatnonzero((_load() > AIR).mean(axis=others) >= _HEAD)
