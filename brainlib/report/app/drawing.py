"""Slices as picture files, with the network's outline or heat map; fast enough to scroll through.

A slice on its own is a PNG. Overlays are JPEG, which is made ten times as fast.
"""

import io

import numpy as np
from PIL import Image

from brainlib.explain import OUTLINE_THRESHOLD, map_in_picture

LAYERS = ("picture", "outline", "heat map")
OUTLINE_COLOR = (86, 180, 233)
CLASS_COLORS = {
    "glioma": "#D55E00", "meningioma": "#0072B2", "notumor": "#009E73", "pituitary": "#CC79A7"
}  # fmt: skip
"""Those of `plots`, which is not imported here because it loads matplotlib and seaborn."""

VIEW_SIZE = 560
_LINE = 2.2
_QUALITY = 95
_INFERNO = np.array(
    [(0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21),
     (250, 193, 39), (252, 255, 164)], np.float32,
)  # fmt: skip
"""Eight of matplotlib's colours `inferno` (Smith and van der Walt, 2015), in even steps."""


def draw_slice(
    pixels: np.ndarray,
    layer: str = "picture",
    outline: np.ndarray | None = None,
    heat_map: np.ndarray | None = None,
    size: int = VIEW_SIZE,
) -> tuple[str, bytes]:
    """Return the format of a picture file, `png` or `jpeg`, and its content.

    Parameters
    ----------
    pixels : uint8 array of shape (height, width)
    layer : str
        One of `LAYERS`.
    outline, heat_map : float arrays of shape (64, 64), optional
        As in `explain.Maps`; without the one that the layer shows, the slice is drawn plain.
    size : int
        The longer side of the result, pixels.
    """
    height, width = pixels.shape
    scale = size / max(height, width)
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    grey = Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BICUBIC)
    if layer == "outline" and outline is not None:
        return "jpeg", _blended(grey, np.float32(OUTLINE_COLOR), _line(outline, *shape))
    if layer == "heat map" and heat_map is not None and heat_map.max() > 0:
        strength = map_in_picture(heat_map / heat_map.max(), *shape).clip(0, 1)
        return "jpeg", _blended(grey, _inferno(strength), 0.65 * strength)
    stream = io.BytesIO()
    grey.save(stream, "PNG", compress_level=1)  # it travels no further than to this machine
    return "png", stream.getvalue()


def _line(outline: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return how much of each pixel is covered by the line at the outline."""
    inside = map_in_picture(outline, height, width)
    slope = np.hypot(*np.gradient(inside))
    distance = np.abs(inside - OUTLINE_THRESHOLD) / (slope + 1e-6)
    # where the map is flat there is no line, however near to the threshold it is
    return np.where(slope > 1e-3, (_LINE / 2 + 0.5 - distance).clip(0, 1), 0)


def _inferno(values: np.ndarray) -> np.ndarray:
    stops = np.linspace(0, 1, len(_INFERNO))
    fine = np.linspace(0, 1, 256)
    table = np.stack([np.interp(fine, stops, channel) for channel in _INFERNO.T], axis=1)
    return table.astype(np.float32)[(values * 255).astype(np.uint8)]


def _blended(grey: Image.Image, color: np.ndarray, share: np.ndarray) -> bytes:
    below = np.asarray(grey, np.float32)[..., np.newaxis]
    mixed = below + (color - below) * share.astype(np.float32)[..., np.newaxis]
    stream = io.BytesIO()
    Image.fromarray(mixed.astype(np.uint8)).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return stream.getvalue()
