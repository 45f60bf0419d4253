"""Audit report: duplicates in one call, and what they mean for labels and splits."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainlib.audit.duplicates import DUPLICATE_THRESHOLD, find_duplicates, negative_control
from brainlib.data.datasets import SPLIT_NAMES
from brainlib.data.splits import has_splits

TRAINING, TESTING = SPLIT_NAMES

MEANINGS = {
    "pairs": "pairs of files that show the same image",
    "mirrored_pairs": "… of these, mirrored",
    "identical_pairs": "… of these, identical in every pixel",
    "pairs_with_two_labels": "… of these, with two labels",
    "known_pairs": "pairs of one source image, known from provenance",
    "recall": "recall: share of the known pairs that was found",
    "control_pairs": "negative control: pairs of different patients",
    "control_false_pairs": "… of these, above the threshold",
    "control_highest_correlation": "… their highest correlation",
    "test_images": "test images",
    "test_twin": "… that look like a file in Training",
    "test_patient": "… whose patient is in Training, as far as patients are known",
    "test_group": "… whose group is in Training",
    "test_free": "… free of any tie to Training",
    "look_alike_pairs": "pairs of look-alikes in different folds",
    "look_alike_images": "images of unknown patients in these pairs",
    "look_alike_threshold": "threshold of the correlation",
    "look_alike_control": "highest correlation of different patients",
    "largest_source": "accuracy of always naming the largest source",
    "source_accuracy": "… of the source predicted from twelve intensity statistics",
    "largest_answer": "… of always answering 'tumour', or always 'no tumour'",
    "tumour_accuracy_by_source": "… of tumour or none from the true source alone",
    "tumour_accuracy_by_predicted_source": "… of tumour or none from the predicted source alone",
}
"""Those numbers of an audit that matter most to readers."""


@dataclass(frozen=True)
class AuditReport:
    """Result of an audit.

    Attributes
    ----------
    pairs : DataFrame
        Duplicates, as `find_duplicates` returns them.
    conflicts : DataFrame
        Those with two labels, with `first_path`, `first_label`, `second_path`, `second_label`: at
        least one of the labels is wrong.
    numbers : dict of str to number
        All counts, as `metrics.json` holds them. With the splits these are among them, of the test
        images: `test_images` (all), `test_twin` (a duplicate is in training), `test_patient_known`,
        `test_patient` (of these, the patient is in training), `test_group` (the group is in
        training), `test_free` (none of these in training).
    """

    pairs: pd.DataFrame
    conflicts: pd.DataFrame
    numbers: dict[str, float]


def audit_collection(table: pd.DataFrame, pixels: np.ndarray) -> AuditReport:
    """Find duplicates from pixels alone, then compare them with the provenance in the table.

    Parameters
    ----------
    table : DataFrame
        Image table, n rows.
    pixels : ndarray of uint8, shape (n, height, width, 1)

    Returns
    -------
    AuditReport
        Recall and false alarms require known source images, the negative control patients, and
        the ties the splits Training and Testing; what cannot be measured is absent.
    """
    pairs = find_duplicates(table, pixels)
    ends = tuple(table.iloc[pairs[end]].reset_index(drop=True) for end in ("first", "second"))
    first, second = (end[["path", "label"]] for end in ends)
    conflicts = pairs.join(first.add_prefix("first_")).join(second.add_prefix("second_"))
    conflicts = conflicts[first["label"] != second["label"]].reset_index(drop=True)
    by_group = table.groupby("group")
    numbers = {
        "threshold": DUPLICATE_THRESHOLD,
        "pairs": len(pairs),
        "mirrored_pairs": int(pairs["mirrored"].sum()),
        "identical_pairs": int(pairs["identical"].sum()),
        "pairs_with_two_labels": len(conflicts),
        "groups_with_two_labels": int((by_group["label"].nunique() > 1).sum()),
        "groups_across_splits": int((by_group["split"].nunique() > 1).sum()),
    }
    if wrong := set(table.loc[table["mislabelled"], "path"]):
        revealed = wrong & {*conflicts["first_path"], *conflicts["second_path"]}
        numbers |= {"mislabelled_files": len(wrong), "mislabelled_files_found": len(revealed)}
    repeated = table["source_image"].duplicated().to_numpy()
    if repeated.any():
        numbers |= _compare_with_provenance(table, pairs, *ends)
    numbers |= negative_control(table[~repeated], pixels[~repeated])
    if has_splits(table):
        numbers |= _count_ties(table, pairs)
    return AuditReport(pairs, conflicts, numbers)


def describe(numbers: dict[str, float]) -> pd.DataFrame:
    """Return numbers of the audit with their meaning, as far as they have one in `MEANINGS`.

    Examples
    --------
    >>> describe({"pairs": 8613, "recall": 1.0})["value"].tolist()
    ['8,613', '1.000']
    """
    values = pd.Series(numbers, dtype=object).reindex(MEANINGS).dropna().rename(MEANINGS)
    return values.map(lambda x: f"{x:,}" if isinstance(x, int) else f"{x:.3f}").to_frame("value")


def twins_across_splits(table: pd.DataFrame, pairs: pd.DataFrame, count: int = 6) -> pd.DataFrame:
    """Pick pairs with one file in Training and the other in Testing, for display.

    Parameters
    ----------
    table : DataFrame
        Image table.
    pairs : DataFrame
        As `find_duplicates` returns them.
    count : int
        Maximum number of rows, each of another file, half of them mirrored if there are as many.

    Returns
    -------
    DataFrame
        Rows of `pairs` with `train` and `test`, the row positions of the two files.
    """
    rows = pairs[["first", "second"]].to_numpy()
    sides = table["split"].to_numpy()[rows]
    across = (np.sort(sides) == sorted(SPLIT_NAMES)).all(axis=1)
    ordered = np.where(sides[:, :1] == TRAINING, rows, rows[:, ::-1])
    picked = pairs.assign(train=ordered[:, 0], test=ordered[:, 1])[across]
    picked = picked[~picked["train"].duplicated() & ~picked["test"].duplicated()]
    plain = picked[~picked["mirrored"]].head(count - count // 2)
    return pd.concat([plain, picked[picked["mirrored"]].head(count - len(plain))])


def _count_ties(table: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, int]:
    train = (table["split"] == TRAINING).to_numpy()
    first, second = pairs["first"].to_numpy(), pairs["second"].to_numpy()
    twins = np.concatenate([first[train[second]], second[train[first]]])
    ties = pd.DataFrame({"images": True, "twin": np.isin(np.arange(len(table)), twins),
                         "patient_known": table["patient"] != ""})  # fmt: skip
    for column in ("patient", "group"):
        ties[column] = table[column].isin(set(table.loc[train, column]) - {""})
    ties["free"] = ~ties[["twin", "patient", "group"]].any(axis=1)
    return ties[table["split"] == TESTING].sum().add_prefix("test_").to_dict()


def _compare_with_provenance(
    table: pd.DataFrame, pairs: pd.DataFrame, first: pd.DataFrame, second: pd.DataFrame
) -> dict[str, float]:
    """Compare the pairs with the known ones, two files with the same source image.

    Returns
    -------
    dict of str to number
        `known_pairs`, `found_pairs`, `recall` (found / known); `mirrored_right`, the share of the
        found pairs whose mirrored flag is right; and the other pairs by kind:
        `same_patient_other_slice`, `different_patients`, `same_group_other_file` (patient unknown;
        near-identical images that the provenance table keeps together), `unexplained`.
    """
    sizes = table["source_image"].value_counts()
    known_pairs = int((sizes * (sizes - 1) // 2).sum())
    equal = first == second
    same = equal["source_image"]
    right = pairs["mirrored"] != equal["mirrored"]
    patients = (first["patient"] != "") & (second["patient"] != "") & ~same
    group = equal["group"] & ~same & ~patients
    return {
        "known_pairs": known_pairs,
        "found_pairs": int(same.sum()),
        "recall": float(same.sum() / known_pairs),
        "mirrored_right": float(right[same].mean()),
        "same_patient_other_slice": int((patients & equal["patient"]).sum()),
        "different_patients": int((patients & ~equal["patient"]).sum()),
        "same_group_other_file": int(group.sum()),
        "unexplained": int((~same & ~patients & ~group).sum()),
    }
