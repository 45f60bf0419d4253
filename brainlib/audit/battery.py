"""Run the shortcuts over a protocol's folds, and ask how much of a class is its source."""

import logging
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES
from brainlib.audit.classes import TUMOUR_FREE, class_codes
from brainlib.audit.mirroring import mirror_flag
from brainlib.audit.pictures import AuditError, check_pixels, known
from brainlib.audit.shortcuts import (
    PROPERTIES,
    border_pixels,
    file_properties,
    intensity_features,
    intensity_statistics,
    masked_head,
    nearest_neighbor,
)

logger = logging.getLogger(__name__)

Folds = Iterable[tuple[np.ndarray, np.ndarray]]
Shortcut = Callable[..., np.ndarray]

SHORTCUTS: dict[str, Shortcut] = {
    "nearest_neighbor": nearest_neighbor,
    "intensity_statistics": intensity_statistics,
    "border_pixels": border_pixels,
    "masked_head": masked_head,
    "file_properties": file_properties,
    "mirror_flag": mirror_flag,
}
"""The battery, by name. All are called as `shortcut(table, pixels, train, test, seed=0)`."""

NEEDED = {"file_properties": PROPERTIES, "mirror_flag": ("mirrored",)}
"""Columns that a shortcut needs beside those of the image table."""


def run_shortcut(
    name: str, table: pd.DataFrame, pixels: np.ndarray, folds: Folds, seed: int = 0
) -> pd.DataFrame:
    """Make the prediction table of one shortcut under a protocol.

    Parameters
    ----------
    name : str
        A key of `SHORTCUTS`.
    table : DataFrame
        Image table, n rows.
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Its pixels.
    folds : iterable of (train, test)
        Row positions of each fold; one pair for a plain split.
    seed : int, default 0
        Seed of the trees.

    Returns
    -------
    DataFrame
        Prediction table: `path, patient, group, label, fold` and a probability column for each
        class, fold after fold, in the order of the test rows.

    Raises
    ------
    AuditError
        If the name is unknown, there is no fold, or the rows do not fit.
    """
    if name not in SHORTCUTS:
        raise AuditError(f"unknown shortcut {name!r}; there are {', '.join(SHORTCUTS)}")
    parts = []
    for fold, (train, test) in enumerate(folds):
        logger.info("shortcut %s, fold %d", name, fold)
        part = table.iloc[test][["path", "patient", "group", "label"]].reset_index(drop=True)
        part["fold"] = fold
        part[list(CLASS_NAMES)] = SHORTCUTS[name](table, pixels, train, test, seed)
        parts.append(part)
    if not parts:
        raise AuditError("there is no fold; give at least one pair of train and test rows")
    return pd.concat(parts, ignore_index=True)


def run_battery(
    table: pd.DataFrame,
    pixels: np.ndarray,
    folds: Folds,
    properties: pd.DataFrame | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Score every shortcut under a protocol.

    Parameters
    ----------
    table : DataFrame
        Image table, n rows.
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Its pixels.
    folds : iterable of (train, test)
        Row positions of each fold; one pair for a plain split.
    properties : DataFrame, optional
        As `read_file_properties` gives it; without it `file_properties` is left out, as is
        `mirror_flag` where the table has no `mirrored`.
    seed : int, default 0
        Seed of the trees.

    Returns
    -------
    DataFrame
        One row per shortcut (index `shortcut`): `pictures` (number predicted), `accuracy`,
        `balanced_accuracy`, `tumour_accuracy` and `tumour_auroc` (any tumour against none; the
        AUROC is missing where the test rows have only one of the two).

    Raises
    ------
    AuditError
        As the shortcuts.
    """
    folds = list(folds)
    if properties is not None:
        table = table.drop(columns=list(PROPERTIES), errors="ignore").join(properties)
    columns = set(table.columns)
    names = [name for name in SHORTCUTS if columns.issuperset(NEEDED.get(name, ()))]
    scores = {name: _scores(run_shortcut(name, table, pixels, folds, seed)) for name in names}
    return pd.DataFrame.from_dict(scores, orient="index").rename_axis("shortcut")


def _scores(predictions: pd.DataFrame) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    truth = class_codes(predictions)
    probabilities = predictions[list(CLASS_NAMES)].to_numpy(np.float64)
    right = probabilities.argmax(axis=1) == truth
    tumour, guess = truth != TUMOUR_FREE, probabilities.argmax(axis=1) != TUMOUR_FREE
    both = tumour.any() and not tumour.all()
    return {
        "pictures": len(truth),
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(pd.Series(right).groupby(truth).mean().mean()),
        "tumour_accuracy": float((tumour == guess).mean()),
        "tumour_auroc": float(roc_auc_score(tumour, 1 - probabilities[:, TUMOUR_FREE]))
        if both
        else float("nan"),
    }


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
    from sklearn.ensemble import HistGradientBoostingClassifier

    check_pixels(pixels, len(table))
    features, tumour = intensity_features(pixels), class_codes(table) != TUMOUR_FREE
    source, there = table["source"].to_numpy(object), known(table["source"])
    parts = []
    for train, test in folds:
        train, test = train[there[train]], test[there[test]]
        if len(set(source[train])) < 2:
            raise AuditError("a source classifier needs pictures of two sources in training")
        model = HistGradientBoostingClassifier(random_state=seed, early_stopping=False)
        guess = model.fit(features[train], source[train]).predict(features[test])
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
