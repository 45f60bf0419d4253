"""Labels as numbers, and rows that make sense: what the classifiers of the audit share."""

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES
from brainlib.audit.pictures import AuditError

TUMOUR_FREE = CLASS_NAMES.index("notumor")


def class_codes(table: pd.DataFrame) -> np.ndarray:
    """Turn labels into positions in `brainlib.CLASS_NAMES`.

    Parameters
    ----------
    table : DataFrame
        Image table with `label`.

    Returns
    -------
    ndarray of int64, shape (n,)
        0 to 3.

    Raises
    ------
    AuditError
        If a label is none of the four.
    """
    codes = pd.Index(CLASS_NAMES).get_indexer(table["label"]).astype(np.int64)
    if (codes < 0).any():
        wrong = sorted({str(label) for label in table["label"][codes < 0]})
        raise AuditError(f"unknown labels {wrong}; the labels are {', '.join(CLASS_NAMES)}")
    return codes


def class_probabilities(model: object, features: np.ndarray) -> np.ndarray:
    """Predict with a fitted scikit-learn classifier, with a column for each of the four classes.

    Parameters
    ----------
    model : classifier
        Fitted on `class_codes`; classes that it never saw get probability 0.
    features : ndarray, shape (n, d)
        What the model takes.

    Returns
    -------
    ndarray of float64, shape (n, 4)
        In the order of `brainlib.CLASS_NAMES`.
    """
    probabilities = np.zeros((len(features), len(CLASS_NAMES)))
    probabilities[:, model.classes_] = model.predict_proba(features)
    return probabilities


def check_rows(table: pd.DataFrame, train: np.ndarray, test: np.ndarray) -> None:
    """Refuse row positions that are empty, overlap, or lie outside the table.

    Parameters
    ----------
    table : DataFrame
        Image table.
    train, test : ndarray of int
        Row positions.

    Raises
    ------
    AuditError
        Saying which of these it is.
    """
    if len(train) == 0 or len(test) == 0:
        raise AuditError("train and test must each have at least one row")
    if np.intersect1d(train, test).size:
        raise AuditError("some rows are in train and in test; the result would mean nothing")
    if max(np.max(train), np.max(test)) >= len(table) or min(np.min(train), np.min(test)) < 0:
        raise AuditError(f"a row number is outside the table's {len(table)} rows")
