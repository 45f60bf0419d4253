"""Prediction tables: reading, checks, the published folds, averages over patients.

A prediction table has a row for each image: `path, patient, group, label, fold` and a probability
for each class. Evaluation reads nothing else, so neither model nor accelerator is needed. Columns
`source`, `plane` and `twin_in_training` are used where they are present.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES, paths
from brainlib.data import splits
from brainlib.data.datasets import read_csv, refuse_images, require_same_images
from brainlib.paths import BrainlibError

CLASSES = list(CLASS_NAMES)
TEXT_COLUMNS = ("path", "patient", "group", "label")
COLUMNS = (*TEXT_COLUMNS, "fold", *CLASSES)
SUM_TOLERANCE = 2e-3  # four probabilities written with three digits
ROUNDING = 1e-6  # a softmax in single precision can end a little above 1
PUBLISHED = "model/predictions"
"""The predictions behind the released results, below the project's root."""

_RUN_NAME = re.compile(rf"(.+)_({'|'.join(splits.PROTOCOLS)})\d?")

Tables = dict[str, dict[str, pd.DataFrame]]
"""Prediction tables by model, then by protocol, in the order of `splits.PROTOCOLS`."""


def run_name(model: str, protocol: str, fold: int) -> str:
    """Return the name of a trained model: `seed_cnn_patient0` by fold, `seed_cnn_official`."""
    return f"{model}_{protocol}{fold if protocol == 'patient' else ''}"


def parse_run(name: str) -> tuple[str, str] | None:
    """Return model and protocol of a run by its name, with or without a fold; None of another name.

    Examples
    --------
    >>> parse_run(run_name("my_patient_net", "official", fold=0))
    ('my_patient_net', 'official')
    """
    parts = _RUN_NAME.fullmatch(name)
    return parts and parts.groups()


def read_tables(
    source: Path | str, subset: str = "test", images: pd.Series | None = None,
    models: Sequence[str] = (),
) -> Tables:  # fmt: skip
    """Read prediction tables, the folds of a model joined.

    Files are named `<run>.<subset>.csv`, see `run_name`, or `<model>_patient.<subset>.csv` for all
    folds. Without a table of its own, `deduplicated` is `official` without the twins.

    Parameters
    ----------
    source : Path or str
        A folder of prediction tables; or a single table on the published patient folds, made with
        any framework, which needs only `path` and the four probabilities. It comes first, with the
        published predictions of `models` to compare with.
    subset : str
        `test` or `validation`.
    images : Series of str, optional
        The paths of the source that the predictions are about.
    models : sequence of str
        Models that come first where there are tables of them; others follow alphabetically.

    Raises
    ------
    BrainlibError
        Where there is no table of test predictions, or one is about other images.
    """
    source = paths.resolve(source)
    if not source.exists():
        raise BrainlibError(f"{source} does not exist: give a prediction table or a folder of them")
    if source.is_dir():
        tables = _read_folder(source, subset)
        tables = {name: tables[name] for name in models if name in tables} | tables
    else:
        tables = _read_single(source, models) if subset == "test" else {}
    if subset == "test" and not tables:
        raise BrainlibError(
            f"{source} holds no prediction table (<name>.test.csv): run notebooks/02_train.ipynb"
        )
    for model, by_protocol in tables.items() if images is not None else ():
        predicted = pd.concat(by_protocol)["path"].drop_duplicates()
        problem = f"the source of {model} in {source} does not hold"
        advice = "name the source that they were made on, or another output folder for each source"
        refuse_images(predicted[~predicted.isin(images)], problem, advice)
    return tables


def _read_folder(folder: Path, subset: str) -> Tables:
    folds: dict[str, dict[str, list[pd.DataFrame]]] = {}
    for file in sorted(folder.glob(f"*.{subset}.csv")):
        if run := parse_run(file.name.removesuffix(f".{subset}.csv")):
            folds.setdefault(run[0], {}).setdefault(run[1], []).append(read_predictions(file))
    tables: Tables = {}
    for model, by_protocol in folds.items():
        joined = {name: pd.concat(read, ignore_index=True) for name, read in by_protocol.items()}
        for protocol, table in joined.items() if subset == "test" else ():
            # validation groups of one fold are trained on in another
            check_predictions(table, f"{model}, protocol {protocol}, in {folder}")
        if "twin_in_training" in joined.get("official", ()):
            official = joined["official"]
            unseen = official[~official["twin_in_training"].astype(bool)]
            joined.setdefault("deduplicated", unseen.reset_index(drop=True))
        tables[model] = {name: joined[name] for name in splits.PROTOCOLS if name in joined}
    return tables


def _read_single(file: Path, models: Sequence[str]) -> Tables:
    """Read anyone's table; images of the benchmark are checked against its published folds."""
    table, benchmark = _read_csv(file), splits.benchmark()
    has_labels = {"path", "label", "group", "fold"} <= set(table)
    if not has_labels or table["path"].isin(benchmark["path"]).any():
        check_predictions(table, str(file), ["path", *CLASSES])
        require_same_labels(table, benchmark, (str(file), "the published reference"))
        own = table.drop(columns=benchmark.columns.drop("path"), errors="ignore")
        table = own.merge(benchmark, "left", "path")
    check_predictions(table, str(file))
    tables = {file.stem.removesuffix(".test"): {"patient": table}}
    if models and table["path"].isin(benchmark["path"]).all():
        published = _read_folder(paths.resolve(PUBLISHED), "test")
        for name in models:
            if "patient" in published.get(name, {}):
                title = f"{name} (published)" if name in tables else name
                tables[title] = {"patient": published[name]["patient"]}
    return tables


def read_predictions(path: Path | str) -> pd.DataFrame:
    r"""Read a prediction table from CSV and check it.

    Parameters
    ----------
    path : Path or str
        UTF-8 CSV.

    Returns
    -------
    DataFrame
        `path, patient, group, label` as text, `patient` empty where it is unknown.

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
    table = _read_csv(path)
    check_predictions(table, str(path))
    return table


def _read_csv(path: Path | str) -> pd.DataFrame:
    missing = {name: ["", "nan", "NaN"] for name in CLASSES}  # a patient may be called "NA"
    return read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str), na_values=missing)


def require_same_labels(
    first: pd.DataFrame, second: pd.DataFrame, names: tuple[str, str] = ("the first", "the second")
) -> None:
    """Refuse two tables that are not about the same images with the same labels."""
    for table, name in zip((first, second), names, strict=True):
        check_predictions(table, name, ["path"])
    require_same_images(first, second, names, "both must have the same images")
    if "label" in first and "label" in second:
        pairs = first.merge(second[["path", "label"]], on="path", suffixes=("", "_other"))
        differing = pairs.loc[pairs["label"] != pairs["label_other"], "path"]
        advice = "make sure that both describe the same collection"
        refuse_images(differing, f"{names[0]} and {names[1]} disagree on the label of", advice)


def probabilities(table: pd.DataFrame) -> np.ndarray:
    """Return the probabilities, float64 array of shape (n, 4), each row divided by its sum.

    Examples
    --------
    >>> table = pd.DataFrame({"pituitary": [0.1], "notumor": 0.2, "meningioma": 0.3, "glioma": 0.4})
    >>> probabilities(table).round(3).tolist()
    [[0.4, 0.3, 0.2, 0.1]]
    """
    check_predictions(table, columns=CLASSES)
    values = table[CLASSES].to_numpy(np.float64).clip(0, 1)
    return values / values.sum(axis=1, keepdims=True)


def label_codes(table: pd.DataFrame) -> np.ndarray:
    """Return the position of each label in `CLASS_NAMES`, int64 array of shape (n,).

    Examples
    --------
    >>> label_codes(pd.DataFrame({"label": ["pituitary", "glioma"]})).tolist()
    [3, 0]
    """
    check_predictions(table, columns=["label"])
    return pd.Index(CLASSES).get_indexer(table["label"]).astype(np.int64)


def group_codes(table: pd.DataFrame) -> np.ndarray:
    """Return the groups as numbers from 0 in order of their names, int array of shape (n,)."""
    check_predictions(table, columns=["group"])
    return np.unique(table["group"].astype(str).to_numpy(object), return_inverse=True)[1]


def is_correct(table: pd.DataFrame) -> np.ndarray:
    """Return whether the most probable class is the true one, bool array of shape (n,)."""
    return probabilities(table).argmax(axis=1) == label_codes(table)


def per_patient(table: pd.DataFrame) -> pd.DataFrame:
    """Average the probabilities over the slices of each patient.

    A patient whose slices carry different labels has a row for each label. Where the patient is
    unknown the group stands for it.

    Returns
    -------
    DataFrame
        A prediction table, sorted by `path`, a row for each patient. `path` is the patient (or
        group), followed by `/<label>` where it has several labels; `images` counts its slices;
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
    patient = known_values(table, "patient")
    # a patient and somebody else's group may share a name: known and unknown never mix
    keyed = table.assign(patient=patient, key=patient.mask(patient == "", table["group"]),
                         is_known=patient != "")  # fmt: skip
    keyed[CLASSES] = probabilities(table)
    slices = keyed.sort_values("path").groupby(["is_known", "key", "label"], sort=True)
    averaged = slices.first().assign(images=slices.size(), **slices[CLASSES].mean()).reset_index()
    repeated = averaged.duplicated("key", keep=False)
    averaged["path"] = averaged["key"].mask(repeated, averaged["key"] + "/" + averaged["label"])
    columns = dict.fromkeys([*(column for column in table if column in averaged), "images"])
    return averaged[list(columns)].sort_values("path", ignore_index=True)


def restrict_to_tumors(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the tumours of the source that most of them come from, and the question of their type.

    Images with and without tumour come from different scanners; within one source the scanner
    gives nothing away. The probability of `notumor` is set to 0 and the other three are divided by
    their sum, a third each where they are all 0.

    Raises
    ------
    BrainlibError
        Where there is no column `source`, or no tumour image.

    Examples
    --------
    >>> table = pd.DataFrame({"label": ["glioma"], "source": "figshare", "glioma": 0.3,
    ...     "meningioma": 0.1, "notumor": 0.6, "pituitary": 0.0})
    >>> restrict_to_tumors(table)[CLASSES].round(2).iloc[0].tolist()
    [0.75, 0.25, 0.0, 0.0]
    """
    tumors = table[table["label"] != "notumor"]
    if "source" not in table or tumors.empty:
        raise BrainlibError(
            "the prediction table has no column source (join it by path), or no image of a tumour"
        )
    kept = tumors[tumors["source"] == tumors["source"].mode().min()].copy()
    values = probabilities(kept)
    values[:, CLASSES.index("notumor")] = 0
    values[values.sum(axis=1) == 0] = [name != "notumor" for name in CLASSES]
    kept[CLASSES] = values / values.sum(axis=1, keepdims=True)
    return kept.reset_index(drop=True)


def check_predictions(
    table: pd.DataFrame, name: str = "the prediction table", columns: Sequence[str] = COLUMNS
) -> None:
    """Refuse a table that is not a prediction table.

    Parameters
    ----------
    table : DataFrame
    name : str
        The name of the table in messages.
    columns : sequence of str
        The columns that are needed, and checked.

    Raises
    ------
    BrainlibError
        For missing columns, no rows, an image named twice, an unknown label, an empty group, a
        patient in two groups, and probabilities that are not numbers in [0, 1] summing to 1
        within 0.002. The message names the table, the first rows concerned, and what to do.

    Examples
    --------
    >>> check_predictions(pd.DataFrame({"path": ["a.jpg"]}), "mine.csv")
    Traceback (most recent call last):
    brainlib.paths.BrainlibError: mine.csv has no column patient, group, ...
    """
    if absent := [column for column in columns if column not in table]:
        raise BrainlibError(
            f"{name} has no column {', '.join(absent)}. A prediction table has the columns "
            f"{', '.join(COLUMNS)}; for images of the published patient folds "
            "path and the four probabilities are enough"
        )
    if table.empty and CLASSES[0] in columns:
        raise BrainlibError(f"{name} has no rows: predict at least one image")
    rows = table["path"] if "path" in table else table.index.to_series()
    for is_affected, problem, advice in _problems(table, columns):
        refuse_images(rows[is_affected], f"{name} has {problem} for", advice)


def _problems(table: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, str, str]]:
    """Yield for each rule the rows that break it, the problem, and the advice."""
    if "path" in columns:
        yield known_values(table, "path") == "", "no path", "give each row the path of its image"
        yield table["path"].duplicated(), "more than one row", "keep one prediction of each image"
    if "label" in columns:
        advice = f"a label is one of {', '.join(CLASSES)}"
        yield ~table["label"].isin(CLASSES), "an unknown label", advice
    if "group" in columns:
        advice = "give each image the group that no split may cut; its path where nothing is known"
        yield known_values(table, "group") == "", "no group", advice
        patient = known_values(table, "patient")
        is_cut = (table["group"].groupby(patient).transform("nunique") > 1) & (patient != "")
        yield is_cut, "patients in more than one group", "give all images of a patient one group"
    if "fold" in columns:
        fold = pd.to_numeric(table["fold"], errors="coerce")
        yield ~(fold % 1 == 0) | (fold < 0), "no fold", "a fold is a whole number from 0"
    if CLASSES[0] in columns:
        values = table[CLASSES].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        is_wrong = ~np.isfinite(values).all(axis=1)
        yield is_wrong, "missing or infinite probabilities", "predict them again or leave them out"
        is_wrong = (np.abs(values - 0.5) > 0.5 + ROUNDING).any(axis=1)
        yield is_wrong, "probabilities outside 0 to 1", "write probabilities, not logits"
        is_wrong = np.abs(values.sum(axis=1) - 1) > SUM_TOLERANCE
        yield is_wrong, "probabilities that do not sum to 1", "write the softmax over four classes"


def known_values(table: pd.DataFrame, column: str) -> pd.Series:
    """Return a column as text, empty where its value or the whole column is missing."""
    values = table.get(column, pd.Series("", table.index)).astype(object)
    return values.where(values.notna(), "").astype(str)
