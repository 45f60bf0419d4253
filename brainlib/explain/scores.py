"""Scores of heat maps and outlines against the radiologists' outlines."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from brainlib import CLASS_NAMES, imaging, paths
from brainlib.explain.maps import draw_maps
from brainlib.explain.outlines import OUTLINE_THRESHOLD, contour, pixels_inside, read_outline
from brainlib.paths import BrainlibError

if TYPE_CHECKING:
    import keras

SCORES = ("dice", "outline_peak_inside", "heat_peak_inside", "peak_x", "peak_y", "outline")
COLUMNS = ("path", "patient", "group", "label", "fold", "answer", *SCORES)
"""The columns of a table of scores, a row for each image."""


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
        For a model that draws no maps, or a table without outlines;
        For an image that cannot be read.
    """
    if "outline" not in table:
        raise BrainlibError("the table has no column outline: take that of `open_collection`")
    shown = table[(table["label"] != "notumor") & (table["outline"] != "")].reset_index(drop=True)
    progress = tqdm(shown["path"], "maps", delay=2, leave=False)
    maps = draw_maps(model, (imaging.read_image(root / path) for path in progress))
    answers = np.take(CLASS_NAMES, maps.probabilities.argmax(axis=1))
    scores = [
        score_map(outline, heat_map, read_outline(shown.iloc[row], *outline.shape))
        for row, (outline, heat_map) in enumerate(maps.in_images())
    ]
    scored = shown[["path", "patient", "group", "label"]].assign(fold=fold, answer=answers)
    return pd.concat([scored, pd.DataFrame(scores, columns=list(SCORES))], axis="columns")


def score_map(outline: np.ndarray, heat_map: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Score the maps of an image against the radiologist's outline.

    Parameters
    ----------
    outline, heat_map : float arrays of shape (height, width)
        In the frame of the image, as `Maps.in_images` gives them.
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
    try:
        return pd.read_csv(
            path, usecols=COLUMNS, dtype=text, na_values=missing, keep_default_na=False,
            encoding="utf-8",
        )  # fmt: skip
    except (OSError, ValueError) as error:  # of pandas for no CSV, of Python for no UTF-8
        advice = "write it again with `python -m scripts.release`"
        raise BrainlibError(f"{path} is no table of maps ({error}): {advice}") from error


def read_maps(predictions: Path | str, model: str) -> pd.DataFrame:
    """Return the scores of a model's maps, all folds joined, from beside a folder of predictions.

    The table has no rows where there are no files `maps/<model>_patient<fold>.csv`.
    """
    files = sorted((paths.resolve(predictions).parent / "maps").glob(f"{model}_patient[0-9].csv"))
    return pd.concat(map(read_scores, files), ignore_index=True) if files else no_scores()


def no_scores() -> pd.DataFrame:
    """Return a table of `score_maps` without rows."""
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
