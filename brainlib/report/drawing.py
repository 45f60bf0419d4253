"""Slices with outline, heat map and the sides of the patient."""

import base64
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from brainlib.data.datasets import trace_contours
from brainlib.explain import OUTLINE_THRESHOLD

OUTLINE_COLOR = (143, 214, 255)
HEAT_COLORS = ((0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66),
               (245, 125, 21), (250, 193, 39), (252, 255, 164))  # fmt: skip
"""Eight of matplotlib's colours `inferno` (Smith and van der Walt, 2015), in even steps."""

_HEAT_OPACITY = 0.65
_FINER = 2  # lines are drawn this much larger and averaged
_QUALITY = 92
_SLANTED = 0.38  # the sine of 22.5 degrees: less than halfway to the next direction


def draw_slice(
    pixels: np.ndarray,
    outline: np.ndarray | None = None,
    heat_map: np.ndarray | None = None,
    affine: np.ndarray | None = None,
    size: int = 560,
    window: tuple[int, int] = (0, 255),
) -> Image.Image:
    """Draw a slice with what the network drew over it.

    Parameters
    ----------
    pixels : uint8 array of shape (height, width)
    outline, heat_map : float arrays of shape (height, width), optional
        From 0 to 1, in the frame of the image.
    affine : float array of shape (4, 4), optional
        As that of `imaging.ScanSlice`; without it the side is unknown.
    size : int
        The longer side of the result, pixels.
    window : pair of int
        The grey values to be drawn black and white.

    Returns
    -------
    Image
        Grey without overlays, else RGB.
    """
    scale = size / max(pixels.shape)
    height, width = (max(1, round(side * scale)) for side in pixels.shape)
    drawn = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    if window != (0, 255):
        drawn = drawn.point(np.interp(range(256), window, (0, 255)).round().astype(int).tolist())
    if heat_map is not None:
        drawn = _heated(drawn, resized(heat_map, width, height).clip(0, 1))
    if outline is not None:
        drawn = _outlined(drawn, resized(outline, width, height))
    return _labelled(drawn, sides(affine))


def sides(affine: np.ndarray | None) -> tuple[str, str, str, str] | None:
    """Return what of the patient lies left, right, above and below in a slice; None if unknown.

    Examples
    --------
    >>> sides(np.array([[0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    ('R', 'L', 'A', 'P')
    """
    if affine is None:
        return None
    labels = []
    for direction in (affine[:3, 1], affine[:3, 0]):
        cosines = direction / np.linalg.norm(direction)
        axes = [axis for axis in np.argsort(-np.abs(cosines)) if abs(cosines[axis]) > _SLANTED]
        for sign in (-1, 1):
            labels.append("".join("LPIRAS"[axis + 3 * (sign * cosines[axis] > 0)] for axis in axes))
    return tuple(labels)


def encode(image: Image.Image) -> bytes:
    """Return an image as the content of a JPEG file."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return stream.getvalue()


def data_uri(content: bytes, kind: str = "image/jpeg") -> str:
    """Return the content of a file as text that an HTML file can hold."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def resized(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return values at another size (bilinear), float32 of shape (height, width)."""
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


def _labelled(image: Image.Image, labels: tuple[str, str, str, str] | None) -> Image.Image:
    """Write the sides of the patient at the edges, or that they are unknown."""
    draw, size = ImageDraw.Draw(image), max(10, max(image.size) // 25)
    fill, stroke = (230, 0) if image.mode == "L" else ((230,) * 3, (0,) * 3)
    style = {"font": ImageFont.load_default(size), "stroke_width": 1, "fill": fill,
             "stroke_fill": stroke}  # fmt: skip
    edge, (width, height) = size / 3, image.size
    if labels is None:
        draw.text((edge, height - edge), "side unknown", anchor="ls", **style)
        return image
    points = ((edge, height / 2), (width - edge, height / 2), (width / 2, edge),
              (width / 2, height - edge))  # fmt: skip
    for label, point, anchor in zip(labels, points, ("lm", "rm", "mt", "ms"), strict=True):
        draw.text(point, label, anchor=anchor, **style)
    return image
