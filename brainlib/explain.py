"""Heat maps and outlines of a model, and how well they hit the tumour.

A map covers the square that the model scales an image into: centred, the image's longer side
filling it. Points are fractions of the image's width and height, so that they hold for a copy of
any size. Peaks are scored as in the pointing game (Zhang et al., 2016), overlap by Dice (1945).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from brainlib import CLASS_NAMES, imaging, paths
from brainlib.data.datasets import read_csv, trace_contours
from brainlib.models import engines

if TYPE_CHECKING:
    import keras

OUTLINE_THRESHOLD = 0.5
"""Probability from which a pixel of the map counts as tumour.

Of 0.3, 0.4 and 0.5 the one with the highest Dice on the validation groups of fold 0.
"""

SCORES = ("dice", "outline_peak_inside", "heat_peak_inside", "peak_x", "peak_y", "outline")
COLUMNS = ("path", "patient", "group", "label", "fold", "answer", *SCORES)
"""The columns of a table of scores, a row for each image."""


class Maps(NamedTuple):
    """Answer, outline and heat map of a model for one image.

    Attributes
    ----------
    probabilities : float32 array of shape (4,)
        In `CLASS_NAMES` order.
    outline : float32 array of shape (height, width)
        Probability that a pixel of the image lies in a tumour.
    heat_map : float32 array of shape (height, width)
        What the surroundings of each pixel add to the logit of the predicted class, at least 0.
    """

    probabilities: np.ndarray
    outline: np.ndarray
    heat_map: np.ndarray


def draw_maps(
    model: "keras.Model | engines.Engine", images: Iterable[np.ndarray]
) -> Iterator[Maps]:
    """Classify grey images at their own sizes, with outlines and heat maps, chunk by chunk.

    Parameters
    ----------
    model : keras.Model or Engine
        A `lesion_net`, as loaded from its file, the one that `models.with_maps` makes of it, or an
        engine that runs it.
    images : iterable of uint8 arrays of shape (height, width)
        Those of one size in a chunk are drawn together.

    Examples
    --------
    >>> image = np.zeros((60, 40), np.uint8)
    >>> next(draw_maps(models.build_model(), [image])).outline.shape  # doctest: +SKIP
    (60, 40)
    """
    engine = model if isinstance(model, engines.Engine) else engines.wrap_keras(model)
    for chunk in engines.chunks(images):
        drawn = engines.run_chunk(engine, chunk)
        for row, image in enumerate(chunk):
            view = drawn["field_of_view"][row]
            outline, heat_map = (
                map_in_image(drawn[name][row], *image.shape, view)
                for name in ("outline", "heat_map")
            )
            yield Maps(drawn["probabilities"][row], outline, heat_map)


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
        The square that the map covers, in pixels of the image; outside of it is 0.

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


def read_outline(row: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Return the outline in a row of an image table, as fractions of the image's sides.

    Parameters
    ----------
    row : mapping
        With `outline` and `outline_frame`.
    height, width : int
        Size of the image, pixels.

    Returns
    -------
    float array of shape (n, 2)
        x and y of each point; of shape (0, 2) where there is no outline.
    """
    points = np.array(json.loads(row["outline"] or "[]"), float).reshape(-1, 2)
    frame = row["outline_frame"]
    return points / ((width, height) if frame in ("", None) else float(frame))


def known_outlines(
    table: pd.DataFrame, chosen: Iterable[str], images: Iterable[np.ndarray]
) -> list[np.ndarray]:
    """Return the radiologists' outlines of some images of an image table, as `read_outline`."""
    rows = table.set_index("path")
    pairs = zip(chosen, images, strict=True)
    return [read_outline(rows.loc[path], *image.shape) for path, image in pairs]


def pixels_inside(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the pixels that lie at least half inside an outline; at least one for tiny tumours."""
    drawn = imaging.draw_polygon(points * (width, height), max(height, width))
    inside = drawn[:height, :width] >= 127.5
    if not inside.any():
        column, row = (points.mean(axis=0) * (width, height)).astype(int)
        inside[min(row, height - 1), min(column, width - 1)] = True
    return inside


def contour(outline: np.ndarray) -> str:
    """Return the longest predicted outline as JSON, as `score_map` gives it."""
    lines = trace_contours(outline, OUTLINE_THRESHOLD)
    if not lines:
        return ""
    from skimage.measure import approximate_polygon

    height, width = outline.shape
    longest = approximate_polygon(max(lines, key=len), tolerance=0.25)
    longest = (longest + 0.5) / (width, height)
    return json.dumps(longest.clip(0, 1).round(3).tolist(), separators=(",", ":"))


def score_maps(model: "keras.Model", table: pd.DataFrame, root: Path, fold: int) -> pd.DataFrame:
    """Draw and score the maps of the outlined tumours of an image table.

    Parameters
    ----------
    model : keras.Model
        As for `draw_maps`.
    table : DataFrame
        An image table. Rows without tumour or outline are left out.
    root : Path
        The folder that its paths are relative to.
    fold : int
        The value of the column `fold`.

    Returns
    -------
    DataFrame
        `path, patient, group, label, fold`; `answer`, the predicted class; then the scores of
        `score_map`.

    Raises
    ------
    BrainlibError
        For an image that cannot be read.
    """
    shown = table[(table["label"] != "notumor") & (table["outline"] != "")].reset_index(drop=True)
    progress = tqdm(shown["path"], "maps", delay=2, leave=False)
    drawn = draw_maps(model, (imaging.read_image(root / path) for path in progress))
    rows = shown.to_dict("records")
    scores = [
        score_map(outline, heat_map, read_outline(row, *outline.shape))
        | {"answer": CLASS_NAMES[probabilities.argmax()]}
        for row, (probabilities, outline, heat_map) in zip(rows, drawn, strict=True)
    ]
    scored = shown[["path", "patient", "group", "label"]].assign(fold=fold)
    return scored.join(pd.DataFrame(scores, columns=["answer", *SCORES]))


def score_map(outline: np.ndarray, heat_map: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Score the maps of an image against the radiologist's outline.

    Parameters
    ----------
    outline, heat_map : float arrays of shape (height, width)
        In the frame of the image, as `Maps` has them.
    truth : float array of shape (n, 2)
        The radiologist's outline, x and y as fractions of the image's sides.

    Returns
    -------
    dict
        `dice` of the two outlines, 2 |A and B| / (|A| + |B|) in pixels of the image;
        `outline_peak_inside` and `heat_peak_inside`, whether the map peaks in a pixel that lies at
        least half in the radiologist's outline; `peak_x` and `peak_y`, the peak of the heat map as
        fractions of the image's width and height, NaN where the map is 0 everywhere; `outline`,
        the longest predicted outline as a JSON list of [x, y] in the same fractions, empty where
        nothing reaches `OUTLINE_THRESHOLD`.
    """
    inside = pixels_inside(truth, *outline.shape)
    drawn = outline >= OUTLINE_THRESHOLD
    outline_peak, heat_peak = _peak(outline), _peak(heat_map)
    y, x = np.divide(np.add(heat_peak, 0.5), inside.shape).round(4) if heat_peak else (np.nan,) * 2
    return {
        "dice": 2 * float((drawn & inside).sum() / (drawn.sum() + inside.sum())),
        "outline_peak_inside": bool(outline_peak and inside[outline_peak]),
        "heat_peak_inside": bool(heat_peak and inside[heat_peak]),
        "peak_x": float(x),
        "peak_y": float(y),
        "outline": contour(outline),
    }


def read_scores(path: Path) -> pd.DataFrame:
    """Return a table of `score_maps` from its CSV.

    Raises
    ------
    BrainlibError
        Where the file is absent, or is no such table.
    """
    text = dict.fromkeys(("path", "patient", "group", "label", "answer", "outline"), str)
    missing = {"peak_x": [""], "peak_y": [""]}
    return read_csv(path, usecols=COLUMNS, dtype=text, na_values=missing)


def read_maps(predictions: Path | str, model: str) -> pd.DataFrame:
    """Return the scores of a model's maps, all folds joined, from beside a folder of predictions.

    The table has no rows where there are no files `maps/<model>_patient<fold>.csv`.
    """
    files = sorted((paths.resolve(predictions).parent / "maps").glob(f"{model}_patient[0-9].csv"))
    if files:
        return pd.concat(map(read_scores, files), ignore_index=True)
    kinds = dict.fromkeys(("dice", "peak_x", "peak_y"), float)
    kinds |= dict.fromkeys(("outline_peak_inside", "heat_peak_inside"), bool)
    return pd.DataFrame(columns=list(COLUMNS)).astype(kinds)


def choose_examples(scored: pd.DataFrame, count: int = 12, seed: int = 0) -> pd.DataFrame:
    """Draw scored images at random, as many failures as successes where there are.

    A failure has the wrong class, the peak of the heat map outside the tumour, or a Dice below 0.5.

    Returns
    -------
    DataFrame
        At most `count` rows of the table, the failures first.
    """
    failed = scored["answer"] != scored["label"]
    failed |= ~scored["heat_peak_inside"] | (scored["dice"] < 0.5)
    failures, successes = scored[failed], scored[~failed]
    failing = min(len(failures), max(count // 2, count - len(successes)))
    succeeding = min(len(successes), count - failing)
    return pd.concat([failures.sample(failing, random_state=seed),
                      successes.sample(succeeding, random_state=seed)])  # fmt: skip


def _peak(drawn: np.ndarray) -> tuple[int, int] | None:
    """Return row and column of the highest pixel, of several the one nearest to their middle."""
    highest = drawn.max()
    if not highest > 0:
        return None
    tied = np.argwhere(drawn == highest)
    nearest = np.square(tied - tied.mean(axis=0)).sum(axis=1).argmin()
    return int(tied[nearest, 0]), int(tied[nearest, 1])
