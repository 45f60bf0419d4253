"""What a model gets right and wrong, class by class and picture by picture."""

import numpy as np
import pandas as pd

from brainlib.evaluation.metrics import point_metrics
from brainlib.evaluation.tables import CLASSES, probabilities, true_classes


def confusion(table: pd.DataFrame) -> pd.DataFrame:
    """Count the pictures by true class (rows) and predicted class (columns).

    Returns
    -------
    DataFrame of int, shape (4, 4)
        Both axes in `CLASS_NAMES` order. Of equal probabilities the first class is predicted.

    Examples
    --------
    >>> table = pd.DataFrame({"label": "glioma", "glioma": [0.9, 0.2], "meningioma": [0.1, 0.8],
    ...     "notumor": 0.0, "pituitary": 0.0})
    >>> confusion(table).loc["glioma"].tolist()
    [1, 1, 0, 0]
    """
    counts = np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(counts, (true_classes(table), probabilities(table).argmax(axis=1)), 1)
    return pd.DataFrame(counts, pd.Index(CLASSES, name="label"), CLASSES)


def class_report(table: pd.DataFrame) -> pd.DataFrame:
    """Return the metrics of each class, one row a class.

    Returns
    -------
    DataFrame
        `sensitivity`, `specificity`, `positive_predictive_value`, `f1`, `auroc`, `pictures`;
        NaN where not defined.

    Examples
    --------
    >>> table = pd.DataFrame({"label": "glioma", "glioma": [0.9, 0.2], "meningioma": [0.1, 0.8],
    ...     "notumor": 0.0, "pituitary": 0.0})
    >>> class_report(table).loc["glioma", "sensitivity"].item()
    0.5
    """
    columns = ("sensitivity", "specificity", "positive_predictive_value", "f1", "auroc")
    values = point_metrics(table)
    report = {column: [values[f"{column}_{name}"] for name in CLASSES] for column in columns}
    counts = np.bincount(true_classes(table), minlength=len(CLASSES))
    return pd.DataFrame({**report, "pictures": counts}, index=pd.Index(CLASSES, name="label"))


def most_confused(table: pd.DataFrame, count: int = 12) -> pd.DataFrame:
    """Return the wrongly classified pictures, the most confident mistake first.

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
    pictures = table[["path", "label"]].assign(predicted=predicted, probability=values.max(axis=1))
    wrong = pictures[pictures["label"] != pictures["predicted"]]
    order = wrong.sort_values(["probability", "path"], ascending=[False, True], ignore_index=True)
    return order.head(count)
