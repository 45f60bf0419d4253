"""Small pictures that can be compared: area-averaged, with brightness and contrast taken out."""

import numpy as np
import pandas as pd

from brainlib.paths import BrainlibError

BLANK_DEVIATION = 0.01
"""Grey levels of standard deviation below which a thumbnail counts as blank."""

CHUNK = 512
"""Pictures that are worked on at once, so that memory stays bounded on large collections."""


class AuditError(BrainlibError):
    """The audit cannot be done on this table or these pixels; the message says what to change."""


def check_pixels(pixels: np.ndarray, length: int | None = None) -> None:
    """Refuse anything but the project's pixel array.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Pictures, 0 to 255.
    length : int, optional
        Number of rows of the table that the pixels belong to.

    Raises
    ------
    AuditError
        If the type or the shape is another one, or the number of pictures is not `length`.
    """
    if pixels.ndim != 4 or pixels.shape[-1] != 1 or pixels.dtype != np.uint8:
        raise AuditError(
            f"pixels must be uint8 of shape (n, height, width, 1), "
            f"not {pixels.dtype} of shape {pixels.shape}; load them with brainlib.imaging"
        )
    if length is not None and len(pixels) != length:
        raise AuditError(
            f"the table has {length} rows and there are {len(pixels)} pictures; "
            "load the pixels for this table, in its order"
        )


def area_weights(length: int, size: int) -> np.ndarray:
    """Weights that average `length` neighbouring pixels into `size` equal stretches.

    Parameters
    ----------
    length, size : int
        Number of pixels before and after.

    Returns
    -------
    ndarray of float32, shape (size, length)
        Each row sums to one.

    Examples
    --------
    >>> area_weights(4, 2)
    array([[0.5, 0.5, 0. , 0. ],
           [0. , 0. , 0.5, 0.5]], dtype=float32)
    """
    edges = np.linspace(0, length, size + 1)
    left = np.arange(length)
    overlap = np.minimum(left + 1, edges[1:, None]) - np.maximum(left, edges[:-1, None])
    weights = np.clip(overlap, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def shrink(pixels: np.ndarray, size: int) -> np.ndarray:
    """Shrink pictures to squares by averaging areas.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Pictures, 0 to 255.
    size : int
        Side of the result in pixels.

    Returns
    -------
    ndarray of float32, shape (n, size, size)
        Mean grey values, 0 to 255.

    Raises
    ------
    AuditError
        If `pixels` is not the project's pixel array.
    """
    check_pixels(pixels)
    rows = area_weights(pixels.shape[1], size)
    columns = area_weights(pixels.shape[2], size).T
    small = np.empty((len(pixels), size, size), np.float32)
    for start in range(0, len(pixels), CHUNK):
        chunk = pixels[start : start + CHUNK, :, :, 0].astype(np.float32)
        small[start : start + CHUNK] = rows @ (chunk @ columns)
    return small


def thumbnails(pixels: np.ndarray, size: int = 32) -> np.ndarray:
    """Make thumbnails whose inner product is the correlation of two pictures.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Pictures, 0 to 255.
    size : int, default 32
        Side of a thumbnail in pixels.

    Returns
    -------
    ndarray of float32, shape (n, size * size)
        Each row has mean zero and norm one; the row of a blank picture is zero, so that it
        correlates with nothing.

    Raises
    ------
    AuditError
        If `pixels` is not the project's pixel array.

    Examples
    --------
    >>> import numpy as np
    >>> dark = np.random.default_rng(0).integers(0, 120, (1, 64, 64, 1), np.uint8)
    >>> first, second = thumbnails(np.concatenate([dark, 2 * dark + 5]))
    >>> round(float(first @ second), 5)
    1.0
    """
    flat = shrink(pixels, size).reshape(len(pixels), size * size)
    flat -= flat.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    blank = norm <= BLANK_DEVIATION * size
    return np.where(blank, 0, flat / np.where(blank, 1, norm)).astype(np.float32)


def known(values: pd.Series) -> np.ndarray:
    """Say where a text column holds something.

    Parameters
    ----------
    values : Series of str
        A column such as `patient`; empty text and missing values both mean unknown.

    Returns
    -------
    ndarray of bool, shape (n,)
        True where the value is known.
    """
    return (values.notna() & (values.astype("object").fillna("").astype(str) != "")).to_numpy(bool)
