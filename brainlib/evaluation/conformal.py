"""Conformal prediction sets: the classes that cannot be ruled out.

Class-conditional split conformal prediction (Vovk, 2012; Sadinle, Lei and Wasserman, 2019): the
score of a class is 1 - its probability, and a set holds every class whose score is at most that
class's threshold. The coverage holds on average over draws of patients where calibration and test
patients are different people from one population; no set promises anything for images of another
scanner.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from brainlib.evaluation.bootstrap import shares
from brainlib.evaluation.tables import CLASSES, label_codes, probabilities
from brainlib.paths import BrainlibError

COVERAGE = 0.98
"""The share of sets that are to hold the true class.

Chosen on the published predictions. The released network is right for 0.948 of the images of new
patients, so sets at 0.90 have 0.94 classes on average and 6 % are empty; at 0.95 they repeat its
answer (94 % hold one class, 0.9 % none). At 0.98 none is empty, 65 % hold one class, and the mean
is 1.36 classes: a set of two or three tells which answers to doubt. The starting network (right for
0.856) then needs 1.81 classes, the released one 1.58 at 0.99.
"""


def fit_conformal(table: pd.DataFrame, coverage: float = COVERAGE) -> dict[str, float]:
    """Find each class's threshold on calibration predictions.

    The threshold is the ceil((n + 1) coverage)-th smallest score of the n images of the class.

    Parameters
    ----------
    table : DataFrame
        A prediction table of calibration images: validation patients, never test patients.
    coverage : float
        The share of sets that are to hold the true class, between 0 and 1.

    Returns
    -------
    dict of str to float
        A threshold for each class, 0 to 1. It is 1 where there are too few images, fewer than
        coverage / (1 - coverage): such a class is in every set.

    Examples
    --------
    >>> table = pd.DataFrame({"label": "glioma", "glioma": [0.9, 0.75, 0.5], "meningioma": 0.0,
    ...     "notumor": [0.1, 0.25, 0.5], "pituitary": 0.0})
    >>> fit_conformal(table, coverage=0.5)
    {'glioma': 0.25, 'meningioma': 1.0, 'notumor': 1.0, 'pituitary': 1.0}
    """
    scores, labels = 1 - probabilities(table), label_codes(table)
    thresholds = {}
    for index, name in enumerate(CLASSES):
        of_class = np.sort(scores[labels == index, index])
        # rounding must not lift (n + 1) coverage over a whole number
        rank = int(np.ceil((len(of_class) + 1) * coverage - 1e-9))
        thresholds[name] = float(of_class[rank - 1]) if rank <= len(of_class) else 1.0
    return thresholds


def is_in_set(probability: Any, threshold: Any) -> Any:
    """Return whether a set holds a class: of its probability and threshold, or of arrays of them.

    Examples
    --------
    >>> is_in_set(0.25, 0.8), is_in_set(0.125, 0.8)
    (True, False)
    """
    return 1 - probability <= threshold


def conformal_sets(table: pd.DataFrame, thresholds: Mapping[str, float]) -> pd.DataFrame:
    """Return which classes are in each image's set, a table of bool with a column for each class.

    Examples
    --------
    >>> table = pd.DataFrame({"glioma": [0.6], "meningioma": 0.4, "notumor": 0.0, "pituitary": 0.0})
    >>> conformal_sets(table, dict.fromkeys(CLASSES, 0.7)).iloc[0].tolist()
    [True, True, False, False]
    """
    limits = np.array([thresholds[name] for name in CLASSES], float)
    return pd.DataFrame(is_in_set(probabilities(table), limits), table.index, CLASSES)


def cross_conformal(
    test: pd.DataFrame, validation: pd.DataFrame | None = None, coverage: float = COVERAGE
) -> pd.DataFrame:
    """Return the sets of test images, thresholds fitted fold by fold on other patients.

    Parameters
    ----------
    test : DataFrame
        Prediction table of a model under protocol `patient`.
    validation : DataFrame, optional
        Its predictions on the validation groups of each fold. Without them, the test images of the
        other folds stand in: other patients too.
    coverage : float

    Returns
    -------
    DataFrame of bool
        In the order of `test`.

    Raises
    ------
    BrainlibError
        Where there is neither validation nor a second fold.
    """
    sets = []
    for fold, tested in test.groupby("fold"):
        others = test[test["fold"] != fold]
        held_out = others if validation is None else validation[validation["fold"] == fold]
        if held_out.empty:
            raise BrainlibError(f"nothing to calibrate fold {fold} on: give its validation table")
        sets.append(conformal_sets(tested, fit_conformal(held_out, coverage)))
    return pd.concat(sets).loc[test.index]


def describe_sets(table: pd.DataFrame, sets: pd.DataFrame, resamples: int = 1000) -> pd.DataFrame:
    """Return how often the sets hold the true class, and how large they are.

    Parameters
    ----------
    table : DataFrame
        A prediction table of test images.
    sets : DataFrame of bool, shape (n, 4)
        Their sets, in the same order.

    Returns
    -------
    DataFrame
        A row for each true class, and `all`: `coverage` with `low` and `high` over resampled
        groups, `images`, `groups`, `mean_set_size`, and the shares `empty` and `single` of sets
        with no class and with one; NaN for a class without images.

    Examples
    --------
    >>> table = pd.DataFrame({"group": list("ab"), "label": "glioma", "glioma": [0.9, 0.2],
    ...     "meningioma": [0.1, 0.8], "notumor": 0.0, "pituitary": 0.0})
    >>> sets = conformal_sets(table, dict.fromkeys(CLASSES, 0.5))
    >>> describe_sets(table, sets).loc["all"][["coverage", "mean_set_size", "empty"]].tolist()
    [0.5, 1.0, 0.0]
    """
    labels, members = label_codes(table), sets[CLASSES].to_numpy(bool)
    covered = members[np.arange(len(labels)), labels]
    subsets = {name: labels == index for index, name in enumerate(CLASSES)} | {"all": labels >= 0}
    rows = shares(table, covered, subsets, "coverage", resamples)
    size = members.sum(axis=1)
    sizes = pd.DataFrame({"mean_set_size": size, "empty": size == 0, "single": size == 1})
    means = pd.DataFrame({name: sizes[inside].mean() for name, inside in subsets.items()}).T
    return rows.join(means).astype(float).rename_axis("label")
