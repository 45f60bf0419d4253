"""From an image to a few hundred numbers that are the same for its mirror image.

They are histograms of gradients (Dalal and Triggs, 2005) of what stands out from the background,
however much of the frame it fills, and statistics of grey levels, detail and outline.
"""

import numpy as np
from PIL import Image

BASE, SIZE = 128, 64  # pixels: of the whole frame, and of what is described
CELLS, ANGLES = 8, 9
BACKGROUND = 0.12  # of the range of grey: what is darker may be background
_CELL = np.arange(SIZE) // (SIZE // CELLS)
_PLACE = (_CELL[:, np.newaxis] * CELLS + _CELL) * ANGLES
_OPPOSITE = -np.arange(ANGLES) % ANGLES  # the angle that a mirror makes of an angle
_RADIUS = np.hypot(*np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j])
_RING = np.minimum(_RADIUS / 0.2, 6).astype(int)
_RING_SIZES = np.bincount(_RING.ravel(), minlength=7)[:6]
_LEVELS = np.array([0.05, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.95])


def shrink(image: np.ndarray) -> np.ndarray:
    """Return an image at 128 by 128 pixels, antialiased; a large one is thinned out first.

    Parameters
    ----------
    image : uint8 array of shape (height, width)

    Returns
    -------
    uint8 array of shape (128, 128)
    """
    whole = Image.fromarray(image)
    size = (BASE, BASE)
    return np.asarray(whole.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def contrast(base: np.ndarray) -> float:
    """Return how many grey levels lie between the darkest and the brightest 0.5 % of the pixels."""
    low, high = _range(base)
    return float(high - low)


def describe_base(base: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Describe a shrunk image.

    Parameters
    ----------
    base : uint8 array of shape (128, 128)
    shape : tuple of 2 ints
        Height and width of the image, pixels.

    Returns
    -------
    float32 array of shape (d,)
    """
    low, high = _range(base)
    scaled = np.clip((base.astype(np.float32) - low) / max(high - low, 1), 0, 1)
    box = _outline_box(scaled)
    whole = _halved(scaled)
    cropped = Image.fromarray(base).resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
    head = np.clip((np.asarray(cropped, np.float32) - low) / max(high - low, 1), 0, 1)
    parts = (_gradients(head), _greys(whole, high), _frame(whole, box, shape), _inside(head))
    return np.concatenate(parts, dtype=np.float32)


def _range(base: np.ndarray) -> np.ndarray:
    """Return percentiles 0.5 and 99.5, from the histogram, which is faster than sorting."""
    reached = np.cumsum(np.bincount(base.ravel(), minlength=256))
    return np.searchsorted(reached, np.array([0.005, 0.995]) * base.size)


def _outline_box(scaled: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of what is brighter than background; all if little is."""
    bright = scaled > BACKGROUND
    rows, columns = (np.flatnonzero(bright.mean(axis) > 0.04) for axis in (1, 0))
    if len(rows) < 12 or len(columns) < 12:
        return 0, 0, BASE, BASE
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _halved(grey: np.ndarray) -> np.ndarray:
    size = grey.shape[0] // 2
    return grey.reshape(size, 2, size, 2).mean((1, 3))


def _gradients(grey: np.ndarray) -> np.ndarray:
    """Return the histograms of gradient angles in 8 by 8 cells, mirrored halves folded together."""
    down, right = np.zeros_like(grey), np.zeros_like(grey)
    down[1:-1], right[:, 1:-1] = grey[2:] - grey[:-2], grey[:, 2:] - grey[:, :-2]
    angle = np.arctan2(down, right) % np.pi * (ANGLES / np.pi)
    lower = np.floor(angle)
    share, length = angle - lower, np.hypot(down, right)
    lower = lower.astype(int) % ANGLES
    cells = CELLS * CELLS * ANGLES
    found = np.bincount((_PLACE + lower).ravel(), (length * (1 - share)).ravel(), cells)
    found += np.bincount((_PLACE + (lower + 1) % ANGLES).ravel(), (length * share).ravel(), cells)
    found = found.reshape(CELLS, CELLS, ANGLES)
    energy = np.pad((found**2).sum(axis=2), 1)
    around = sum(energy[i : i + CELLS, j : j + CELLS] for i in range(3) for j in range(3)) / 9
    found /= np.sqrt(around + 0.05)[..., np.newaxis]
    mirrored = found[:, ::-1][..., _OPPOSITE]
    half = np.s_[:, : CELLS // 2]
    same, other = (found + mirrored)[half] / 2, np.abs(found - mirrored)[half] / 2
    return np.concatenate([same.ravel(), other.mean(axis=2).ravel()])


def _greys(whole: np.ndarray, brightest: float) -> np.ndarray:
    """Return quantiles and entropy of grey, the share of white, and the detail at four scales."""
    counts = np.histogram(whole, 16, (0, 1))[0] / whole.size
    entropy = -(counts * np.log(counts + 1e-9)).sum()
    details, smooth = [], whole
    for _ in range(4):
        coarse = _halved(smooth)
        detail = np.abs(smooth - np.repeat(np.repeat(coarse, 2, 0), 2, 1)).mean()
        details.append(np.log(detail + 1e-4))
        smooth = coarse
    levels = np.sort(whole, axis=None)[(_LEVELS * whole.size).astype(int)]
    shares = (whole < 0.05).mean(), (whole > 0.95).mean()
    return np.array([*levels, entropy, *shares, *details, np.log1p(brightest), whole.mean()])


def _frame(whole: np.ndarray, box: tuple[int, int, int, int], shape: tuple[int, int]) -> np.ndarray:
    """Return what lies at the border and in the corners, and how much the outline fills."""
    border = np.concatenate(
        [whole[:3].ravel(), whole[-3:].ravel(), whole[:, :3].ravel(), whole[:, -3:].ravel()]
    )
    corners = sorted(whole[rows, columns].mean() for rows in (np.s_[:6], np.s_[-6:])
                     for columns in (np.s_[:6], np.s_[-6:]))  # fmt: skip
    width, height = (box[2] - box[0]) / BASE, (box[3] - box[1]) / BASE
    ratios = np.log(width / height), np.log(shape[1] / shape[0])
    return np.array([border.mean(), border.std(), *corners, width, height, *ratios])


def _inside(head: np.ndarray) -> np.ndarray:
    """Return symmetry, grey by distance from the middle, and how even the middle is."""
    centred = head - head.mean()
    symmetry = (centred * centred[:, ::-1]).sum() / max((centred**2).sum(), 1e-6)
    rings = np.bincount(_RING.ravel(), head.ravel(), 7)[:6] / _RING_SIZES
    middle = head[_RADIUS < 0.75]
    return np.array(
        [symmetry, *rings, middle.std(), np.median(middle), np.median(np.abs(np.diff(middle)))]
    )
