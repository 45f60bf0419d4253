"""Mirror images: a file's orientation may say which class it belongs to.

In version 1 of the Kaggle collection 88 % of the glioma files are mirror images of their source,
and none of the pictures without tumour. Whoever keeps one file for each source picture keeps that
difference, and a network that can tell left from right need not look for the tumour.
"""

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES
from brainlib.audit.classes import check_rows, class_codes
from brainlib.audit.pictures import AuditError, check_pixels


def _flags(table: pd.DataFrame) -> np.ndarray:
    if "mirrored" not in table.columns or table["mirrored"].isna().any():
        raise AuditError("the table lacks `mirrored` in some rows; join the provenance table first")
    return table["mirrored"].to_numpy(bool)


def mirrored_by_class(table: pd.DataFrame) -> pd.DataFrame:
    """Count the mirror images of each class.

    Parameters
    ----------
    table : DataFrame
        Image table with `label` and the provenance table's `mirrored` (bool, or 0 and 1).

    Returns
    -------
    DataFrame
        One row per class in the order of `brainlib.CLASS_NAMES`: `pictures`, `mirrored`, `share`
        (missing for a class without pictures).

    Raises
    ------
    AuditError
        If `mirrored` is missing somewhere.
    """
    counts = pd.Series(_flags(table)).groupby(class_codes(table)).agg(["size", "sum"])
    counts = counts.reindex(range(len(CLASS_NAMES)), fill_value=0)
    counts.index = pd.Index(CLASS_NAMES, name="label")
    counts.columns = ["pictures", "mirrored"]
    share = counts["mirrored"] / counts["pictures"].where(counts["pictures"] > 0)
    return counts.astype(int).assign(share=share)


def undo_mirroring(table: pd.DataFrame, pixels: np.ndarray) -> np.ndarray:
    """Turn every mirror image back to the orientation of its source.

    Parameters
    ----------
    table : DataFrame
        Image table with the provenance table's `mirrored`, n rows.
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Its pixels; they are not changed.

    Returns
    -------
    ndarray of uint8, shape (n, height, width, 1)
        A copy in which the rows with `mirrored` have left and right exchanged.

    Raises
    ------
    AuditError
        If `mirrored` is missing somewhere, or table and pixels do not fit.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> pixels = np.array([1, 2, 1, 2], np.uint8).reshape(2, 1, 2, 1)
    >>> undo_mirroring(pd.DataFrame({"mirrored": [0, 1]}), pixels).ravel().tolist()
    [1, 2, 2, 1]
    """
    check_pixels(pixels, len(table))
    mirrored = _flags(table)
    upright = pixels.copy()
    upright[mirrored] = pixels[mirrored][:, :, ::-1]
    return upright


def mirror_flag(
    table: pd.DataFrame, pixels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Classify by whether the file is a mirror image of its source, and nothing else.

    Each picture gets the class frequencies of the training rows with the same flag. The table must
    carry the provenance table's `mirrored`. Parameters, returns and raises otherwise as
    `brainlib.audit.nearest_neighbor`; pixels and seed are not used.
    """
    del pixels, seed
    check_rows(table, train, test)
    codes, flags = class_codes(table), _flags(table)
    counts = np.zeros((2, len(CLASS_NAMES)))
    np.add.at(counts, (flags[train].astype(int), codes[train]), 1)
    # A flag that training never saw gets the frequencies of all training rows.
    counts = np.where(counts.sum(axis=1, keepdims=True) > 0, counts, counts.sum(axis=0))
    return (counts / counts.sum(axis=1, keepdims=True))[flags[test].astype(int)]
