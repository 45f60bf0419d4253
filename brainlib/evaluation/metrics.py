"""Registry of metrics, each computed for one or many weightings of the images.

`METRICS` is the only list: a function `(labels, probabilities) -> float` that is added to it has
its value and interval in `metrics.json`, for the networks and the evaluated model, and `compare`
takes its name; the notebooks' tables show the headline metrics alone. A resample of the bootstrap
is a weight for each image. Ours take all resamples at once, so that a thousand take seconds; any
other function is called once a resample, with each image as often as it was drawn.
"""

import itertools
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pandas as pd

from brainlib.evaluation.tables import CLASSES, label_codes, probabilities
from brainlib.paths import BrainlibError

CALIBRATION_BINS = 15
MINIMUM_PROBABILITY = 1e-12
TUMOR_SPECIFICITY = 0.99
NOTUMOR = CLASSES.index("notumor")

Array = np.ndarray

METRICS: dict[str, Callable[..., float]] = {}
"""Metrics by name, in the order of the tables: functions of the labels, int array of shape (n,),
and the probabilities, float array of shape (n, 4)."""


def register(name: str, function: Callable[..., Array]) -> None:
    """Add a metric that computes all resamples at once.

    Parameters
    ----------
    name : str
    function : callable
        From labels (n,), probabilities (n, 4) and weights (resamples, n) to values (resamples,).
    """

    def metric(labels: Array, probabilities: Array) -> float:
        return float(function(labels, probabilities, np.ones((1, len(labels))))[0])

    metric.weighted = function
    METRICS[name] = metric


def accuracy(labels: Array, probabilities: Array, weights: Array) -> Array:
    """Return the share of correctly classified images."""
    return _mean(probabilities.argmax(axis=1) == labels, weights)


def balanced_accuracy(labels: Array, probabilities: Array, weights: Array) -> Array:
    """Return the mean sensitivity over the classes that occur."""
    return _mean_of_defined(_rates(labels, probabilities, weights)["sensitivity"])


def macro_f1(labels: Array, probabilities: Array, weights: Array) -> Array:
    """Return the mean F1 over the classes that occur or were predicted."""
    return _mean_of_defined(_rates(labels, probabilities, weights)["f1"])


def log_loss(labels: Array, probabilities: Array, weights: Array) -> Array:
    """Return the mean of -log(probability of the true class), probabilities at least 1e-12."""
    true = probabilities[np.arange(len(labels)), labels]
    return _mean(-np.log(np.maximum(true, MINIMUM_PROBABILITY)), weights)


def brier_score(labels: Array, probabilities: Array, weights: Array) -> Array:
    """Return the mean of sum((p - one-hot label)²), 0 to 2 (Brier, 1950)."""
    return _mean(np.square(probabilities - np.eye(len(CLASSES))[labels]).sum(axis=1), weights)


def calibration_error(labels: Array, probabilities: Array, weights: Array) -> Array:
    """Return the mean gap between confidence and accuracy (Naeini et al., 2015).

    Confidence is the probability of the predicted class; the 15 bins hold equal numbers of images
    (Nguyen and O'Connor, 2015), see `equal_mass_bins`. Chance alone makes it positive: a perfectly
    calibrated model of middling confidence has about 0.03 on 2,000 images.
    """
    confidence = probabilities.max(axis=1)
    is_correct = probabilities.argmax(axis=1) == labels
    bins, resamples = CALIBRATION_BINS, len(weights)
    cells = equal_mass_bins(confidence, weights, bins) + bins * np.arange(resamples)[:, np.newaxis]
    gaps = (weights * (is_correct - confidence)).ravel()
    gaps = np.bincount(cells.ravel(), gaps, minlength=bins * resamples).reshape(resamples, bins)
    return _ratio(np.abs(gaps).sum(axis=1), weights.sum(axis=1))


def macro_auroc(labels: Array, probabilities: Array, weights: Array) -> Array:
    """Return the mean AUROC, one class against the rest, over the classes that occur."""
    areas = [_auroc(labels, probabilities, weights, index=i) for i in range(len(CLASSES))]
    return _mean_of_defined(np.stack(areas, axis=1))


def tumor_sensitivity_at_99_specificity(
    labels: Array, probabilities: Array, weights: Array
) -> Array:
    """Return the sensitivity for any tumour at a specificity of 99 %.

    The threshold on the probability of `notumor` is chosen on these very images: this is a point
    of the ROC curve, not the performance of a threshold fixed beforehand.
    """
    # ascending probability of notumor: tumours first
    negatives, positives = _weights_by_score(weights, probabilities[:, NOTUMOR], labels == NOTUMOR)
    allowed = (1 - TUMOR_SPECIFICITY) * negatives.sum(axis=1, keepdims=True) + 1e-9
    detected = np.where(negatives.cumsum(axis=1) <= allowed, positives.cumsum(axis=1), 0)
    sensitivity = _ratio(detected.max(axis=1), positives.sum(axis=1))
    return np.where(negatives.sum(axis=1) > 0, sensitivity, np.nan)


def _auroc(labels: Array, probabilities: Array, weights: Array, index: int) -> Array:
    """Return the area under the ROC curve of one class against the rest (Hanley, McNeil, 1982)."""
    positives, negatives = _weights_by_score(weights, probabilities[:, index], labels == index)
    beaten = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return _ratio((positives * beaten).sum(axis=1), pairs)


def _rates(labels: Array, probabilities: Array, weights: Array) -> dict[str, Array]:
    """Return the metrics of each class that are ratios of counts, each (resamples, classes)."""
    size = len(CLASSES)
    cells = np.eye(size * size)[labels * size + probabilities.argmax(axis=1)]
    confusion = (weights @ cells).reshape(-1, size, size)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    actual, called = confusion.sum(axis=2), confusion.sum(axis=1)
    total = actual.sum(axis=1, keepdims=True)
    return {
        "sensitivity": _ratio(hits, actual),
        "specificity": _ratio(total - actual - called + hits, total - actual),
        "positive_predictive_value": _ratio(hits, called),
        "negative_predictive_value": _ratio(total - called - actual + hits, total - called),
        "f1": _ratio(2 * hits, actual + called),
    }


def _rate(labels: Array, probabilities: Array, weights: Array, kind: str, index: int) -> Array:
    return _rates(labels, probabilities, weights)[kind][:, index]


RATES = ("sensitivity", "specificity", "positive_predictive_value", "negative_predictive_value")
for _function in (
    accuracy, balanced_accuracy, macro_f1, log_loss, brier_score, calibration_error, macro_auroc,
    tumor_sensitivity_at_99_specificity,
):  # fmt: skip
    register(_function.__name__, _function)
for _kind, (_index, _name) in itertools.product((*RATES, "f1"), enumerate(CLASSES)):
    register(f"{_kind}_{_name}", partial(_rate, kind=_kind, index=_index))
for _index, _name in enumerate(CLASSES):
    register(f"auroc_{_name}", partial(_auroc, index=_index))


def equal_mass_bins(confidence: Array, weights: Array, bins: int) -> Array:
    """Return the bin of each image: bins of equal weight, equal confidences in the same bin.

    An image lies in the bin that holds the middle of the weight of its confidence. No bin cuts
    a tie, so the order of the rows has no say; with many ties bins differ in size or stay empty.

    Parameters
    ----------
    confidence : float array of shape (n,)
    weights : float array of shape (resamples, n)
    bins : int

    Returns
    -------
    int array of shape (resamples, n)
        0, least confident, to `bins` - 1.
    """
    order, starts = _order_with_ties(confidence)
    tied = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(tied, axis=1) - tied / 2
    share = middle / tied.sum(axis=1, keepdims=True).clip(min=MINIMUM_PROBABILITY)
    bin_of_tie = np.minimum((share * bins).astype(int), bins - 1)
    return bin_of_tie[:, np.unique(confidence, return_inverse=True)[1]]


def metric_names(names: Iterable[str] | None = None) -> list[str]:
    """Check names of metrics; None stands for all of `METRICS`.

    Raises
    ------
    BrainlibError
        For an unknown name.
    """
    names = list(METRICS if names is None else names)
    if unknown := [name for name in names if name not in METRICS]:
        raise BrainlibError(f"no metric {', '.join(unknown)}: choose from {', '.join(METRICS)}")
    return names


def denominator(table: pd.DataFrame, metric: str) -> Array | None:
    """Return the images in the denominator of a metric, bool array (n,); None if it is no share."""
    if metric == "accuracy":
        return np.ones(len(table), bool)
    kind, _, name = metric.rpartition("_")
    if kind not in RATES or name not in CLASSES:
        return None
    index = CLASSES.index(name)
    is_class = label_codes(table) == index
    is_called = probabilities(table).argmax(axis=1) == index
    return dict(zip(RATES, (is_class, ~is_class, is_called, ~is_called), strict=True))[kind]


def weighted_metrics(table: pd.DataFrame, weights: Array, metrics: Iterable[str]) -> Array:
    """Compute metrics for several weightings of the images.

    Parameters
    ----------
    table : DataFrame
        A prediction table of n rows.
    weights : array of shape (resamples, n)
        Not negative; whole numbers for a metric that was not added by `register`.
    metrics : iterable of str
        Names from `METRICS`.

    Returns
    -------
    float array of shape (resamples, metrics)
        NaN where a metric is not defined, as the sensitivity to a class that does not occur.

    Raises
    ------
    BrainlibError
        For an unknown name.
    """
    data, weights = (label_codes(table), probabilities(table)), np.asarray(weights)
    return np.stack([_resampled(name, *data, weights) for name in metric_names(metrics)], axis=1)


def point_metrics(table: pd.DataFrame, metrics: Iterable[str] | None = None) -> dict[str, float]:
    """Compute the metrics of a prediction table.

    Examples
    --------
    >>> table = pd.DataFrame({"label": ["glioma", "notumor"], "glioma": [0.7, 0.2],
    ...     "meningioma": 0.1, "notumor": [0.1, 0.6], "pituitary": 0.1})
    >>> point_metrics(table)["accuracy"]
    1.0
    """
    data = label_codes(table), probabilities(table)
    return {name: METRICS[name](*data) for name in metric_names(metrics)}


def _resampled(name: str, labels: Array, probabilities: Array, weights: Array) -> Array:
    metric = METRICS[name]
    if hasattr(metric, "weighted"):
        return metric.weighted(labels, probabilities, weights.astype(float))
    rows = (np.repeat(np.arange(len(labels)), counts.astype(int)) for counts in weights)
    return np.array([metric(labels[drawn], probabilities[drawn]) for drawn in rows], float)


def _order_with_ties(values: Array) -> tuple[Array, Array]:
    """Return the ascending order, and where in it each run of equal values starts."""
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    return order, np.flatnonzero(np.concatenate([[True], ascending[1:] > ascending[:-1]]))


def _weights_by_score(weights: Array, scores: Array, is_positive: Array) -> tuple[Array, Array]:
    """Return the weight of positives and of negatives at each distinct score, ascending."""
    order, starts = _order_with_ties(scores)
    ordered, positive = weights[:, order], is_positive[order]
    positives = np.add.reduceat(ordered * positive, starts, axis=1)
    return positives, np.add.reduceat(ordered * ~positive, starts, axis=1)


def _mean(values: Array, weights: Array) -> Array:
    return _ratio(weights @ values, weights.sum(axis=1))


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Divide, with NaN where the denominator is 0."""
    undefined = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def _mean_of_defined(values: Array) -> Array:
    is_defined = ~np.isnan(values)
    return _ratio(np.where(is_defined, values, 0).sum(axis=1), is_defined.sum(axis=1))
