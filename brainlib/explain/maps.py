"""Maps: what a model answers to pictures, and where it looks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from brainlib import CLASS_NAMES
from brainlib.explain.outlines import OUTLINE_THRESHOLD
from brainlib.models import engines
from brainlib.paths import BrainlibError

if TYPE_CHECKING:
    import keras

MAP_SIZE = 64
"""Height and width of a map, its own pixels."""


class ExplainError(BrainlibError):
    """A model that draws no maps, or a table without what is scored here."""


@dataclass(frozen=True, eq=False)
class Maps:
    """What a model answers to n pictures, and where it looks.

    Attributes
    ----------
    probabilities : float32 array of shape (n, 4)
        In `CLASS_NAMES` order.
    outlines : float32 array of shape (n, 64, 64)
        The probability that a place lies in a tumour.
    heat_maps : float32 array of shape (n, 64, 64)
        What a place adds to the logit of the class that is answered, 0 where it speaks against it.
    sizes : int array of shape (n, 2)
        Height and width of each picture, pixels.
    """

    probabilities: np.ndarray
    outlines: np.ndarray
    heat_maps: np.ndarray
    sizes: np.ndarray

    @property
    def threshold(self) -> float:
        """The least probability of an outline that counts as tumour."""
        return OUTLINE_THRESHOLD

    def in_pictures(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Give outline and heat map of each picture in the picture's own frame."""
        for outline, heat_map, size in zip(
            self.outlines, self.heat_maps, self.sizes.tolist(), strict=True
        ):
            yield map_in_picture(outline, *size), map_in_picture(heat_map, *size)


def draws_maps(model: "keras.Model") -> bool:
    """Return whether a model has the tumour's map that `draw_maps` needs."""
    from brainlib import models  # here, so that reading scores loads no TensorFlow

    return models.NETWORK_LAYER in [layer.name for layer in model.layers]


def open_drawer(model: Path, engine: str) -> "engines.MapsEngine | None":
    """Load what draws the maps of a model: `draw_maps` takes it.

    Parameters
    ----------
    model : Path
        The model file, absolute.
    engine : str
        A name of `engines.ENGINES`.

    Returns
    -------
    MapsEngine or None
        For the engine `keras` made of the model itself, None where it draws no maps, as the
        starting network; for the others of `<model>_maps.onnx` beside it.

    Raises
    ------
    EngineError
        Where ONNX Runtime or that file is missing, or the file is damaged.
    """
    if engine != "keras":
        return engines.open_maps(model.with_name(f"{model.stem}_maps.onnx"))
    from brainlib import models

    network = models.load_model(model)
    return models.with_maps(network).predict_on_batch if draws_maps(network) else None


def draw_maps(model: "keras.Model | engines.MapsEngine", pictures: Iterable[np.ndarray]) -> Maps:
    """Classify grey pictures at their own sizes, and draw where the model looks.

    Parameters
    ----------
    model : keras.Model or MapsEngine
        A `brain_tumor`, as loaded from its file, or the one that `models.with_maps` makes of it, or
        what `engines.open_maps` makes of the latter's ONNX file, without TensorFlow.
    pictures : iterable of uint8 arrays of shape (height, width)
        Neighbours of one size are drawn together.

    Raises
    ------
    ExplainError
        For a model that has no tumour's map, such as `seed_cnn`.

    Examples
    --------
    >>> draw_maps(models.build_model(), [np.zeros((60, 40), np.uint8)]).sizes  # doctest: +SKIP
    array([[60, 40]])
    """
    draw = _drawer(model)
    answers: dict[str, list[np.ndarray]] = {
        "probabilities": [np.empty((0, len(CLASS_NAMES)), np.float32)],
        "outline": [np.empty((0, MAP_SIZE, MAP_SIZE), np.float32)],
        "heat_map": [np.empty((0, MAP_SIZE, MAP_SIZE), np.float32)],
    }
    sizes: list[tuple[int, ...]] = []
    for batch in engines.batches(pictures):
        answer = draw(np.stack(batch)[..., np.newaxis])
        for name, parts in answers.items():
            parts.append(np.asarray(answer[name]))
        sizes += [picture.shape for picture in batch]
    joined = (np.concatenate(parts) for parts in answers.values())
    return Maps(*joined, np.array(sizes, int).reshape(-1, 2))


def map_in_picture(one_map: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resample one map into the frame of its picture (bilinear), to be laid over it.

    Parameters
    ----------
    one_map : float array of shape (64, 64)
    height, width : int
        Size of the picture, pixels.

    Returns
    -------
    float32 array of shape (height, width)

    Examples
    --------
    >>> upper = np.zeros((64, 64)); upper[:32] = 1
    >>> map_in_picture(upper, 4, 2)[:, 0].round().tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    size, longest = len(one_map), max(height, width)
    left, top = (size * (1 - side / longest) / 2 for side in (width, height))
    whole = Image.fromarray(one_map.astype(np.float32))
    box = (left, top, size - left, size - top)
    return np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR, box))


def _drawer(model: "keras.Model | engines.MapsEngine") -> engines.MapsEngine:
    if not hasattr(model, "predict_on_batch"):
        return model
    from brainlib import models  # here, so that reading scores loads no TensorFlow

    if isinstance(model.output, dict):
        return model.predict_on_batch
    if not draws_maps(model):
        raise ExplainError(f"the model {model.name} draws no maps: give a brain_tumor")
    return models.with_maps(model).predict_on_batch
