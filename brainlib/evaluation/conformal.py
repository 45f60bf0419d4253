"""Prediction sets that hold the true class with a promised probability, class by class.

Class-conditional split conformal prediction (Vovk, 2012; Sadinle, Lei and Wasserman, 2019): a
picture's score for a class is 1 - its probability, and a set holds every class whose score is at
most that class's threshold. The promise is for pictures exchangeable with the calibration ones. It
is kept on average over draws of patients where calibration and test patients are different people
from one population; no set promises anything for pictures of another scanner.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from brainlib.evaluation.intervals import mean_with_interval
from brainlib.evaluation.tables import (
    CLASSES,
    EvaluationError,
    group_codes,
    probabilities,
    true_classes,
)


def fit_conformal(table: pd.DataFrame, alpha: float = 0.1) -> dict[str, float]:
    """Find each class's threshold on calibration predictions.

    The threshold is the ceil((n + 1)(1 - alpha))-th smallest score of the n pictures of the class.

    Parameters
    ----------
    table : DataFrame
        A prediction table of calibration pictures: validation patients, never test patients.
    alpha : float
        The share of sets that may miss the true class, between 0 and 1.

    Returns
    -------
    dict of str to float
        A threshold for each class, 0 to 1. It is 1 where there are too few pictures for the
        promise, fewer than 1 / alpha - 1: such a class is in every set.

    Raises
    ------
    EvaluationError
        For an `alpha` out of range.

    Examples
    --------
    >>> table = pd.DataFrame({"label": "glioma", "glioma": [0.9, 0.75, 0.5], "meningioma": 0.0,
    ...     "notumor": [0.1, 0.25, 0.5], "pituitary": 0.0})
    >>> fit_conformal(table, alpha=0.5)
    {'glioma': 0.25, 'meningioma': 1.0, 'notumor': 1.0, 'pituitary': 1.0}
    """
    if not 0 < alpha < 1:
        raise EvaluationError(f"alpha = {alpha}: it must lie between 0 and 1, such as 0.1")
    scores, truth = 1 - probabilities(table), true_classes(table)
    return {
        name: _threshold(scores[truth == number, number], alpha)
        for number, name in enumerate(CLASSES)
    }


def conformal_sets(table: pd.DataFrame, thresholds: Mapping[str, float]) -> pd.DataFrame:
    """Return which classes are in each picture's set.

    Parameters
    ----------
    table : DataFrame
        A prediction table; of its columns only the probabilities are needed.
    thresholds : mapping of class to float
        From `fit_conformal`.

    Returns
    -------
    DataFrame of bool, shape (n, 4)
        The table's index, columns in `CLASS_NAMES` order.

    Examples
    --------
    >>> table = pd.DataFrame({"glioma": [0.6], "meningioma": 0.4, "notumor": 0.0, "pituitary": 0.0})
    >>> conformal_sets(table, dict.fromkeys(CLASSES, 0.7)).iloc[0].tolist()
    [True, True, False, False]
    """
    absent = [name for name in CLASSES if name not in thresholds]
    if absent:
        raise EvaluationError(f"no threshold for {', '.join(absent)}: take those of fit_conformal")
    limits = np.array([thresholds[name] for name in CLASSES], float)
    return pd.DataFrame(1 - probabilities(table) <= limits, table.index, CLASSES)


def describe_sets(
    table: pd.DataFrame,
    sets: pd.DataFrame,
    resamples: int = 1000,
    seed: int = 0,
    confidence_level: float = 0.95,
) -> pd.DataFrame:
    """Return how often the sets hold the true class, and how large they are.

    Parameters
    ----------
    table : DataFrame
        A prediction table of test pictures.
    sets : DataFrame of bool, shape (n, 4)
        Their sets, in the same order; from `conformal_sets`.
    resamples, seed, confidence_level
        As for `metrics_with_intervals`.

    Returns
    -------
    DataFrame
        One row for each true class, and `all`: `coverage` with `low` and `high` over resampled
        groups, `pictures`, `groups`, `mean_set_size`, and the shares `empty` and `single` of sets
        with no class and with one; NaN for a class without pictures.

    Examples
    --------
    >>> table = pd.DataFrame({"group": list("ab"), "label": "glioma", "glioma": [0.9, 0.2],
    ...     "meningioma": [0.1, 0.8], "notumor": 0.0, "pituitary": 0.0})
    >>> sets = conformal_sets(table, dict.fromkeys(CLASSES, 0.5))
    >>> describe_sets(table, sets).loc["all", ["coverage", "mean_set_size"]].tolist()
    [0.5, 1.0]
    """
    if len(sets) != len(table):
        raise EvaluationError(f"{len(sets)} sets for {len(table)} pictures: give one for each")
    members = sets[CLASSES].to_numpy(bool)
    truth, groups = true_classes(table), group_codes(table)
    is_covered, sizes = members[np.arange(len(truth)), truth], members.sum(axis=1)
    rows = {}
    for number, name in enumerate((*CLASSES, "all")):
        inside = (truth == number) | (name == "all")
        coverage = mean_with_interval(
            is_covered[inside], groups[inside], resamples, seed, confidence_level
        )
        rows[name] = (*coverage, *_set_sizes(sizes[inside]))
    columns = ["coverage", "low", "high", "pictures", "groups", "mean_set_size", "empty", "single"]
    return pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("label")


def _threshold(scores: np.ndarray, alpha: float) -> float:
    # rounding must not lift (n + 1)(1 - alpha) over a whole number
    rank = int(np.ceil((len(scores) + 1) * (1 - alpha) - 1e-9))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else 1.0


def _set_sizes(sizes: np.ndarray) -> tuple[float, float, float]:
    if not len(sizes):
        return np.nan, np.nan, np.nan
    return float(sizes.mean()), float((sizes == 0).mean()), float((sizes == 1).mean())
