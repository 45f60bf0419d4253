"""Random changes of pictures and outlines that leave the diagnosis as it is.

Each attacks a shortcut that the audit found: position and field of view (turning, scaling, moving),
the side (mirroring), the scanner's contrast, coil, noise and resolution.
"""

from dataclasses import dataclass

import keras
import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """How far pictures are changed.

    Attributes
    ----------
    rotation : float
        Largest turn, degrees.
    scale : float
        Largest change of size, natural logarithm: 0.2 is 0.82 to 1.22 times.
    shift : float
        Largest move, share of the picture's width.
    gamma : float
        Largest change of contrast, natural logarithm of the exponent of the grey values.
    bias : float
        Standard deviation of each coefficient of a second-order bias field.
    noise : float
        Largest standard deviation of the noise that half the pictures get, share of full white.
    coarse : float
        Share of the pictures that lose half their resolution.
    mirror : float
        Share of the pictures that are mirrored.
    """

    rotation: float = 20.0
    scale: float = 0.2
    shift: float = 0.08
    gamma: float = 0.5
    bias: float = 0.15
    noise: float = 0.06
    coarse: float = 0.2
    mirror: float = 0.5


def augment(
    pixels: np.ndarray,
    outlines: np.ndarray,
    random: np.random.Generator,
    how: Augmentation | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Change each picture at random, its outline along with it.

    Parameters
    ----------
    pixels, outlines : uint8 arrays of shape (n, size, size)
        `size` is even.
    random : Generator
        All that is drawn comes from it.
    how : Augmentation, optional

    Returns
    -------
    pixels : float32 array of shape (n, size, size)
        Grey values around 0 to 255; noise and bias field may leave that range.
    outlines : float32 array of shape (n, size, size)
        Share of each pixel inside the tumour, 0 to 1.
    """
    how = how or Augmentation()
    moved = _move(np.stack([pixels, outlines], axis=-1).astype(np.float32) / 255, random, how)
    grey, inside = moved[..., 0].clip(0, 1), moved[..., 1].clip(0, 1)
    grey = grey ** np.exp(_draw(random, how.gamma, len(grey)))
    grey = grey * _bias_field(random, how.bias, len(grey), grey.shape[1])
    grey = grey + _noise(random, how.noise, grey.shape)
    coarse = random.random(len(grey)) < how.coarse
    grey[coarse] = _halve_resolution(grey[coarse])
    return grey * 255, inside


def _draw(random: np.random.Generator, limit: float, count: int) -> np.ndarray:
    return random.uniform(-limit, limit, (count, 1, 1)).astype(np.float32)


def _move(channels: np.ndarray, random: np.random.Generator, how: Augmentation) -> np.ndarray:
    count, size = channels.shape[:2]
    matrices = _matrices(random, how, count, size)
    moved = keras.ops.image.affine_transform(
        channels, matrices, interpolation="bilinear", fill_mode="constant", fill_value=0.0
    )
    return keras.ops.convert_to_numpy(moved)


def _matrices(random: np.random.Generator, how: Augmentation, count: int, size: int) -> np.ndarray:
    """Return projective transforms (n, 8) from places of the result to places of the picture."""
    angle = np.deg2rad(random.uniform(-how.rotation, how.rotation, count))
    scale = np.exp(random.uniform(-how.scale, how.scale, count))
    side = np.where(random.random(count) < how.mirror, -1.0, 1.0)
    right, down = random.uniform(-how.shift, how.shift, (2, count)) * size
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    middle = (size - 1) / 2
    first = [cosine * side, -sine, middle - (cosine * side - sine) * middle + right]
    second = [sine * side, cosine, middle - (sine * side + cosine) * middle + down]
    return np.stack([*first, *second, 0 * angle, 0 * angle], axis=1).astype(np.float32)


def _bias_field(random: np.random.Generator, deviation: float, count: int, size: int) -> np.ndarray:
    x = np.linspace(-1, 1, size, dtype=np.float32)
    y = x[:, None]
    terms = np.stack(np.broadcast_arrays(x, y, x * x, y * y, x * y))
    weights = random.normal(0, deviation, (count, len(terms))).astype(np.float32)
    # not a matrix product: BLAS keeps a core busy for a while after each, and training waits for it
    return 1 + np.einsum("nt,tyx->nyx", weights, terms)


def _noise(random: np.random.Generator, most: float, shape: tuple[int, ...]) -> np.ndarray:
    noisy = random.random(shape[0]) < 0.5
    deviation = (noisy * random.uniform(0, most, shape[0])).astype(np.float32)
    return deviation[:, None, None] * random.standard_normal(shape, dtype=np.float32)


def _halve_resolution(grey: np.ndarray) -> np.ndarray:
    size = grey.shape[1]
    small = grey.reshape(-1, size // 2, 2, size // 2, 2).mean(axis=(2, 4))
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    beside = np.roll(large, 1, axis=1)
    return (large + beside + np.roll(large, 1, axis=2) + np.roll(beside, 1, axis=2)) / 4
