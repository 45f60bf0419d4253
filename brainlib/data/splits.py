"""From the image table and a protocol to training, validation and test rows, and the proof.

Protocols: `patient` (five folds that cut no group; the default everywhere), `official` (train on
Training, test on Testing, as everyone does) and `deduplicated` (official, without the test
pictures that also stand in Training).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from brainlib.data.datasets import COLUMNS, KAGGLE_SOURCES, read_provenance
from brainlib.paths import BrainlibError

PROTOCOLS = ("patient", "official", "deduplicated")
FOLDS = 5
VALIDATION_FRACTION = 0.2


class SplitError(BrainlibError):
    """A split that cannot be made, or one that leaks."""


@dataclass(frozen=True)
class Split:
    """Rows of an image table, by their position.

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
    def held_out(self) -> tuple[str, ...]:
        """The parts that are predicted: `validation`, where there is one, and `test`."""
        return ("validation", "test") if len(self.validation) else ("test",)

    def counts(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return pictures, groups and the pictures of each class, a row for each part."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        rows = {
            name: {
                "pictures": len(rows),
                "groups": table["group"].iloc[rows].nunique(),
                **table["label"].iloc[rows].value_counts().sort_index(),
            }
            for name, rows in parts.items()
        }
        return pd.DataFrame(rows).T.fillna(0).astype(int)


def make_split(
    table: pd.DataFrame,
    protocol: str = "patient",
    fold: int = 0,
    seed: int = 0,
    hold_out: float = VALIDATION_FRACTION,
) -> Split:
    """Split an image table by one of the three protocols.

    Under `patient` the test rows are one of five folds and the validation rows whole groups of the
    rest. Under `official` and `deduplicated` a random fifth of Training is held out for validation,
    patient or not, as the starting project did: those two are there to be compared with.

    Parameters
    ----------
    table : DataFrame
        The image table, with `source_image` and `mislabelled`.
    protocol : str
        One of `PROTOCOLS`.
    fold : int
        The test fold, 0 to 4, for `patient`.
    seed : int
        Seed of the choice of validation rows; the folds do not depend on it.
    hold_out : float
        About this share of the rest becomes validation rows; with 0 all of it is trained on.

    Raises
    ------
    SplitError
        For an unknown protocol or fold, or a table that does not allow it: fewer than two classes,
        and under `patient` a row without a group, a patient with two kinds of tumour, one source
        picture under two labels, too few groups, or a part that would lack a class.
    """
    if protocol not in PROTOCOLS:
        raise SplitError(f"no protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    _require_classes(table)
    if protocol == "patient":
        return _split_by_patient(table, fold, seed, hold_out)
    return _split_as_published(table, protocol, seed, hold_out)


def assign_folds(table: pd.DataFrame) -> np.ndarray:
    """Return the test fold of each row, -1 for rows that protocol `patient` leaves out.

    Left out are the mislabelled files and all but one file of each source picture. Version 1 of
    the Kaggle collection has its folds in a published file, which never changes; for any other
    table they are drawn by `StratifiedGroupKFold`.

    Returns
    -------
    int array of shape (n,)
    """
    published = read_published_folds()
    if table["source"].isin(KAGGLE_SOURCES).all() and table["path"].isin(published.index).all():
        return published.reindex(table["path"]).to_numpy()
    return _draw_folds(table)


def read_published_folds() -> pd.Series:
    """Return the published patient folds of Kaggle's version 1: fold by `path`, -1 for left out."""
    file = resources.files("brainlib") / "data" / "kaggle_v1_patient_folds.csv"
    with resources.as_file(file) as path:
        return pd.read_csv(path, index_col="path", encoding="utf-8")["fold"]


def benchmark() -> pd.DataFrame:
    """Return what a prediction table on the published patient folds is scored against.

    Returns
    -------
    DataFrame
        `path, label, patient, group, source, fold` of the pictures of the five folds.
    """
    table = read_provenance()
    folds = read_published_folds().reindex(table["path"]).to_numpy()
    table = table.assign(fold=folds, label=table["path"].str.split("/").str[1])
    columns = ["path", "label", "patient", "group", "source", "fold"]
    return table.loc[table["fold"] >= 0, columns].reset_index(drop=True)


def prove_disjoint(table: pd.DataFrame, split: Split) -> pd.DataFrame:
    """Count what training, validation and test share, and refuse a `patient` split that shares any.

    The other two protocols leak by their nature: their counts are there to be read.

    Returns
    -------
    DataFrame
        The number of shared patients, groups and source pictures for each pair of parts.

    Raises
    ------
    SplitError
        Where protocol `patient` shares a patient, a group or a source picture.
    """
    shared = count_shared(table, split)
    if split.protocol == "patient" and shared.to_numpy().any():
        raise SplitError(f"the split leaks; shared by each pair of parts:\n{shared.to_string()}")
    return shared


def part(table: pd.DataFrame, split: Split, name: str) -> pd.DataFrame:
    """Return the image table of one part, with the column `twin_in_training`.

    Parameters
    ----------
    table : DataFrame
        The image table that was split.
    split : Split
    name : str
        `train`, `validation` or `test`.
    """
    seen = table["source_image"].iloc[np.concatenate([split.train, split.validation])]
    rows = table.iloc[getattr(split, name)]
    return rows.assign(twin_in_training=rows["source_image"].isin(seen)).reset_index(drop=True)


def count_shared(table: pd.DataFrame, split: Split) -> pd.DataFrame:
    """Return how many patients, groups and source pictures each pair of parts has in common."""
    pairs = {
        "train and validation": (split.train, split.validation),
        "train and test": (split.train, split.test),
        "validation and test": (split.validation, split.test),
    }
    return pd.DataFrame(
        {
            name: {
                column: len(_keys(table, column, first) & _keys(table, column, second))
                for column in ("patient", "group", "source_image")
            }
            for name, (first, second) in pairs.items()
        }
    ).T.rename(columns=lambda column: f"shared {column}s".replace("_", " "))


def compare_protocols(table: pd.DataFrame) -> pd.DataFrame:
    """Return, for each protocol, how many test pictures are tied to the pictures trained on.

    Returns
    -------
    DataFrame
        A row for each protocol that the table allows (`patient` summed over its folds):
        `test pictures`, those `with a twin in training` (the same source picture), those `with
        their patient or group in training`, and those `free of any tie`.
    """
    rows = {}
    for protocol in PROTOCOLS:
        if protocol != "patient" and not {"Training", "Testing"} <= set(table["split"]):
            continue
        folds = range(FOLDS if protocol == "patient" else 1)
        ties = sum(_count_ties(table, make_split(table, protocol, fold)) for fold in folds)
        names = ("test pictures", "with a twin in training")
        names += ("with their patient or group in training", "free of any tie")
        rows[protocol] = dict(zip(names, ties, strict=True))
    return pd.DataFrame(rows).T.astype(int)


def _count_ties(table: pd.DataFrame, split: Split) -> np.ndarray:
    seen = np.concatenate([split.train, split.validation])
    tested = table.iloc[split.test]
    twin, patient, group = (
        tested[column].isin(_keys(table, column, seen))
        for column in ("source_image", "patient", "group")
    )
    related = patient | group
    return np.array([len(tested), twin.sum(), related.sum(), (~twin & ~related).sum()])


def _keys(table: pd.DataFrame, column: str, rows: np.ndarray) -> set[str]:
    return set(table[column].iloc[rows]) - {""}


def _require_classes(table: pd.DataFrame) -> None:
    absent = [name for name in (*COLUMNS, "source_image", "mirrored", "mislabelled")
              if name not in table]  # fmt: skip
    if absent:
        raise SplitError(
            f"the image table has no column {', '.join(absent)}: make it with "
            "data.open_collection or datasets.open_folder"
        )
    labels = table["label"].unique()
    if len(labels) < 2:
        raise SplitError(
            f"a split needs pictures of at least two classes, and the table has "
            f"{', '.join(labels) or 'none'} only: add the folders of the other classes"
        )


def _require_groups(table: pd.DataFrame) -> None:
    lacking = table.loc[table["group"].isna() | (table["group"] == ""), "path"]
    if len(lacking):
        raise SplitError(
            f"{len(lacking)} pictures have no group, for instance {lacking.iloc[0]}: name their "
            "patient or group in images.csv, or take the groups of audit.group_from_audit"
        )


def _require_one_label(table: pd.DataFrame) -> None:
    """Refuse what cannot be: one picture under two labels, or a patient with two kinds of tumour.

    A group may hold several labels, since it joins pictures for many reasons, and a patient may
    have slices with tumour and without: both are kept whole, which is all that a split needs.
    """
    used = table[~table["mislabelled"]]
    tumors = used[(used["label"] != "notumor") & (used["patient"] != "")]
    for rows, column, name in ((used, "source_image", "source picture"),
                               (tumors, "patient", "patient")):  # fmt: skip
        labels = rows.groupby(column)["label"].unique()
        labels = labels[labels.map(len) > 1]
        if len(labels):
            raise SplitError(
                f"{name} {labels.index[0]!r} has the labels {' and '.join(sorted(labels.iloc[0]))}"
                f" ({len(labels)} such in all): correct the folder of the wrong pictures, or put "
                "1 into the column mislabelled of their rows in images.csv, which leaves them out"
            )


def _lacks_a_class(table: pd.DataFrame, rows: np.ndarray, classes: set[str]) -> bool:
    return set(table["label"].iloc[rows]) != classes


def _draw_folds(table: pd.DataFrame) -> np.ndarray:
    rows = np.flatnonzero(~table["mislabelled"] & ~_is_repeated(table))
    labels, groups = table["label"].iloc[rows], table["group"].iloc[rows]
    fewest = groups.groupby(labels).nunique().min()
    if fewest < FOLDS:
        raise SplitError(
            f"protocol 'patient' needs at least {FOLDS} groups of each class, and one class has "
            f"{fewest}: add pictures of more patients"
        )
    folds = np.full(len(table), -1)
    for fold, (_, test) in enumerate(_group_folds(labels, groups, FOLDS, seed=0)):
        if _lacks_a_class(table, rows[test], set(labels)):
            absent = ", ".join(sorted(set(labels) - set(labels.iloc[test])))
            raise SplitError(
                f"fold {fold} of protocol 'patient' would have no picture of {absent}, because "
                "too few groups hold most of its pictures: add pictures of more patients"
            )
        folds[rows[test]] = fold
    return folds


def _group_folds(
    labels: pd.Series, groups: pd.Series, count: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rest and the rows of each fold; folds cut no group and have alike class shares.

    Groups are shuffled here: `shuffle=True` does not keep the class shares before scikit-learn 1.8,
    and a seed shall give the same folds under all versions.
    """
    codes = pd.factorize(groups, sort=True)[0]
    shuffled = np.random.default_rng(seed).permutation(codes.max() + 1)[codes]
    return StratifiedGroupKFold(count).split(labels, labels, shuffled)


def _is_repeated(table: pd.DataFrame) -> pd.Series:
    """Return whether a file shows a source picture that an earlier row, unmirrored first, shows."""
    order = table.assign(row=range(len(table))).sort_values(["mislabelled", "mirrored", "row"])
    return order["source_image"].duplicated().reindex(table.index)


def _split_by_patient(table: pd.DataFrame, fold: int, seed: int, hold_out: float) -> Split:
    if fold not in range(FOLDS):
        raise SplitError(f"no fold {fold!r}: choose one of 0 to {FOLDS - 1}")
    _require_groups(table)
    _require_one_label(table)
    folds = assign_folds(table)
    test = np.flatnonzero(folds == fold)
    rest = np.flatnonzero((folds >= 0) & (folds != fold))
    train, validation = _hold_out_groups(table.iloc[rest], seed, hold_out)
    split = Split("patient", fold, rest[train], rest[validation], test)
    prove_disjoint(table, split)
    return split


def _hold_out_groups(table: pd.DataFrame, seed: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return training and validation rows that share no group and hold every class, both."""
    if not share:
        return np.arange(len(table)), np.arange(0)
    labels, groups = table["label"], table["group"]
    fewest = int(groups.groupby(labels).nunique().min())
    parts = max(2, min(round(1 / share), fewest))
    for train, validation in _group_folds(labels, groups, parts, seed):
        if not any(_lacks_a_class(table, rows, set(labels)) for rows in (train, validation)):
            return train, validation
    raise SplitError(
        "no part of the pictures can be held out for validation that has every class: "
        "add pictures of more patients"
    )


def _split_as_published(table: pd.DataFrame, protocol: str, seed: int, hold_out: float) -> Split:
    training = np.flatnonzero(table["split"] == "Training")
    test = np.flatnonzero(table["split"] == "Testing")
    if not len(training) or not len(test):
        raise SplitError(
            f"protocol {protocol!r} needs folders Training and Testing: use protocol 'patient'"
        )
    if protocol == "deduplicated":
        twins = table["source_image"].isin(table["source_image"].iloc[training])
        test = test[~twins.iloc[test].to_numpy()]
    if not hold_out:
        return Split(protocol, 0, training, np.arange(0), test)
    train, validation = train_test_split(
        training, test_size=hold_out, random_state=seed, shuffle=True
    )
    return Split(protocol, 0, np.sort(train), np.sort(validation), test)
