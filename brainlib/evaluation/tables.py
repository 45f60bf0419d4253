"""Prediction tables: read, checked, joined to a reference, averaged over patients."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES
from brainlib.paths import BrainlibError

CLASSES = list(CLASS_NAMES)
TEXT_COLUMNS = ("path", "patient", "group", "label")
COLUMNS = (*TEXT_COLUMNS, "fold")
SUM_TOLERANCE = 2e-3  # four probabilities written with three digits
ROUNDING = 1e-6  # a softmax in single precision can end a little above 1
_REFERENCE_COLUMNS = ("label", "patient", "group", "fold", "source", "plane", "twin_in_training")


class EvaluationError(BrainlibError):
    """A prediction table, or a choice, from which no trustworthy number can be computed."""


def read_predictions(
    path: Path | str,
    reference: pd.DataFrame | Callable[[pd.DataFrame], pd.DataFrame | None] | None = None,
) -> pd.DataFrame:
    r"""Read a prediction table from CSV and check it.

    Parameters
    ----------
    path : Path or str
        UTF-8 CSV with `path, patient, group, label, fold` and a probability column for each class.
    reference : DataFrame, or callable that takes the table as read and gives one, optional
        A table that knows `label`, `patient`, `group` and `fold` of the same pictures. With it the
        file needs only `path` and the four probabilities, as another framework would write it.

    Returns
    -------
    DataFrame
        `path, patient, group, label` as text, `patient` empty where it is unknown.

    Raises
    ------
    EvaluationError
        Where the file is absent, is no CSV, or is no prediction table; see `check_predictions`.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "patient.csv"
    >>> _ = file.write_text(
    ...     "path,patient,group,label,fold,glioma,meningioma,notumor,pituitary\n"
    ...     "a.jpg,007,fig_007,glioma,0,0.7,0.1,0.1,0.1\n", encoding="utf-8")
    >>> read_predictions(file)["patient"].item()
    '007'
    """
    missing = {name: ["", "nan", "NaN"] for name in CLASSES}
    types = dict.fromkeys(TEXT_COLUMNS, str)
    try:
        # a patient may be called "NA": only empty probabilities are missing values
        table = pd.read_csv(
            path, dtype=types, na_values=missing, keep_default_na=False, encoding="utf-8"
        )
    except FileNotFoundError as error:
        raise EvaluationError(
            f"{path} does not exist: name a CSV of predictions, such as training writes them"
        ) from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read as UTF-8 CSV: {error}") from error
    known = reference(table) if callable(reference) and "path" in table else reference
    if isinstance(known, pd.DataFrame):
        table = join_reference(table, known, str(path))
    check_predictions(table, str(path))
    return table


def check_predictions(table: pd.DataFrame, name: str = "the prediction table") -> None:
    """Refuse a table that is not a prediction table.

    Parameters
    ----------
    table : DataFrame
    name : str
        What the message calls the table; the path of its file where it has one.

    Raises
    ------
    EvaluationError
        For missing columns, no rows, a picture named twice, an unknown label, an empty group, a
        patient in two groups, and probabilities that are not numbers in [0, 1] summing to 1
        within 0.002. The message names the table, the first rows concerned, and what to do.

    Examples
    --------
    >>> check_predictions(pd.DataFrame({"path": ["a.jpg"]}), "mine.csv")
    Traceback (most recent call last):
    brainlib.evaluation.tables.EvaluationError: mine.csv has no column patient, group, ...
    """
    _require_columns(table, (*COLUMNS, *CLASSES), name)
    _check_paths(table, name)
    _check_labels(table, name)
    _check_groups(table, name)
    _check_folds(table, name)
    _check_probabilities(table, name)


def join_reference(
    table: pd.DataFrame, reference: pd.DataFrame, name: str = "the prediction table"
) -> pd.DataFrame:
    """Join what is known of the pictures to predictions that have only `path` and probabilities.

    Parameters
    ----------
    table : DataFrame
        `path` and the four probability columns.
    reference : DataFrame
        A prediction table or an image table of the same pictures. Of its columns `label`,
        `patient`, `group`, `fold`, `source`, `plane` and `twin_in_training` are joined, and
        replace those of `table`.
    name : str
        What messages call the table.

    Returns
    -------
    DataFrame
        The rows of `table` in their order.

    Raises
    ------
    EvaluationError
        Where a picture is in one table and not in the other, stands twice, or where the two
        tables give a picture different labels.

    Examples
    --------
    >>> bare = pd.DataFrame({"path": ["a"], "glioma": 1.0, "meningioma": 0.0, "notumor": 0.0,
    ...                      "pituitary": 0.0})
    >>> known = pd.DataFrame({"path": ["a"], "label": ["glioma"], "patient": [""], "group": ["g"],
    ...                       "fold": [0]})
    >>> join_reference(bare, known)["label"].item()
    'glioma'
    """
    _require_columns(table, ("path", *CLASSES), name)
    _check_paths(table, name)
    _check_paths(reference, "the reference")
    _require_same_pictures(table["path"], reference["path"], name, "the published reference")
    known = reference[["path", *(c for c in _REFERENCE_COLUMNS if c in reference)]]
    joined = table.drop(columns=known.columns.drop("path"), errors="ignore").merge(
        known, "left", "path"
    )
    if "label" in table and "label" in known:
        differs = table["label"].to_numpy() != joined["label"].to_numpy()
        _refuse(
            table.loc[differs, "path"], f"{name} and the reference disagree on the label of",
            "make sure that both describe the same collection",
        )  # fmt: skip
    return joined


def probabilities(table: pd.DataFrame) -> np.ndarray:
    """Return the probabilities, each row divided by its sum.

    Returns
    -------
    float64 array of shape (n, 4)
        Columns in `CLASS_NAMES` order.

    Raises
    ------
    EvaluationError
        Where they are not numbers in [0, 1] that sum to 1 within 0.002.

    Examples
    --------
    >>> table = pd.DataFrame({"pituitary": [0.1], "notumor": 0.2, "meningioma": 0.3, "glioma": 0.4})
    >>> probabilities(table).round(3).tolist()
    [[0.4, 0.3, 0.2, 0.1]]
    """
    _check_probabilities(table, "the prediction table")
    values = table[CLASSES].to_numpy(np.float64).clip(0, 1)
    return values / values.sum(axis=1, keepdims=True)


def true_classes(table: pd.DataFrame) -> np.ndarray:
    """Return the position of each label in `CLASS_NAMES`, int64 array of shape (n,).

    Raises
    ------
    EvaluationError
        For a label that is not one of `CLASS_NAMES`.

    Examples
    --------
    >>> true_classes(pd.DataFrame({"label": ["pituitary", "glioma"]})).tolist()
    [3, 0]
    """
    _check_labels(table, "the prediction table")
    return pd.Index(CLASSES).get_indexer(table["label"]).astype(np.int64)


def group_codes(table: pd.DataFrame) -> np.ndarray:
    """Return the number of each row's group, groups counted from 0 in order of their names.

    Returns
    -------
    int array of shape (n,)

    Raises
    ------
    EvaluationError
        Where a row has no group.
    """
    _check_groups(table, "the prediction table")
    return np.unique(table["group"].astype(str).to_numpy(object), return_inverse=True)[1]


def per_patient(table: pd.DataFrame) -> pd.DataFrame:
    """Average the probabilities over the slices of each patient.

    A patient whose slices carry different labels has a row for each label, so that every row has
    one right answer. Where the patient is unknown the group stands for it.

    Returns
    -------
    DataFrame
        A prediction table again, sorted by `path`, one row a patient. `path` is the patient (or
        group), followed by `/<label>` where it has several labels; `pictures` counts its slices;
        `group`, `fold`, `source` and `plane` are those of its first slice by `path`.

    Examples
    --------
    >>> slices = pd.DataFrame({"path": ["a", "b"], "patient": "p", "group": "g", "label": "glioma",
    ...     "fold": 0, "glioma": [0.9, 0.5], "meningioma": [0.1, 0.5], "notumor": 0.0,
    ...     "pituitary": 0.0})
    >>> float(per_patient(slices)["glioma"].item())
    0.7
    """
    check_predictions(table)
    patient = _known_patients(table)
    is_known = patient != ""
    # a patient and somebody else's group may share a name: known and unknown never mix
    keyed = table.assign(patient=patient, key=patient.where(is_known, table["group"]))
    keyed[CLASSES] = probabilities(table)
    keyed["is_known"] = is_known
    slices = keyed.sort_values("path").groupby(["is_known", "key", "label"], sort=True)
    averaged = slices.first().assign(pictures=slices.size(), **slices[CLASSES].mean())
    averaged = averaged.reset_index()
    repeated = averaged.duplicated("key", keep=False)
    averaged["path"] = averaged["key"].mask(repeated, averaged["key"] + "/" + averaged["label"])
    columns = [column for column in table if column in averaged]
    averaged = averaged[[*dict.fromkeys([*columns, "pictures"])]]
    return averaged.sort_values("path", ignore_index=True)


def restrict_to_tumors(table: pd.DataFrame, source: str = "figshare") -> pd.DataFrame:
    """Keep the tumour pictures of one source, and ask only which tumour it is.

    Pictures with and without tumour come from different scanners, so telling them apart says
    little about tumours; within one source the scanner gives nothing away. The probability of
    `notumor` is set to 0 and the other three are divided by their sum, which is what the model
    says given that there is a tumour; where it leaves them nothing, each gets a third.

    Parameters
    ----------
    table : DataFrame
        A prediction table with `source`.
    source : str
        The source whose rows are kept.

    Raises
    ------
    EvaluationError
        Where there is no column `source`, or no tumour picture of that source.

    Examples
    --------
    >>> table = pd.DataFrame({"label": ["glioma"], "source": "figshare", "glioma": 0.3,
    ...     "meningioma": 0.1, "notumor": 0.6, "pituitary": 0.0})
    >>> restrict_to_tumors(table)[CLASSES].round(2).iloc[0].tolist()
    [0.75, 0.25, 0.0, 0.0]
    """
    if "source" not in table:
        raise EvaluationError("the prediction table has no column source: join it by path")
    kept = table[(table["source"] == source) & (table["label"] != "notumor")].copy()
    if kept.empty:
        found = ", ".join(sorted(table["source"].astype(str).unique()))
        raise EvaluationError(
            f"no tumour picture of source {source!r} among the predictions: choose one of {found}"
        )
    values = probabilities(kept)
    values[:, CLASSES.index("notumor")] = 0
    values[values.sum(axis=1) == 0] = [0 if name == "notumor" else 1 for name in CLASSES]
    kept[CLASSES] = values / values.sum(axis=1, keepdims=True)
    return kept.reset_index(drop=True)


def require_same_pictures(first: pd.DataFrame, second: pd.DataFrame) -> None:
    """Refuse two prediction tables that are not about the same pictures with the same labels.

    Raises
    ------
    EvaluationError
        With the number of pictures that differ, and the first few.
    """
    names = ("the first table", "the second table")
    for table, name in zip((first, second), names, strict=True):
        _check_paths(table, name)
    _require_same_pictures(first["path"], second["path"], *names)
    labels = second.set_index("path")["label"].reindex(first["path"])
    differs = first["label"].to_numpy() != labels.to_numpy()
    _refuse(
        first.loc[differs, "path"], "the two tables disagree on the label of",
        "make sure that both describe the same collection",
    )  # fmt: skip


def _require_columns(table: pd.DataFrame, columns: Iterable[str], name: str) -> None:
    absent = [column for column in columns if column not in table]
    if absent:
        raise EvaluationError(
            f"{name} has no column {', '.join(absent)}. A prediction table has the columns "
            f"{', '.join((*COLUMNS, *CLASSES))}; for pictures of the published patient folds "
            "path and the four probabilities are enough"
        )


def _check_paths(table: pd.DataFrame, name: str) -> None:
    _require_columns(table, ["path"], name)
    paths = table["path"]
    if paths.isna().any() or (paths == "").any():
        raise EvaluationError(f"{name} has rows without path: name each row's picture")
    _refuse(
        paths[paths.duplicated()], f"{name} has more than one row for",
        "keep one prediction of each picture",
    )  # fmt: skip


def _check_labels(table: pd.DataFrame, name: str) -> None:
    _require_columns(table, ["label"], name)
    is_unknown = ~table["label"].isin(CLASSES)
    labels = table.loc[is_unknown, "label"].astype(str).unique()
    _refuse(
        _names(table)[is_unknown],
        f"{name} has unknown labels ({_first_few(labels)}) for",
        f"a label is one of {', '.join(CLASSES)}",
    )


def _check_groups(table: pd.DataFrame, name: str) -> None:
    _require_columns(table, ["group"], name)
    is_empty = table["group"].isna() | (table["group"].astype(str) == "")
    _refuse(
        _names(table)[is_empty], f"{name} has no group for",
        "give each picture the group that no split may cut; its own path where nothing is known",
    )  # fmt: skip
    patient = _known_patients(table) if "patient" in table else pd.Series("", index=table.index)
    groups = table["group"][patient != ""].groupby(patient[patient != ""]).nunique()
    cut = groups.index[groups > 1]
    if len(cut):
        raise EvaluationError(
            f"{name} has {len(cut)} patients in more than one group, for instance "
            f"{_first_few(cut)}: give all pictures of a patient one group, or intervals are "
            "too narrow"
        )


def _check_folds(table: pd.DataFrame, name: str) -> None:
    numbers = pd.to_numeric(table["fold"], errors="coerce")
    _refuse(
        table.loc[~(numbers >= 0) | (numbers % 1 != 0), "path"], f"{name} has no fold for",
        "a fold is a whole number from 0; 0 everywhere where there are none",
    )  # fmt: skip


def _check_probabilities(table: pd.DataFrame, name: str) -> None:
    _require_columns(table, CLASSES, name)
    if table.empty:
        raise EvaluationError(f"{name} has no rows: predict at least one picture")
    try:
        values = table[CLASSES].to_numpy(np.float64)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{name} has probabilities that are no numbers: {error}") from error
    paths = _names(table)
    _refuse(
        paths[~np.isfinite(values).all(axis=1)], f"{name} has missing or infinite probabilities of",
        "predict these pictures again or leave them out",
    )  # fmt: skip
    _refuse(
        paths[((values < -ROUNDING) | (values > 1 + ROUNDING)).any(axis=1)],
        f"{name} has probabilities outside 0 to 1 for",
        "write probabilities, not logits or per cent",
    )
    _refuse(
        paths[np.abs(values.sum(axis=1) - 1) > SUM_TOLERANCE],
        f"{name} has probabilities that do not sum to 1 for",
        f"they must within {SUM_TOLERANCE}: write the output of a softmax over the four classes",
    )


def _require_same_pictures(
    first: pd.Series, second: pd.Series, first_name: str, second_name: str
) -> None:
    lacking = [
        f"{name} lacks {len(absent)} pictures of {other} ({_first_few(absent)})"
        for absent, name, other in (
            (second[~second.isin(first)], first_name, second_name),
            (first[~first.isin(second)], second_name, first_name),
        )
        if len(absent)
    ]
    if lacking:
        raise EvaluationError(f"{'; '.join(lacking)}. Both must have the same pictures")


def _names(table: pd.DataFrame) -> pd.Series:
    """Return what messages call the rows: their paths, their index where they have none."""
    return table["path"] if "path" in table else table.index.to_series()


def _known_patients(table: pd.DataFrame) -> pd.Series:
    return table["patient"].astype(object).where(table["patient"].notna(), "").astype(str)


def _refuse(paths: pd.Series, problem: str, advice: str) -> None:
    if len(paths):
        raise EvaluationError(f"{problem} {len(paths)} pictures ({_first_few(paths)}): {advice}")


def _first_few(values: Iterable[object], count: int = 3) -> str:
    values = [str(value) for value in values]
    return ", ".join(values[:count]) + (", …" if len(values) > count else "")
