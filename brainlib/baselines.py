"""What has to be beaten: shortcuts and a classical baseline, under the protocols side by side.

Each gets the training and validation rows of a protocol and leaves prediction tables beside
those of the networks, so that `03_evaluate` scores all of them alike.
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES, audit, paths, splits
from brainlib.datasets import Collection
from brainlib.images import LoadedImages

CLASSICAL = "hog_svm"
PROTOCOLS = ("patient", "official")
"""The protocols that train differently; `deduplicated` is `official` on fewer test pictures."""

logger = logging.getLogger(__name__)


def names() -> tuple[str, ...]:
    """Return the names of all baselines, the classical one last because it takes longest."""
    return (*audit.SHORTCUTS, CLASSICAL)


def write_predictions(
    collection: Collection, loaded: LoadedImages, folder: Path, seed: int = 0
) -> pd.DataFrame:
    """Write the prediction tables of all baselines that a folder does not hold yet.

    Parameters
    ----------
    collection : Collection
    loaded : LoadedImages
        Its pixels.
    folder : Path
        The folder of the prediction tables.
    seed : int

    Returns
    -------
    DataFrame
        The accuracy of each baseline on the test pictures, a column for each protocol.
    """
    table = loaded.table.join(audit.read_file_properties(collection.root, loaded.table))
    accuracies: dict[str, dict[str, float]] = {}
    for name in names():
        for protocol in PROTOCOLS:
            suffix = "_patient" if protocol == "patient" else ""
            file = folder / f"{name}{suffix}.test.csv"
            if not file.is_file():
                logger.info("baseline %s, protocol %s", name, protocol)
                with paths.atomic_write(file) as temporary:
                    predictions = _predict(name, table, loaded.pixels, protocol, seed)
                    predictions.to_csv(temporary, index=False, float_format="%.6f")
            found = pd.read_csv(file)
            right = found[list(CLASS_NAMES)].idxmax(axis="columns") == found["label"]
            accuracies.setdefault(name, {})[protocol] = float(right.mean())
    return pd.DataFrame(accuracies).T


def scanner_against_scanner(
    table: pd.DataFrame, pixels: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """Ask how much of tumour against no tumour the source of a picture tells, on new patients.

    Returns
    -------
    dict of str to float
        As `audit.source_classifier`; empty where the table knows one source only.
    """
    if table["source"].nunique() < 2:
        return {}
    found = (splits.make_split(table, "patient", fold, seed) for fold in range(splits.FOLDS))
    folds = [(np.concatenate([split.train, split.validation]), split.test) for split in found]
    scores = audit.source_classifier(table, pixels, folds, seed)
    return {name: round(float(value), 4) for name, value in scores.items()}


def _predict(
    name: str, table: pd.DataFrame, pixels: np.ndarray, protocol: str, seed: int
) -> pd.DataFrame:
    folds = range(splits.FOLDS if protocol == "patient" else 1)
    parts = []
    for fold in folds:
        split = splits.make_split(table, protocol, fold, seed)
        rows = (np.sort(np.concatenate([split.train, split.validation])), split.test)
        if name == CLASSICAL:
            probabilities = audit.classical_baseline(table, pixels, *rows, seed)
        else:
            probabilities = audit.SHORTCUTS[name](table, pixels, *rows, seed)
        tested = splits.part(table, split, "test")
        predictions = tested[["path", "patient", "group", "label"]].assign(fold=fold)
        predictions[list(CLASS_NAMES)] = probabilities
        extras = tested[["source", "plane", "twin_in_training"]]
        parts.append(pd.concat([predictions, extras], axis="columns"))
    return pd.concat(parts, ignore_index=True)
