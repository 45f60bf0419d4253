"""Whether folds keep apart what looks alike, once heads are cut out of their pictures.

The groups of the collection come from whole pictures. The same slice, cropped or moved by another
hand, gets by them: here each picture is cut to its head first.
"""

import numpy as np
import pandas as pd
import scipy.ndimage
from PIL import Image

from brainlib.audit.duplicates import find_duplicates, negative_control
from brainlib.audit.pictures import check_pixels, known
from brainlib.audit.shortcuts import head_mask

LOOK_ALIKE_THRESHOLD = 0.97
"""Correlation from which two heads are taken for one person's.

On the Kaggle collection the most similar heads of different patients correlate at 0.957.
"""


def crop_heads(pixels: np.ndarray, size: int = 64) -> np.ndarray:
    """Cut each picture to the box around its head, and scale that to a square.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, height, width, 1)
    size : int, default 64
        Side of the result in pixels.

    Returns
    -------
    ndarray of uint8, shape (n, size, size, 1)
        Proportions are lost; a picture without a head is scaled whole.
    """
    check_pixels(pixels)
    heads = np.empty((len(pixels), size, size, 1), np.uint8)
    for row, picture in enumerate(pixels[..., 0]):
        boxes = scipy.ndimage.find_objects(head_mask(picture).astype(int))
        cut = picture[boxes[0]] if boxes else picture
        scaled = Image.fromarray(cut).resize((size, size), Image.Resampling.BOX)
        heads[row, ..., 0] = np.asarray(scaled)
    return heads


def look_alikes_across_folds(
    table: pd.DataFrame,
    pixels: np.ndarray,
    folds: np.ndarray,
    threshold: float = LOOK_ALIKE_THRESHOLD,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Find pictures of unknown patients that look like one in another fold.

    Parameters
    ----------
    table : DataFrame
        Image table, n rows.
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Its pixels.
    folds : int array of shape (n,)
        The test fold of each row, -1 for rows that have none, as `splits.assign_folds` gives them.
    threshold : float, default 0.97
        Smallest correlation of two heads that counts.

    Returns
    -------
    pairs : DataFrame
        `first`, `second` (paths), `correlation`, the most alike first. At least one patient of each
        pair is unknown: known patients are in one fold by construction.
    numbers : dict of str to number
        `look_alike_threshold`, `look_alike_pairs`, the `look_alike_pictures` in them, and, where
        patients are known, the `look_alike_control`: the highest correlation of heads of two
        different patients.

    Raises
    ------
    AuditError
        As `find_duplicates`.
    """
    rows = np.flatnonzero(folds >= 0)
    listed, heads = table.iloc[rows].reset_index(drop=True), crop_heads(pixels[rows])
    found = find_duplicates(listed, heads, threshold)
    ends = found[["first", "second"]].to_numpy()
    apart = np.ptp(folds[rows][ends], axis=1) > 0
    unknown = ~known(listed["patient"])[ends].all(axis=1)
    found = found[apart & unknown].sort_values("correlation", ascending=False, kind="stable")
    pairs = pd.DataFrame(
        {end: listed["path"].to_numpy()[found[end]] for end in ("first", "second")}
        | {"correlation": found["correlation"].to_numpy().round(4)}
    )
    numbers: dict[str, float] = {
        "look_alike_threshold": threshold,
        "look_alike_pairs": len(pairs),
        "look_alike_pictures": pd.unique(pairs[["first", "second"]].to_numpy().ravel()).size,
    }
    if listed.loc[known(listed["patient"]), "patient"].nunique() > 1:
        control = negative_control(listed, heads, most_kept=1)
        numbers["look_alike_control"] = float(control.highest[0])
    return pairs, numbers
