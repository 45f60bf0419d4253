"""Calibration: reliability diagrams, and risk against coverage."""

import numpy as np
import pandas as pd

from brainlib.evaluation.bootstrap import shares
from brainlib.evaluation.metrics import CALIBRATION_BINS, equal_mass_bins
from brainlib.evaluation.tables import is_correct, probabilities
from brainlib.paths import BrainlibError


def reliability(
    table: pd.DataFrame, bins: int = CALIBRATION_BINS, resamples: int = 1000, seed: int = 0
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
    if bins < 1:
        raise BrainlibError(f"bins = {bins}: it must be at least 1")
    confidence = probabilities(table).max(axis=1)
    bin_of = equal_mass_bins(confidence, np.ones((1, len(table))), bins)[0]
    subsets = {confidence[bin_of == i].mean(): bin_of == i for i in np.unique(bin_of)}
    rows = shares(table, is_correct(table), subsets, "accuracy", resamples, seed)
    rows = rows.rename_axis("confidence").reset_index()
    return rows[["confidence", "accuracy", "images", "low", "high"]]


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
