"""Confusion matrix, metrics of each class, most confident errors, calibration, risk-coverage."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainlib.evaluation.bootstrap import shares
from brainlib.evaluation.metrics import CALIBRATION_BINS, equal_mass_bins, point_metrics
from brainlib.evaluation.tables import CLASSES, group_codes, is_correct, label_codes, probabilities

ANSWER_BINS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
LEAST_IN_BIN = (30, 10)
"""Images and groups; a bin of fewer is joined with the one below."""


def confusion(table: pd.DataFrame) -> pd.DataFrame:
    """Count the images by true class (rows) and predicted class (columns).

    Examples
    --------
    >>> table = pd.DataFrame({"label": "glioma", "glioma": [0.9, 0.2], "meningioma": [0.1, 0.8],
    ...     "notumor": 0.0, "pituitary": 0.0})
    >>> confusion(table).loc["glioma"].tolist()
    [1, 1, 0, 0]
    """
    counts = np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(counts, (label_codes(table), probabilities(table).argmax(axis=1)), 1)
    return pd.DataFrame(counts, pd.Index(CLASSES, name="label"), CLASSES)


def class_report(table: pd.DataFrame) -> pd.DataFrame:
    """Return the metrics of each class: a row a class, NaN where not defined.

    Examples
    --------
    >>> table = pd.DataFrame({"label": "glioma", "glioma": [0.9, 0.2], "meningioma": [0.1, 0.8],
    ...     "notumor": 0.0, "pituitary": 0.0})
    >>> class_report(table).loc["glioma", "sensitivity"].item()
    0.5
    """
    columns = ("sensitivity", "specificity", "positive_predictive_value", "f1", "auroc")
    values = point_metrics(table, [f"{column}_{name}" for column in columns for name in CLASSES])
    report = {column: [values[f"{column}_{name}"] for name in CLASSES] for column in columns}
    counts = np.bincount(label_codes(table), minlength=len(CLASSES))
    return pd.DataFrame({**report, "images": counts}, index=pd.Index(CLASSES, name="label"))


def most_confused(table: pd.DataFrame, count: int = 12) -> pd.DataFrame:
    """Return misclassified images, the most confident error first.

    Returns
    -------
    DataFrame
        At most `count` rows: `path`, `label`, `predicted`, and the `probability` of `predicted`.

    Examples
    --------
    >>> table = pd.DataFrame({"path": ["a", "b"], "label": "glioma", "glioma": [0.9, 0.2],
    ...     "meningioma": [0.1, 0.8], "notumor": 0.0, "pituitary": 0.0})
    >>> most_confused(table).to_numpy().tolist()
    [['b', 'glioma', 'meningioma', 0.8]]
    """
    values = probabilities(table)
    predicted = np.array(CLASSES, object)[values.argmax(axis=1)]
    images = table[["path", "label"]].assign(predicted=predicted, probability=values.max(axis=1))
    errors = images[images["label"] != images["predicted"]]
    order = ["probability", "path"]
    return errors.sort_values(order, ascending=[False, True], ignore_index=True).head(count)


def reliability(
    table: pd.DataFrame, bins: int = CALIBRATION_BINS, resamples: int = 1000
) -> pd.DataFrame:
    """Return confidence and accuracy in bins of equal numbers of images (Guo et al., 2017).

    The bins are those of the metric `calibration_error`. Equal confidences share a bin, so there
    can be fewer than asked for.

    Returns
    -------
    DataFrame
        A row for each bin, least confident first: `confidence` and `accuracy` (means), `images`,
        and the interval `low`, `high` of the accuracy over the groups in the bin.

    Examples
    --------
    >>> table = pd.DataFrame({"group": list("ab"), "label": "glioma", "glioma": [0.9, 0.2],
    ...     "meningioma": [0.1, 0.8], "notumor": 0.0, "pituitary": 0.0})
    >>> reliability(table, bins=2)[["confidence", "accuracy"]].to_numpy().tolist()
    [[0.8, 0.0], [0.9, 1.0]]
    """
    confidence = probabilities(table).max(axis=1)
    bin_of = equal_mass_bins(confidence, np.ones((1, len(table))), bins)[0]
    subsets = {confidence[bin_of == i].mean(): bin_of == i for i in np.unique(bin_of)}
    rows = shares(table, is_correct(table), subsets, "accuracy", resamples)
    rows = rows.rename_axis("confidence").reset_index()
    return rows[["confidence", "accuracy", "images", "low", "high"]]


def reliability_by_answer(
    table: pd.DataFrame, resamples: int = 1000, edges: Sequence[float] = ANSWER_BINS,
    least: tuple[int, int] = LEAST_IN_BIN,
) -> list[dict[str, Any]]:  # fmt: skip
    """Measure how often answers of each class are right, in fixed bins of their probability.

    Unlike `reliability`, whose bins hold equal numbers of images whatever the answer, these stay
    the same from release to release: a report quotes the bin of its answer.

    Parameters
    ----------
    table : DataFrame
        Held-out images, or studies: `label`, `group` and the four probabilities.
    resamples : int
    edges : sequence of float
        Edges of the bins, increasing from 0 to 1.
    least : pair of int
        Bins of fewer images or groups are joined with the next lower, the lowest with the next
        higher.

    Returns
    -------
    list of dict
        `class`, `low`, `high`, `images`, `groups`, `observed`, `lower`, `upper`: of the answers of
        that class with a probability from `low` to `high`, the share that really was it, with a
        95 % interval over groups.

    Examples
    --------
    >>> table = pd.DataFrame({"group": list("ab"), "label": "glioma", "glioma": [0.9, 0.8],
    ...     "meningioma": [0.1, 0.2], "notumor": 0.0, "pituitary": 0.0})
    >>> [row] = reliability_by_answer(table)
    >>> row["class"], row["low"], row["high"], row["observed"]
    ('glioma', 0.0, 1.0, 1.0)
    """
    values, groups = table[CLASSES].to_numpy(float), group_codes(table)
    answers, confidence = values.argmax(axis=1), values.max(axis=1)
    subsets = {}
    for index in np.unique(answers):
        is_answer = answers == index
        for low, high in _join_bins(confidence[is_answer], groups[is_answer], edges, least):
            subsets[CLASSES[index], low, high] = is_answer & _is_between(confidence, low, high)
    rows = shares(table, answers == label_codes(table), subsets, "observed", resamples).dropna()
    rows = rows.rename(columns={"low": "lower", "high": "upper"})
    rows = rows.rename_axis(["class", "low", "high"]).reset_index()
    columns = ["class", "low", "high", "images", "groups", "observed", "lower", "upper"]
    return rows[columns].to_dict("records")


def _join_bins(
    confidence: np.ndarray, groups: np.ndarray, edges: Sequence[float], least: tuple[int, int]
) -> list[tuple[float, float]]:
    """Return bins between the edges, joined from above until each holds enough."""
    bins, high = [], edges[-1]
    for low in edges[-2::-1]:
        inside = _is_between(confidence, low, high)
        if inside.sum() >= least[0] and len(np.unique(groups[inside])) >= least[1]:
            bins.append((low, high))
            high = low
    if high > 0 and (confidence < high).any():  # what is left over joins the lowest bin
        bins[-1:] = [(0.0, bins[-1][1] if bins else 1.0)]
    return bins[::-1]


def _is_between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values >= low) & ((values < high) | (high >= 1))


def risk_coverage(table: pd.DataFrame) -> pd.DataFrame:
    """Return the error rate among the most confident images (Geifman and El-Yaniv, 2017).

    Returns
    -------
    DataFrame
        A row for each distinct confidence, highest first: `confidence` (the least that is
        accepted), `coverage` (the share of images accepted), `risk` (the share of those that
        are wrong).

    Examples
    --------
    >>> table = pd.DataFrame({"label": "glioma", "glioma": [0.9, 0.2], "meningioma": [0.1, 0.8],
    ...     "notumor": 0.0, "pituitary": 0.0})
    >>> risk_coverage(table).to_numpy().tolist()
    [[0.9, 0.5, 0.0], [0.8, 1.0, 0.5]]
    """
    confidence = probabilities(table).max(axis=1)
    thresholds, tied = np.unique(-confidence, return_inverse=True)
    accepted = np.cumsum(np.bincount(tied))
    wrong = np.cumsum(np.bincount(tied, ~is_correct(table)))
    return pd.DataFrame(
        {"confidence": -thresholds, "coverage": accepted / len(table), "risk": wrong / accepted}
    )
