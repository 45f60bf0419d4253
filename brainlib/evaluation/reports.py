"""Confusion matrix, metrics of each class, most confident errors."""

import numpy as np
import pandas as pd

from brainlib.evaluation.metrics import point_metrics
from brainlib.evaluation.tables import CLASSES, label_codes, probabilities


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
