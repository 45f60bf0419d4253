"""What has to be beaten: shortcuts and a classical baseline, under the protocols side by side.

Each gets the training and validation rows of a protocol and leaves prediction tables beside
those of the networks, so that `03_evaluate` scores all of them alike.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from brainlib import CLASS_NAMES, audit, paths
from brainlib.data import splits
from brainlib.data.datasets import SPLIT_NAMES, Collection
from brainlib.imaging import LoadedImages

PROTOCOLS = ("patient", "official")
"""The protocols that train differently; `deduplicated` is `official` on fewer test pictures."""

KEPT = ("path", "patient", "group", "label", "source", "plane", "twin_in_training")


def write_predictions(
    collection: Collection, loaded: LoadedImages, folder: Path, seed: int = 0
) -> pd.DataFrame:
    """Write the prediction tables of all baselines that a folder does not hold yet.

    A table that names the same pictures with the same labels is kept, whatever its seed.

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
    for name in tqdm(audit.SHORTCUTS, desc="baselines", delay=2):
        features = None
        for protocol in _protocols(table):
            suffix = "patient" if protocol == "patient" else "official"
            file = folder / f"{name}_{suffix}.test.csv"
            if not _is_finished(file, table, protocol, seed):
                if features is None:
                    features = audit.shortcut_features(name, table, loaded.pixels)
                predictions = _predict(name, table, features, protocol, seed)
                with paths.atomic_write(file) as temporary:
                    predictions.to_csv(temporary, index=False, float_format="%.6f")
            accuracies.setdefault(name, {})[protocol] = _accuracy(file)
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
    folds = [
        (np.concatenate([split.train, split.validation]), split.test)
        for split in _splits(table, "patient", seed)
    ]
    scores = audit.source_classifier(table, pixels, folds, seed)
    return {name: round(float(value), 4) for name, value in scores.items()}


def describe_scanners(scores: dict[str, float]) -> pd.DataFrame:
    """Return the scores of `scanner_against_scanner` with what each of them means."""
    meanings = {
        "largest_source": "always naming the largest source names the right one",
        "source_accuracy": "twelve intensity statistics name the right source",
        "largest_answer": "always saying 'tumour', or always 'none', is right",
        "tumour_accuracy_by_source": "saying what is usual for the true source is right",
        "tumour_accuracy_by_predicted_source": "saying what is usual for the named source is right",
    }
    rows = {text: scores[name] for name, text in meanings.items() if name in scores}
    return pd.DataFrame({"share of pictures": rows}, dtype=float).rename_axis("on new patients")


def _predict(
    name: str, table: pd.DataFrame, features: np.ndarray, protocol: str, seed: int
) -> pd.DataFrame:
    parts = []
    for split in _splits(table, protocol, seed):
        train = np.sort(np.concatenate([split.train, split.validation]))
        predictions = splits.part(table, split, "test")[list(KEPT)].assign(fold=split.fold)
        predictions[list(CLASS_NAMES)] = audit.predict_shortcut(
            name, table, features, train, split.test, seed
        )
        parts.append(predictions)
    return pd.concat(parts, ignore_index=True)


def _accuracy(file: Path) -> float:
    table = pd.read_csv(file)
    predicted = table[list(CLASS_NAMES)].idxmax(axis="columns")
    return float((predicted == table["label"]).mean())


def _is_finished(file: Path, table: pd.DataFrame, protocol: str, seed: int) -> bool:
    """Return whether a table is there already and holds the pictures that it should."""
    if not file.is_file():
        return False
    expected = [table.iloc[split.test] for split in _splits(table, protocol, seed)]
    found = pd.read_csv(file, usecols=["path", "label"], dtype=str)
    return found.equals(
        pd.concat(expected, ignore_index=True)[["path", "label"]].astype(found.dtypes)
    )


def _protocols(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the protocols that a table allows: a folder without splits has no official one."""
    return PROTOCOLS if set(table["split"]) >= set(SPLIT_NAMES) else PROTOCOLS[:1]


def _splits(table: pd.DataFrame, protocol: str, seed: int) -> list[splits.Split]:
    folds = range(splits.FOLDS if protocol == "patient" else 1)
    return [splits.make_split(table, protocol, fold, seed) for fold in folds]
