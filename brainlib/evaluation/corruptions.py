"""MRI artefacts and image corruptions in five strengths, and the accuracy of a model on them.

Ten corruptions named after their physics, on the pattern of ImageNet-C (Hendrycks and Dietterich,
2019) and MedMNIST-C (Di Salvo et al., 2024), with the MRI artefacts of TorchIO (Pérez-García et
al., 2021). Strength 1 is barely visible; at strength 5 the image is clearly degraded, and still
readable. Motion, ghosts, blur and crop are measured in shares of the image's size, noise,
resolution and JPEG blocks in its pixels; a weak blur is too narrow to show below 100 pixels.

Every corruption takes uint8 pixels of shape (height, width), its setting and a random generator,
and gives uint8 pixels of the same shape. `blur`, `low_resolution`, `jpeg` and `crop` draw nothing
at random. All others draw the same numbers at each strength: from one seed the image turns the same
way at each strength, only further.
"""

import io
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage
from tqdm.auto import tqdm

STRENGTHS = (1, 2, 3, 4, 5)
"""Strengths, from barely visible to clearly degraded."""

Predict = Callable[[list[np.ndarray]], np.ndarray]
"""Takes n uint8 images of shape (height, width); gives probabilities of shape (n, 4)."""


def motion(
    pixels: np.ndarray, setting: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Simulate four head movements during the scan, in degrees and per cent of the side.

    Each segment of k-space lines shows the head as it lay at that time; the middle segment, which
    holds most of the image, shows it where it belongs (Shaw et al., 2019). The stronger the
    motion, the fewer lines are in the middle.
    """
    reach, middle = setting  # the middle: share of the lines to either side
    lines = _phase_encoding(pixels.shape, rng)
    borders = np.array([-0.25, -middle, middle, 0.25]) * rng.uniform(0.8, 1.2, 4)
    segments = np.searchsorted(borders, lines)
    still, kspace = Image.fromarray(pixels), np.fft.fft2(pixels)
    for segment in (0, 1, 3, 4):
        angle, *shift = reach * rng.choice([-1, 1], 3) * rng.uniform(0.5, 1, 3)
        shift = np.array(shift) * min(pixels.shape) / 100
        moved = still.rotate(angle, Image.Resampling.BILINEAR, translate=tuple(shift))
        kspace = np.where(segments == segment, np.fft.fft2(moved), kspace)
    return _magnitude(kspace)


def ghosting(pixels: np.ndarray, brightness: float, rng: np.random.Generator) -> np.ndarray:
    """Add two ghosts, as pulsating blood does, each a few per cent as bright as the image.

    The k-space lines swing periodically, which shifts faint copies along the direction of phase
    encoding by the frequency of the swing (Wood and Henkelman, 1985).
    """
    lines = _phase_encoding(pixels.shape, rng)
    shift = rng.uniform(0.2, 0.5) * lines.size
    phase = rng.uniform(-0.3, 0.3) * np.pi  # beyond, ghosts hardly show on tissue, or erase it
    swing = 1 + 2 * brightness * np.cos(2 * np.pi * shift * lines + phase)
    return _magnitude(np.fft.fft2(pixels) * swing)


def bias_field(pixels: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Brighten and darken smoothly across the image, as an uneven receive coil does.

    The logarithm of the field is a polynomial of third order (Van Leemput et al., 1999); the
    strength is its standard deviation over the head. The mean brightness hardly changes.
    """
    orders = np.add.outer(range(4), range(4))
    coefficients = rng.normal(size=(4, 4)) * (orders <= 3) / np.maximum(orders, 1)
    height, width = (np.linspace(-1, 1, side) for side in pixels.shape)
    field = np.polynomial.legendre.leggrid2d(height, width, coefficients)
    head = pixels + 1.0  # weights: where the signal is, and anywhere in a black image
    field -= np.average(field, weights=head)
    field *= spread / np.sqrt(np.average(field**2, weights=head))
    return _grey(pixels * np.exp(field))


def noise(pixels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Add Rician noise, its spread a share of the brightest tissue (Gudbjartsson and Patz, 1995).

    Both channels of the receiver are noisy, and the image is the magnitude of the two. An image
    without signal stays as it is.
    """
    spread = share * np.percentile(pixels, 99)
    real, imaginary = spread * rng.standard_normal((2, *pixels.shape))
    return _grey(np.hypot(pixels + real, imaginary))


def blur(pixels: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Blur with a Gaussian, its spread in thousandths of the side (Hendrycks, Dietterich, 2019)."""
    return _grey(ndimage.gaussian_filter(pixels.astype(float), spread / 1000 * min(pixels.shape)))


def low_resolution(pixels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Record a share of k-space and fill the rest with zeros, as a fast scan does.

    Fine detail is gone, and edges ring (truncation artefact; Czervionke et al., 1988).
    """
    height, width = (np.abs(np.fft.fftfreq(side)) <= share / 2 for side in pixels.shape)
    return _magnitude(np.fft.fft2(pixels) * np.outer(height, width))


def jpeg(pixels: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
    """Compress as a JPEG of low quality and decode again (Hendrycks and Dietterich, 2019)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
    return np.asarray(Image.open(file))


def contrast(pixels: np.ndarray, logarithm: float, rng: np.random.Generator) -> np.ndarray:
    """Brighten or darken the mid-greys by a gamma, as consoles differ (TorchIO, 2021).

    The strength is the logarithm of gamma, positive or negative by chance.
    """
    return _grey(255 * (pixels / 255) ** np.exp(logarithm * rng.choice([-1, 1])))


def rotation(pixels: np.ndarray, angle: float, rng: np.random.Generator) -> np.ndarray:
    """Rotate the image about its centre, in degrees, to either side, as a tilted head appears.

    What comes in from beyond the field of view is black (TorchIO, 2021).
    """
    turned = Image.fromarray(pixels).rotate(angle * rng.choice([-1, 1]), Image.Resampling.BICUBIC)
    return np.asarray(turned)


def crop(pixels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Cut a share of the field of view off each side, and scale the rest back to full size."""
    height, width = pixels.shape
    box = (share * width, share * height, (1 - share) * width, (1 - share) * height)
    whole = Image.fromarray(pixels)
    return np.asarray(whole.resize((width, height), Image.Resampling.BICUBIC, box))


CORRUPTIONS: dict[str, tuple[Callable[..., np.ndarray], tuple]] = {
    "motion": (motion, ((0.4, 0.1), (0.8, 0.085), (1.2, 0.07), (1.7, 0.055), (2.2, 0.045))),
    "ghosting": (ghosting, (0.03, 0.06, 0.1, 0.15, 0.2)),
    "bias_field": (bias_field, (0.07, 0.14, 0.22, 0.31, 0.42)),
    "noise": (noise, (0.02, 0.04, 0.07, 0.1, 0.14)),
    "blur": (blur, (3, 4.5, 6.5, 9, 12)),
    "low_resolution": (low_resolution, (0.6, 0.45, 0.34, 0.26, 0.2)),
    "jpeg": (jpeg, (50, 30, 18, 11, 7)),
    "contrast": (contrast, (0.1, 0.2, 0.32, 0.46, 0.6)),
    "rotation": (rotation, (3, 6, 10, 15, 20)),
    "crop": (crop, (0.02, 0.04, 0.065, 0.09, 0.12)),
}
"""All corruptions by name, in the order of tables and figures, each with its five settings."""


def corrupt(pixels: np.ndarray, name: str, strength: int, seed: int) -> np.ndarray:
    """Corrupt an image; the same seed gives the same result.

    Parameters
    ----------
    pixels : uint8 array of shape (height, width)
        At least 16 pixels high and wide.
    name : str
        A key of `CORRUPTIONS`.
    strength : int
        1, barely visible, to 5, clearly degraded.
    seed : int
        Not negative.

    Examples
    --------
    >>> image = np.full((20, 30), 100, np.uint8)
    >>> corrupt(image, "noise", 3, seed=0).shape
    (20, 30)
    """
    corruption, settings = CORRUPTIONS[name]
    return corruption(pixels, settings[strength - 1], np.random.default_rng(seed))


def robustness(
    predict: Predict, images: Sequence[np.ndarray], labels: np.ndarray, seed: int = 0,
    names: Sequence[str] = tuple(CORRUPTIONS), strengths: Sequence[int] = STRENGTHS,
) -> pd.DataFrame:  # fmt: skip
    """Measure the accuracy on clean and on corrupted images.

    Each image is corrupted in its own way, and in the same way for every predictor.

    Parameters
    ----------
    predict : function
        From a list of n uint8 images of shape (height, width) to float probabilities of shape
        (n, 4).
    images : sequence of uint8 arrays of shape (height, width)
        Their sizes may differ.
    labels : int array of shape (n,)
        The position of each label in `CLASS_NAMES`.
    seed : int
    names : sequence of str
        Keys of `CORRUPTIONS`; all of them by default.
    strengths : sequence of int
        From `STRENGTHS`; all of them by default.

    Returns
    -------
    DataFrame
        A row for each `corruption`: the accuracy at `strength 1` to `strength 5`, 0 to 1, and their
        `mean`. The row `clean` is first and has only a `mean`, its accuracy.

    Examples
    --------
    >>> def is_bright(images):
    ...     return np.eye(4)[[int(image.mean() > 50) for image in images]]
    >>> images = [np.zeros((16, 16), np.uint8), np.full((16, 16), 200, np.uint8)]
    >>> table = robustness(is_bright, images, np.array([0, 1]), names=["blur"], strengths=[5])
    >>> table["mean"].to_dict()
    {'clean': 1.0, 'blur': 1.0}
    """
    seeds = np.random.SeedSequence(seed).generate_state(len(images)).tolist()
    accuracies = {}
    conditions = list(itertools.product(names, strengths))
    for name, strength in tqdm(conditions, "robustness", delay=2, leave=False):
        corrupted = [corrupt(image, name, strength, own)
                     for image, own in zip(images, seeds, strict=True)]  # fmt: skip
        accuracies[name, f"strength {strength}"] = _accuracy(predict, corrupted, labels)
    table = pd.Series(accuracies).unstack(sort=False)
    table["mean"] = table.mean(axis="columns")
    clean = pd.DataFrame({"mean": _accuracy(predict, list(images), labels)}, index=["clean"])
    return pd.concat([clean, table])[list(table)].rename_axis("corruption")


def accuracy_kept(table: pd.DataFrame) -> float:
    """Return the mean accuracy over all corruptions and strengths as a share of the clean one.

    Parameters
    ----------
    table : DataFrame
        As `robustness` gives it.

    Returns
    -------
    float
        1 where nothing is lost; NaN where no clean image was classified correctly.
    """
    clean = table.loc["clean", "mean"]
    return float(table.drop(index="clean")["mean"].mean() / clean) if clean > 0 else float("nan")


def _phase_encoding(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return the position of each k-space line along a random axis, -0.5 to 0.5."""
    axis = int(rng.integers(2))
    return np.expand_dims(np.fft.fftfreq(shape[axis]), 1 - axis)


def _magnitude(kspace: np.ndarray) -> np.ndarray:
    return _grey(np.abs(np.fft.ifft2(kspace)))


def _grey(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _accuracy(predict: Predict, images: list[np.ndarray], labels: np.ndarray) -> float:
    return float((np.asarray(predict(images)).argmax(axis=1) == labels).mean())
