"""Calibration of a trained network on validation images."""

import keras
import numpy as np

from brainlib import CLASS_NAMES, models
from brainlib.training.augmentation import Augmentation, Augmenter
from brainlib.training.batches import Examples, cropped_examples

_LIMITS = ((-8.0, 8.0), (0.5, 4.0), (0.5, 4.0))
_PENALTY = 1e-3  # a touch, so that all stays finite where no validation image is wrong


def calibrate(model: keras.Model, validation: Examples | None) -> keras.Model:
    """Return a model with the offset and the temperatures of the least log loss.

    Without validation examples it keeps those it was built with, which belong to the released
    recipe; a model without a lesion map is returned as it is.

    Parameters
    ----------
    model : keras.Model
        A trained `lesion_net` that finds the head.
    validation : Examples
        Of people whom the training has not seen.
    """
    if validation is None or not len(validation) or not models.draws_maps(model):
        return model
    network = models.network_of(model)
    augmenter = Augmenter(Augmentation(), network.input_shape[1], finds_head=True)
    squares, targets, _ = cropped_examples(validation, augmenter)
    logits = np.asarray(network.predict(squares, batch_size=64, verbose=0)["logits"], float)
    return models.recalibrate(model, fit_calibration(logits, targets["logits"]))


def evidence_of(logits: np.ndarray) -> np.ndarray:
    """Return the log odds of any tumour (n,) of logits (n, 4)."""
    position = CLASS_NAMES.index("notumor")
    kinds = np.delete(logits, position, axis=1)
    return np.logaddexp.reduce(kinds, axis=1) - logits[:, position]


def fit_calibration(logits: np.ndarray, one_hot: np.ndarray) -> tuple[float, float, float]:
    """Return offset and temperature of the evidence, and the temperature of the kinds.

    Parameters
    ----------
    logits, one_hot : float arrays of shape (n, 4)

    Examples
    --------
    >>> logits = np.array([[0, 0, 3.0, 0], [3.0, 0, 0, 0]] * 9)
    >>> offset, temperature, _ = fit_calibration(logits, np.eye(4)[[0, 2] * 9])
    >>> temperature  # always wrong: as unsure as may be
    4.0
    """
    from scipy.optimize import minimize
    from scipy.special import log_expit, log_softmax

    position = CLASS_NAMES.index("notumor")
    kinds, evidence = np.delete(logits, position, axis=1), evidence_of(logits)

    def loss(values: np.ndarray) -> float:
        offset, temperature, kind_temperature = values
        odds = (evidence + offset) / temperature
        scores = log_softmax(kinds / kind_temperature, axis=1) + log_expit(odds)[:, np.newaxis]
        right = (one_hot * np.insert(scores, position, log_expit(-odds), axis=1)).sum(axis=1)
        return -right.mean() + _PENALTY * (offset**2 + np.square(np.log(values[1:])).sum())

    fitted = minimize(loss, np.array([0.0, 1.0, 1.0]), method="L-BFGS-B", bounds=_LIMITS)
    return tuple(fitted.x.tolist())
