"""Whether a probability means what it says: temperature, reliability, risk and coverage."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from brainlib.evaluation.intervals import mean_with_interval
from brainlib.evaluation.metrics import CALIBRATION_BINS, MINIMUM_PROBABILITY, equal_mass_bins
from brainlib.evaluation.tables import (
    CLASSES,
    EvaluationError,
    group_codes,
    probabilities,
    true_classes,
)

TEMPERATURE_RANGE = (0.05, 20.0)


def fit_temperature(table: pd.DataFrame) -> float:
    """Find the temperature that makes probabilities fit best (Guo et al., 2017).

    Fit it on validation predictions, never on those that are reported.

    Parameters
    ----------
    table : DataFrame
        A prediction table of validation pictures.

    Returns
    -------
    float
        The temperature, 0.05 to 20, with the least log loss: above 1 the model is too sure of
        itself. It is 1 where no temperature is better than none.

    Examples
    --------
    >>> table = pd.DataFrame({"label": ["glioma", "glioma", "glioma", "notumor"], "glioma": 0.9,
    ...     "meningioma": 0.0, "notumor": 0.1, "pituitary": 0.0})
    >>> round(fit_temperature(table), 3)  # nine to one is said where three to one is true
    2.0
    """
    logits, truth = _log_probabilities(table), true_classes(table)
    bounds = np.log(TEMPERATURE_RANGE)
    found = minimize_scalar(
        _log_loss, args=(logits, truth), bounds=bounds, method="bounded", options={"xatol": 1e-6}
    )
    gain = _log_loss(0.0, logits, truth) - found.fun
    return float(np.exp(found.x)) if gain > 1e-12 else 1.0


def apply_temperature(table: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """Return the table with probabilities proportional to p ** (1 / temperature).

    The predicted class never changes. Probabilities count as at least 1e-12.

    Raises
    ------
    EvaluationError
        For a temperature that is not positive and finite.

    Examples
    --------
    >>> table = pd.DataFrame({"glioma": [0.9], "meningioma": 0.0, "notumor": 0.1, "pituitary": 0.0})
    >>> apply_temperature(table, 2.0)["glioma"].round(2).item()
    0.75
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise EvaluationError(f"temperature = {temperature}: it must be positive, such as 1.5")
    result = table.copy()
    result[CLASSES] = np.exp(_softened(_log_probabilities(table), temperature))
    return result


def reliability(
    table: pd.DataFrame,
    bins: int = CALIBRATION_BINS,
    resamples: int = 1000,
    seed: int = 0,
    confidence_level: float = 0.95,
) -> pd.DataFrame:
    """Return confidence and accuracy in bins of equal numbers of pictures (Guo et al., 2017).

    Parameters
    ----------
    table : DataFrame
        A prediction table.
    bins : int
        Equal confidences share a bin, so there can be fewer.
    resamples, seed, confidence_level
        As for `metrics_with_intervals`.

    Returns
    -------
    DataFrame
        One row a bin, least confident first: `confidence` and `accuracy` (means), `pictures`, and
        the interval `low`, `high` of the accuracy over the groups in the bin.

    Examples
    --------
    >>> table = pd.DataFrame({"group": list("ab"), "label": "glioma", "glioma": [0.9, 0.2],
    ...     "meningioma": [0.1, 0.8], "notumor": 0.0, "pituitary": 0.0})
    >>> reliability(table, bins=2)[["confidence", "accuracy"]].to_numpy().tolist()
    [[0.8, 0.0], [0.9, 1.0]]
    """
    if bins < 1:
        raise EvaluationError(f"bins = {bins}: it must be at least 1")
    confidence, is_right = _confidence(table)
    groups = group_codes(table)
    numbers = equal_mass_bins(confidence, np.ones((1, len(table))), bins)[0]
    rows = []
    for number in np.unique(numbers):
        inside = numbers == number
        accuracy, low, high, pictures, _ = mean_with_interval(
            is_right[inside], groups[inside], resamples, seed, confidence_level
        )
        rows.append((confidence[inside].mean(), accuracy, pictures, low, high))
    return pd.DataFrame(rows, columns=["confidence", "accuracy", "pictures", "low", "high"])


def risk_coverage(table: pd.DataFrame) -> pd.DataFrame:
    """Return the error rate among the most confident pictures (Geifman and El-Yaniv, 2017).

    Returns
    -------
    DataFrame
        One row for each distinct confidence, highest first: `confidence` (the least that is
        accepted), `coverage` (the share of pictures accepted), `risk` (the share of those that
        are wrong).

    Examples
    --------
    >>> table = pd.DataFrame({"label": "glioma", "glioma": [0.9, 0.2], "meningioma": [0.1, 0.8],
    ...     "notumor": 0.0, "pituitary": 0.0})
    >>> risk_coverage(table).to_numpy().tolist()
    [[0.9, 0.5, 0.0], [0.8, 1.0, 0.5]]
    """
    confidence, is_right = _confidence(table)
    thresholds, tied = np.unique(-confidence, return_inverse=True)
    accepted = np.cumsum(np.bincount(tied))
    wrong = np.cumsum(np.bincount(tied, ~is_right))
    return pd.DataFrame(
        {"confidence": -thresholds, "coverage": accepted / len(table), "risk": wrong / accepted}
    )


def area_under_risk_coverage(table: pd.DataFrame) -> float:
    """Return the mean risk over all coverages (AURC; Geifman et al., 2019): 0 without errors.

    Examples
    --------
    >>> table = pd.DataFrame({"label": "glioma", "glioma": [0.9, 0.2], "meningioma": [0.1, 0.8],
    ...     "notumor": 0.0, "pituitary": 0.0})
    >>> area_under_risk_coverage(table)  # risk 0 for the surer half, 1/2 for all
    0.25
    """
    curve = risk_coverage(table)
    return float((curve["risk"] * np.diff(curve["coverage"], prepend=0)).sum())


def _confidence(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each predicted class, and whether it is the true one."""
    values = probabilities(table)
    return values.max(axis=1), values.argmax(axis=1) == true_classes(table)


def _log_probabilities(table: pd.DataFrame) -> np.ndarray:
    return np.log(np.maximum(probabilities(table), MINIMUM_PROBABILITY))


def _softened(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))


def _log_loss(log_temperature: float, logits: np.ndarray, truth: np.ndarray) -> float:
    softened = _softened(logits, np.exp(log_temperature))
    return -float(softened[np.arange(len(truth)), truth].mean())
