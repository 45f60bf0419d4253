"""From the outlines of an image table to masks of the tumours."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

_FINER = 4  # a mask is drawn this much larger and averaged, so that its border has shares


def draw_outlines(table: pd.DataFrame, root: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the outlined tumour of each image of an image table.

    Parameters
    ----------
    table : DataFrame
        An image table of n images, with `outline` and `outline_frame`.
    root : Path
        The folder that its paths are relative to; only the headers of images whose outline is in
        their own pixels are read.
    size : int
        Height and width of the masks, pixels.

    Returns
    -------
    masks : uint8 array of shape (n, size, size)
        255 where a pixel lies wholly inside the tumour, 0 outside, the share between.
    known : bool array of shape (n,)
        Whether it is known where the tumour is: there is an outline, or no tumour.
    """
    masks = np.zeros((len(table), size, size), np.uint8)
    outlined = np.flatnonzero(table["outline"] != "")
    for row in outlined:
        image = table.iloc[row]
        width, height = _frame(image, root)
        points = np.array(json.loads(image["outline"])) * size / (width, height)
        masks[row] = draw_polygon(points, size)
    known = (table["label"] == "notumor").to_numpy(copy=True)
    known[outlined] = True
    return masks, known


def draw_polygon(points: np.ndarray, size: int) -> np.ndarray:
    """Fill a polygon of shape (n, 2), x and y in pixels of the result: uint8 of (size, size)."""
    canvas = Image.new("L", (size * _FINER, size * _FINER))
    if len(points) > 2:
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in points * _FINER], fill=255)
    return np.asarray(canvas.reduce(_FINER))


def _frame(image: pd.Series, root: Path) -> tuple[int, int]:
    if image["outline_frame"] not in ("", None):
        return (int(image["outline_frame"]),) * 2
    with Image.open(root / image["path"]) as header:
        return header.size
