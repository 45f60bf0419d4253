"""What a fit sees: examples, and batches of them in an order that the seed and the epoch decide."""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from PIL import Image

from brainlib import CLASS_NAMES, imaging, models
from brainlib.imaging import LoadedImages
from brainlib.models.brain_tumor import TISSUES
from brainlib.training.augmentation import Augmentation, augment

Targets = dict[str, np.ndarray]

_CONTRAST = 64.0  # mean and standard deviation of the grey values before they are mixed


@dataclass(frozen=True)
class Examples:
    """Pictures with what is known about each.

    Attributes
    ----------
    pixels : uint8 array of shape (n, size, size, 1)
    classes : int32 array of shape (n,)
        Positions in `CLASS_NAMES`.
    outlines : uint8 array of shape (n, size, size), optional
        Share of each pixel inside the outlined tumour, 0 to 255.
    outlined : bool array of shape (n,), optional
        Where the outline is known; a picture without tumour has an empty one.
    """

    pixels: np.ndarray
    classes: np.ndarray
    outlines: np.ndarray | None = None
    outlined: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def part(self, rows: np.ndarray) -> "Examples":
        """Return the examples at some positions."""
        outlines, outlined = (
            None if known is None else known[rows] for known in (self.outlines, self.outlined)
        )
        return Examples(self.pixels[rows], self.classes[rows], outlines, outlined)

    def resized(self, size: int) -> "Examples":
        """Return the same examples with pictures and outlines of another size."""
        if size in (0, self.pixels.shape[1]):
            return self
        pixels = _resize_all(self.pixels[..., 0], size)[..., np.newaxis]
        return Examples(pixels, self.classes, _resize_all(self.outlines, size), self.outlined)


def class_indices(labels: pd.Series) -> np.ndarray:
    """Return the position of each label in `CLASS_NAMES`, int32 of shape (n,)."""
    return pd.Categorical(labels, categories=list(CLASS_NAMES)).codes.astype(np.int32)


def examples(loaded: LoadedImages, rows: np.ndarray, root: Path | None = None) -> Examples:
    """Return some rows of a collection as `fit` takes them.

    Parameters
    ----------
    loaded : LoadedImages
    rows : int array
        Positions in its table.
    root : Path, optional
        The folder of the collection: outlines are drawn where it is given.
    """
    table = loaded.table.iloc[rows]
    drawn = (None, None)
    if root is not None:
        drawn = imaging.draw_outlines(table, root, loaded.pixels.shape[1])
    return Examples(loaded.pixels[rows], class_indices(table["label"]), *drawn)


class ShuffledBatches(keras.utils.PyDataset):
    """Endless batches of pictures and classes: the epochs follow one another in one stream.

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


class AugmentedBatches(ShuffledBatches):
    """The same with augmented pictures, and the tissue of each place as a second target.

    Parameters
    ----------
    seen : Examples
        With outlines.
    batch_size : int
    seed : int
    how : Augmentation, optional
    mixup : float
        Half the batches are mixed, as far as a Beta distribution of this parameter says.
    """

    def __init__(
        self,
        seen: Examples,
        batch_size: int,
        seed: int,
        how: Augmentation | None = None,
        mixup: float = 0.0,
    ) -> None:
        super().__init__(seen, batch_size, seed)
        self.how, self.mixup = how, mixup

    def __getitem__(self, index: int) -> tuple[np.ndarray, Targets, Targets]:
        rows = self.rows(index)
        random = np.random.default_rng((self.seed, *self.place(index)))
        pixels, outlines = self.seen.pixels[rows, ..., 0], self.seen.outlines[rows]
        grey, inside = augment(pixels, outlines, random, self.how)
        batch = as_targets(
            grey[..., np.newaxis], self.seen.classes[rows], inside, self.seen.outlined[rows]
        )
        if self.mixup and random.random() < 0.5:
            return mix(*batch, random, self.mixup)
        return batch


def mix(
    pixels: np.ndarray,
    targets: Targets,
    weights: Targets,
    random: np.random.Generator,
    strength: float,
) -> tuple[np.ndarray, Targets, Targets]:
    """Blend each picture of a batch with another one, and their targets alike.

    Mixup (Zhang et al., 2018): a network between whose examples there is a straight line is less
    sure where it has seen nothing. Pictures are brought to one mean and contrast first, so that
    the brighter one does not drown the other; the tissue counts where both outlines are known.

    Parameters
    ----------
    pixels, targets, weights
        A batch, as `as_targets` gives it.
    random : Generator
    strength : float
        Both parameters of the Beta distribution from which the batch's share is drawn.
    """
    share = np.float32(random.beta(strength, strength))
    partner = random.permutation(len(pixels))

    def blend(values: np.ndarray) -> np.ndarray:
        return share * values + (1 - share) * values[partner]

    mean, contrast = (part(axis=(1, 2), keepdims=True) for part in (pixels.mean, pixels.std))
    even = (pixels - mean) / (contrast + 1) * _CONTRAST + _CONTRAST
    both_known = weights["tissue"] * weights["tissue"][partner]
    mixed = {name: blend(values) for name, values in targets.items()}
    return blend(even), mixed, {**weights, "tissue": both_known}


def whole_examples(seen: Examples) -> tuple[np.ndarray, Targets, Targets]:
    """Return examples as they are, as `AugmentedBatches` gives them."""
    inside = seen.outlines.astype(np.float32) / 255
    return as_targets(seen.pixels, seen.classes, inside, seen.outlined)


def as_targets(
    pixels: np.ndarray, classes: np.ndarray, inside: np.ndarray, outlined: np.ndarray
) -> tuple[np.ndarray, Targets, Targets]:
    """Return pictures, the two targets of the released network, and the weight of each."""
    one_hot = np.eye(len(CLASS_NAMES), dtype=np.float32)[classes]
    targets = {"logits": one_hot, "tissue": tissue_shares(inside, classes)}
    weights = {"logits": np.ones(len(classes), np.float32), "tissue": outlined.astype(np.float32)}
    return pixels, targets, weights


def tissue_shares(inside: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the share of each tissue in each place of the tumour's map.

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
    shares = np.zeros((count, size, size, len(TISSUES)), np.float32)
    for channel, tissue in enumerate(TISSUES[1:], start=1):
        rows = classes == CLASS_NAMES.index(tissue)
        shares[rows, ..., channel] = tumor[rows]
    shares[..., 0] = 1 - shares[..., 1:].sum(axis=-1)
    return shares


def _resize_all(pictures: np.ndarray, size: int) -> np.ndarray:
    scaled = (
        Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR)
        for picture in pictures
    )
    return np.stack([np.asarray(picture) for picture in scaled])
