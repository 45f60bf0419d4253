"""Bootstrap confidence intervals over groups (Davison and Hinkley, 1997), paired comparisons.

Slices of a patient are right or wrong together. So whole groups are drawn with replacement, as
many as there are, and a 95 % interval runs between the percentiles of the resamples. Where a share
is exactly 0 or 1 all resamples are equal, which proves nothing; there the limits are those of
Clopper and Pearson (1934) with the groups as trials.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from brainlib.evaluation.metrics import denominator, metric_names, point_metrics, weighted_metrics
from brainlib.evaluation.tables import Tables, group_codes, is_correct, require_same_labels

TAIL = 0.025
"""The share of resamples beyond either limit of an interval."""

_CHUNK = 100  # resamples at once: a few tens of megabytes for some thousand images


def metrics_with_intervals(
    table: pd.DataFrame, resamples: int = 1000, seed: int = 0, metrics: Iterable[str] | None = None
) -> pd.DataFrame:
    """Compute metrics with 95 % intervals over resampled groups.

    Resamples in which a metric is not defined do not count for it.

    Parameters
    ----------
    table : DataFrame
        A prediction table.
    resamples, seed : int
    metrics : iterable of str, optional
        Names from `METRICS`; all of them by default.

    Returns
    -------
    DataFrame
        A row for each metric: `value`, `low`, `high`. The limits are NaN where fewer than two
        groups bear on the metric.

    Examples
    --------
    >>> table = pd.DataFrame({"path": list("abcd"), "group": list("aabc"), "label": "glioma",
    ...     "glioma": [0.9, 0.8, 0.3, 0.8], "meningioma": 0.0, "notumor": 0.0,
    ...     "pituitary": [0.1, 0.2, 0.7, 0.2]})
    >>> metrics_with_intervals(table, metrics=["accuracy"]).round(2).loc["accuracy"].tolist()
    [0.75, 0.0, 1.0]
    """
    names = metric_names(metrics)
    groups = group_codes(table)
    values = weighted_metrics(table, np.ones((1, len(table))), names)[0]
    draws = resampled_weights(groups, resamples, seed)
    replicates = np.concatenate([weighted_metrics(table, weights, names) for weights in draws])
    rows = []
    for name, value, column in zip(names, values, replicates.T, strict=True):
        counted = denominator(table, name)
        trials = len(np.unique(groups if counted is None else groups[counted]))
        low, high = _limits(value, column, trials, is_share=counted is not None)
        if name == "calibration_error":  # biased upwards: a basic interval, not a percentile one
            low, high = np.maximum(0, 2 * value - high), np.maximum(value, 2 * value - low)
        rows.append((value, low, high))
    return pd.DataFrame(rows, pd.Index(names, name="metric"), ["value", "low", "high"], dtype=float)


def mean_with_interval(
    values: np.ndarray, groups: np.ndarray, resamples: int = 1000, seed: int = 0
) -> dict[str, float | int]:
    """Return the mean of a value per image with its 95 % interval, as `metrics.json` holds it.

    Parameters
    ----------
    values : bool or float array of shape (n,)
    groups : array of shape (n,)

    Returns
    -------
    dict
        `value`, `low`, `high`, rounded to 6 digits, `images` and `groups`. The value is absent
        without images, the limits with fewer than two groups.

    Examples
    --------
    >>> mean_with_interval(np.array([True, False]), np.array(["a", "a"]))
    {'value': 0.5, 'images': 2, 'groups': 1}
    """
    if not len(values):
        return {"images": 0, "groups": 0}
    groups = np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(groups, values), np.bincount(groups)
    draws = resampled_weights(np.arange(len(sizes)), resamples, seed)
    replicates = np.concatenate([(drawn @ sums) / (drawn @ sizes) for drawn in draws])
    value = float(np.mean(values))
    low, high = _limits(value, replicates, len(sizes))
    limits = {"low": round(low, 6), "high": round(high, 6)} if np.isfinite(low) else {}
    return {"value": round(value, 6), **limits, "images": len(values), "groups": len(sizes)}


def break_down(table: pd.DataFrame, resamples: int = 1000) -> pd.DataFrame:
    """Return the accuracy of each source, plane and fold, as far as the table has these columns.

    Returns
    -------
    DataFrame
        A row `<column> <value>` for each value, sorted, `<column> unknown` where there is none:
        `accuracy`, `low`, `high`, `images`, `groups`.

    Examples
    --------
    >>> table = pd.DataFrame({"group": list("abc"), "plane": ["axial", "axial", "sagittal"],
    ...     "label": "glioma", "glioma": [0.9, 0.1, 0.8], "meningioma": 0.0, "notumor": 0.0,
    ...     "pituitary": [0.1, 0.9, 0.2]})
    >>> break_down(table)["accuracy"].to_dict()
    {'plane axial': 0.5, 'plane sagittal': 1.0}
    """
    subgroups = {}
    for column in [name for name in ("source", "plane", "fold") if name in table]:
        names = table[column].astype(object).replace("", None).fillna("unknown").astype(str)
        if set(names) != {"unknown"}:
            subgroups |= {f"{column} {name}": names == name for name in sorted(set(names))}
    return shares(table, is_correct(table), subgroups, "accuracy", resamples)


def shares(
    table: pd.DataFrame, values: np.ndarray, subsets: Mapping, name: str, resamples: int
) -> pd.DataFrame:
    """Return the mean of a value in each of several subsets of a table, with its interval.

    Returns
    -------
    DataFrame
        A row for each subset, a bool array (n,): `<name>`, `low`, `high`, `images`, `groups`.
    """
    groups = group_codes(table)
    rows = {key: mean_with_interval(values[chosen], groups[chosen], resamples)
            for key, chosen in subsets.items()}  # fmt: skip
    columns = ["value", "low", "high", "images", "groups"]
    intervals = pd.DataFrame.from_dict(rows, "index").reindex(columns=columns)
    return intervals.rename(columns={"value": name})


def compare(
    first: pd.DataFrame, second: pd.DataFrame, metric: str = "accuracy", resamples: int = 1000
) -> dict[str, float | int]:
    """Compare two models on the same images, pair by pair.

    Parameters
    ----------
    first, second : DataFrame
        Prediction tables of the same images, in any order. The groups are those of `first`.
    metric : str
        A name from `METRICS`.
    resamples : int
        Both tables see the same resamples.

    Returns
    -------
    dict
        `first` and `second`, the metric of each; `difference`, first minus second, with its 95 %
        interval `low`, `high` over resampled groups; `p_value`, McNemar's exact test (1947) on the
        images that only one model classifies correctly; `p_value_groups`, the sign test on the
        groups in which one has more right; `images` and `groups`.

        McNemar's test takes images as independent and is too optimistic where a patient has
        many slices; the interval and the sign test do not.

    Examples
    --------
    >>> first = pd.DataFrame({"path": list("ab"), "group": list("ab"), "label": "glioma",
    ...     "glioma": [0.9, 0.8], "meningioma": 0.0, "notumor": 0.0, "pituitary": [0.1, 0.2]})
    >>> second = first.assign(glioma=[0.9, 0.3], pituitary=[0.1, 0.7])
    >>> compare(first, second)["difference"]
    0.5
    """
    [metric] = metric_names([metric])
    require_same_labels(first, second)
    second = second.set_index("path").loc[first["path"]].reset_index()
    groups = group_codes(first)
    own, other = (point_metrics(table, [metric])[metric] for table in (first, second))
    differences = [
        np.subtract(*(weighted_metrics(table, weights, [metric]) for table in (first, second)))
        for weights in resampled_weights(groups, resamples)
    ]
    low, high = percentile_interval(np.concatenate(differences))
    lead = is_correct(first).astype(int) - is_correct(second)
    group_lead = np.bincount(groups, lead)
    return {
        "first": own, "second": other, "difference": own - other, "low": low, "high": high,
        "p_value": _sign_test(lead), "p_value_groups": _sign_test(group_lead),
        "images": len(first), "groups": len(group_lead),
    }  # fmt: skip


def compare_with_others(tables: Tables, model: str, protocol: str = "patient") -> pd.DataFrame:
    """Compare a model with every other on the same images, of the folds that the model has.

    Returns
    -------
    DataFrame
        A row for each other model, as `compare` gives it.
    """
    first = tables[model][protocol]
    rows = {
        other: compare(first, by_protocol[protocol].query("fold in @first.fold"))
        for other, by_protocol in tables.items()
        if other != model and protocol in by_protocol
    }
    columns = ["difference", "low", "high", "p_value", "p_value_groups"]  # where there are no rows
    table = pd.DataFrame.from_dict(rows, "index") if rows else pd.DataFrame(columns=columns)
    return table.rename_axis(f"{model} against")


def _sign_test(leads: np.ndarray) -> float:
    from scipy.stats import binomtest

    wins, losses = int((leads > 0).sum()), int((leads < 0).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def resampled_weights(groups: np.ndarray, resamples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Draw groups with replacement; yield how often each image's group was drawn.

    Parameters
    ----------
    groups : int array of shape (n,)
        Numbers from 0 without gaps, as `group_codes` gives them.

    Yields
    ------
    int arrays of shape (at most 100, n)

    Examples
    --------
    >>> [weights] = resampled_weights(np.array([0, 0, 1]), resamples=5, seed=0)
    >>> weights.shape, bool((weights[:, 0] == weights[:, 1]).all())
    ((5, 3), True)
    """
    generator = np.random.default_rng(seed)
    count = groups.max() + 1
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        yield generator.multinomial(count, np.full(count, 1 / count), size=size)[:, groups]


def percentile_interval(replicates: np.ndarray) -> tuple[float, float]:
    """Return the percentiles that enclose 95 % of the defined replicates, NaN if there are none."""
    defined = replicates[~np.isnan(replicates)]
    low, high = np.quantile(defined, [TAIL, 1 - TAIL]) if len(defined) else (np.nan, np.nan)
    return float(low), float(high)


def _limits(
    value: float, replicates: np.ndarray, trials: int, is_share: bool = True
) -> tuple[float, float]:
    if trials < 2:
        return np.nan, np.nan
    if not is_share or value not in (0, 1):
        return percentile_interval(replicates)
    margin = 1 - TAIL ** (1 / trials)
    return (0.0, margin) if value == 0 else (1 - margin, 1.0)
