"""Point estimates from a prediction table, for many weightings of its pictures at once.

A resample of groups is a weight for each picture: how often its group was drawn. Each metric is
written once, for weights of shape (resamples, pictures); the plain value is the one with all
weights 1. That makes a thousand resamples take seconds where a loop over scikit-learn takes many
minutes; the tests hold each metric equal to scikit-learn's with `sample_weight`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd

from brainlib.evaluation.tables import CLASSES, EvaluationError, probabilities, true_classes

CALIBRATION_BINS = 15
MINIMUM_PROBABILITY = 1e-12
TUMOR_SPECIFICITY = 0.99
_PREDICTIVE = ("positive_predictive_value", "negative_predictive_value")
_NOTUMOR = CLASSES.index("notumor")


@dataclass(frozen=True)
class WeightedPictures:
    """Predictions under several weightings of the pictures.

    Attributes
    ----------
    truth : int array of shape (n,)
    probabilities : float64 array of shape (n, 4)
    weights : float64 array of shape (resamples, n)
    """

    truth: np.ndarray
    probabilities: np.ndarray
    weights: np.ndarray

    @cached_property
    def predicted(self) -> np.ndarray:
        """The most probable class, the first of equals, int array of shape (n,)."""
        return self.probabilities.argmax(axis=1)

    @cached_property
    def confusion(self) -> np.ndarray:
        """Weight by true class and predicted class, shape (resamples, 4, 4)."""
        size = len(CLASSES)
        cells = np.eye(size * size)[self.truth * size + self.predicted]
        return (self.weights @ cells).reshape(-1, size, size)

    @cached_property
    def hits(self) -> np.ndarray:
        """Weight of the rightly predicted pictures of each class, shape (resamples, 4)."""
        return np.diagonal(self.confusion, axis1=1, axis2=2)

    @cached_property
    def pictures(self) -> np.ndarray:
        """Weight of the pictures of each true class, shape (resamples, 4)."""
        return self.confusion.sum(axis=2)

    @cached_property
    def calls(self) -> np.ndarray:
        """Weight of the pictures of each predicted class, shape (resamples, 4)."""
        return self.confusion.sum(axis=1)

    @cached_property
    def total(self) -> np.ndarray:
        """Weight of all pictures, shape (resamples,)."""
        return self.weights.sum(axis=1)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the weighted mean of one value a picture, shape (resamples,)."""
        return _ratio(self.weights @ values, self.total)


def accuracy(data: WeightedPictures) -> np.ndarray:
    """Return the share of right pictures."""
    return _ratio(data.hits.sum(axis=1), data.total)


def balanced_accuracy(data: WeightedPictures) -> np.ndarray:
    """Return the mean sensitivity of the classes that are there."""
    return _mean_of_defined(sensitivity(data))


def macro_f1(data: WeightedPictures) -> np.ndarray:
    """Return the mean F1 of the classes that are there or were predicted."""
    return _mean_of_defined(f1(data))


def log_loss(data: WeightedPictures) -> np.ndarray:
    """Return the mean of -log(probability of the true class), probabilities at least 1e-12."""
    right = data.probabilities[np.arange(len(data.truth)), data.truth]
    return data.mean(-np.log(np.maximum(right, MINIMUM_PROBABILITY)))


def brier_score(data: WeightedPictures) -> np.ndarray:
    """Return the mean squared distance from the truth over all classes, 0 to 2 (Brier, 1950)."""
    return data.mean(np.square(data.probabilities - np.eye(len(CLASSES))[data.truth]).sum(axis=1))


def calibration_error(data: WeightedPictures, bins: int = CALIBRATION_BINS) -> np.ndarray:
    """Return the mean gap between confidence and accuracy (Naeini et al., 2015).

    Confidence is the probability of the predicted class; the bins hold equal numbers of pictures
    (Nguyen and O'Connor, 2015), see `equal_mass_bins`. Chance alone makes it positive: a perfectly
    calibrated model of middling confidence has about 0.03 on 2,000 pictures.
    """
    confidence = data.probabilities.max(axis=1)
    is_right = data.predicted == data.truth
    bin_numbers = equal_mass_bins(confidence, data.weights, bins)
    resamples = len(data.weights)
    cells = (bin_numbers + bins * np.arange(resamples)[:, np.newaxis]).ravel()
    gaps = np.bincount(
        cells, (data.weights * (is_right - confidence)).ravel(), minlength=bins * resamples
    )
    return _ratio(np.abs(gaps.reshape(resamples, bins)).sum(axis=1), data.total)


def equal_mass_bins(confidence: np.ndarray, weights: np.ndarray, bins: int) -> np.ndarray:
    """Return the bin of each picture: bins of equal weight, equal confidences in one bin.

    A picture lies in the bin that holds the middle of the weight of its confidence. No bin cuts
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
    of_tie = np.minimum((share * bins).astype(int), bins - 1)
    tie_of_picture = np.empty(len(confidence), int)
    tie_of_picture[order] = np.repeat(np.arange(len(starts)), np.diff([*starts, len(confidence)]))
    return of_tie[:, tie_of_picture]


def sensitivity(data: WeightedPictures) -> np.ndarray:
    """Return, for each class, the share of its pictures that were found, shape (resamples, 4)."""
    return _ratio(data.hits, data.pictures)


def specificity(data: WeightedPictures) -> np.ndarray:
    """Return, for each class, the share of other pictures that were not taken for it."""
    others = data.total[:, np.newaxis] - data.pictures
    return _ratio(others - (data.calls - data.hits), others)


def positive_predictive_value(data: WeightedPictures) -> np.ndarray:
    """Return, for each class, the share of its calls that are right."""
    return _ratio(data.hits, data.calls)


def negative_predictive_value(data: WeightedPictures) -> np.ndarray:
    """Return, for each class, the share of pictures not called so that rightly were not."""
    rest = data.total[:, np.newaxis] - data.calls
    return _ratio(rest - (data.pictures - data.hits), rest)


def f1(data: WeightedPictures) -> np.ndarray:
    """Return, for each class, the harmonic mean of sensitivity and positive predictive value."""
    return _ratio(2 * data.hits, data.pictures + data.calls)


def auroc(data: WeightedPictures, number: int) -> np.ndarray:
    """Return the area under the ROC curve of one class against the rest (Hanley, McNeil, 1982)."""
    positives, negatives = _weights_by_score(
        data.weights, data.probabilities[:, number], data.truth == number
    )
    beaten = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return _ratio((positives * beaten).sum(axis=1), pairs)


def macro_auroc(data: WeightedPictures) -> np.ndarray:
    """Return the mean AUROC, one class against the rest, of the classes that have one."""
    areas = [auroc(data, number) for number in range(len(CLASSES))]
    return _mean_of_defined(np.stack(areas, axis=1))


def tumor_sensitivity(data: WeightedPictures) -> np.ndarray:
    """Return the share of tumours found where at most 1 % of `notumor` pictures are called tumour.

    The threshold on the probability of `notumor` is chosen on these very pictures: this is a
    point of the ROC curve, not the performance of a threshold fixed beforehand.
    """
    negatives, positives = _weights_by_score(  # ascending probability of notumor: tumours first
        data.weights, data.probabilities[:, _NOTUMOR], data.truth == _NOTUMOR
    )
    all_negatives, all_positives = negatives.sum(axis=1), positives.sum(axis=1)
    allowed = (1 - TUMOR_SPECIFICITY) * all_negatives + 1e-9
    is_allowed = np.cumsum(negatives, axis=1) <= allowed[:, np.newaxis]
    found = np.where(is_allowed, np.cumsum(positives, axis=1), 0).max(axis=1)
    return np.where(all_negatives > 0, _ratio(found, all_positives), np.nan)


def _of_class(function: Callable, number: int, data: WeightedPictures) -> np.ndarray:
    return function(data)[:, number]


_CLASS_FUNCTIONS = (
    sensitivity, specificity, positive_predictive_value, negative_predictive_value, f1,
)  # fmt: skip
_FUNCTIONS: dict[str, Callable[[WeightedPictures], np.ndarray]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "log_loss": log_loss,
    "brier_score": brier_score,
    "calibration_error": calibration_error,
    "macro_auroc": macro_auroc,
    "tumor_sensitivity_at_99_specificity": tumor_sensitivity,
    **{
        f"{function.__name__}_{name}": partial(_of_class, function, number)
        for function in _CLASS_FUNCTIONS
        for number, name in enumerate(CLASSES)
    },
    **{f"auroc_{name}": partial(auroc, number=number) for number, name in enumerate(CLASSES)},
}

METRICS = tuple(_FUNCTIONS)
"""The names of all metrics, in the order in which tables show them."""


def check_metrics(names: Iterable[str] | None) -> tuple[str, ...]:
    """Return the names of the metrics asked for, all of them for None.

    Raises
    ------
    EvaluationError
        For a name that is not in `METRICS`.
    """
    names = METRICS if names is None else tuple(names)
    unknown = [name for name in names if name not in _FUNCTIONS]
    if unknown:
        raise EvaluationError(f"no metric {', '.join(unknown)}: choose from {', '.join(METRICS)}")
    return names


def weighted_metrics(
    table: pd.DataFrame, weights: np.ndarray, metrics: Iterable[str] | None = None
) -> np.ndarray:
    """Compute metrics for several weightings of the pictures at once.

    Parameters
    ----------
    table : DataFrame
        A prediction table of n rows.
    weights : float array of shape (resamples, n)
        Not negative.
    metrics : iterable of str, optional
        Names from `METRICS`; all of them by default.

    Returns
    -------
    float64 array of shape (resamples, number of metrics)
        NaN where a metric is not defined, as the sensitivity to a class that is absent.
    """
    names = check_metrics(metrics)
    weights = np.asarray(weights, np.float64)
    data = WeightedPictures(true_classes(table), probabilities(table), weights)
    return np.stack([_FUNCTIONS[name](data) for name in names], axis=1)


def pictures_counted(table: pd.DataFrame, metric: str) -> np.ndarray | None:
    """Return the pictures that a metric is a share of, None where it is no share.

    Accuracy is a share of all pictures, the sensitivity to a class one of its pictures, a
    predictive value one of the pictures called so (or not).

    Returns
    -------
    bool array of shape (n,), or None
    """
    if metric == "accuracy":
        return np.ones(len(table), bool)
    kind, _, name = metric.rpartition("_")
    if kind not in ("sensitivity", "specificity", *_PREDICTIVE) or name not in CLASSES:
        return None
    if kind in _PREDICTIVE:
        is_class = probabilities(table).argmax(axis=1) == CLASSES.index(name)
    else:
        is_class = true_classes(table) == CLASSES.index(name)
    return is_class if kind in ("sensitivity", _PREDICTIVE[0]) else ~is_class


def point_metrics(table: pd.DataFrame, metrics: Iterable[str] | None = None) -> dict[str, float]:
    """Compute the metrics of a prediction table.

    Parameters
    ----------
    table : DataFrame
        A prediction table.
    metrics : iterable of str, optional
        Names from `METRICS`; all of them by default.

    Returns
    -------
    dict of str to float
        NaN where a metric is not defined: means over classes leave out those that are absent,
        what needs an absent class is NaN. `brier_score` runs from 0 to 2; `calibration_error` is
        over 15 bins of equal numbers of pictures by the probability of the predicted class.

    Raises
    ------
    EvaluationError
        For an unknown metric, label, or invalid probabilities.

    Examples
    --------
    >>> table = pd.DataFrame({"label": ["glioma", "notumor"], "glioma": [0.7, 0.2],
    ...     "meningioma": 0.1, "notumor": [0.1, 0.6], "pituitary": 0.1})
    >>> point_metrics(table)["accuracy"]
    1.0
    """
    names = check_metrics(metrics)
    values = weighted_metrics(table, np.ones((1, len(table))), names)[0]
    return dict(zip(names, values.tolist(), strict=True))


def _order_with_ties(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ascending order, and where in it each run of equal values starts."""
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ascending[1:] > ascending[:-1]]))
    return order, starts


def _weights_by_score(
    weights: np.ndarray, scores: np.ndarray, is_positive: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of positives and of negatives at each distinct score, ascending."""
    order, starts = _order_with_ties(scores)
    ordered, positive = weights[:, order], is_positive[order]
    positives = np.add.reduceat(ordered * positive, starts, axis=1)
    return positives, np.add.reduceat(ordered * ~positive, starts, axis=1)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide, with NaN where there is nothing to divide by."""
    undefined = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    is_defined = ~np.isnan(values)
    return _ratio(np.where(is_defined, values, 0).sum(axis=1), is_defined.sum(axis=1))
