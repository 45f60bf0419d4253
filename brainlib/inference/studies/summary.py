"""From a table of slices to a table of studies."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES
from brainlib.inference.studies.pooling import NOTUMOR, StudyError, study_probabilities

SHOWN = 4
"""So many of the slices that decided are named, the strongest first."""

COUNTS = ("slices", "accepted", "refused", "unreadable")
COLUMNS = ("series", "path", *COUNTS, "class", *CLASS_NAMES, "tumor_slices", "deciding")
"""The columns of `studies.csv`."""

_NEEDED = ("path", "series", "slice", *CLASS_NAMES, "decision", "error")


def summarise_studies(predictions: pd.DataFrame, rule: Mapping[str, Any]) -> pd.DataFrame:
    """Give each study one answer.

    Refused and unreadable slices are counted and take no part. A file that could not be read has
    no series and is a study by itself.

    Parameters
    ----------
    predictions : DataFrame
        Rows as `inference.classify` gives them: `path, series, slice`, the four probabilities,
        `decision` (`accepted`, or `refused: <reason>`) and `error`. With a column `patient`, slices
        of one patient are one study, whatever their series.
    rule : mapping
        As `fit_study_rule` gives it.

    Returns
    -------
    DataFrame
        The `COLUMNS`, a row a study, in order of first appearance. `path` is the file, or the
        folder that holds the files. `tumor_slices` counts the accepted slices whose own class is a
        tumour. `deciding` names at most 4 of the pooled slices by number, with blanks between:
        those most in favour of the study's class first; where that is `notumor`, those that look
        most like a tumour first. A study without an accepted slice has no class and no
        probabilities.

    Raises
    ------
    StudyError
        Where a column is missing, or the rule is none.
    """
    absent = [name for name in _NEEDED if name not in predictions]
    if absent:
        raise StudyError(
            f"the table of slices has no column {', '.join(absent)}: give what classify returns"
        )
    table = predictions.reset_index(drop=True)
    keys = _keys(table)
    codes, names = pd.factorize(keys)
    is_unreadable = (table["error"].fillna("") != "").to_numpy()
    is_accepted = (table["decision"].fillna("") == "accepted").to_numpy() & ~is_unreadable
    is_refused = ~is_accepted & ~is_unreadable
    studies = pd.DataFrame({"series": names.astype(object), "path": _places(table, codes)})
    masks = (np.ones(len(table), bool), is_accepted, is_refused, is_unreadable)
    for name, mask in zip(COUNTS, masks, strict=True):
        studies[name] = np.bincount(codes[mask], minlength=len(names))
    answers = _answers(table[is_accepted], codes[is_accepted], rule)
    joined = studies.join(answers)
    joined["tumor_slices"] = joined["tumor_slices"].fillna(0).astype(int)
    return joined.fillna({"class": "", "deciding": ""})[list(COLUMNS)]


def _answers(table: pd.DataFrame, codes: np.ndarray, rule: Mapping[str, Any]) -> pd.DataFrame:
    """Return what is known of the studies that have accepted slices, indexed by their code."""
    values = table[list(CLASS_NAMES)].to_numpy(float)
    if not np.isfinite(values).all():
        row = table.index[~np.isfinite(values).all(axis=1)][0]
        raise StudyError(
            f"{table.loc[row, 'path']} is accepted and has no probabilities: classify it again"
        )
    present, dense = np.unique(codes, return_inverse=True)
    answers, is_pooled = study_probabilities(values, dense, rule)
    classes = answers.argmax(axis=1)
    frame = pd.DataFrame(answers, index=present, columns=list(CLASS_NAMES))
    frame["class"] = np.take(CLASS_NAMES, classes).astype(object)
    is_tumor = values.argmax(axis=1) != NOTUMOR
    frame["tumor_slices"] = np.bincount(dense[is_tumor], minlength=len(present))
    frame["deciding"] = ""
    found = _deciding(values[is_pooled], dense[is_pooled], classes, table["slice"][is_pooled])
    frame.loc[present[found.index], "deciding"] = found.to_numpy()
    return frame


def _deciding(
    values: np.ndarray, codes: np.ndarray, classes: np.ndarray, numbers: pd.Series
) -> pd.Series:
    """Return the numbers of the slices that speak loudest, as text, by study."""
    chosen = classes[codes]
    weight = values[np.arange(len(codes)), chosen]
    weight = np.where(chosen == NOTUMOR, -weight, weight)
    ordered = pd.DataFrame({"code": codes, "weight": weight, "number": numbers.to_numpy()})
    ordered = ordered.sort_values(["code", "weight"], ascending=[True, False], kind="stable")
    first = ordered.groupby("code").head(SHOWN)
    texts = first["number"].astype(float).astype(int).astype(str)
    return texts.groupby(first["code"]).agg(" ".join)


def _keys(table: pd.DataFrame) -> pd.Series:
    """Return what study each row belongs to."""
    series = _text(table, "series")
    keys = series.where(series != "", _text(table, "path"))
    if "patient" in table:
        patient = _text(table, "patient")
        keys = patient.where(patient != "", keys)
    return keys


def _text(table: pd.DataFrame, column: str) -> pd.Series:
    return table[column].astype(object).where(table[column].notna(), "").astype(str)


def _places(table: pd.DataFrame, codes: np.ndarray) -> np.ndarray:
    """Return the file of each study, or the folder that holds its files."""
    unique = pd.DataFrame({"code": codes, "path": _text(table, "path")}).drop_duplicates()
    places = unique.groupby("code")["path"].agg(list)
    return np.array([_common(found) for found in places], object)


def _common(found: list[str]) -> str:
    if len(found) == 1:
        return found[0]
    try:
        return os.path.commonpath(found).replace(os.sep, "/")
    except ValueError:  # some absolute and some not
        return found[0]
