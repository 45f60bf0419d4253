"""Intervals by resampling groups, the cluster bootstrap (Davison and Hinkley, 1997).

A picture is no unit of evidence: slices of one patient are right or wrong together. So whole groups
are drawn with replacement, as many as there are, and an interval runs between percentiles of what
the draws give. Where a share is exactly 0 or 1 every draw gives the same, which proves nothing;
there the limits are those of Clopper and Pearson (1934) with the groups as trials.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from brainlib.evaluation.metrics import check_metrics, pictures_counted, weighted_metrics
from brainlib.evaluation.tables import EvaluationError, group_codes, probabilities, true_classes

_CHUNK = 100  # resamples at once: a few tens of megabytes for some thousand pictures


def metrics_with_intervals(
    table: pd.DataFrame,
    resamples: int = 1000,
    seed: int = 0,
    confidence_level: float = 0.95,
    metrics: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Compute metrics with intervals over resampled groups.

    Resamples in which a metric is not defined do not count for it.

    Parameters
    ----------
    table : DataFrame
        A prediction table.
    resamples : int
    seed : int
    confidence_level : float
        Between 0 and 1.
    metrics : iterable of str, optional
        Names from `METRICS`; all of them by default.

    Returns
    -------
    DataFrame
        One row a metric: `value`, `low`, `high`. The limits are NaN where fewer than two groups
        bear on the metric.

    Raises
    ------
    EvaluationError
        For an unknown metric, a table that is no prediction table, or a choice out of range.

    Examples
    --------
    >>> table = pd.DataFrame({"path": list("abcd"), "group": list("aabc"), "label": "glioma",
    ...     "glioma": [0.9, 0.8, 0.3, 0.8], "meningioma": 0.0, "notumor": 0.0,
    ...     "pituitary": [0.1, 0.2, 0.7, 0.2]})
    >>> metrics_with_intervals(table, metrics=["accuracy"]).round(2).loc["accuracy"].tolist()
    [0.75, 0.0, 1.0]
    """
    names = check_metrics(metrics)
    groups = group_codes(table)
    values = weighted_metrics(table, np.ones((1, len(table))), names)[0]
    draws = resampled_weights(groups, resamples, seed)
    replicates = np.concatenate([weighted_metrics(table, weights, names) for weights in draws])
    rows = []
    for name, value, column in zip(names, values, replicates.T, strict=True):
        counted = pictures_counted(table, name)
        low, high = _limits(value, column, groups, counted, confidence_level)
        if name == "calibration_error":
            low, high = np.maximum(0, 2 * value - high), np.maximum(value, 2 * value - low)
        rows.append((value, low, high))
    return pd.DataFrame(rows, pd.Index(names, name="metric"), ["value", "low", "high"], dtype=float)


def breakdown(
    table: pd.DataFrame,
    column: str,
    resamples: int = 1000,
    seed: int = 0,
    confidence_level: float = 0.95,
) -> pd.DataFrame:
    """Return the accuracy for each value of a column, such as `source`, `plane` or `label`.

    Parameters
    ----------
    table : DataFrame
        A prediction table.
    column : str
        Rows without a value are listed as `unknown`.
    resamples, seed, confidence_level
        As for `metrics_with_intervals`.

    Returns
    -------
    DataFrame
        One row a value, sorted: `accuracy`, `low`, `high`, `pictures`, `groups`.

    Raises
    ------
    EvaluationError
        Where the table has no such column.

    Examples
    --------
    >>> table = pd.DataFrame({"group": list("abc"), "plane": ["axial", "axial", "sagittal"],
    ...     "label": "glioma", "glioma": [0.9, 0.1, 0.8], "meningioma": 0.0, "notumor": 0.0,
    ...     "pituitary": [0.1, 0.9, 0.2]})
    >>> breakdown(table, "plane")["accuracy"].to_dict()
    {'axial': 0.5, 'sagittal': 1.0}
    """
    if column not in table:
        raise EvaluationError(
            f"the prediction table has no column {column!r}: choose one of {', '.join(table)}"
        )
    values = table[column].astype(object).where(table[column].notna(), "").astype(str)
    values = values.mask(values == "", "unknown").to_numpy(object)
    is_right = probabilities(table).argmax(axis=1) == true_classes(table)
    groups = group_codes(table)
    rows = {
        value: mean_with_interval(
            is_right[values == value], groups[values == value], resamples, seed, confidence_level
        )
        for value in sorted(set(values))
    }
    columns = ["accuracy", "low", "high", "pictures", "groups"]
    return pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis(column)


def resampled_weights(groups: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw groups with replacement, and give how often each picture's group was drawn.

    Parameters
    ----------
    groups : int array of shape (n,)
        Group numbers from 0 without gaps, as `group_codes` gives them.
    resamples : int
    seed : int

    Yields
    ------
    int arrays of shape (at most 100, n)

    Examples
    --------
    >>> [weights] = resampled_weights(np.array([0, 0, 1]), resamples=5, seed=0)
    >>> weights.shape, bool((weights[:, 0] == weights[:, 1]).all())
    ((5, 3), True)
    """
    if resamples < 1:
        raise EvaluationError(f"resamples = {resamples}: it must be at least 1")
    generator = np.random.default_rng(seed)
    count = groups.max() + 1
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        yield generator.multinomial(count, np.full(count, 1 / count), size=size)[:, groups]


def mean_with_interval(
    values: np.ndarray,
    groups: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    confidence_level: float = 0.95,
) -> tuple[float, float, float, int, int]:
    """Return the mean of one value a picture, its interval over groups, and what it rests on.

    Parameters
    ----------
    values : bool array of shape (n,)
        Whether the picture counts.
    groups : int array of shape (n,)

    Returns
    -------
    mean, low, high : float
        NaN without pictures; the limits also with fewer than two groups.
    pictures, groups : int
    """
    if not len(values):
        return np.nan, np.nan, np.nan, 0, 0
    groups = np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(groups, values), np.bincount(groups)
    draws = resampled_weights(np.arange(len(sizes)), resamples, seed)
    replicates = np.concatenate([(drawn @ sums) / (drawn @ sizes) for drawn in draws])
    mean = float(np.mean(values))
    counted = np.ones(len(values), bool)
    return (
        mean,
        *_limits(mean, replicates, groups, counted, confidence_level),
        len(values),
        len(sizes),
    )


def percentile_interval(replicates: np.ndarray, confidence_level: float) -> tuple[float, float]:
    """Return the percentiles between which lie the replicates that are defined, NaN if none is."""
    if not 0 < confidence_level < 1:
        raise EvaluationError(f"confidence_level = {confidence_level}: it must lie between 0 and 1")
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return np.nan, np.nan
    tail = (1 - confidence_level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def _limits(
    value: float,
    replicates: np.ndarray,
    groups: np.ndarray,
    counted: np.ndarray | None,
    confidence_level: float,
) -> tuple[float, float]:
    low, high = percentile_interval(replicates, confidence_level)
    trials = len(np.unique(groups if counted is None else groups[counted]))
    if trials < 2:
        return np.nan, np.nan
    if counted is None or value not in (0, 1):
        return low, high
    margin = 1 - ((1 - confidence_level) / 2) ** (1 / trials)
    return (0.0, margin) if value == 0 else (1 - margin, 1.0)
