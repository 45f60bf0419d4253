"""Train, validation and test rows of an image table under three protocols.

Protocols: `patient` (five folds that cut no group; the default everywhere), `official` (train on
Training, test on Testing, as everyone does) and `deduplicated` (official, without the test images
that are also in Training).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from brainlib.data.datasets import SPLIT_NAMES, refuse_images
from brainlib.data.kaggle import KAGGLE_ORIGINS, read_provenance
from brainlib.paths import BrainlibError

PROTOCOLS = ("patient", "official", "deduplicated")
FOLDS = 5
VALIDATION_FRACTION = 0.2
_KEYS = ("patient", "group", "source_image")


@dataclass(frozen=True)
class Split:
    """Rows of an image table, by position.

    Attributes
    ----------
    protocol : str
        One of `PROTOCOLS`.
    fold : int
        The test fold, 0 to 4, of protocol `patient`; 0 otherwise.
    train, validation, test : int arrays
    """

    protocol: str
    fold: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def subsets(self) -> dict[str, np.ndarray]:
        """The rows of `train`, `validation` and `test`, by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def seen(self) -> np.ndarray:
        """The rows of `train`, then those of `validation`."""
        return np.concatenate([self.train, self.validation])

    @property
    def held_out(self) -> tuple[str, ...]:
        """The subsets to predict: `validation`, unless it is empty, and `test`."""
        return ("validation", "test") if len(self.validation) else ("test",)

    def counts(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return images, groups and the images of each class, one row per subset."""
        parts = {name: table.iloc[rows] for name, rows in self.subsets.items()}
        counts = {name: {"images": len(part), "groups": part["group"].nunique(),
                         **part["label"].value_counts().sort_index()}
                  for name, part in parts.items()}  # fmt: skip
        return pd.DataFrame(counts).T.fillna(0).astype(int)


def make_split(
    table: pd.DataFrame, protocol: str = "patient", fold: int = 0, seed: int = 0,
    hold_out: float = VALIDATION_FRACTION,
) -> Split:  # fmt: skip
    """Split an image table by one of the three protocols.

    Under `patient` the test rows are one of five folds and the validation rows whole groups of the
    rest. Under `official` and `deduplicated` a random fifth of Training is held out for validation
    regardless of patients, as the starting project did: these two exist for comparison.

    Parameters
    ----------
    table : DataFrame
        The image table.
    protocol : str
        One of `PROTOCOLS`.
    fold : int
        The test fold, 0 to 4, for `patient`.
    seed : int
        Seed of the choice of validation rows; the folds do not depend on it.
    hold_out : float
        Approximate share of the rest that becomes validation rows; 0 trains on all of it.

    Raises
    ------
    BrainlibError
        For an unknown protocol or fold, or an unsuitable table: fewer than two classes, and under
        `patient` a row without a group, a patient with two kinds of tumour, one source image with
        two labels, too few groups, or a subset that would lack a class.
    """
    if protocol not in PROTOCOLS:
        raise BrainlibError(f"no protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    if table["label"].nunique() < 2:
        raise BrainlibError(
            f"a split needs images of at least two classes, and the table has "
            f"{', '.join(table['label'].unique()) or 'none'}: add the folders of the other classes"
        )
    if protocol == "patient":
        return _split_by_patient(table, fold, seed, hold_out)
    return _split_as_published(table, protocol, seed, hold_out)


def make_splits(table: pd.DataFrame, protocol: str = "patient", seed: int = 0) -> list[Split]:
    """Return the splits of all folds: five for `patient`, one for the other protocols."""
    folds = range(FOLDS if protocol == "patient" else 1)
    return [make_split(table, protocol, fold, seed) for fold in folds]


def assign_folds(table: pd.DataFrame) -> np.ndarray:
    """Return the test fold of each row, -1 for rows that protocol `patient` leaves out.

    Mislabelled files and all but one file of each source image are left out. The folds of the
    Kaggle collection, version 1, are a published file that never changes; those of any other table
    are drawn by `StratifiedGroupKFold`.

    Returns
    -------
    int array of shape (n,)
    """
    published = read_published_folds()
    if table["source"].isin(KAGGLE_ORIGINS).all() and table["path"].isin(published.index).all():
        return published.reindex(table["path"]).to_numpy()
    return _draw_folds(table)


def read_published_folds() -> pd.Series:
    """Return the published patient folds of Kaggle's version 1: fold by `path`, -1 for left out."""
    file = Path(__file__).with_name("kaggle_v1_patient_folds.csv")
    return pd.read_csv(file, index_col="path", encoding="utf-8")["fold"]


def benchmark() -> pd.DataFrame:
    """Return the reference for prediction tables on the published patient folds.

    Returns
    -------
    DataFrame
        `path, label, patient, group, source, fold` of the images of the five folds.
    """
    folds = read_published_folds()
    table = read_provenance().merge(folds[folds >= 0].reset_index())
    table["label"] = table["path"].str.split("/").str[1]
    return table[["path", "label", "patient", "group", "source", "fold"]]


def prove_disjoint(table: pd.DataFrame, split: Split) -> pd.DataFrame:
    """Count what train, validation and test share; refuse a `patient` split that shares anything.

    The other two protocols leak by design: their counts are for reading.

    Returns
    -------
    DataFrame
        The number of shared patients, groups and source images of each pair of subsets.

    Raises
    ------
    BrainlibError
        If protocol `patient` shares a patient, a group or a source image.
    """
    values = {name: [{*table[key].iloc[rows]} - {""} for key in _KEYS]
              for name, rows in split.subsets.items()}  # fmt: skip
    shared = {f"{a} and {b}": map(len, map(set.intersection, values[a], values[b]))
              for a, b in combinations(values, 2)}  # fmt: skip
    shared = pd.DataFrame(shared, [f"shared {key}s".replace("_", " ") for key in _KEYS]).T
    if split.protocol == "patient" and shared.to_numpy().any():
        raise BrainlibError(
            f"the split leaks; shared by each pair of subsets:\n{shared}\nGive all images of a "
            "patient, and all files of a source image, the same group in images.csv"
        )
    return shared


def subset(table: pd.DataFrame, split: Split, name: str) -> pd.DataFrame:
    """Return the image table of one subset, with the column `twin_in_training`.

    Parameters
    ----------
    table : DataFrame
        The image table that was split.
    split : Split
    name : str
        `train`, `validation` or `test`.
    """
    seen = table["source_image"].iloc[split.seen]
    rows = table.iloc[split.subsets[name]]
    return rows.assign(twin_in_training=rows["source_image"].isin(seen)).reset_index(drop=True)


def compare_protocols(table: pd.DataFrame) -> pd.DataFrame:
    """Count, for each protocol, the test images that are tied to training images.

    Returns
    -------
    DataFrame
        A row for each protocol that the table allows (`patient` summed over its folds):
        `test images`, those `with a twin in training` (the same source image), those `with their
        patient or group in training`, and those `free of any tie`.
    """
    rows = {}
    for protocol in PROTOCOLS if has_splits(table) else PROTOCOLS[:1]:
        for split in make_splits(table, protocol):
            seen, test = table.iloc[split.seen], table.iloc[split.test]
            patient, group, twin = (test[key].isin(set(seen[key]) - {""}) for key in _KEYS)
            rows[protocol, split.fold] = {
                "test images": len(test),
                "with a twin in training": twin.sum(),
                "with their patient or group in training": (patient | group).sum(),
                "free of any tie": (~twin & ~patient & ~group).sum(),
            }
    return pd.DataFrame(rows).T.groupby(level=0, sort=False).sum()


def has_splits(table: pd.DataFrame) -> bool:
    """Return whether a table has the published splits, Training and Testing."""
    return set(table["split"]) >= set(SPLIT_NAMES)


def _check_patients(table: pd.DataFrame) -> None:
    """Refuse images without a group, and images or patients with contradictory labels.

    A group may hold several labels, since it joins images for many reasons, and a patient may have
    slices with tumour and without: both stay whole, which is all that a split needs.
    """
    advice = "name patient or group in images.csv, or take the groups of audit.group_from_audit"
    lacking = table.loc[table["group"].fillna("") == "", "path"]
    refuse_images(lacking, "there is no group for", advice)
    used = table[~table["mislabelled"]]
    tumors = used[(used["label"] != "notumor") & (used["patient"] != "")]
    advice = (
        "correct the folder of the wrong images, or put 1 into the column mislabelled of their "
        "rows in images.csv, which leaves them out"
    )
    for rows, column in ((used, "source_image"), (tumors, "patient")):
        torn = rows[rows.groupby(column)["label"].transform("nunique") > 1].sort_values(column)
        problem = f"there are several labels for one {column.replace('_', ' ')} among"
        refuse_images(torn["path"], problem, advice)


def _draw_folds(table: pd.DataFrame) -> np.ndarray:
    order = table.assign(row=range(len(table))).sort_values(["mislabelled", "mirrored", "row"])
    is_repeated = order["source_image"].duplicated().reindex(table.index)
    rows = np.flatnonzero(~table["mislabelled"] & ~is_repeated)
    labels, groups = table["label"].iloc[rows], table["group"].iloc[rows]
    available = groups.groupby(labels).nunique()
    folds = np.full(len(table), -1)
    if available.min() >= FOLDS:
        for fold, (_, test) in enumerate(_group_folds(labels, groups, FOLDS, seed=0)):
            folds[rows[test]] = fold
    counts = pd.crosstab(labels, folds[rows])
    if counts.shape[1] < FOLDS or not counts.all(axis=None):
        label = (available if available.min() < FOLDS else counts.min(axis=1)).idxmin()
        raise BrainlibError(
            f"protocol 'patient' needs at least {FOLDS} groups of every class, one in each fold; "
            f"{label} has {available[label]} ({(labels == label).sum()} images) and would be "
            "missing from a fold. Without images.csv, images that look nearly alike are one group: "
            "name their patients there, or add images of more patients"
        )
    return folds


def _group_folds(labels: pd.Series, groups: pd.Series, count: int, seed: int) -> Iterator[tuple]:
    """Yield the rest and the rows of each fold; folds cut no group and balance the classes.

    Groups are shuffled here: `shuffle=True` does not balance the classes before scikit-learn 1.8,
    and a seed must give the same folds under all versions.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    codes = pd.factorize(groups, sort=True)[0]
    shuffled = np.random.default_rng(seed).permutation(codes.max() + 1)[codes]
    return StratifiedGroupKFold(count).split(labels, labels, shuffled)


def _split_by_patient(table: pd.DataFrame, fold: int, seed: int, hold_out: float) -> Split:
    if fold not in range(FOLDS):
        raise BrainlibError(f"no fold {fold!r}: choose one of 0 to {FOLDS - 1}")
    _check_patients(table)
    folds = assign_folds(table)
    rest = np.flatnonzero((folds >= 0) & (folds != fold))
    train, validation = _hold_out_groups(table.iloc[rest], seed, hold_out)
    split = Split("patient", fold, rest[train], rest[validation], np.flatnonzero(folds == fold))
    prove_disjoint(table, split)
    return split


def _hold_out_groups(table: pd.DataFrame, seed: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return training and validation rows that share no group and both hold every class."""
    if not share:
        return np.arange(len(table)), np.arange(0)
    labels, groups = table["label"], table["group"]
    count = max(2, min(round(1 / share), groups.groupby(labels).nunique().min()))
    for train, validation in _group_folds(labels, groups, count, seed):
        if all(labels.iloc[rows].nunique() == labels.nunique() for rows in (train, validation)):
            return train, validation
    raise BrainlibError(
        "no validation set that has every class can be held out: add images of more patients, "
        "or set hold_out to 0"
    )


def _split_as_published(table: pd.DataFrame, protocol: str, seed: int, hold_out: float) -> Split:
    if not has_splits(table):
        raise BrainlibError(
            f"protocol {protocol!r} needs folders Training and Testing: use protocol 'patient'"
        )
    from sklearn.model_selection import train_test_split

    train, test = (np.flatnonzero(table["split"] == name) for name in SPLIT_NAMES)
    validation = np.arange(0)
    if protocol == "deduplicated":
        images = table["source_image"].to_numpy()
        test = test[~np.isin(images[test], images[train])]
    if hold_out:
        train, validation = train_test_split(train, test_size=hold_out, random_state=seed)
    return Split(protocol, 0, np.sort(train), np.sort(validation), test)
