"""From slices to a study: a tumour is what persists from slice to slice.

The evidence of a slice is its log odds of a tumour. It persists as far as a neighbouring slice has
evidence at the same place: the smaller of the two counts. The study's evidence is the highest that
persists; which tumour it is, slices tell in proportion to their own. A study is called a tumour
where its evidence reaches what nearly all held-out tumour patients reach, whatever healthy heads of
another scanner look like.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES

RADIUS = 0.12
"""Places of neighbouring slices this close, in shares of the image's sides, are the same."""

LEAST_SLICES = 3
"""In studies of fewer slices each stands for itself."""

BASE_ONLY = (
    "most of its lowest slices are classified as a pituitary tumour, as those of the base of the "
    "skull and the neck often are"
)
"""Why a study called a pituitary tumour is incomplete."""

LOWEST_SLICES, LEAST_AXIAL_SLICES = 5, 8

SHOWN = 4
"""So many of the slices that decided are named, the strongest first."""

COUNTS = ("slices", "accepted", "refused", "unreadable")
COLUMNS = ("series", "path", *COUNTS, "class", *CLASS_NAMES, "tumor_slices", "deciding")
"""The columns of `studies.csv`, without `gaps` and `decision`."""

NOTUMOR = CLASS_NAMES.index("notumor")

UNFITTED = {"offset": 0.0, "temperature": 1.0}
"""The rule where no fitted one lies beside the model."""

SENTENCE = (
    "A study is classified by the finding that persists: the strongest evidence of a tumour that "
    "neighbouring slices share at the same location, compared with that in held-out tumour "
    "patients. The type is the mean of the slices, weighted by their evidence. A single slice "
    "keeps its own probabilities."
)

_FLOOR = 1e-6  # probabilities count as at least this, or one slice would decide alone


def study_probabilities(
    slices: pd.DataFrame, codes: np.ndarray, rule: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Answer for studies.

    P(tumour) = sigmoid((evidence - offset) / temperature).

    Parameters
    ----------
    slices : DataFrame
        The four probabilities of each slice, its `slice` number, and `lesion_x` and `lesion_y`, the
        place of its strongest evidence in shares of the image's sides. Without the latter, as for
        slices that are no series, the second strongest slice of a study counts.
    codes : int array of shape (n,)
        The study of each slice, numbered from 0 without gaps.
    rule : mapping
        `offset` and `temperature`.

    Returns
    -------
    float64 array of shape (studies, 4)
        In `CLASS_NAMES` order. A study of one slice has that slice's probabilities.
    float64 array of shape (n,)
        The evidence of each slice that persists.

    Examples
    --------
    >>> slices = pd.DataFrame([[0.9, 0.05, 0.05, 0]] * 3, columns=CLASS_NAMES)
    >>> answers, _ = study_probabilities(slices, np.zeros(3, int), UNFITTED)
    >>> answers.round(2).tolist()
    [[0.9, 0.05, 0.05, 0.0]]
    """
    values, evidence, sizes = _probabilities(slices), evidence_of(slices), np.bincount(codes)
    if {"lesion_x", "lesion_y"} <= set(slices) and slices["lesion_x"].notna().all():
        persistent = _persistent(slices, codes, evidence)
    else:
        persistent = np.minimum(evidence, _second_highest(evidence, codes)[codes])
    is_small = sizes < LEAST_SLICES
    persistent = np.where(is_small[codes], evidence, persistent)
    offset, temperature = (np.where(is_small, UNFITTED[key], rule[key])
                           for key in ("offset", "temperature"))  # fmt: skip
    highest = pd.Series(persistent).groupby(codes).max().to_numpy()
    tumor = _sigmoid((highest - offset) / temperature)
    weights = _sigmoid((persistent - offset[codes]) / temperature[codes]) + _FLOOR
    kinds = np.delete(np.log(values), NOTUMOR, axis=1)
    scores = np.stack([np.bincount(codes, weights * kind) for kind in kinds.T], axis=1)
    scores = np.exp(scores / np.bincount(codes, weights)[:, np.newaxis])
    answers = scores / scores.sum(axis=1, keepdims=True) * tumor[:, np.newaxis]
    answers = np.insert(answers, NOTUMOR, 1 - tumor, axis=1)
    is_single = sizes[codes] == 1
    answers[codes[is_single]] = values[is_single]
    return answers, persistent


def summarise_studies(predictions: pd.DataFrame, rule: Mapping[str, float]) -> pd.DataFrame:
    """Give each study one answer.

    Refused, unreadable and missing slices take no part. A file that could not be read has no series
    and is a study by itself.

    Parameters
    ----------
    predictions : DataFrame
        Rows as `inference.classify` gives them.
    rule : mapping
        As for `study_probabilities`.

    Returns
    -------
    DataFrame
        The `COLUMNS`, a row a study, in order of first appearance. `path` is the file, or the
        folder that holds the files. `tumor_slices` counts the accepted slices classified as tumour.
        `deciding` names at most 4 slices by number, with blanks between: those of the most
        persistent evidence. A study without an accepted slice has no class and no
        probabilities.
    """
    table = predictions.reset_index(drop=True)
    codes, names = pd.factorize(study_keys(table))
    is_unreadable = (table["error"] != "").to_numpy()
    is_accepted = (table["decision"] == "accepted").to_numpy() & ~is_unreadable
    is_refused = table["decision"].str.startswith("refused").to_numpy() & ~is_unreadable
    files = table["path"].astype(str).groupby(codes).agg(_common_path)
    studies = pd.DataFrame({"series": names.astype(object), "path": files.astype(object)})
    masks = (np.ones(len(table), bool), is_accepted, is_refused, is_unreadable)
    for name, mask in zip(COUNTS, masks, strict=True):
        studies[name] = np.bincount(codes[mask], minlength=len(names))
    joined = studies.join(_answers(table[is_accepted], codes[is_accepted], rule))
    numbers = dict.fromkeys(CLASS_NAMES, float) | {"tumor_slices": int}
    joined = joined.astype({"tumor_slices": float})  # of no answers, the column is of objects
    joined = joined.fillna({"class": "", "deciding": "", "tumor_slices": 0}).astype(numbers)
    return joined[list(COLUMNS)]


def study_keys(slices: pd.DataFrame) -> pd.Series:
    """Return what study each row belongs to: its series, or its file where it names none."""
    return slices["series"].where(slices["series"] != "", slices["path"])


def starts_in_pituitary(rows: pd.DataFrame) -> bool:
    """Return whether most of the lowest slices of an axial study are called a pituitary tumour.

    The pituitary gland lies in the middle of the head: a series that shows the cerebrum starts well
    below it. Of the base of the skull and the neck, the network calls nearly all slices a pituitary
    tumour. Studies of fewer than 8 slices may be selected ones, and are left alone.
    """
    called = rows[rows["class"] != ""].sort_values("slice")
    return (
        len(called) >= LEAST_AXIAL_SLICES
        and bool((called["plane"] == "axial").all())
        and bool((called["class"].head(LOWEST_SLICES) == "pituitary").mean() > 0.5)
    )


def _probabilities(slices: pd.DataFrame) -> np.ndarray:
    values = np.maximum(slices[list(CLASS_NAMES)].to_numpy(np.float64), _FLOOR)
    return values / values.sum(axis=1, keepdims=True)


def evidence_of(slices: pd.DataFrame) -> np.ndarray:
    """Return the log odds of a tumour in each slice."""
    none = _probabilities(slices)[:, NOTUMOR]
    return np.log1p(-none) - np.log(none)


def _persistent(slices: pd.DataFrame, codes: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Return the evidence of each slice that a neighbour shares at the same place."""
    order = np.lexsort((slices["slice"], codes))
    places = slices[["lesion_x", "lesion_y"]].to_numpy(float)[order]
    distance = np.hypot(*np.diff(places, axis=0).T)
    gap = np.diff(slices["slice"].to_numpy(int)[order])
    is_same = (distance <= RADIUS) & (gap <= 2) & (np.diff(codes[order]) == 0)
    lowest = np.log(_FLOOR)
    shared = np.where(is_same, np.minimum(evidence[order][1:], evidence[order][:-1]), lowest)
    persistent = np.empty(len(order))
    persistent[order] = np.maximum(np.append(shared, lowest), np.append(lowest, shared))
    return persistent


def _second_highest(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the second highest value of each study, or its only one."""
    sizes = np.bincount(codes)
    ordered = values[np.lexsort((-values, codes))]
    return ordered[np.cumsum(sizes) - sizes + np.minimum(1, sizes - 1)]


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def _answers(table: pd.DataFrame, codes: np.ndarray, rule: Mapping[str, Any]) -> pd.DataFrame:
    """Return what is known of the studies that have accepted slices, indexed by their code."""
    values = table[list(CLASS_NAMES)].to_numpy(float)
    present, dense = np.unique(codes, return_inverse=True)
    if not len(present):
        return pd.DataFrame(columns=["class", *CLASS_NAMES, "tumor_slices", "deciding"])
    answers, persistent = study_probabilities(table, dense, rule)
    frame = pd.DataFrame(answers, index=present, columns=list(CLASS_NAMES))
    frame["class"] = np.take(CLASS_NAMES, answers.argmax(axis=1)).astype(object)
    called = dense[values.argmax(axis=1) != NOTUMOR]
    frame["tumor_slices"] = np.bincount(called, minlength=len(present))
    ranked = pd.DataFrame({"code": codes, "persistent": persistent,
                           "evidence": -values[:, NOTUMOR],
                           "text": table["slice"].astype(int).astype(str)})  # fmt: skip
    ranked = ranked.sort_values(["persistent", "evidence"], ascending=False, kind="stable")
    frame["deciding"] = ranked.groupby("code").head(SHOWN).groupby("code")["text"].agg(" ".join)
    return frame


def _common_path(paths: pd.Series) -> str:
    """Return the file of a study, or the folder that holds its files."""
    files = paths.unique().tolist()
    if len(files) == 1:
        return files[0]
    try:
        return os.path.commonpath(files).replace(os.sep, "/")
    except ValueError:  # some absolute and some not
        return files[0]
