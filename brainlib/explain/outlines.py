"""Tumour outlines in the frames of image and map."""

import json
from collections.abc import Iterable

import numpy as np
import pandas as pd

from brainlib import imaging
from brainlib.data.datasets import trace_contours

OUTLINE_THRESHOLD = 0.5
"""Probability from which a pixel of the map counts as tumour.

Of 0.3, 0.4 and 0.5 the one with the highest Dice on the validation groups of fold 0.
"""


def read_outline(row: pd.Series, height: int, width: int) -> np.ndarray:
    """Return the outline in a row of an image table, as fractions of the image's sides.

    Parameters
    ----------
    row : Series
        With `outline` and `outline_frame`.
    height, width : int
        Size of the image, pixels.

    Returns
    -------
    float array of shape (n, 2)
        x and y of each point; of shape (0, 2) where there is no outline.
    """
    points = np.array(json.loads(row["outline"] or "[]"), float).reshape(-1, 2)
    frame = row["outline_frame"]
    return points / ((width, height) if frame in ("", None) else float(frame))


def known_outlines(
    table: pd.DataFrame, chosen: Iterable[str], images: Iterable[np.ndarray]
) -> list[np.ndarray]:
    """Return the radiologists' outlines of some images of an image table, as `read_outline`."""
    rows = table.set_index("path")
    pairs = zip(chosen, images, strict=True)
    return [read_outline(rows.loc[path], *image.shape) for path, image in pairs]


def pixels_inside(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the pixels that lie at least half inside an outline; at least one for tiny tumours."""
    drawn = imaging.draw_polygon(points * (width, height), max(height, width))
    inside = drawn[:height, :width] >= 127.5
    if not inside.any():
        column, row = (points.mean(axis=0) * (width, height)).astype(int)
        inside[min(row, height - 1), min(column, width - 1)] = True
    return inside


def contour(outline: np.ndarray) -> str:
    """Return the longest predicted outline as JSON, as `score_map` gives it."""
    lines = trace_contours(outline, OUTLINE_THRESHOLD)
    if not lines:
        return ""
    height, width = outline.shape
    from skimage.measure import approximate_polygon

    longest = approximate_polygon(max(lines, key=len), tolerance=0.25)
    longest = (longest + 0.5) / (width, height)
    return json.dumps(longest.clip(0, 1).round(3).tolist(), separators=(",", ":"))
