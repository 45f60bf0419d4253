"""One slice of a scan, and how signal becomes grey."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brainlib.imaging.errors import ImageError

PLANES = ("axial", "coronal", "sagittal")
"""The planes that a volume can be cut in."""

PERCENTILES = (0.5, 99.5)
"""What of a series or volume is drawn black and white where no window says otherwise."""


@dataclass(frozen=True, eq=False)
class ScanSlice:
    """One slice, ready to look at or to classify; or what was wrong with it.

    Attributes
    ----------
    file : Path
        Where it comes from, as it was named. A slice cut through several DICOM files names the
        first of them.
    series : str
        The series that it belongs to, the same for all its slices and free of patient identifiers:
        the series number and a hash of the series' UID (`401-9f86d081`); for a picture or a NIfTI
        volume, its path below the folder that was opened.
    number : int
        Its place in the series, from 0, in order of position: from the feet to the head, from the
        front to the back, from the patient's left to the right.
    plane : str
        `axial`, `coronal`, `sagittal`, `oblique` (more than 37 degrees from all three), or empty
        where the file does not say.
    pixels : uint8 array of shape (height, width), or None
        Square pixels as radiologists look at them: the patient's right on the left of axial and
        coronal slices, the face on top of axial and on the left of sagittal ones.
    error : str
        Empty, or why there are no pixels and what to do about it, on one line.
    modality : str
        What a DICOM file says it was taken with, such as `MR` or `CT`; empty for all others.
    """

    file: Path
    series: str = ""
    number: int = 0
    plane: str = ""
    pixels: np.ndarray | None = None
    error: str = ""
    modality: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where one slice is found, and where it lies; no pixels.

    Attributes
    ----------
    file : Path
    index : int
        Its place in a multi-frame file, 0 in others.
    series : str
        The series number and a hash of the series' UID.
    identity : str
        The file's own UID, empty where it has none.
    instance : int
        Its instance number, -1 where it has none.
    orientation : tuple of 6 floats, or None
        Directions of a row and of a column in the patient, DICOM's axes.
    position : tuple of 3 floats, or None
        Centre of the first pixel, mm, DICOM's axes.
    spacing : tuple of 2 floats
        Between rows and between columns, mm where the file says.
    shape : tuple of 2 ints
        Height and width.
    modality : str
        As for `ScanSlice`.
    """

    file: Path
    index: int
    series: str
    identity: str
    instance: int
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    spacing: tuple[float, float]
    shape: tuple[int, int]
    modality: str = ""

    @property
    def affine(self) -> np.ndarray:
        """From (row, column, 0) to millimetres, nibabel's axes; for frames with an orientation."""
        along_row, along_column = np.reshape(self.orientation, (2, 3))
        affine = np.eye(4)
        affine[:3, 0] = along_column * self.spacing[0]
        affine[:3, 1] = along_row * self.spacing[1]
        affine[:3, 2] = np.cross(along_row, along_column)
        affine[:3, 3] = self.position or (0, 0, 0)
        affine[:2] *= -1  # DICOM counts to the left and to the back
        return affine


def robust_range(values: np.ndarray) -> tuple[float, float]:
    """Return the signals to be drawn black and white: percentiles 0.5 and 99.5.

    Where they are the same, as in a volume that is nearly all background, the lowest and highest.

    Parameters
    ----------
    values : numeric array of any shape
        Values that are not finite are left out.

    Raises
    ------
    ImageError
        Where no value is finite.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ImageError("it holds no finite value")
    low, high = np.percentile(finite, PERCENTILES)
    return (low, high) if high > low else (finite.min(), finite.max())


def to_grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale signal to grey, `low` and below to 0, `high` and above to 255.

    Parameters
    ----------
    values : numeric array of any shape
        Not-a-number is drawn black.
    low, high : float
        All is black where they are the same.

    Returns
    -------
    uint8 array of the same shape

    Examples
    --------
    >>> to_grey(np.array([-np.inf, 0, 50, np.nan, np.inf]), 0, 100).tolist()
    [0, 0, 128, 0, 255]
    """
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    with np.errstate(over="ignore"):
        known = np.nan_to_num(values, nan=low, posinf=high, neginf=low).clip(low, high)
        return np.rint((known - low) / (high - low) * 255).astype(np.uint8)
