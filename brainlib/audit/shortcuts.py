"""Shortcuts: classifiers that cannot know about tumours, and how well they do all the same.

Each looks at something that has little to do with a tumour: the grey-level statistics of the whole
picture, its border, its background, its file, its most similar picture in training. Where such a
classifier is nearly as right as a network, the network's score says little about tumours. The last
one, gradient histograms with a tuned support vector machine, is no shortcut but the classical way,
which a network has to beat.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.ndimage

from brainlib.audit import classifiers
from brainlib.audit.classes import check_rows, class_codes, class_probabilities
from brainlib.audit.pictures import AuditError, check_pixels, shrink, thumbnails

PROPERTIES = ("width", "height", "mode", "bytes")
HOG_SIDE = 128


@dataclass(frozen=True)
class Shortcut:
    """What a shortcut looks at, and how it learns from that.

    Attributes
    ----------
    features : callable
        `features(table, pixels)` gives an array of shape (n, d), computed once for all folds.
    fit : callable
        `fit(features, codes, groups, seed)` gives a fitted scikit-learn classifier.
    columns : tuple of str
        Columns that the table must have beside those of the image table.
    """

    features: Callable[[pd.DataFrame, np.ndarray], np.ndarray]
    fit: Callable[[np.ndarray, np.ndarray, np.ndarray, int], Any]
    columns: tuple[str, ...] = ()


def shortcut_features(name: str, table: pd.DataFrame, pixels: np.ndarray) -> np.ndarray:
    """Compute what a shortcut looks at, for all pictures of a table.

    Parameters
    ----------
    name : str
        A key of `SHORTCUTS`.
    table : DataFrame
        Image table, n rows; for `file_properties` joined with `read_file_properties`.
    pixels : ndarray of uint8, shape (n, height, width, 1)

    Returns
    -------
    ndarray, shape (n, d)

    Raises
    ------
    AuditError
        For an unknown name, a missing column, or pixels that do not fit.
    """
    check_pixels(pixels, len(table))
    shortcut = _find(name)
    missing = [column for column in shortcut.columns if column not in table.columns]
    if missing:
        raise AuditError(
            f"{name} needs the columns {', '.join(missing)}: join them to the table, for files "
            "with table.join(read_file_properties(root, table))"
        )
    return shortcut.features(table, pixels)


def predict_shortcut(
    name: str,
    table: pd.DataFrame,
    features: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    seed: int = 0,
) -> np.ndarray:
    """Fit a shortcut on training rows and predict the test rows.

    Parameters
    ----------
    name : str
        A key of `SHORTCUTS`.
    table : DataFrame
        Image table with `label` and `group`, n rows.
    features : ndarray, shape (n, d)
        From `shortcut_features`.
    train, test : ndarray of int
        Row positions.
    seed : int

    Returns
    -------
    ndarray of float64, shape (len(test), 4)
        Probabilities in the order of `brainlib.CLASS_NAMES`; 0 for a class that training lacks.

    Raises
    ------
    AuditError
        For an unknown name, rows that make no sense, or training rows of one class only.
    """
    shortcut = _find(name)
    check_rows(table, train, test)
    codes = class_codes(table)[train]
    if len(np.unique(codes)) < 2:
        raise AuditError("training rows have one class only; choose rows with at least two")
    model = shortcut.fit(features[train], codes, table["group"].to_numpy()[train], seed)
    return class_probabilities(model, features[test])


def intensity_features(pixels: np.ndarray) -> np.ndarray:
    """Describe each picture by twelve statistics of its grey levels, wherever they lie.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, height, width, 1)

    Returns
    -------
    ndarray of float32, shape (n, 12)
        Mean, standard deviation, skewness, percentiles 5, 25, 50, 75, 95 and 99, maximum, share of
        black pixels (0), entropy in bits.
    """
    check_pixels(pixels)
    levels = np.arange(256)
    features = np.empty((len(pixels), 12), np.float32)
    for row, picture in enumerate(pixels):
        share = np.bincount(picture.ravel(), minlength=256) / picture.size
        mean = share @ levels
        deviation = np.sqrt(share @ (levels - mean) ** 2)
        skewness = share @ (levels - mean) ** 3 / max(deviation, 1e-6) ** 3
        percentiles = np.searchsorted(np.cumsum(share), [0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
        seen = share[share > 0]
        entropy = -(seen * np.log2(seen)).sum()
        features[row] = [mean, deviation, skewness, *percentiles, picture.max(), share[0], entropy]
    return features


def border_features(pixels: np.ndarray, size: int = 48, width: int = 2) -> np.ndarray:
    """Keep the outermost frame of each picture, about 4 % of its side.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, height, width, 1)
    size : int
        Side to which a picture is shrunk first.
    width : int
        Width of the frame in the shrunken picture.

    Returns
    -------
    ndarray of float32, shape (n, 4 * width * (size - width))
        Grey values of the frame.
    """
    frame = np.ones((size, size), bool)
    frame[width:-width, width:-width] = False
    return shrink(pixels, size)[:, frame]


def head_mask(picture: np.ndarray) -> np.ndarray:
    """Find the head: what is brighter than the background, its largest piece, holes filled.

    The threshold is half of Otsu's (1979) on the smoothed picture, low enough for a dark scalp.

    Parameters
    ----------
    picture : ndarray, shape (height, width)
        Grey values, 0 to 255.

    Returns
    -------
    ndarray of bool, shape (height, width)
        True on the head; all False for a blank picture.
    """
    from skimage.filters import threshold_otsu

    smooth = scipy.ndimage.gaussian_filter(picture.astype(np.float32), len(picture) / 75)
    if np.ptp(smooth) < 1:
        return np.zeros(picture.shape, bool)
    bright = smooth > 0.5 * threshold_otsu(smooth)
    bright = scipy.ndimage.binary_closing(bright, iterations=max(1, len(picture) // 50))
    pieces, count = scipy.ndimage.label(bright)
    if count == 0:
        return np.zeros(picture.shape, bool)
    largest = np.bincount(pieces.ravel())[1:].argmax() + 1
    return scipy.ndimage.binary_fill_holes(pieces == largest)


def mask_heads(pixels: np.ndarray, size: int = 75) -> np.ndarray:
    """Paint the whole head, scalp included, in one flat white.

    What is left of a picture is the head's silhouette and the background around it.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, height, width, 1)
    size : int
        Side to which a picture is shrunk first.

    Returns
    -------
    ndarray of uint8, shape (n, size, size, 1)
        Masked pictures: 255 on the head.
    """
    small = np.rint(shrink(pixels, size)).astype(np.uint8)
    for picture in small:
        picture[head_mask(picture)] = 255
    return small[..., None]


def hog_features(pixels: np.ndarray) -> np.ndarray:
    """Describe pictures by histograms of oriented gradients (Dalal and Triggs, 2005).

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, height, width, 1)

    Returns
    -------
    ndarray of float32, shape (n, 8100)
        Of the picture at 128 × 128: nine orientations, cells of 8 × 8 pixels, blocks of 2 × 2.
    """
    from skimage.feature import hog

    small = shrink(pixels, HOG_SIDE)
    return np.stack([hog(picture, cells_per_block=(2, 2)).astype(np.float32) for picture in small])


def read_file_properties(root: str | Path, table: pd.DataFrame) -> pd.DataFrame:
    """Read what a file says about itself before its pixels are decoded.

    Parameters
    ----------
    root : path
        The collection's folder.
    table : DataFrame
        Image table; `path` is relative to `root`.

    Returns
    -------
    DataFrame
        Columns `width`, `height` (int64), `mode` (Pillow's name, such as "L" or "RGB"), `bytes`
        (int64); index of the table. Join it to the table: `table.join(properties)`.

    Raises
    ------
    AuditError
        If a file is missing or is no picture.
    """
    from PIL import Image

    rows = []
    for path in table["path"]:
        file = Path(root) / path
        try:
            with Image.open(file) as picture:
                rows.append((*picture.size, picture.mode, file.stat().st_size))
        except OSError as error:
            raise AuditError(f"cannot read {file}: {error}") from error
    return pd.DataFrame(rows, index=table.index, columns=list(PROPERTIES))


def _file_features(table: pd.DataFrame, _pixels: np.ndarray) -> np.ndarray:
    numbers = table[["width", "height", "bytes"]].to_numpy(np.float64)
    mode = pd.factorize(table["mode"], sort=True)[0]
    return np.column_stack([numbers, numbers[:, 0] / numbers[:, 1], mode])


def _masked_features(_table: pd.DataFrame, pixels: np.ndarray) -> np.ndarray:
    return shrink(mask_heads(pixels), 25).reshape(len(pixels), -1)


SHORTCUTS: dict[str, Shortcut] = {
    "nearest_neighbor": Shortcut(lambda _, pixels: thumbnails(pixels), classifiers.nearest),
    "intensity_statistics": Shortcut(
        lambda _, pixels: intensity_features(pixels), classifiers.boost
    ),
    "border_pixels": Shortcut(lambda _, pixels: border_features(pixels), classifiers.boost),
    "masked_head": Shortcut(_masked_features, classifiers.reduce_and_boost),
    "file_properties": Shortcut(_file_features, classifiers.boost, PROPERTIES),
    "mirror_flag": Shortcut(
        lambda table, _: table[["mirrored"]].to_numpy(np.float64), classifiers.boost, ("mirrored",)
    ),
    "hog_svm": Shortcut(lambda _, pixels: hog_features(pixels), classifiers.tuned_svm),
}
"""All of them, by name; the classical baseline last because it takes longest."""


def _find(name: str) -> Shortcut:
    if name not in SHORTCUTS:
        raise AuditError(f"no shortcut {name!r}: choose one of {', '.join(SHORTCUTS)}")
    return SHORTCUTS[name]
