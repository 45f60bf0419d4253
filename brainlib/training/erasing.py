"""Lesions erased from their slices: tumour-free images of the tumour's scanners and planes.

In the collection, images without tumour come from other scanners than those with one. A slice whose
lesion was replaced by tissue of the same slice has the scanner and no lesion.
"""

import numpy as np
from scipy import ndimage

_RIM = 0.02
"""Margin around the outline that is erased too, share of the image's width."""

_TRIES = 12
_FULL_HEAD = 0.9


def erase(image: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> np.ndarray | None:
    """Replace the tissue under a mask by tissue from elsewhere in the image.

    The tissue is the mirrored side or the image shifted, moved to the grey level around the mask so
    that no seam shows: both images are interpolated smoothly across the mask, and the difference of
    the two interpolations is added (compare Poisson image editing, Pérez et al., 2003).

    Parameters
    ----------
    image : uint8 array of shape (size, size)
    mask : bool array of shape (size, size)
        What is to go.
    random : Generator
        Draws where the tissue is taken from.

    Returns
    -------
    uint8 array of shape (size, size), or None
        None where there is no tissue of that shape elsewhere in the head.
    """
    size = len(image)
    wide = ndimage.binary_dilation(mask, iterations=max(1, round(_RIM * size)))
    grey = image.astype(np.float32)
    source = _find_source(grey, wide, random)
    if source is None:
        return None
    radius = np.sqrt(wide.sum() / np.pi)
    kept = 1 - ndimage.gaussian_filter(wide.astype(np.float32), 1.0).clip(0, 1)
    spread = [_interpolate(part, 1.0 - wide, sigma=max(2.0, radius / 2)) for part in (grey, source)]
    filled = source + spread[0] - spread[1]
    return (kept * grey + (1 - kept) * filled).clip(0, 255).round().astype(np.uint8)


def _interpolate(grey: np.ndarray, known: np.ndarray, sigma: float) -> np.ndarray:
    """Return the Gaussian mean of the known pixels around each pixel (normalised convolution)."""
    total, weight = 0.0, 1e-6
    # the wider one counts where the narrow one sees nothing
    for scale, width in ((1.0, sigma), (1e-3, 3 * sigma)):
        total = total + scale * ndimage.gaussian_filter(grey * known, width)
        weight = weight + scale * ndimage.gaussian_filter(known.astype(np.float32), width)
    return total / weight


def _find_source(
    grey: np.ndarray, mask: np.ndarray, random: np.random.Generator
) -> np.ndarray | None:
    """Return the image moved so that other tissue of the head lies on the mask."""
    size = len(grey)
    head = ndimage.uniform_filter(grey, size // 32) > 0.1 * np.quantile(grey, 0.98)
    middle = ndimage.center_of_mass(head)[1] if head.any() else size / 2
    across = round(2 * middle) - size + 1
    diameter = 2 * np.sqrt(mask.sum() / np.pi)
    step, shift = -1, (0, across)  # first the mirrored side
    for _ in range(_TRIES):
        moved, lesion, inside = (
            np.roll(part[:, ::step], shift, axis=(0, 1)) for part in (grey, mask, head)
        )
        if not (lesion & mask).any() and inside[mask].mean() >= _FULL_HEAD:
            return moved
        angle, length = random.uniform(0, 2 * np.pi), random.uniform(1.0, 2.2) * diameter
        step, shift = 1, (round(length * np.sin(angle)), round(length * np.cos(angle)))
    return None
