"""Where pictures come from, and how much of their class that gives away."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES
from brainlib.audit import classifiers
from brainlib.audit.classes import TUMOUR_FREE, class_codes
from brainlib.audit.pictures import AuditError, check_pixels, known
from brainlib.audit.shortcuts import intensity_features

Folds = Iterable[tuple[np.ndarray, np.ndarray]]


def source_classifier(
    table: pd.DataFrame, pixels: np.ndarray, folds: Folds, seed: int = 0
) -> dict[str, float]:
    """Predict which collection a picture comes from, and from that alone whether it has a tumour.

    A picture's source is told from its twelve intensity statistics with gradient boosting. Then
    every picture of a source gets that source's more frequent answer in training, tumour or none.
    If this is right nearly always, tumour against none is scanner against scanner.

    Parameters
    ----------
    table : DataFrame
        Image table with `source`, n rows; rows without a source are left out.
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Its pixels.
    folds : iterable of (train, test)
        Row positions of each fold.
    seed : int, default 0
        Seed of the trees.

    Returns
    -------
    dict of str to number
        `pictures`; `source_accuracy`; `largest_source`, the accuracy of always naming the most
        frequent source; `tumour_accuracy_by_source`, of answering tumour or none from the true
        source; `tumour_accuracy_by_predicted_source`, the same from the predicted one; and
        `largest_answer`, of always giving the more frequent answer.

    Raises
    ------
    AuditError
        If fewer than two sources are known in training, or the rows do not fit.
    """
    check_pixels(pixels, len(table))
    features, tumour = intensity_features(pixels), class_codes(table) != TUMOUR_FREE
    source, there = table["source"].to_numpy(object), known(table["source"])
    parts = []
    for train, test in folds:
        train, test = train[there[train]], test[there[test]]
        if len(set(source[train])) < 2:
            raise AuditError("a source classifier needs pictures of two sources in training")
        model = classifiers.boost(features[train], source[train], source[train], seed)
        guess = model.predict(features[test])
        answer = pd.Series(tumour[train]).groupby(source[train]).mean() >= 0.5
        parts.append(
            pd.DataFrame(
                {
                    "source": source[test],
                    "guess": guess,
                    "tumour": tumour[test],
                    "by_source": answer.reindex(source[test], fill_value=True).to_numpy(bool),
                    "by_guess": answer.reindex(guess).to_numpy(bool),
                }
            )
        )
    told = pd.concat(parts, ignore_index=True)
    return {
        "pictures": len(told),
        "source_accuracy": float((told["source"] == told["guess"]).mean()),
        "largest_source": float(told["source"].value_counts(normalize=True).iloc[0]),
        "tumour_accuracy_by_source": float((told["tumour"] == told["by_source"]).mean()),
        "tumour_accuracy_by_predicted_source": float((told["tumour"] == told["by_guess"]).mean()),
        "largest_answer": float(max(told["tumour"].mean(), 1 - told["tumour"].mean())),
    }


def sources_by_class(table: pd.DataFrame) -> pd.DataFrame:
    """Count the pictures of each class in each source.

    Parameters
    ----------
    table : DataFrame
        Image table with `label` and `source`.

    Returns
    -------
    DataFrame
        One row per source, one column per class in the order of `brainlib.CLASS_NAMES`.
    """
    counts = pd.crosstab(table["source"], table["label"])
    return counts.reindex(columns=list(CLASS_NAMES), fill_value=0)
