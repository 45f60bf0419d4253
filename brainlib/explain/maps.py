"""Outlines and heat maps of a model, drawn in the frames of the images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from brainlib import CLASS_NAMES
from brainlib.explain.outlines import OUTLINE_THRESHOLD
from brainlib.models import engines
from brainlib.paths import BrainlibError

if TYPE_CHECKING:
    import keras

MAP_SIZE = 112
"""Height and width of a map, its own pixels."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Answers, outlines and heat maps of a model for n images.

    Attributes
    ----------
    probabilities : float32 array of shape (n, 4)
        In `CLASS_NAMES` order.
    outlines : float32 array of shape (n, 112, 112)
        Probability that a pixel of the map lies in a tumour.
    heat_maps : float32 array of shape (n, 112, 112)
        What each pixel of the map adds to the logit of the predicted class, at least 0.
    sizes : int array of shape (n, 2)
        Height and width of each image, pixels.
    fields_of_view : float array of shape (n, 3)
        The square that the maps of an image cover: row and column of the centre, side, pixels.
    threshold : float
        Probability from which a pixel counts as tumour.
    """

    probabilities: np.ndarray
    outlines: np.ndarray
    heat_maps: np.ndarray
    sizes: np.ndarray
    fields_of_view: np.ndarray
    threshold: float = OUTLINE_THRESHOLD

    def in_images(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield outline and heat map of each image, resampled to the image's size."""
        frames = zip(*self.sizes.T.tolist(), self.fields_of_view, strict=True)
        for outline, heat_map, frame in zip(self.outlines, self.heat_maps, frames, strict=True):
            yield map_in_image(outline, *frame), map_in_image(heat_map, *frame)


def draw_maps(model: "keras.Model | engines.Engine", images: Iterable[np.ndarray]) -> Maps:
    """Classify grey images at their own sizes, with outlines and heat maps.

    Parameters
    ----------
    model : keras.Model or Engine
        A `lesion_net`, as loaded from its file, the one that `models.with_maps` makes of it, or an
        engine that runs it.
    images : iterable of uint8 arrays of shape (height, width)
        Those of one size in a chunk are drawn together.

    Raises
    ------
    BrainlibError
        For a model that has no tumour's map, such as `seed_cnn`.

    Examples
    --------
    >>> draw_maps(models.build_model(), [np.zeros((60, 40), np.uint8)]).sizes  # doctest: +SKIP
    array([[60, 40]])
    """
    engine = model if isinstance(model, engines.Engine) else engines.wrap_keras(model)
    if not engine.draws_maps:
        name = getattr(model, "name", "this model")
        raise BrainlibError(f"{name} draws no maps: give a lesion_net")
    parts, sizes = [], []
    for chunk in engines.chunks(images):
        parts.append(engines.run_chunk(engine, chunk))
        sizes += [image.shape for image in chunk]
    if not parts:
        none, nothing = np.empty((0, len(CLASS_NAMES))), np.empty((0, MAP_SIZE, MAP_SIZE))
        return Maps(none, nothing, nothing, np.empty((0, 2), int), np.empty((0, 3)))
    names = ("probabilities", "outline", "heat_map", "field_of_view")
    *maps, views = (np.concatenate([part[name] for part in parts]) for name in names)
    return Maps(*maps, np.array(sizes, int), views)


def map_in_image(
    values: np.ndarray, height: int, width: int, field_of_view: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Resample one map into the frame of its image (bilinear), to be laid over it.

    Parameters
    ----------
    values : float array of shape (n, n)
    height, width : int
        Size of the image, pixels.
    field_of_view : row, column and side
        The square that the map covers, as in `Maps`; outside of it is 0.

    Returns
    -------
    float32 array of shape (height, width)

    Examples
    --------
    >>> upper = np.zeros((64, 64)); upper[:32] = 1
    >>> map_in_image(upper, 4, 2, (2, 1, 4))[:, 0].round().tolist()
    [1.0, 1.0, 0.0, 0.0]
    >>> map_in_image(np.ones((9, 9)), 4, 4, (1, 1, 2)).round().tolist()[1:3]
    [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    row, column, side = map(float, field_of_view)
    step = len(values) / side
    left, top = step * (side / 2 - column), step * (side / 2 - row)
    whole = Image.fromarray(values.astype(np.float32))
    resampled = whole.transform(
        (width, height), Image.Transform.AFFINE, (step, 0, left, 0, step, top),
        Image.Resampling.BILINEAR,
    )  # fmt: skip
    return np.asarray(resampled)
