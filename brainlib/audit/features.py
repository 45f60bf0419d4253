"""Image features of the audit: thumbnails, grey-level statistics, borders, heads, gradients.

`pixels` are uint8 arrays of shape (n, height, width, 1), 0 to 255.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

THUMBNAIL_SIZE = 32
BLANK_DEVIATION = 0.01
"""Standard deviation, in grey levels, below which a thumbnail counts as blank."""

_CHUNK = 512  # images, so that memory stays bounded on large collections


def shrink(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return the images area-averaged to float32 squares, shape (n, size, size)."""
    rows, columns = (_area_weights(length, size) for length in pixels.shape[1:3])
    small = np.empty((len(pixels), size, size), np.float32)
    for start in range(0, len(pixels), _CHUNK):
        chunk = pixels[start : start + _CHUNK, :, :, 0].astype(np.float32)
        small[start : start + _CHUNK] = rows @ (chunk @ columns.T)
    return small


def _area_weights(length: int, size: int) -> np.ndarray:
    """Return the weights that average `length` pixels into `size` equal intervals."""
    edges, left = np.linspace(0, length, size + 1), np.arange(length)
    overlap = np.minimum(left + 1, edges[1:, None]) - np.maximum(left, edges[:-1, None])
    weights = np.clip(overlap, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def thumbnails(pixels: np.ndarray, size: int = THUMBNAIL_SIZE) -> np.ndarray:
    """Return thumbnails whose inner product is the correlation of two images.

    Returns
    -------
    ndarray of float32, shape (n, size * size)
        Each row has mean zero and norm one. The row of a blank image is zero, so that it
        correlates with nothing.

    Examples
    --------
    >>> import numpy as np
    >>> dark = np.random.default_rng(0).integers(0, 120, (1, 64, 64, 1), np.uint8)
    >>> first, second = thumbnails(np.concatenate([dark, 2 * dark + 5]))
    >>> round(float(first @ second), 5)
    1.0
    """
    flat = shrink(pixels, size).reshape(len(pixels), size * size)
    flat -= flat.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    blank = norm <= BLANK_DEVIATION * size
    return np.where(blank, 0, flat / np.where(blank, 1, norm)).astype(np.float32)


def intensity_features(pixels: np.ndarray) -> np.ndarray:
    """Return twelve statistics of the grey levels of each image, shape (n, 12).

    Mean, standard deviation, skewness, percentiles 5, 25, 50, 75, 95 and 99, maximum, share of
    black pixels (0), entropy in bits.
    """
    levels = np.arange(256)
    features = np.empty((len(pixels), 12), np.float32)
    for row, image in enumerate(pixels):
        share = np.bincount(image.ravel(), minlength=256) / image.size
        mean = share @ levels
        deviation = np.sqrt(share @ (levels - mean) ** 2)
        skewness = share @ (levels - mean) ** 3 / max(deviation, 1e-6) ** 3
        percentiles = np.searchsorted(np.cumsum(share), [0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
        seen = share[share > 0]
        entropy = -(seen * np.log2(seen)).sum()
        features[row] = [mean, deviation, skewness, *percentiles, image.max(), share[0], entropy]
    return features


def border_features(pixels: np.ndarray) -> np.ndarray:
    """Return the outermost two pixels of each image shrunk to 48 × 48, about 4 % of its side."""
    frame = np.ones((48, 48), bool)
    frame[2:-2, 2:-2] = False
    return shrink(pixels, 48)[:, frame]


def head_mask(image: np.ndarray) -> np.ndarray:
    """Return the head: the largest region brighter than the background, holes filled.

    The threshold is half of Otsu's (1979) on the smoothed image, low enough for a dark scalp.

    Parameters
    ----------
    image : ndarray, shape (height, width)
        Grey values, 0 to 255.

    Returns
    -------
    ndarray of bool, shape (height, width)
        All False for a blank image.
    """
    from skimage.filters import threshold_otsu

    smooth = ndimage.gaussian_filter(image.astype(np.float32), len(image) / 75)
    if np.ptp(smooth) < 1:
        return np.zeros(image.shape, bool)
    bright = smooth > 0.5 * threshold_otsu(smooth)
    bright = ndimage.binary_closing(bright, iterations=max(1, len(image) // 50))
    regions, count = ndimage.label(bright)
    if not count:
        return bright
    return ndimage.binary_fill_holes(regions == np.bincount(regions.ravel())[1:].argmax() + 1)


def mask_heads(pixels: np.ndarray, size: int = 75) -> np.ndarray:
    """Return the images shrunk to `size`, the whole head painted white: only silhouettes remain."""
    small = np.rint(shrink(pixels, size)).astype(np.uint8)
    for image in small:
        image[head_mask(image)] = 255
    return small[..., None]


def silhouettes(pixels: np.ndarray) -> np.ndarray:
    """Return the masked heads shrunk to 25 × 25 and flattened, shape (n, 625)."""
    return shrink(mask_heads(pixels), 25).reshape(len(pixels), -1)


def crop_heads(pixels: np.ndarray, size: int = 64) -> np.ndarray:
    """Return each image cut to the bounding box of its head and scaled to a square of `size`."""
    from PIL import Image

    heads = np.empty((len(pixels), size, size, 1), np.uint8)
    for row, image in enumerate(pixels[..., 0]):
        boxes = ndimage.find_objects(head_mask(image).astype(int))
        head = Image.fromarray(image[boxes[0]] if boxes else image)
        heads[row, ..., 0] = np.asarray(head.resize((size, size), Image.Resampling.BOX))
    return heads


def hog_features(pixels: np.ndarray) -> np.ndarray:
    """Return histograms of oriented gradients (Dalal and Triggs, 2005), shape (n, 8100).

    Of the image at 128 × 128: nine orientations, cells of 8 × 8 pixels, blocks of 2 × 2.
    """
    from skimage.feature import hog

    small = shrink(pixels, 128)
    return np.stack([hog(image, cells_per_block=(2, 2)).astype(np.float32) for image in small])


def file_features(table: pd.DataFrame, root: Path) -> np.ndarray:
    """Return width, height, bytes, aspect ratio and colour mode of each file, shape (n, 5)."""
    from PIL import Image

    rows = []
    for path in table["path"]:
        with Image.open(root / path) as image:
            aspect = image.width / image.height
            rows.append((*image.size, (root / path).stat().st_size, aspect, image.mode))
    files = pd.DataFrame(rows)
    files[4] = pd.factorize(files[4], sort=True)[0]  # the mode
    return files.to_numpy(np.float64)
