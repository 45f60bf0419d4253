"""Shortcuts: classifiers that cannot know about tumours, and how well they do all the same.

Each looks at something that has little to do with a tumour: the grey-level statistics of the whole
picture, its border, its background, its file, its most similar picture in training. Where such a
classifier is nearly as right as a network, the network's score says little about tumours.

All have one signature, `shortcut(table, pixels, train, test, seed=0)`, and give the probabilities
of the test rows in the order of `brainlib.CLASS_NAMES`.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.ndimage

from brainlib import CLASS_NAMES
from brainlib.audit.classes import check_rows, class_codes, class_probabilities
from brainlib.audit.pictures import AuditError, check_pixels, shrink, thumbnails

SHARPNESS = 50.0
PROPERTIES = ("width", "height", "mode", "bytes")


def _boost(
    table: pd.DataFrame, features: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> np.ndarray:
    """Gradient-boosted trees (Friedman, 2001; histogram form: Ke et al., 2017)."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    codes = class_codes(table)[train]
    if len(np.unique(codes)) < 2:
        raise AuditError("training rows have one class only; choose rows with at least two")
    model = HistGradientBoostingClassifier(random_state=seed, early_stopping=False)
    model.fit(features[train], codes)
    return class_probabilities(model, features[test])


def nearest_neighbor(
    table: pd.DataFrame, pixels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Give each picture the label of the most similar thumbnail in training.

    The most probable class is that of the nearest neighbour (Cover and Hart, 1967). Probabilities
    are a softmax over each class's nearest neighbour, 50 times its correlation.

    Parameters
    ----------
    table : DataFrame
        Image table, n rows.
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Its pixels.
    train, test : ndarray of int
        Row positions.
    seed : int
        Not used; the result is the same for all.

    Returns
    -------
    ndarray of float64, shape (len(test), 4)
        Probabilities in the order of `brainlib.CLASS_NAMES`.

    Raises
    ------
    AuditError
        If table, pixels and rows do not fit.
    """
    del seed
    check_pixels(pixels, len(table))
    check_rows(table, train, test)
    codes = class_codes(table)
    small = thumbnails(pixels)
    nearest = np.full((len(test), len(CLASS_NAMES)), -np.inf)
    for code in np.unique(codes[train]):
        reference = small[train[codes[train] == code]].T
        for start in range(0, len(test), 1024):
            rows = slice(start, start + 1024)
            nearest[rows, code] = (small[test[rows]] @ reference).max(axis=1)
    odds = np.exp(SHARPNESS * (nearest - nearest.max(axis=1, keepdims=True)))
    return odds / odds.sum(axis=1, keepdims=True)


def intensity_features(pixels: np.ndarray) -> np.ndarray:
    """Describe each picture by twelve statistics of its grey levels, wherever they lie.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Pictures.

    Returns
    -------
    ndarray of float32, shape (n, 12)
        Mean, standard deviation, skewness, percentiles 5, 25, 50, 75, 95 and 99, maximum, share of
        black pixels (0), entropy in bits.

    Raises
    ------
    AuditError
        If `pixels` is not the project's pixel array.
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


def intensity_statistics(
    table: pd.DataFrame, pixels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Classify by `intensity_features` alone, with gradient boosting.

    Parameters, returns and raises as `nearest_neighbor`; `seed` is that of the trees.
    """
    check_pixels(pixels, len(table))
    check_rows(table, train, test)
    return _boost(table, intensity_features(pixels), train, test, seed)


def border_features(pixels: np.ndarray, size: int = 48, width: int = 2) -> np.ndarray:
    """Keep the outermost frame of each picture, about 4 % of its side.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Pictures.
    size : int, default 48
        Side to which a picture is shrunk first.
    width : int, default 2
        Width of the frame in the shrunken picture.

    Returns
    -------
    ndarray of float32, shape (n, 4 * width * (size - width))
        Grey values of the frame.

    Raises
    ------
    AuditError
        If `pixels` is not the project's pixel array.
    """
    frame = np.ones((size, size), bool)
    frame[width:-width, width:-width] = False
    return shrink(pixels, size)[:, frame]


def border_pixels(
    table: pd.DataFrame, pixels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Classify by the outermost frame of the picture, where no brain is.

    Parameters, returns and raises as `nearest_neighbor`; `seed` is that of the trees.
    """
    check_pixels(pixels, len(table))
    check_rows(table, train, test)
    return _boost(table, border_features(pixels), train, test, seed)


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
    smooth = scipy.ndimage.gaussian_filter(picture.astype(np.float32), len(picture) / 75)
    if smooth.max() - smooth.min() < 1:
        return np.zeros(picture.shape, bool)
    bright = smooth > 0.5 * _otsu(smooth)
    bright = scipy.ndimage.binary_closing(bright, iterations=max(1, len(picture) // 50))
    pieces, count = scipy.ndimage.label(bright)
    if count == 0:
        return np.zeros(picture.shape, bool)
    largest = np.bincount(pieces.ravel())[1:].argmax() + 1
    return scipy.ndimage.binary_fill_holes(pieces == largest)


def _otsu(values: np.ndarray) -> float:
    """Threshold with the largest variance between what is below and what is above."""
    counts, edges = np.histogram(values, 128)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(centres[np.nanargmax(between)])


def mask_heads(pixels: np.ndarray, size: int = 75) -> np.ndarray:
    """Paint the whole head, scalp included, in one flat white.

    What is left of a picture is the head's silhouette and the background around it.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Pictures.
    size : int, default 75
        Side to which a picture is shrunk first.

    Returns
    -------
    ndarray of uint8, shape (n, size, size, 1)
        Masked pictures: 255 on the head.

    Raises
    ------
    AuditError
        If `pixels` is not the project's pixel array.
    """
    small = np.rint(shrink(pixels, size)).astype(np.uint8)
    for picture in small:
        picture[head_mask(picture)] = 255
    return small[..., None]


def masked_head(
    table: pd.DataFrame, pixels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Classify by the picture with everything inside the head painted over (`mask_heads`).

    Principal components of the masked picture, fitted on the training rows, then gradient
    boosting. Parameters, returns and raises as `nearest_neighbor`; `seed` is that of the trees.
    """
    from sklearn.decomposition import PCA

    check_pixels(pixels, len(table))
    check_rows(table, train, test)
    flat = shrink(mask_heads(pixels), 25).reshape(len(table), -1)
    reduction = PCA(min(40, len(train) - 1), svd_solver="full").fit(flat[train])
    return _boost(table, reduction.transform(flat), train, test, seed)


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


def file_properties(
    table: pd.DataFrame, pixels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Classify by width, height, mode and size in bytes, without looking at the picture.

    The table must carry the columns of `read_file_properties`. Parameters, returns and raises
    otherwise as `nearest_neighbor`; the pixels are not used.
    """
    del pixels
    check_rows(table, train, test)
    missing = [column for column in PROPERTIES if column not in table.columns]
    if missing:
        raise AuditError(
            f"the table lacks {', '.join(missing)}: "
            "use table.join(read_file_properties(root, table))"
        )
    numbers = table[["width", "height", "bytes"]].to_numpy(np.float64)
    mode = pd.factorize(table["mode"], sort=True)[0]
    shape = numbers[:, 0] / numbers[:, 1]
    return _boost(table, np.column_stack([numbers, shape, mode]), train, test, seed)
