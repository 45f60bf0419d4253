"""Heads that fill only part of an image: margins, frames and screenshots around them."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

FRAME_PIXELS = 12


def sides(pixels: np.ndarray, share: float = 0.4) -> np.ndarray:
    """Add black left and right, 40 % of the width each, as in a 16:9 screenshot."""
    width = round(share * pixels.shape[1])
    return np.pad(pixels, ((0, 0), (width, width)))


def frame(pixels: np.ndarray) -> np.ndarray:
    """Add black all around, half of the height and width on each side."""
    return np.pad(pixels, [(side // 2, side // 2) for side in pixels.shape])


def off_centre(pixels: np.ndarray) -> np.ndarray:
    """Add black below and to the right only: the head lies in the upper left corner."""
    return np.pad(pixels, [(0, 3 * side // 4) for side in pixels.shape])


def white_frame(pixels: np.ndarray) -> np.ndarray:
    """Draw a white frame of twelve pixels over the edge of the image."""
    framed = np.full_like(pixels, 255)
    inner = (slice(FRAME_PIXELS, -FRAME_PIXELS),) * 2
    framed[inner] = pixels[inner]
    return framed


def screenshot(pixels: np.ndarray) -> np.ndarray:
    """Place the image in a grey 16:9 window with a title bar and lines of text beside it."""
    height, width = pixels.shape
    window = Image.new("L", (16 * height // 7, 9 * height // 7), 60)
    window.paste(230, (0, 0, window.width, height // 12))
    window.paste(Image.fromarray(pixels), (window.width - width - height // 8, height // 6))
    draw = ImageDraw.Draw(window)
    for line in range(6):
        place = (height // 16, height // 4 + line * height // 8)
        draw.text(place, f"Series {line + 1}: T1 + contrast", fill=220)
    return np.asarray(window)


MARGINS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "black sides, 40 %": sides,
    "black frame, 50 %": frame,
    "off centre": off_centre,
    "white frame": white_frame,
    "screenshot": screenshot,
}
"""By title: uint8 pixels of shape (height, width) to uint8 pixels, the head unchanged in both."""
