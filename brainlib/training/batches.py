"""Examples for training, and batches of them in an order set by seed and epoch.

In the collection, images without tumour come from other scanners than those with one. So the lesion
is erased from some slices: tissue of the same slice takes its place, and the scanner stays. Slices
of a healthy head take the place of some images, because its base was taken for a tumour.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from scipy import ndimage

from brainlib import CLASS_NAMES, imaging, models
from brainlib.imaging import LoadedImages
from brainlib.models.lesion_net import TISSUES
from brainlib.training.augmentation import Augmentation, Augmenter
from brainlib.training.healthy_head import draw_healthy

Targets = dict[str, np.ndarray]

_RIM = 0.02
"""Margin around the outline that is erased too, share of the image's width."""

_TRIES = 12
_FULL_HEAD = 0.9


@dataclass(frozen=True)
class Examples:
    """Images with class and outline.

    Attributes
    ----------
    pixels : uint8 array of shape (n, size, size, 1)
    classes : int32 array of shape (n,)
        Positions in `CLASS_NAMES`.
    outlines : uint8 array of shape (n, size, size), optional
        Share of each pixel inside the outlined tumour, 0 to 255.
    outlined : bool array of shape (n,), optional
        Where the outline is known; a image without tumour has an empty one.
    """

    pixels: np.ndarray
    classes: np.ndarray
    outlines: np.ndarray | None = None
    outlined: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def part(self, rows: np.ndarray) -> "Examples":
        """Return the examples at some positions."""
        return Examples(*(None if known is None else known[rows] for known in vars(self).values()))


def examples(loaded: LoadedImages, rows: np.ndarray, root: Path | None = None) -> Examples:
    """Return rows of a collection as examples for `fit`.

    Parameters
    ----------
    loaded : LoadedImages
    rows : int array
        Positions in its table.
    root : Path, optional
        The folder of the collection: outlines are drawn where it is given.
    """
    table, size = loaded.table.iloc[rows], loaded.pixels.shape[1]
    drawn = imaging.draw_outlines(table, root, size) if root else ()
    classes = pd.Categorical(table["label"], categories=list(CLASS_NAMES)).codes.astype(np.int32)
    return Examples(loaded.pixels[rows], classes, *drawn)


class ShuffledBatches(keras.utils.PyDataset):
    """Batches of images and classes, all epochs in one endless stream.

    The seed and the number of the epoch decide its order. One stream, because TensorFlow often
    stands still for up to a minute when one ends: its tuning thread sleeps, and is waited for.

    Parameters
    ----------
    seen : Examples
    batch_size : int
    seed : int

    Attributes
    ----------
    steps : int
        Batches in an epoch.
    first_epoch : int
        The epoch, counted from 0, to which batch 0 belongs.
    """

    num_batches = None  # endless

    def __init__(self, seen: Examples, batch_size: int, seed: int) -> None:
        super().__init__()
        self.seen, self.batch_size, self.seed = seen, batch_size, seed
        self.steps = -(-len(seen) // batch_size)
        self.first_epoch = 0

    def __getitem__(self, index: int) -> tuple:
        rows = self.rows(index)
        return self.seen.pixels[rows], self.seen.classes[rows]

    def place(self, index: int) -> tuple[int, int]:
        """Return the epoch that a batch belongs to, and its place there, both counted from 0."""
        epochs, place = divmod(index, self.steps)
        return self.first_epoch + epochs, place

    def rows(self, index: int) -> np.ndarray:
        """Return the positions of the examples in one batch."""
        epoch, place = self.place(index)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.seen))
        return np.sort(order[place * self.batch_size : (place + 1) * self.batch_size])


_NONE = CLASS_NAMES.index("notumor")
_ERASED_WEIGHT = 0.5
"""Weight of the class of an image whose lesion was erased: traces of it may remain."""


class AugmentedBatches(ShuffledBatches):
    """Batches of augmented images, with the tissue of each pixel as a second target.

    Parameters
    ----------
    seen : Examples
        With outlines.
    batch_size : int
    seed : int
    augmenter : Augmenter, optional
        By default it keeps the size of the images.
    """

    def __init__(
        self, seen: Examples, batch_size: int, seed: int, augmenter: Augmenter | None = None
    ) -> None:
        super().__init__(seen, batch_size, seed)
        self.max_queue_size = 4
        self.augmenter = augmenter or Augmenter(Augmentation(), seen.pixels.shape[1])
        self.erased, self.sham = erased_copies(seen, seed)

    def rows(self, index: int) -> np.ndarray:
        """Return the rows of one batch, the last one filled up: compilers like one shape."""
        rows = super().rows(index)
        return np.resize(rows, self.batch_size) if len(self.seen) >= self.batch_size else rows

    def __getitem__(self, index: int) -> tuple[np.ndarray, Targets, Targets]:
        rows = self.rows(index)
        random = np.random.default_rng((self.seed, *self.place(index)))
        part, how = self.seen.part(rows), self.augmenter.how  # a copy
        pixels, classes = part.pixels[..., 0], part.classes
        weights = np.ones(len(rows), np.float32)
        for position, (row, choice) in enumerate(zip(rows, random.random(len(rows)), strict=True)):
            if choice < how.erased and row in self.erased:
                pixels[position], part.outlines[position] = self.erased[row], 0
                classes[position], weights[position] = _NONE, _ERASED_WEIGHT
            elif choice > 1 - how.sham and row in self.sham:
                pixels[position] = self.sham[row]
        for position in np.flatnonzero(random.random(len(rows)) < how.healthy):
            pixels[position] = draw_healthy(pixels.shape[1], random)
            part.outlines[position], part.outlined[position] = 0, True
            classes[position], weights[position] = _NONE, 1
        grey, inside = self.augmenter(pixels, part.outlines, random, self.seen.pixels[..., 0])
        batch = as_targets(grey[..., np.newaxis], classes, inside, part.outlined)
        batch[2]["logits"] = weights
        return batch


def erased_copies(seen: Examples, seed: int) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Return copies of images with the lesion erased, and with healthy tissue erased, by row.

    The healthy tissue has the shape and place of the lesion of another image.
    """
    inside = seen.outlines >= 128
    outlined = np.flatnonzero(seen.outlined & inside.any(axis=(1, 2)))
    if not len(outlined):
        return {}, {}

    def copies(row: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        random = np.random.default_rng((seed, row))
        image = seen.pixels[row, ..., 0]
        lesion = erase(image, inside[row], random) if inside[row].any() else None
        other = inside[outlined[random.integers(len(outlined))]]
        is_healthy = seen.outlined[row] and not (other & inside[row]).any()
        return lesion, erase(image, other, random) if is_healthy else None

    with ThreadPoolExecutor() as threads:
        lesions, healthy = zip(*threads.map(copies, range(len(seen))), strict=True)
    return tuple({row: image for row, image in enumerate(images) if image is not None}
                 for images in (lesions, healthy))  # fmt: skip


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


def cropped_examples(seen: Examples, augmenter: Augmenter) -> tuple[np.ndarray, Targets, Targets]:
    """Return examples as the model sees them, without augmentation, as `AugmentedBatches` do."""
    still = np.tile(np.float32([0, 0, 1]), (len(seen), 1))
    inputs = [seen.pixels[..., 0].astype(np.float32), seen.outlines / np.float32(255), still]
    grey, inside = augmenter.cropper.predict(inputs, batch_size=64, verbose=0)
    return as_targets(grey[..., np.newaxis], seen.classes, inside.clip(0, 1), seen.outlined)


def as_targets(
    pixels: np.ndarray, classes: np.ndarray, inside: np.ndarray, outlined: np.ndarray
) -> tuple[np.ndarray, Targets, Targets]:
    """Return images, the two targets of the released network, and the weight of each."""
    one_hot = np.eye(len(CLASS_NAMES), dtype=np.float32)[classes]
    targets = {"logits": one_hot, "tissue": tissue_shares(inside, classes)}
    weights = {"logits": np.ones(len(classes), np.float32), "tissue": outlined.astype(np.float32)}
    return pixels, targets, weights


def tissue_shares(inside: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the share of each tissue in each pixel of the tissue map.

    Parameters
    ----------
    inside : float array of shape (n, size, size)
        Share of each pixel inside the tumour, 0 to 1.
    classes : int array of shape (n,)

    Returns
    -------
    float32 array of shape (n, size / 2, size / 2, 4)
        Background, glioma, meningioma, pituitary; they sum to 1.
    """
    count, size, step = len(inside), inside.shape[1] // models.MAP_FACTOR, models.MAP_FACTOR
    tumor = inside.reshape(count, size, step, size, step).mean(axis=(2, 4))
    is_tissue = classes[:, np.newaxis] == [CLASS_NAMES.index(name) for name in TISSUES[1:]]
    shares = (tumor[..., np.newaxis] * is_tissue[:, np.newaxis, np.newaxis]).astype(np.float32)
    return np.concatenate([1 - shares.sum(axis=-1, keepdims=True), shares], axis=-1)
