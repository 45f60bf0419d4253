"""Slices with outline, heat map and side labels, and the strip of probabilities along a study."""

import base64
import io
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from brainlib.data.datasets import trace_contours
from brainlib.explain import OUTLINE_THRESHOLD

OUTLINE_COLOR = (143, 214, 255)
HEAT_COLORS = ((0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66),
               (245, 125, 21), (250, 193, 39), (252, 255, 164))  # fmt: skip
"""Eight of matplotlib's colours `inferno` (Smith and van der Walt, 2015), in even steps."""

SIDES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
"""What lies on the left, on the right, on top and at the bottom of a slice in each plane."""

STRIP_WIDTH, STRIP_HEIGHT = 720, 64
_HEAT_OPACITY = 0.65
_FINER = 2  # lines are drawn this much larger and averaged
_QUALITY = 90


def draw_slice(
    pixels: np.ndarray,
    outline: np.ndarray | None = None,
    heat_map: np.ndarray | None = None,
    plane: str = "",
    size: int = 560,
) -> Image.Image:
    """Draw a slice with what the network drew over it.

    Parameters
    ----------
    pixels : uint8 array of shape (height, width)
    outline, heat_map : float arrays of shape (height, width), optional
        As `explain.Maps.in_images` gives them: in the frame of the image.
    plane : str
        As for `imaging.ScanSlice`; decides the labels of the sides.
    size : int
        The longer side of the result, pixels.

    Returns
    -------
    Image
        Grey without overlays, else RGB.
    """
    scale = size / max(pixels.shape)
    height, width = (max(1, round(side * scale)) for side in pixels.shape)
    drawn = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    if heat_map is not None and heat_map.max() > 0:
        drawn = _heated(drawn, _resized(heat_map / heat_map.max(), width, height).clip(0, 1))
    if outline is not None:
        drawn = _outlined(drawn, _resized(outline, width, height))
    return _labelled(drawn, plane)


def encode(image: Image.Image) -> tuple[str, bytes]:
    """Return the format of an image file, `png` for grey and `jpeg` for colour, and its content."""
    stream = io.BytesIO()
    if image.mode == "L":
        image.save(stream, "PNG", compress_level=1)  # it travels no further than this machine
        return "png", stream.getvalue()
    image.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return "jpeg", stream.getvalue()


def data_uri(image: Image.Image) -> str:
    """Return an image as text that an HTML file can hold."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def draw_strip(slices: pd.DataFrame, deciding: Collection[int]) -> dict[str, Any] | None:
    """Return the probability of a tumour along a study, None for fewer than three slices.

    Parameters
    ----------
    slices : DataFrame
        The readable slices of one study.
    deciding : collection of int
        Numbers of the slices that decided.

    Returns
    -------
    dict or None
        `width`, `height`; `bars`, each with `x`, `y`, `width`, `height`, `is_deciding`; `refused`,
        the x of each slice without probability; `ticks`, pairs of x and slice number.
    """
    ordered = slices.sort_values("slice", kind="stable")
    if len(ordered) < 3 or not (ordered["class"] != "").any():
        return None
    step = STRIP_WIDTH / len(ordered)
    bars, refused = [], []
    for place, row in enumerate(ordered.to_dict("records")):
        if not row["class"]:
            refused.append(round((place + 0.5) * step, 1))
            continue
        tall = max(1.0, STRIP_HEIGHT * (1 - float(row["notumor"])))
        bars.append({
            "x": round((place + 0.12) * step, 2), "width": round(0.76 * step, 2),
            "y": round(STRIP_HEIGHT - tall, 1), "height": round(tall, 1),
            "is_deciding": int(row["slice"]) in deciding,
        })  # fmt: skip
    numbers = ordered["slice"].astype(int).tolist()
    every = max(1, -(-len(numbers) // 12))
    ticks = [(round((place + 0.5) * step, 1), numbers[place])
             for place in range(0, len(numbers), every)]  # fmt: skip
    return {"width": STRIP_WIDTH, "height": STRIP_HEIGHT, "bars": bars, "refused": refused,
            "ticks": ticks}  # fmt: skip


def _resized(values: np.ndarray, width: int, height: int) -> np.ndarray:
    whole = Image.fromarray(values.astype(np.float32))
    return np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR))


def _heated(grey: Image.Image, strength: np.ndarray) -> Image.Image:
    """Lay a heat map over an image, more opaque where it is higher."""
    stops, fine = np.linspace(0, 1, len(HEAT_COLORS)), np.linspace(0, 1, 256)
    table = np.stack(
        [np.interp(fine, stops, channel) for channel in zip(*HEAT_COLORS, strict=True)]
    )
    colors = table.T.astype(np.uint8)[(strength * 255).astype(np.uint8)]
    mask = Image.fromarray((_HEAT_OPACITY * 255 * strength).astype(np.uint8))
    return Image.composite(Image.fromarray(colors), grey.convert("RGB"), mask)


def _outlined(image: Image.Image, outline: np.ndarray) -> Image.Image:
    lines = trace_contours(outline, OUTLINE_THRESHOLD)
    masks = [Image.new("L", (image.width * _FINER, image.height * _FINER)) for _ in range(2)]
    for mask, thickness in zip(masks, (5, 2), strict=True):
        for points in lines:
            path = [tuple(point) for point in (points + 0.5) * _FINER]
            ImageDraw.Draw(mask).line(path, 255, thickness * _FINER, "curve")
    drawn = image.convert("RGB")
    for mask, color in zip(masks, ((0, 0, 0), OUTLINE_COLOR), strict=True):
        drawn.paste(color, mask=mask.reduce(_FINER))
    return drawn


def _labelled(image: Image.Image, plane: str) -> Image.Image:
    """Write the sides of the patient at the edges, or that they are unknown."""
    draw, size = ImageDraw.Draw(image), max(10, max(image.size) // 25)
    font = ImageFont.load_default(size)
    middle, center, edge = image.height / 2, image.width / 2, size / 3
    style = {"font": font, "stroke_width": 1}
    style |= {"fill": 230, "stroke_fill": 0} if image.mode == "L" else {
        "fill": (230, 230, 230), "stroke_fill": (0, 0, 0)}  # fmt: skip
    if plane not in SIDES:
        draw.text((edge, image.height - edge), "side unknown", anchor="ls", **style)
        return image
    left, right, top, bottom = SIDES[plane]
    draw.text((edge, middle), left, anchor="lm", **style)
    draw.text((image.width - edge, middle), right, anchor="rm", **style)
    draw.text((center, edge), top, anchor="mt", **style)
    draw.text((center, image.height - edge), bottom, anchor="ms", **style)
    return image
