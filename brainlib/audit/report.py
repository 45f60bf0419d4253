"""The whole audit of a collection in one call, as far as its table allows."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainlib.audit.duplicates import DUPLICATE_THRESHOLD, find_duplicates, negative_control
from brainlib.audit.findings import (
    conflicting_groups,
    conflicting_labels,
    groups_across_splits,
    score_against_provenance,
    split_ties,
)
from brainlib.audit.pictures import known

SPLITS = {"Training", "Testing"}


@dataclass(frozen=True)
class AuditReport:
    """What the audit found.

    Attributes
    ----------
    pairs : DataFrame
        Pairs that show one picture, as `find_duplicates` gives them.
    conflicts : DataFrame
        Those with two labels, as `conflicting_labels` gives them.
    ties : DataFrame or None
        Test pictures that Training knows, as `split_ties` gives them; None without a split.
    numbers : dict of str to number
        All counts, as `metrics.json` holds them.
    """

    pairs: pd.DataFrame
    conflicts: pd.DataFrame
    ties: pd.DataFrame | None
    numbers: dict[str, float]


def audit_collection(table: pd.DataFrame, pixels: np.ndarray) -> AuditReport:
    """Find copies from pixels alone, then compare them with what the table knows.

    Parameters
    ----------
    table : DataFrame
        Image table with `source_image`, `mirrored` and `mislabelled`.
    pixels : ndarray of uint8, shape (n, height, width, 1)

    Returns
    -------
    AuditReport
        Recall and false alarms need a table that knows its source pictures, the negative control
        needs patients, and the ties need the splits Training and Testing; what cannot be measured
        is absent.
    """
    pairs = find_duplicates(table, pixels)
    conflicts = conflicting_labels(table, pairs)
    numbers = {
        "threshold": DUPLICATE_THRESHOLD,
        "pairs": len(pairs),
        "mirrored_pairs": int(pairs["mirrored"].sum()),
        "identical_pairs": int(pairs["identical"].sum()),
        "pairs_with_two_labels": len(conflicts),
        "groups_with_two_labels": len(conflicting_groups(table)),
        "groups_across_splits": len(groups_across_splits(table)),
    }
    if table["mislabelled"].any():
        numbers |= _mislabelled(table, conflicts)
    if table["source_image"].duplicated().any():
        numbers |= score_against_provenance(table, pairs)
    if table.loc[known(table["patient"]), "patient"].nunique() > 1:
        numbers |= _control(table, pixels)
    ties = split_ties(table, pairs) if set(table["split"]) >= SPLITS else None
    if ties is not None:
        numbers |= {f"test_{name}": int(count) for name, count in ties.loc["all"].items()}
    return AuditReport(pairs, conflicts, ties, numbers)


def _mislabelled(table: pd.DataFrame, conflicts: pd.DataFrame) -> dict[str, float]:
    """Count the files known to be mislabelled, and those that a copy with another label betrays."""
    wrong = set(table.loc[table["mislabelled"], "path"])
    betrayed = wrong & {*conflicts["first_path"], *conflicts["second_path"]}
    return {"mislabelled_files": len(wrong), "mislabelled_files_found": len(betrayed)}


def _control(table: pd.DataFrame, pixels: np.ndarray) -> dict[str, float]:
    """Count how often different patients look the same, one file for each source picture."""
    rows = np.flatnonzero(~table["source_image"].duplicated())
    control = negative_control(table.iloc[rows].reset_index(drop=True), pixels[rows])
    return {
        "control_pairs": control.pairs,
        "control_highest_correlation": float(control.highest[0]),
        "control_false_pairs": control.false_pairs(DUPLICATE_THRESHOLD),
    }
