"""Random changes of images and outlines that leave the diagnosis as it is.

Each imitates something that differs between scanners, patients and the files that people have.
"""

import io
from dataclasses import dataclass

import keras
import numpy as np
from PIL import Image
from scipy import ndimage

from brainlib import models


@dataclass(frozen=True)
class Augmentation:
    """Limits and probabilities of the augmentation.

    Attributes
    ----------
    rotation : float
        Largest rotation, degrees.
    quarter_turns : float
        Share of the images turned by 90, 180 or 270 degrees.
    scale, shift : float
        Largest change of the field of view: natural logarithm of its side, and share of it.
    stretch : float
        Largest change of the proportions, natural logarithm.
    margins : float
        Share of the images that become a small part of a larger one, anywhere in it.
    overlays : float
        Share of the images that get a frame or lines of text.
    degraded : float
        Share of the images that become noisy, blurred or coarse, or are compressed as JPEG.
    gamma : float
        Largest change of contrast, natural logarithm of the exponent of the grey values.
    matched : float
        Share of the images whose histogram is matched to that of another image.
    inverted : float
        Share of the images whose grey values are inverted.
    bias : float
        Standard deviation of each coefficient of a second-order bias field.
    noise : float
        Largest standard deviation of the noise that half the images get, share of full white.
    coarse : float
        Share of the images that lose half their resolution.
    mirror : float
        Share of the images that are mirrored.
    erased : float
        Share of the outlined images whose lesion is erased; they become images without tumour.
    sham : float
        Share of the images in which healthy tissue is erased the same way.
    healthy : float
        Share of the images whose place a slice of the healthy head takes (`healthy_head`).
    """

    rotation: float = 20.0
    quarter_turns: float = 0.03
    scale: float = 0.2
    shift: float = 0.06
    stretch: float = 0.1
    margins: float = 0.15
    overlays: float = 0.08
    degraded: float = 0.35
    gamma: float = 0.5
    matched: float = 0.3
    inverted: float = 0.02
    bias: float = 0.15
    noise: float = 0.06
    coarse: float = 0.2
    mirror: float = 0.5
    erased: float = 0.1
    sham: float = 0.1
    healthy: float = 0.1


class Augmenter:
    """Augments batches of images and outlines and crops them to the head as the model does.

    Parameters
    ----------
    how : Augmentation
    size : int
        Height and width of the squares that the network is trained on, pixels.
    finds_head : bool
        Whether the model crops to the head.
    """

    def __init__(self, how: Augmentation, size: int, finds_head: bool = True) -> None:
        self.how, self.size = how, size
        self.cropper = models.build_cropper(size, finds_head)
        channels, matrices = keras.Input((None, None, 2)), keras.Input((8,))
        moved = keras.ops.image.affine_transform(
            channels, matrices, interpolation="bilinear", fill_mode="constant", fill_value=0.0
        )
        self.mover = keras.Model([channels, matrices], moved, name="mover")

    def __call__(
        self,
        pixels: np.ndarray,
        outlines: np.ndarray,
        random: np.random.Generator,
        others: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Change each image at random, its outline along with it.

        Parameters
        ----------
        pixels, outlines : uint8 arrays of shape (n, height, width)
        random : Generator
            All that is drawn comes from it.
        others : uint8 array of shape (m, height, width)
            Images whose histograms are matched.

        Returns
        -------
        pixels : float32 array of shape (n, size, size)
        outlines : float32 array of shape (n, size, size)
            Share of each pixel inside the tumour, 0 to 1.
        """
        how, count = self.how, len(pixels)
        pixels = _degrade(pixels, how.degraded, random)
        pixels = _match_histograms(pixels, others, how.matched, random)
        moved = self._move(pixels, outlines, random)
        grey = _overlay(moved[..., 0], how.overlays, random)
        shift = random.uniform(-how.shift, how.shift, (count, 2))
        scale = np.exp(random.uniform(-how.scale, how.scale, (count, 1)))
        jitter = np.concatenate([shift, scale], axis=1).astype(np.float32)
        grey, inside = self.cropper.predict_on_batch([grey, moved[..., 1], jitter])
        changed = _change_grey(keras.ops.convert_to_tensor(grey), random, how)
        return keras.ops.convert_to_numpy(changed), np.clip(inside, 0, 1)

    def _move(
        self, pixels: np.ndarray, outlines: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """Return images and outlines (n, height, width, 2), grey 0 to 1, moved and with margins."""
        channels = np.stack([pixels, outlines], axis=-1).astype(np.float32) / 255
        for row in np.flatnonzero(random.random(len(pixels)) < self.how.quarter_turns):
            channels[row] = np.rot90(channels[row], random.integers(1, 4))
        shades = random.choice([0, 0, 0, 0.1, 0.5, 1.0], len(pixels)).astype(np.float32)
        channels[..., 0] -= shades[:, None, None]  # outside the image is 0: the shade
        matrices = _matrices(random, self.how, len(pixels), pixels.shape[1])
        moved = np.array(self.mover.predict_on_batch([channels, matrices]))
        moved[..., 0] += shades[:, None, None]
        return moved


def _matrices(random: np.random.Generator, how: Augmentation, count: int, size: int) -> np.ndarray:
    """Return projective transforms (n, 8) from pixels of the result to pixels of the image."""
    angle = np.deg2rad(random.uniform(-how.rotation, how.rotation, count))
    side = np.where(random.random(count) < how.mirror, -1.0, 1.0)
    stretch = np.exp(random.uniform(-how.stretch, how.stretch, count) / 2)
    with_margins = random.random(count) < how.margins
    larger = np.where(with_margins, np.exp(random.uniform(0, 1.0, count)), 1.0)
    right, down = random.uniform(-0.5, 0.5, (2, count)) * (larger - 1) * size * 0.8
    cosine, sine = np.cos(angle) * larger, np.sin(angle) * larger
    middle = (size - 1) / 2
    a, b = cosine * side * stretch, -sine * stretch
    c, d = sine * side / stretch, cosine / stretch
    first = [a, b, middle - (a + b) * middle + right]
    second = [c, d, middle - (c + d) * middle + down]
    return np.stack([*first, *second, 0 * angle, 0 * angle], axis=1).astype(np.float32)


def _degrade(pixels: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Make some images as bad as old exports and screenshots are, each in one of four ways."""
    pixels = pixels.copy()
    for row in np.flatnonzero(random.random(len(pixels)) < share):
        image, kind = pixels[row], random.integers(4)
        if kind == 0:
            deviation = random.uniform(0.02, 0.14) * max(np.percentile(image, 99), 1)
            image = np.clip(image + random.normal(0, deviation, image.shape), 0, 255)
        elif kind == 1:
            image = ndimage.uniform_filter(image.astype(float), random.integers(2, 7))
        elif kind == 2:
            side = int(random.uniform(0.2, 0.7) * len(image))
            small = Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
            image = np.asarray(small.resize(image.shape[::-1], Image.Resampling.BICUBIC))
        else:
            file = io.BytesIO()
            quality = int(np.exp(random.uniform(np.log(6), np.log(60))))
            Image.fromarray(image).save(file, "JPEG", quality=quality)
            image = np.asarray(Image.open(file))
        pixels[row] = image
    return pixels


def _match_histograms(
    pixels: np.ndarray, others: np.ndarray, share: float, random: np.random.Generator
) -> np.ndarray:
    """Match the histograms of some images to those of others, air left out."""
    pixels = pixels.copy()
    for row in np.flatnonzero(random.random(len(pixels)) < share):
        other = others[random.integers(len(others))]
        counts = [np.bincount(image.ravel(), minlength=256) for image in (pixels[row], other)]
        counts = [np.where(np.arange(256) < AIR, 0.0, part) for part in counts]
        if min(part.sum() for part in counts) >= 100:
            shares = [np.cumsum(part + 1e-6) / part.sum() for part in counts]
            table = np.interp(shares[0], shares[1], np.arange(256))
            table[:AIR] = np.arange(AIR)
            pixels[row] = table.round().astype(np.uint8)[pixels[row]]
    return pixels


AIR = 12
"""Grey value below which a pixel counts as air when histograms are matched."""


def _overlay(grey: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Draw frames, or blocks like lines of text, into some images."""
    grey = grey.copy()
    height, width = grey.shape[1:]
    for row in np.flatnonzero(random.random(len(grey)) < share):
        value = random.uniform(0.4, 1.0)
        if random.random() < 0.5:
            thick = int(random.integers(1, 13))
            frame = np.ones((height, width), bool)
            frame[thick:-thick, thick:-thick] = False
            grey[row][frame] = value
            continue
        for _ in range(random.integers(1, 5)):
            top, left = random.integers(0, height - 10), random.integers(0, width - 60)
            if 0.15 * height < top < 0.8 * height:  # text stands above and below the head
                top = top % (height // 8)
            letters = random.random((7, 10)) < 0.5
            block = np.kron(letters, np.ones((1, int(random.integers(2, 6)))))
            area = grey[row, top : top + 7, left : left + block.shape[1]]
            area[block[:, : area.shape[1]] > 0] = value
    return grey


def _change_grey(
    grey: keras.KerasTensor, random: np.random.Generator, how: Augmentation
) -> keras.KerasTensor:
    """Return squares (n, size, size) with other contrast, brightness, noise and resolution."""
    ops, count = keras.ops, len(grey)
    highest = ops.maximum(ops.max(grey, axis=(1, 2), keepdims=True), 1e-3)
    exponents = np.exp(random.uniform(-how.gamma, how.gamma, (count, 1, 1))).astype(np.float32)
    grey = ops.power(ops.maximum(grey, 0) / highest, exponents)
    grey = grey * _bias_field(random, how.bias, count, grey.shape[1])
    deviations = random.uniform(0, how.noise, count) * (random.random(count) < 0.5)
    noise = keras.random.normal(grey.shape, seed=int(random.integers(2**31)))
    grey = grey + noise * deviations[:, None, None].astype(np.float32)
    coarse, inverted = (
        (random.random((count, 1, 1)) < share).astype(np.float32)
        for share in (how.coarse, how.inverted)
    )
    small = ops.average_pool(ops.expand_dims(grey, -1), 2, 2)
    halved = ops.image.resize(small, grey.shape[1:3], interpolation="bilinear")[..., 0]
    grey = coarse * halved + (1 - coarse) * grey
    return 255 * (inverted * (1 - grey) + (1 - inverted) * grey)


def _bias_field(
    random: np.random.Generator, deviation: float, count: int, size: int
) -> keras.KerasTensor:
    """Return fields (n, size, size) around 1, polynomials of second order."""
    x = np.linspace(-1, 1, size, dtype=np.float32)
    y = x[:, None]
    terms = np.stack(np.broadcast_arrays(x, y, x * x, y * y, x * y)).reshape(5, -1)
    weights = random.normal(0, deviation, (count, len(terms))).astype(np.float32)
    return 1 + keras.ops.reshape(keras.ops.matmul(weights, terms), (count, size, size))
