"""From a model and pictures to maps of where it looks, and how well they hit the tumour.

A map covers the square that the model scales a picture into: centred, the picture's longer side
filling it. Places are given as fractions of the picture's width and height, so that they hold for a
copy of any size. Hits are counted as in the pointing game of Zhang et al. (2016), overlap is that
of Dice (1945).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from brainlib import CLASS_NAMES, engines, images

if TYPE_CHECKING:
    import keras

MAP_SIZE = 64
"""Height and width of a map, its own pixels."""

OUTLINE_THRESHOLD = 0.3
"""Probability from which a pixel of the map counts as tumour.

The Dice is highest where the threshold is half of it (Lipton et al., 2014), not at one half; of
0.15 to 0.6 this one was best on 400 pictures that the network of fold 1 was trained on.
"""

SCORES = ("dice", "outline_peak_inside", "heat_peak_inside", "peak_x", "peak_y", "outline")
COLUMNS = ("path", "patient", "group", "label", "fold", "answer", *SCORES)
"""The columns of a table of scores, a row a picture."""


class ExplainError(ValueError):
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


def read_outline(picture: pd.Series, height: int, width: int) -> np.ndarray:
    """Return the outline in a row of an image table, as fractions of its picture's sides.

    Parameters
    ----------
    picture : Series
        With `outline` and `outline_frame`.
    height, width : int
        Size of the picture, pixels.

    Returns
    -------
    float array of shape (n, 2)
        x and y of each point; of shape (0, 2) where there is no outline.
    """
    points = np.array(json.loads(picture["outline"] or "[]"), float).reshape(-1, 2)
    frame = picture["outline_frame"]
    return points / ((width, height) if frame in ("", None) else float(frame))


def known_outlines(
    table: pd.DataFrame, chosen: Iterable[str], pictures: Iterable[np.ndarray]
) -> list[np.ndarray]:
    """Return the radiologist's outline of some pictures of an image table, as `read_outline`."""
    rows = table.set_index("path")
    return [
        read_outline(rows.loc[path], *picture.shape)
        for path, picture in zip(chosen, pictures, strict=True)
    ]


def score_maps(model: "keras.Model", table: pd.DataFrame, root: Path, fold: int) -> pd.DataFrame:
    """Draw the maps of the outlined tumours of an image table, and score each.

    Parameters
    ----------
    model : keras.Model
        As for `draw_maps`.
    table : DataFrame
        An image table. Rows without tumour, or whose outline is not known, are left out.
    root : Path
        The folder that its paths are relative to.
    fold : int
        What is written into the column `fold`.

    Returns
    -------
    DataFrame
        `path, patient, group, label, fold`; `answer`, the class that is predicted; then the scores
        that `score_map` gives.

    Raises
    ------
    ExplainError
        For a model that draws no maps, or a table without outlines.
    ImageError
        For a picture that cannot be read.
    """
    if "outline" not in table:
        raise ExplainError("the table has no column outline: take that of `open_collection`")
    shown = table[(table["label"] != "notumor") & (table["outline"] != "")].reset_index(drop=True)
    progress = tqdm(shown["path"], "maps", delay=2, leave=False)
    maps = draw_maps(model, (images.read_picture(root / path) for path in progress))
    answers = np.take(CLASS_NAMES, maps.probabilities.argmax(axis=1))
    scores = [
        score_map(outline, heat_map, read_outline(shown.iloc[row], *size), *size)
        for row, (outline, heat_map, size) in enumerate(
            zip(maps.outlines, maps.heat_maps, maps.sizes.tolist(), strict=True)
        )
    ]
    scored = shown[["path", "patient", "group", "label"]].assign(fold=fold, answer=answers)
    return pd.concat([scored, pd.DataFrame(scores, columns=list(SCORES))], axis="columns")


def score_map(
    outline: np.ndarray, heat_map: np.ndarray, truth: np.ndarray, height: int, width: int
) -> dict[str, Any]:
    """Hold the maps of one picture against the radiologist's outline.

    Parameters
    ----------
    outline, heat_map : float arrays of shape (64, 64)
    truth : float array of shape (n, 2)
        The radiologist's outline, x and y in fractions of the picture's sides.
    height, width : int
        Size of the picture, pixels.

    Returns
    -------
    dict
        `dice` of the two outlines, in pixels of the map; `outline_peak_inside` and
        `heat_peak_inside`, whether the map is highest in a pixel that lies at least half in the
        radiologist's outline, or in the one that holds its middle where it fills half of none;
        `peak_x` and `peak_y`, where the heat map is highest, as fractions of the picture's width
        and height, NaN where it is 0 everywhere; `outline`, the longest predicted outline as a JSON
        list of [x, y], such fractions too, empty where nothing reaches
        `OUTLINE_THRESHOLD`.
    """
    inside = _pixels_inside(_in_square(truth, height, width), len(outline))
    drawn = outline >= OUTLINE_THRESHOLD
    outline_peak, heat_peak = _peak(outline), _peak(heat_map)
    x, y = _in_picture(_centre(heat_peak, len(heat_map)), height, width).round(4).tolist()
    return {
        "dice": 2 * float((drawn & inside).sum() / (drawn.sum() + inside.sum())),
        "outline_peak_inside": outline_peak is not None and bool(inside[outline_peak]),
        "heat_peak_inside": heat_peak is not None and bool(inside[heat_peak]),
        "peak_x": x,
        "peak_y": y,
        "outline": _contour(outline, height, width),
    }


def read_scores(path: Path) -> pd.DataFrame:
    """Return a table of `score_maps` from its CSV.

    Raises
    ------
    ExplainError
        Where the file is absent, or is no such table.
    """
    text = dict.fromkeys(("path", "patient", "group", "label", "answer", "outline"), str)
    missing = {"peak_x": [""], "peak_y": [""]}
    advice = "write it again with `python -m brainlib release`"
    try:
        table = pd.read_csv(
            path, dtype=text, na_values=missing, keep_default_na=False, encoding="utf-8"
        )
    except (OSError, ValueError) as error:  # of pandas for no CSV, of Python for no UTF-8
        raise ExplainError(f"{path} is no table of maps ({error}): {advice}") from error
    absent = [name for name in COLUMNS if name not in table]
    if absent:
        raise ExplainError(f"{path} has no column {', '.join(absent)}: {advice}")
    return table


def no_scores() -> pd.DataFrame:
    """Return a table of `score_maps` without rows."""
    kinds = dict.fromkeys(("dice", "peak_x", "peak_y"), float)
    kinds |= dict.fromkeys(("outline_peak_inside", "heat_peak_inside"), bool)
    return pd.DataFrame(columns=list(COLUMNS)).astype(kinds)


def summarise_maps(scored: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Average the scores of maps, with 95 % intervals from resampling groups.

    Parameters
    ----------
    scored : DataFrame
        As `score_maps` gives it.
    resamples, seed : int
        As for `evaluation.metrics_with_intervals`.

    Returns
    -------
    dict
        Counts: `pictures`, `groups`, `correct` (answered with the right class) and
        `without_outline` (where nothing reaches `OUTLINE_THRESHOLD`). Then by name a dict of
        `value`, `low` and `high`: `dice`, `dice_<label>`, `dice_correct`; `heat_peak_inside` and
        `outline_peak_inside` among correct answers, the same with `_all` among all pictures. What
        has no picture is left out, and limits where fewer than two groups bear on them.

    Examples
    --------
    >>> scored = pd.DataFrame({"label": "glioma", "answer": "glioma", "group": list("ab"),
    ...     "dice": [0.6, 0.8], "heat_peak_inside": True, "outline_peak_inside": True,
    ...     "outline": "[]"})
    >>> summarise_maps(scored)["dice"]["value"]
    0.7
    """
    correct = scored[scored["answer"] == scored["label"]]
    by_label = [label for label in CLASS_NAMES if (scored["label"] == label).any()]
    parts = {
        "dice": (scored, "dice"),
        **{f"dice_{label}": (scored[scored["label"] == label], "dice") for label in by_label},
        "dice_correct": (correct, "dice"),
        "heat_peak_inside": (correct, "heat_peak_inside"),
        "outline_peak_inside": (correct, "outline_peak_inside"),
        "heat_peak_inside_all": (scored, "heat_peak_inside"),
        "outline_peak_inside_all": (scored, "outline_peak_inside"),
    }
    measured = {
        name: _mean(part[column], part["group"], resamples, seed)
        for name, (part, column) in parts.items()
        if len(part)
    }
    return {
        "pictures": len(scored),
        "groups": int(scored["group"].nunique()),
        "correct": len(correct),
        "without_outline": int((scored["outline"] == "").sum()),
        **measured,
    }


def choose_examples(scored: pd.DataFrame, count: int = 12, seed: int = 0) -> pd.DataFrame:
    """Draw some scored pictures at random, as many failures as successes where there are.

    A failure has the wrong class, the peak of the heat map outside the tumour, or a Dice below 0.5.

    Returns
    -------
    DataFrame
        At most `count` rows of the table, the failures first.
    """
    failed = (
        (scored["answer"] != scored["label"]) | ~scored["heat_peak_inside"] | (scored["dice"] < 0.5)
    )
    half = count // 2
    wanted = min(int(failed.sum()), max(half, count - int((~failed).sum())))
    numbers = (wanted, min(count - wanted, int((~failed).sum())))
    parts = [
        scored[chosen].sample(number, random_state=seed)
        for chosen, number in zip((failed, ~failed), numbers, strict=True)
    ]
    return pd.concat(parts)


def _drawer(model: "keras.Model | engines.MapsEngine") -> engines.MapsEngine:
    if not hasattr(model, "predict_on_batch"):
        return model
    from brainlib import models  # here, so that reading scores loads no TensorFlow

    if isinstance(model.output, dict):
        return model.predict_on_batch
    if not draws_maps(model):
        raise ExplainError(f"the model {model.name} draws no maps: give a brain_tumor")
    return models.with_maps(model).predict_on_batch


def _in_square(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Turn fractions of a picture's width and height into those of the square around it."""
    return 0.5 + (points - 0.5) * (width, height) / max(height, width)


def _in_picture(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Turn fractions of the square into those of the picture, at its border at most."""
    return (0.5 + (points - 0.5) * max(height, width) / np.array([width, height])).clip(0, 1)


def _pixels_inside(points: np.ndarray, size: int) -> np.ndarray:
    """Return which pixels of a map lie at least half inside, one for the tiniest of tumours."""
    inside = images.draw_polygon(points * size, size) >= 127.5
    if not inside.any():
        column, row = (points.mean(axis=0) * size).astype(int).clip(0, size - 1)
        inside[row, column] = True
    return inside


def _peak(one_map: np.ndarray) -> tuple[int, int] | None:
    """Return row and column of the highest pixel, of several the one nearest to their middle."""
    highest = one_map.max()
    if not highest > 0:
        return None
    tied = np.argwhere(one_map == highest)
    nearest = np.square(tied - tied.mean(axis=0)).sum(axis=1).argmin()
    return int(tied[nearest, 0]), int(tied[nearest, 1])


def _centre(pixel: tuple[int, int] | None, size: int) -> np.ndarray:
    """Return x and y of a pixel's middle, as fractions of the map; NaN for none."""
    return np.full(2, np.nan) if pixel is None else (np.array(pixel[::-1]) + 0.5) / size


def _contour(outline: np.ndarray, height: int, width: int) -> str:
    import contourpy

    if not (outline >= OUTLINE_THRESHOLD).any():
        return ""
    # the border of zeros closes contours that leave the map, and shifts them by one
    lines = contourpy.contour_generator(z=np.pad(outline, 1)).lines(OUTLINE_THRESHOLD)
    if not lines:  # a single pixel at exactly the threshold
        return ""
    longest = (max(lines, key=len) - 0.5) / len(outline)
    points = _in_picture(longest, height, width).round(3).tolist()
    return json.dumps(points, separators=(",", ":"))


def _mean(values: pd.Series, groups: pd.Series, resamples: int, seed: int) -> dict[str, float]:
    from brainlib.evaluation.intervals import mean_with_interval  # here: it loads scipy.stats

    numbers = values.to_numpy(float), groups.astype(str).to_numpy(object)
    found = mean_with_interval(*numbers, resamples, seed)[:3]
    named = zip(("value", "low", "high"), found, strict=True)
    return {name: round(number, 6) for name, number in named if np.isfinite(number)}
