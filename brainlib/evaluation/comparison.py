"""Two prediction tables on the same pictures."""

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from brainlib.evaluation.intervals import percentile_interval, resampled_weights
from brainlib.evaluation.metrics import check_metrics, weighted_metrics
from brainlib.evaluation.tables import (
    group_codes,
    probabilities,
    require_same_pictures,
    true_classes,
)


def compare(
    first: pd.DataFrame,
    second: pd.DataFrame,
    metric: str = "accuracy",
    resamples: int = 1000,
    seed: int = 0,
    confidence_level: float = 0.95,
) -> dict[str, str | float | int]:
    """Compare two models on the same pictures, picture by picture.

    Parameters
    ----------
    first, second : DataFrame
        Prediction tables of the same pictures, in any order. The groups are those of `first`.
    metric : str
        A name from `METRICS`.
    resamples, seed, confidence_level
        As for `metrics_with_intervals`; both tables see the same resamples.

    Returns
    -------
    dict
        `metric`; `first` and `second`, its values; `difference`, first minus second, with its
        interval `low`, `high` over resampled groups; `only_first_right` and `only_second_right`,
        the pictures that one model alone has right, and `p_value`, the exact test of McNemar
        (1947) on them; `groups_first_better`, `groups_second_better` and `p_value_groups`, the
        sign test on the groups in which one has more right; `pictures` and `groups`.

        McNemar's test takes pictures as independent and is too optimistic where a patient has
        many slices; the interval and the sign test do not.

    Raises
    ------
    EvaluationError
        Where the pictures or their labels differ, or for an unknown metric.

    Examples
    --------
    >>> first = pd.DataFrame({"path": list("ab"), "group": list("ab"), "label": "glioma",
    ...     "glioma": [0.9, 0.8], "meningioma": 0.0, "notumor": 0.0, "pituitary": [0.1, 0.2]})
    >>> second = first.assign(glioma=[0.9, 0.3], pituitary=[0.1, 0.7])
    >>> compare(first, second)["difference"]
    0.5
    """
    [metric] = check_metrics([metric])
    require_same_pictures(first, second)
    second = second.set_index("path").loc[first["path"]].reset_index()
    groups = group_codes(first)
    plain = np.ones((1, len(first)))
    values = [float(weighted_metrics(table, plain, [metric])[0, 0]) for table in (first, second)]
    draws = resampled_weights(groups, resamples, seed)
    differences = [
        weighted_metrics(first, weights, [metric]) - weighted_metrics(second, weights, [metric])
        for weights in draws
    ]
    low, high = percentile_interval(np.concatenate(differences), confidence_level)
    return {
        "metric": metric,
        "first": values[0],
        "second": values[1],
        "difference": values[0] - values[1],
        "low": low,
        "high": high,
        **_tests(_is_right(first), _is_right(second), groups),
        "pictures": len(first),
        "groups": int(groups.max()) + 1,
    }


def _tests(
    first_right: np.ndarray, second_right: np.ndarray, groups: np.ndarray
) -> dict[str, float | int]:
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    lead = np.bincount(groups, first_right.astype(float) - second_right)
    first_better, second_better = int((lead > 0).sum()), int((lead < 0).sum())
    return {
        "only_first_right": only_first,
        "only_second_right": only_second,
        "p_value": _sign_test(only_first, only_second),
        "groups_first_better": first_better,
        "groups_second_better": second_better,
        "p_value_groups": _sign_test(first_better, second_better),
    }


def _sign_test(wins: int, losses: int) -> float:
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _is_right(table: pd.DataFrame) -> np.ndarray:
    return probabilities(table).argmax(axis=1) == true_classes(table)
