"""Which way a slice or a volume lies in the patient, and how it is turned to be looked at.

Affines are nibabel's: from array indices to millimetres, x to the patient's right, y to the front,
z to the head.
"""

from collections.abc import Iterator
from dataclasses import replace

import nibabel
import numpy as np
from PIL import Image

from brainlib.imaging import pictures
from brainlib.imaging.errors import ImageError
from brainlib.imaging.slices import ScanSlice

OBLIQUE_COSINE = 0.8
"""A normal that has no component above this is oblique (D. Clunie's threshold, 37 degrees)."""

MAX_VOXELS = 400_000_000
"""The largest volume that is taken into memory."""

_PLANE_OF_AXIS = ("sagittal", "coronal", "axial")  # cut by x, y and z
_STRETCH = 100  # a slice of 10 mm at 0.1 mm a pixel; more is a damaged header
_ISOTROPIC = 1.01  # spacings that differ by less are the same up to rounding in the header

# where the rows, the columns and the numbers of displayed slices lead to, in nibabel's letters
_DISPLAY = {
    "axial": ("P", "L", "S"),
    "coronal": ("I", "L", "P"),
    "sagittal": ("I", "P", "R"),
}
_ALONG_NUMBERS = {
    "axial": np.array([0, 0, 1]),
    "coronal": np.array([0, -1, 0]),
    "sagittal": np.array([1, 0, 0]),
}


def nearest_plane(affine: np.ndarray) -> str:
    """Return the plane that the first two axes of an array lie nearest to.

    Parameters
    ----------
    affine : float array of shape (4, 4)

    Raises
    ------
    ImageError
        Where the affine does not span three dimensions.
    """
    return _PLANE_OF_AXIS[int(_orientation(affine)[2, 0])]


def plane_name(affine: np.ndarray, plane: str) -> str:
    """Return `plane`, or `oblique` where the nearest slices of the array are far from it."""
    across = _orientation(affine)[:, 0] == _PLANE_OF_AXIS.index(plane)
    first, second = affine[:3, :3].T[~across]
    normal = np.cross(first, second)
    cosine = abs(normal @ _ALONG_NUMBERS[plane]) / np.linalg.norm(normal)
    return plane if cosine >= OBLIQUE_COSINE else "oblique"


def acquired_plane(shape: tuple[int, ...], affine: np.ndarray) -> str:
    """Return the plane that a volume was scanned in: across its only slice or its largest spacing.

    Axial where the voxels are cubes to within 1 %.
    """
    axes = _orientation(affine)[:, 0].astype(int)
    single = [axis for axis, length in zip(axes, shape, strict=True) if length == 1]
    if len(single) == 1:
        return _PLANE_OF_AXIS[single[0]]
    spacing = nibabel.affines.voxel_sizes(affine)
    if spacing.max() < _ISOTROPIC * spacing.min():
        return "axial"
    return _PLANE_OF_AXIS[axes[spacing.argmax()]]


def along_numbers(affine: np.ndarray) -> np.ndarray:
    """Return the unit normal of an array's slices, in the direction in which they are numbered.

    Returns
    -------
    float array of shape (3,)
    """
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal = normal / np.linalg.norm(normal)
    return normal * np.sign(normal @ _ALONG_NUMBERS[nearest_plane(affine)])


def turn(volume: np.ndarray, affine: np.ndarray, plane: str) -> tuple[np.ndarray, np.ndarray]:
    """Turn and mirror a volume so that its last axis counts slices as they are looked at.

    Parameters
    ----------
    volume : array of shape (i, j, k)
    affine : float array of shape (4, 4)
    plane : str
        One of `PLANES`. An oblique volume is cut along its own axes, nearest to this plane.

    Returns
    -------
    turned : array of shape (height, width, slices)
        A view, nothing is copied.
    spacing : float array of shape (3,)
        Of its axes, mm.
    """
    target = nibabel.orientations.axcodes2ornt(_DISPLAY[plane])
    change = nibabel.orientations.ornt_transform(_orientation(affine), target)
    spacing = np.empty(3)
    spacing[change[:, 0].astype(int)] = nibabel.affines.voxel_sizes(affine)
    return nibabel.apply_orientation(volume, change), spacing


def square(pixels: np.ndarray, row_spacing: float, column_spacing: float) -> np.ndarray:
    """Resample a slice to square pixels of the smaller of its two spacings.

    Parameters
    ----------
    pixels : uint8 array of shape (height, width)
    row_spacing, column_spacing : float
        Between the centres of neighbouring rows, and of neighbouring columns; any unit.

    Returns
    -------
    uint8 array of another height or width, or `pixels` where they are square

    Raises
    ------
    ImageError
        Where there would be more than 100 million pixels, or one spacing is a hundred times the
        other.
    """
    finest, coarsest = sorted((row_spacing, column_spacing))
    if not 0 < coarsest <= _STRETCH * finest < np.inf:
        raise ImageError(
            f"its pixels are {row_spacing:g} by {column_spacing:g} apart, which no scanner does; "
            "write it again with its true spacing"
        )
    height = max(1, round(pixels.shape[0] * float(row_spacing / finest)))
    width = max(1, round(pixels.shape[1] * float(column_spacing / finest)))
    if height * width > pictures.MAX_PICTURE_PIXELS:
        raise ImageError(
            f"it would have {width} by {height} square pixels, more than "
            f"{pictures.MAX_PICTURE_PIXELS:,}; check its spacing of {row_spacing:g} by "
            f"{column_spacing:g}"
        )
    if (height, width) == pixels.shape:
        return np.ascontiguousarray(pixels)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def require_size(shape: tuple[int, ...]) -> None:
    """Refuse a volume that would fill the memory.

    Raises
    ------
    ImageError
        Where it has more than 400 million voxels, more than 65,535 along a side, or none.
    """
    voxels = np.prod([float(length) for length in shape])
    if not 0 < voxels <= MAX_VOXELS or max(shape) > pictures.MAX_SIDE:
        sides = " by ".join(str(length) for length in shape)
        raise ImageError(
            f"it has {sides} voxels, and a volume has between 1 and {MAX_VOXELS:,}, at most "
            f"{pictures.MAX_SIDE:,} along a side; crop it or scale it down first"
        )


def cut(slices: Iterator[np.ndarray], spacing: np.ndarray, like: ScanSlice) -> Iterator[ScanSlice]:
    """Count grey slices, and resample them to square pixels.

    Parameters
    ----------
    slices : iterator of uint8 arrays of shape (height, width)
    spacing : float array of shape (3,)
        As `turn` gives it.
    like : ScanSlice
        Whose file, series and plane they take.
    """
    for number, pixels in enumerate(slices):
        pixels = square(pixels, spacing[0], spacing[1])
        yield replace(like, number=number, pixels=pixels)


def _orientation(affine: np.ndarray) -> np.ndarray:
    if np.isfinite(affine).all():
        orientation = nibabel.io_orientation(affine)
        if np.isfinite(orientation).all():
            return orientation
    raise ImageError(
        "its header does not say how the voxels lie in space (the affine is not usable); "
        "write it again with an affine"
    )
