"""Pictures of a report: slices with their overlays, and a strip along the study."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from brainlib.explain import OUTLINE_THRESHOLD

SIDE = 420
"""Longest side of an embedded picture, pixels: 180 dots an inch at the size of print."""

STRIP_WIDTH, STRIP_HEIGHT = 720, 64

_HEAT_COLORS = np.array(
    [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], float
)  # five of matplotlib's `inferno`, which is even in lightness and safe for colour-blind readers
_HEAT_OPACITY = 0.7


def draw_slice(
    picture: np.ndarray, outline: np.ndarray | None, heat_map: np.ndarray | None
) -> dict[str, Any]:
    """Return what the page shows of one slice.

    Parameters
    ----------
    picture : uint8 array of shape (height, width)
    outline, heat_map : float arrays of shape (64, 64), or None

    Returns
    -------
    dict
        `plain` and `heat` (data URIs of JPEG files; `heat` empty without maps), `width` and
        `height` (pixels), `side` (of the square around it), `left` and `top` (its place in the
        square), `outline` (the path of the outline in the square as SVG, may be empty).
    """
    small = _scaled(picture)
    height, width = small.shape
    side = max(height, width)
    place = {"width": width, "height": height, "side": side,
             "left": (side - width) / 2, "top": (side - height) / 2}  # fmt: skip
    if outline is None or heat_map is None:
        return {"plain": _data_uri(small), "heat": "", "outline": "", **place}
    from brainlib.explain import map_in_picture  # here, so that a report without maps loads less

    heated = _heated(small, map_in_picture(heat_map, height, width))
    return {
        "plain": _data_uri(small),
        "heat": _data_uri(heated),
        "outline": _outline_path(outline, side),
        **place,
    }


def draw_strip(rows: pd.DataFrame, deciding: Sequence[int]) -> dict[str, Any] | None:
    """Return the probability of a tumour along a study, None for fewer than three slices.

    Parameters
    ----------
    rows : DataFrame
        The readable slices of one study.
    deciding : sequence of int
        Numbers of the slices that decided.

    Returns
    -------
    dict or None
        `width`, `height`; `bars`, each with `x`, `y`, `width`, `height`, `is_deciding`; `refused`,
        the x of each slice without probability; `ticks`, pairs of x and slice number.
    """
    ordered = rows.sort_values("slice", kind="stable")
    if len(ordered) < 3 or not (ordered["decision"] == "accepted").any():
        return None
    step = STRIP_WIDTH / len(ordered)
    bars, refused = [], []
    for place, row in enumerate(ordered.to_dict("records")):
        if row["decision"] != "accepted":
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


def _scaled(picture: np.ndarray) -> np.ndarray:
    factor = SIDE / max(picture.shape)
    if factor >= 1:
        return picture
    size = [max(1, round(length * factor)) for length in picture.shape[::-1]]
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _heated(picture: np.ndarray, heat_map: np.ndarray) -> np.ndarray:
    """Lay a heat map over a picture, more opaque where it is higher."""
    strength = np.clip(heat_map / (heat_map.max() or 1.0), 0, 1)
    stops = np.linspace(0, 1, len(_HEAT_COLORS))
    colors = np.stack([np.interp(strength, stops, channel) for channel in _HEAT_COLORS.T], axis=-1)
    opacity = _HEAT_OPACITY * strength[..., np.newaxis]
    mixed = picture[..., np.newaxis] * (1 - opacity) + colors * opacity
    return np.rint(mixed).astype(np.uint8)


def _outline_path(outline: np.ndarray, side: int) -> str:
    """Return the contours of a map at the threshold, in the square, as an SVG path."""
    import contourpy

    # the border of zeros closes contours that leave the map, and shifts them by one
    lines = contourpy.contour_generator(z=np.pad(outline, 1)).lines(OUTLINE_THRESHOLD)
    scale = side / len(outline)
    return " ".join(
        "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in (line[:-1] - 0.5) * scale) + " Z"
        for line in lines
        if len(line) > 3
    )


def _data_uri(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
