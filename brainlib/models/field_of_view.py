"""The field of view: finding the head in an image, and resampling a square around it.

All of it is Keras operations, so that it travels inside the model's file, whatever the engine.
"""

import keras
from keras import layers, ops

GRID = 64
"""Height and width of the coarse grid on which the head is looked for."""

MARGIN = 1.18
"""Side of the square around the head, in units of the head's longer extent."""

_BRIGHT, _TEXTURE, _OPENING = 0.12, 0.02, 5
_NEIGHBOURHOOD, _DENSE = 13, 0.55
_CLOSING, _RIM = 17, 13
_GROUND, _GROUND_SPREAD = 0.2, (0.02, 0.015)
"""Grey of a window's ground, as a share of the brightest; how far its border and itself vary."""

_TAIL, _REACH = 0.05, 0.805
"""Share of the head beyond each quantile; where that quantile lies on an ellipse's half axis."""


def to_grey(pixels: keras.KerasTensor) -> keras.KerasTensor:
    """Return the mean over the colours (n, height, width) of images (n, height, width, colours)."""
    return ops.mean(ops.cast(pixels, "float32"), axis=-1)


def clear_ground(grey: keras.KerasTensor) -> keras.KerasTensor:
    """Blacken the even grey ground of a screenshot or a page around the head.

    The ground is the median of the image's border, where that is bright and most of the border has
    it; other images stay as they are.

    Parameters
    ----------
    grey : tensor of shape (n, height, width)
    """
    rows, columns = ops.ones_like(grey[:, :, 0]), ops.ones_like(grey[:, 0, :])
    height, width = (ops.sum(extent, axis=1, keepdims=True) for extent in (rows, columns))
    down = _resampling(rows, height / 2, height, GRID)
    across = _resampling(columns, width / 2, width, GRID)
    grid = ops.matmul(ops.matmul(down, grey), ops.transpose(across, (0, 2, 1)))
    smooth = layers.AveragePooling2D(3, 1, "same")(ops.expand_dims(grid, -1))
    peak = ops.max(smooth, axis=(1, 2, 3))[:, None]
    border = ops.concatenate([grid[:, 0], grid[:, -1], grid[:, :, 0], grid[:, :, -1]], axis=1)
    ground = ops.top_k(border, 2 * GRID)[0][:, -1:]
    is_even = ops.cast(ops.less(ops.abs(border - ground), _GROUND_SPREAD[0] * peak), "float32")
    has_ground = ops.cast(ops.greater(ground, _GROUND * peak), "float32") * ops.cast(
        ops.greater(ops.mean(is_even, axis=1, keepdims=True), 0.5), "float32"
    )
    distance = ops.abs(grey - ground[..., None])
    is_ground = ops.cast(ops.less(distance, (_GROUND_SPREAD[1] * peak)[..., None]), "float32")
    return grey * (1 - is_ground * has_ground[..., None])


def find_head(grey: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Find the square around the head.

    The head is what is bright, textured and wider than a frame or a line of text: a morphological
    opening on a coarse grid. Its extent along an axis comes from the 5 % and 95 % quantiles of its
    area, which small bright spots far away do not move. A second pass looks inside the square of
    the first, so that a small head is found as well as a large one.

    Parameters
    ----------
    grey : tensor of shape (n, height, width)
        Any scale of grey values.

    Returns
    -------
    centre : tensor of shape (n, 2)
        Row and column, pixels.
    side : tensor of shape (n, 1)
        Of the square, pixels.
    """
    rows, columns = ops.ones_like(grey[:, :, 0]), ops.ones_like(grey[:, 0, :])
    height, width = (ops.sum(extent, axis=1, keepdims=True) for extent in (rows, columns))
    centre, side = ops.concatenate([height, width], axis=1) / 2, ops.maximum(height, width)
    for slack in (1.0, 1.3, 1.3):
        centre, side = _tighten(grey, centre, side * slack)
    return centre, side


def crop(
    grey: keras.KerasTensor, centre: keras.KerasTensor, side: keras.KerasTensor, size: int
) -> keras.KerasTensor:
    """Resample a square of each image; what lies outside the image is 0.

    Antialiased bilinear resampling as Pillow does it, written as two matrix products, because every
    backend and file format knows those for images of any size.

    Parameters
    ----------
    grey : tensor of shape (n, height, width)
    centre, side : tensors of shape (n, 2) and (n, 1)
        As `find_head` gives them.
    size : int
        Height and width of the result.

    Returns
    -------
    tensor of shape (n, size, size)
    """
    down = _resampling(ops.ones_like(grey[:, :, 0]), centre[:, :1], side, size)
    across = _resampling(ops.ones_like(grey[:, 0, :]), centre[:, 1:], side, size)
    return ops.matmul(ops.matmul(down, grey), ops.transpose(across, (0, 2, 1)))


def hide_surroundings(square: keras.KerasTensor, cleared: keras.KerasTensor) -> keras.KerasTensor:
    """Blacken what lies outside the head: frames, text, the windows of a viewer.

    The mask of the head is closed, so that dark places inside stay, and keeps a rim of air.

    Parameters
    ----------
    square, cleared : tensors of shape (n, size, size)
        As `crop` gives them, of the image and of what `clear_ground` makes of it.
    """
    size = square.shape[1]
    middle, side = (
        size / 2 * ops.ones_like(square[:, 0, :2]),
        size * ops.ones_like(square[:, 0, :1]),
    )
    head = _head_mask(crop(cleared, middle, side, GRID))
    head = ops.expand_dims(ops.cast(ops.greater(head, 0), "float32"), -1)
    closed = layers.MaxPooling2D(_CLOSING, 1, "same")(head)
    closed = 1 - layers.MaxPooling2D(_RIM, 1, "same")(1 - closed)
    middle, side = middle * (GRID / size), side * (GRID / size)
    visible = crop(closed[..., 0], middle, side, size)
    return square * visible


def _tighten(
    grey: keras.KerasTensor, centre: keras.KerasTensor, side: keras.KerasTensor
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    mask = _head_mask(crop(grey, centre, side, GRID))
    middles, extents = [], []
    for axis in (2, 1):
        low, high = _quantiles(ops.sum(mask, axis=axis))
        middles.append((low + high) / 2 - 0.5)
        extents.append((high - low) / _REACH)
    centre = centre + side * ops.concatenate(middles, axis=1)
    return centre, side * MARGIN * ops.maximum(*extents)


def _head_mask(grid: keras.KerasTensor) -> keras.KerasTensor:
    """Return how much head there is in each cell of a grid, (n, GRID, GRID)."""
    x = ops.expand_dims(grid, -1)
    peak = ops.max(layers.AveragePooling2D(3, 1, "same")(x), axis=(1, 2, 3), keepdims=True)
    x = x / ops.maximum(peak, 1e-6)
    bright = ops.cast(ops.greater(x, _BRIGHT), "float32")
    # zeros around, so that a frame at the image's border is as thin as it looks
    padded = layers.ZeroPadding2D(_OPENING // 2)(bright)
    eroded = 1 - layers.MaxPooling2D(_OPENING, 1)(1 - padded)
    opened = layers.MaxPooling2D(_OPENING, 1, "same")(eroded)
    highest, lowest = (layers.MaxPooling2D(3, 1, "same")(sign * x) * sign for sign in (1.0, -1.0))
    textured = ops.cast(ops.greater(highest - lowest, _TEXTURE), "float32")
    mask = opened * textured
    # a head fills its neighbourhood; a frame or a line of text does not
    around = layers.ZeroPadding2D(_NEIGHBOURHOOD // 2)(mask)
    density = layers.AveragePooling2D(_NEIGHBOURHOOD, 1)(around)
    densest = ops.max(density, axis=(1, 2, 3), keepdims=True)
    dense = ops.cast(ops.greater(density, _DENSE * densest), "float32")
    return (mask * dense * ops.square(density))[..., 0]


def _quantiles(mass: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Return the two quantiles (n, 1) of a mass (n, GRID) along its axis, as shares of its length.

    A little mass everywhere makes an empty image's square the whole image.
    """
    mass = mass + 1e-3
    total = ops.sum(mass, axis=1, keepdims=True)
    before = ops.cumsum(mass, axis=1) - mass
    return [
        ops.sum(ops.clip((total * share - before) / mass, 0, 1), axis=1, keepdims=True) / GRID
        for share in (_TAIL, 1 - _TAIL)
    ]


def _resampling(
    extent: keras.KerasTensor, middle: keras.KerasTensor, side: keras.KerasTensor, size: int
) -> keras.KerasTensor:
    """Return the weights (n, size, length) with which places of one axis make `size` new ones.

    `extent` is a tensor (n, length) of ones: its shape is known only when the model runs.
    """
    scale = side / size
    places = ops.cumsum(extent, axis=1) - 0.5
    # scale first: a JAX array asks what it is multiplied with to be one too; middle first: Keras on
    # TensorFlow takes a second addend (n, 1) for a bias of the last axis where that is n long
    centres = middle + scale * (ops.arange(size, dtype="float32") + (0.5 - size / 2))
    distance = ops.abs(ops.expand_dims(places, 1) - ops.expand_dims(centres, 2))
    weights = ops.relu(1 - distance / ops.expand_dims(ops.maximum(scale, 1.0), 2))
    return weights / ops.maximum(ops.sum(weights, axis=2, keepdims=True), 1e-6)
