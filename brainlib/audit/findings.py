"""What duplicates mean: labels that contradict each other, and tests that are not tests."""

import numpy as np
import pandas as pd

from brainlib.audit.pictures import AuditError, known


def _check_columns(table: pd.DataFrame, *columns: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise AuditError(f"the table lacks {', '.join(missing)}; it has {', '.join(table.columns)}")


def _at(table: pd.DataFrame, column: str, rows: pd.Series) -> np.ndarray:
    return table[column].to_numpy(object)[rows.to_numpy(np.int64)]


def conflicting_labels(table: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """List the pairs that show one picture under two labels: at least one of them is wrong.

    Parameters
    ----------
    table : DataFrame
        Image table with `path` and `label`.
    pairs : DataFrame
        Pairs as `find_duplicates` gives them.

    Returns
    -------
    DataFrame
        The conflicting pairs, with `first_path`, `first_label`, `second_path`, `second_label`
        added.

    Raises
    ------
    AuditError
        If the table lacks a column.
    """
    _check_columns(table, "path", "label")
    listed = pairs.copy()
    for end in ("first", "second"):
        listed[f"{end}_path"] = _at(table, "path", pairs[end])
        listed[f"{end}_label"] = _at(table, "label", pairs[end])
    conflicting = listed["first_label"] != listed["second_label"]
    return listed[conflicting].reset_index(drop=True)


def conflicting_groups(table: pd.DataFrame) -> pd.DataFrame:
    """Count the labels of each group that has more than one.

    A patient has one kind of tumour in this collection, so that a patient with two labels is worth
    a look even where no copy of a picture betrays the mistake.

    Parameters
    ----------
    table : DataFrame
        Image table with `group` and `label`.

    Returns
    -------
    DataFrame
        One row per such group (index `group`), one column per label, counts of pictures.

    Raises
    ------
    AuditError
        If the table lacks a column.
    """
    _check_columns(table, "group", "label")
    counts = pd.crosstab(table["group"], table["label"])
    return counts[(counts > 0).sum(axis=1) > 1]


def groups_across_splits(table: pd.DataFrame) -> pd.DataFrame:
    """Count the pictures in each split of each group that lies in more than one.

    Parameters
    ----------
    table : DataFrame
        Image table with `group` and `split`.

    Returns
    -------
    DataFrame
        One row per such group (index `group`), one column per split, counts of pictures.

    Raises
    ------
    AuditError
        If the table lacks a column.
    """
    _check_columns(table, "group", "split")
    counts = pd.crosstab(table["group"], table["split"])
    return counts[(counts > 0).sum(axis=1) > 1]


def split_ties(
    table: pd.DataFrame,
    pairs: pd.DataFrame,
    train: str = "Training",
    test: str = "Testing",
) -> pd.DataFrame:
    """Count the test pictures that training has seen already, in one way or another.

    Parameters
    ----------
    table : DataFrame
        Image table with `label, split, patient, group`.
    pairs : DataFrame
        Pairs as `find_duplicates` gives them. For stricter twins select rows first:
        `pairs[pairs.correlation >= 0.999]`.
    train, test : str
        The two splits.

    Returns
    -------
    DataFrame
        One row per label and a last row `all`; counts of test pictures: `test` (all of them),
        `twin` (the same picture, or its mirror image, is in training), `patient_known`,
        `patient` (of these, the patient is in training), `group` (the group is in training),
        `free` (no twin, no patient and no group in training).

    Raises
    ------
    AuditError
        If the table lacks a column, or one of the splits is empty.
    """
    ties = ties_of_test_pictures(table, pairs, train, test)
    counts = ties.groupby("label").sum()
    counts.loc["all"] = counts.sum()
    return counts.astype(int)


def ties_of_test_pictures(
    table: pd.DataFrame,
    pairs: pd.DataFrame,
    train: str = "Training",
    test: str = "Testing",
) -> pd.DataFrame:
    """Say for each test picture how training knows it.

    Parameters
    ----------
    table, pairs, train, test
        As for `split_ties`.

    Returns
    -------
    DataFrame
        One row per test picture, with the table's index: `label`, and the columns of `split_ties`
        as bool.

    Raises
    ------
    AuditError
        As for `split_ties`.
    """
    _check_columns(table, "label", "split", "patient", "group")
    in_test = (table["split"] == test).to_numpy(bool)
    in_train = (table["split"] == train).to_numpy(bool)
    if not in_test.any() or not in_train.any():
        raise AuditError(f"the table has no pictures in {train} or none in {test}")
    ties = pd.DataFrame({"label": table["label"], "test": True}, table.index)
    ties["twin"] = _has_twin(pairs, in_train, len(table))
    ties["patient_known"] = known(table["patient"])
    for column in ("patient", "group"):
        seen = table.loc[in_train & known(table[column]), column]
        ties[column] = table[column].isin(seen).to_numpy(bool) & known(table[column])
    ties["free"] = ~(ties["twin"] | ties["patient"] | ties["group"])
    return ties[in_test]


def twins_across_splits(table: pd.DataFrame, pairs: pd.DataFrame, count: int = 6) -> pd.DataFrame:
    """Pick pairs of which one file is in Training and the other in Testing, to look at.

    Parameters
    ----------
    table : DataFrame
        Image table with `path` and `split`.
    pairs : DataFrame
        Pairs as `find_duplicates` gives them.
    count : int
        Rows at most, each of another file, half of them mirrored where there are as many.

    Returns
    -------
    DataFrame
        Rows of `pairs` with `train` and `test`, the row positions of the two files.

    Raises
    ------
    AuditError
        If the table lacks a column.
    """
    _check_columns(table, "path", "split")
    first, second = (_at(table, "split", pairs[end]) for end in ("first", "second"))
    across = (first == "Training") & (second == "Testing")
    back = (first == "Testing") & (second == "Training")
    picked = pairs[across | back].copy()
    picked["train"] = np.where(across, pairs["first"], pairs["second"])[across | back]
    picked["test"] = np.where(across, pairs["second"], pairs["first"])[across | back]
    picked = picked[~picked["train"].duplicated() & ~picked["test"].duplicated()]
    plain = picked[~picked["mirrored"]].head(count - count // 2)
    return pd.concat([plain, picked[picked["mirrored"]].head(count - len(plain))])


def _has_twin(pairs: pd.DataFrame, among: np.ndarray, length: int) -> np.ndarray:
    first, second = pairs["first"].to_numpy(np.int64), pairs["second"].to_numpy(np.int64)
    twin = np.zeros(length, bool)
    twin[first[among[second]]] = True
    twin[second[among[first]]] = True
    return twin


def score_against_provenance(table: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, float]:
    """Compare the pairs that were found with those that the provenance table knows.

    Parameters
    ----------
    table : DataFrame
        Image table with `patient` and `group`, and with `source_image` and `mirrored` from the
        provenance table: two files with the same source picture are a known pair.
    pairs : DataFrame
        Pairs as `find_duplicates` gives them.

    Returns
    -------
    dict of str to number
        `known_pairs`, `found_pairs`, `recall` (found / known); `mirrored_right`, the share of the
        found pairs whose mirrored flag is right; and the other pairs, which the provenance table
        does not list, by kind: `same_patient_other_slice`, `different_patients`,
        `same_group_other_file` (no patient known; near-identical pictures that the provenance
        table keeps together), `unexplained`.

    Raises
    ------
    AuditError
        If the table lacks a column.
    """
    _check_columns(table, "patient", "group", "source_image", "mirrored")
    sizes = table.loc[known(table["source_image"]), "source_image"].value_counts()
    known_pairs = int((sizes * (sizes - 1) // 2).sum())
    ends = {
        column: (_at(table, column, pairs["first"]), _at(table, column, pairs["second"]))
        for column in ("source_image", "patient", "group", "mirrored")
    }
    both_known = {
        column: _both_known(table[column], pairs) for column in ("source_image", "patient", "group")
    }
    equal = {column: first == second for column, (first, second) in ends.items()}
    same = equal["source_image"] & both_known["source_image"]
    flags = pairs["mirrored"].to_numpy(bool) == ~equal["mirrored"].astype(bool)
    patients = both_known["patient"] & ~same
    group = equal["group"] & both_known["group"] & ~same & ~patients
    return {
        "known_pairs": known_pairs,
        "found_pairs": int(same.sum()),
        "recall": float(same.sum() / known_pairs) if known_pairs else float("nan"),
        "mirrored_right": float(flags[same].mean()) if same.any() else float("nan"),
        "same_patient_other_slice": int((patients & equal["patient"]).sum()),
        "different_patients": int((patients & ~equal["patient"].astype(bool)).sum()),
        "same_group_other_file": int(group.sum()),
        "unexplained": int((~same & ~patients & ~group).sum()),
    }


def _both_known(values: pd.Series, pairs: pd.DataFrame) -> np.ndarray:
    there = known(values)
    return there[pairs["first"].to_numpy(np.int64)] & there[pairs["second"].to_numpy(np.int64)]
