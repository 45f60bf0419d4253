"""From the prediction tables of a model folder to `metrics.json`, and from there to every text.

A prediction table is named after its run: `<model>_official.test.csv` for the official split,
`<model>_patient<fold>.test.csv` for a fold, `<model>_patient.test.csv` for all folds in one;
`.validation.csv` beside it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from brainlib import evaluation, paths
from brainlib.data import splits
from brainlib.paths import BrainlibError

METRICS_FILE = "model/metrics.json"
COMPARED = ["first", "second", "difference", "low", "high", "only_first_right",
            "only_second_right", "p_value", "p_value_groups", "pictures", "groups"]  # fmt: skip
HEADLINE = ("accuracy", "macro_f1", "log_loss")
_TABLE_NAME = re.compile(
    r"(?P<model>.+?)(_official|(?P<patient>_patient\d?))\.(?P<part>test|validation)\.csv"
)

Tables = dict[str, dict[str, pd.DataFrame]]
"""Prediction tables by model, then by protocol, in the order of `splits.PROTOCOLS`."""

CONFORMAL_ALPHA = 0.1


@dataclass(frozen=True)
class Calibrated:
    """Test predictions after temperature, with their conformal sets.

    Attributes
    ----------
    table : DataFrame
        The prediction table, softened or sharpened by the temperature of each fold.
    sets : DataFrame of bool, shape (n, 4)
        Whether each class is in the set of each picture.
    temperatures : dict of int to float
        By fold.
    """

    table: pd.DataFrame
    sets: pd.DataFrame
    temperatures: dict[int, float]


class ResultsError(BrainlibError):
    """Prediction tables that are not there."""


def read_tables(
    place: Path | str,
    part: str = "test",
    pictures: pd.Series | None = None,
    first: Sequence[str] = (),
) -> Tables:
    """Read the predictions in a folder, the folds of a model joined into one table.

    Parameters
    ----------
    place : Path or str
        A folder of prediction tables; or one table on the published patient folds, made by any
        framework, which needs only `path` and the four probabilities.
    part : str
        `test` or `validation`.
    pictures : Series of str, optional
        The paths of the source that the predictions are about.
    first : sequence of str
        Models that come first where there are tables of them, the others in alphabetical order.

    Returns
    -------
    dict of model to dict of protocol to DataFrame
        Those named in `first` first; `deduplicated` is `official` without the pictures that have
        a twin in Training.

    Raises
    ------
    ResultsError
        Where there is no table of test predictions, or one is about other pictures.
    """
    tables = _read_place(place, part)
    order = dict.fromkeys([*(name for name in first if name in tables), *tables])
    tables = {name: tables[name] for name in order}
    if pictures is not None:
        _require_pictures(tables, pictures, place)
    return tables


def _read_place(place: Path | str, part: str) -> Tables:
    place = paths.resolve(place)
    if not place.exists():
        raise ResultsError(f"{place} does not exist: name a prediction table or a folder of them")
    if place.is_file():
        return _read_single(place) if part == "test" else {}
    parts: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for file in sorted(place.glob(f"*.{part}.csv")):
        name = _TABLE_NAME.fullmatch(file.name)
        if name:
            protocol = "patient" if name["patient"] else "official"
            parts.setdefault((name["model"], protocol), []).append(
                evaluation.read_predictions(file)
            )
    if not parts and part == "test":
        raise ResultsError(
            f"{place} holds no prediction table (<name>.test.csv): run notebooks/02_train.ipynb"
        )
    tables: Tables = {}
    for (model, protocol), found in parts.items():
        joined = pd.concat(found, ignore_index=True)
        if part == "test":  # validation groups of one fold are trained on in another
            evaluation.check_predictions(joined, f"{model}, protocol {protocol}, in {place}")
        tables.setdefault(model, {})[protocol] = joined
    return {name: _in_order(by_protocol) for name, by_protocol in tables.items()}


def _require_pictures(tables: Tables, pictures: pd.Series, place: Path | str) -> None:
    for model, by_protocol in tables.items():
        for table in by_protocol.values():
            others = table.loc[~table["path"].isin(pictures), "path"]
            if len(others):
                raise ResultsError(
                    f"{model} in {place} has predictions for {len(others)} pictures that the "
                    f"source does not hold, for instance {others.iloc[0]}: name the source that "
                    "they were made on, or give each source an output folder of its own"
                )


def main_model(tables: Tables) -> str:
    """Return the model to look at closely: the first of the tables."""
    return next(iter(tables))


def most_honest(by_protocol: dict[str, pd.DataFrame]) -> str:
    """Return `patient`, or the next best protocol that there is a table of."""
    return next(name for name in splits.PROTOCOLS if name in by_protocol)


def measure(tables: Tables, resamples: int, seed: int = 0) -> dict[str, Any]:
    """Compute all metrics of all tables, with intervals, as `metrics.json` holds them.

    Returns
    -------
    dict
        By model, then by protocol: `pictures`, `groups`, and for each metric its `value`, `low` and
        `high`. What cannot be computed on a table is left out.
    """
    return {
        model: {
            protocol: _measure_one(table, resamples, seed)
            for protocol, table in by_protocol.items()
        }
        for model, by_protocol in tables.items()
    }


def headline(results: dict[str, Any], metrics: tuple[str, ...] = HEADLINE) -> pd.DataFrame:
    """Return the metrics that are read first as text, `value (low to high)`, a row a protocol."""
    rows = {
        (model, protocol): {
            "test pictures": values["pictures"],
            **{
                metric.replace("_", " "): "{value:.3f} ({low:.3f} to {high:.3f})".format(
                    **values[metric]
                )
                for metric in metrics
                if metric in values
            },
        }
        for model, by_protocol in results.items()
        for protocol, values in by_protocol.items()
    }
    return pd.DataFrame(rows).T.rename_axis(["model", "protocol"]) if rows else pd.DataFrame()


def tumor_type_tables(tables: Tables) -> Tables:
    """Restrict every table to the tumours of one source, where only their type is asked.

    The source is the one that most of its tumour pictures come from; in the Kaggle collection that
    is figshare. Tables that do not know their sources are left out.
    """
    found = {
        model: {
            protocol: evaluation.restrict_to_tumors(table, _source_of_tumors(table))
            for protocol, table in by_protocol.items()
            if "source" in table
        }
        for model, by_protocol in tables.items()
    }
    return {model: by_protocol for model, by_protocol in found.items() if by_protocol}


def patient_tables(tables: Tables) -> Tables:
    """Average the slices of each patient under protocol `patient`, for every model."""
    return {
        model: {"patient": evaluation.per_patient(by_protocol["patient"])}
        for model, by_protocol in tables.items()
        if "patient" in by_protocol
    }


def break_down(
    table: pd.DataFrame, columns: tuple[str, ...] = ("source", "plane", "fold")
) -> pd.DataFrame:
    """Return the accuracy for each value of each column that a prediction table knows.

    Returns
    -------
    DataFrame
        A row for each value, named `<column> <value>`, as `evaluation.breakdown` gives them.
    """
    known = [name for name in columns if name in table and (table[name].fillna("") != "").any()]
    parts = [
        evaluation.breakdown(table, name).rename(index=f"{name} {{}}".format) for name in known
    ]
    return pd.concat(parts) if parts else pd.DataFrame()


def without_look_alikes(table: pd.DataFrame, place: Path | str) -> pd.DataFrame:
    """Leave out the pictures that look like one in another fold, where `01_explore` found some.

    Parameters
    ----------
    table : DataFrame
        Prediction table under protocol `patient`.
    place : Path or str
        As for `read_tables`; the list of them, `look_alikes.csv`, lies beside it.
    """
    file = paths.resolve(place).parent / "look_alikes.csv"
    if not file.is_file():
        return table
    pairs = pd.read_csv(file)
    return table[~table["path"].isin({*pairs["first"], *pairs["second"]})]


def calibrate(test: pd.DataFrame, validation: pd.DataFrame | None) -> Calibrated:
    """Fit temperature and conformal thresholds fold by fold, never on the pictures of that fold.

    Parameters
    ----------
    test : DataFrame
        Prediction table of one model under protocol `patient`.
    validation : DataFrame or None
        Its predictions on the validation groups of each fold. Where there are none, as for a table
        that somebody else made, the other folds' test pictures stand in: other patients too.

    Raises
    ------
    ResultsError
        Where there is neither validation nor a second fold.
    """
    tables, sets, temperatures = [], [], {}
    for fold, part in test.groupby("fold"):
        others = test[test["fold"] != fold]
        held_out = others if validation is None else validation[validation["fold"] == fold]
        if held_out.empty:
            raise ResultsError(f"nothing to calibrate fold {fold} on: give its validation table")
        temperature = evaluation.fit_temperature(held_out)
        table = evaluation.apply_temperature(part, temperature)
        thresholds = evaluation.fit_conformal(
            evaluation.apply_temperature(held_out, temperature), CONFORMAL_ALPHA
        )
        tables.append(table)
        sets.append(evaluation.conformal_sets(table, thresholds))
        temperatures[int(fold)] = round(temperature, 4)
    joined, joined_sets = (pd.concat(found, ignore_index=True) for found in (tables, sets))
    return Calibrated(joined, joined_sets, temperatures)


def calibration_metrics(
    before: pd.DataFrame, calibrated: Calibrated, resamples: int = 1000
) -> pd.DataFrame:
    """Return log loss, Brier score and calibration error before and after temperature.

    Returns
    -------
    DataFrame
        A row for each metric: `before`, `after`, and the interval `low`, `high` of the latter.
    """
    metrics = ["log_loss", "brier_score", "calibration_error"]
    after = evaluation.metrics_with_intervals(calibrated.table, resamples, metrics=metrics)
    plain = evaluation.point_metrics(before)
    values = {name: plain[name] for name in metrics}
    return after.rename(columns={"value": "after"}).assign(before=pd.Series(values))[
        ["before", "after", "low", "high"]
    ]


def compare_with(tables: Tables, model: str, protocol: str = "patient") -> pd.DataFrame:
    """Compare a model with every other on the same pictures, of the folds that the model has.

    Returns
    -------
    DataFrame
        A row for each other model, with the numbers `COMPARED` of `evaluation.compare`.
    """
    first = tables[model][protocol]
    seconds = {name: by_protocol[protocol] for name, by_protocol in tables.items()
               if name != model and protocol in by_protocol}  # fmt: skip
    rows = {
        other: evaluation.compare(first, second[second["fold"].isin(first["fold"])])
        for other, second in seconds.items()
    }
    table = pd.DataFrame(rows.values(), index=list(rows), columns=COMPARED)
    return table.rename_axis(f"{model} against")


def rounded(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return a table as `metrics.json` holds it, by row and column, without what is missing.

    Examples
    --------
    >>> rounded(pd.DataFrame({"value": [0.5], "low": [float("nan")]}, index=["accuracy"]))
    {'accuracy': {'value': 0.5}}
    """
    return {
        str(row): {name: round(float(value), 6) for name, value in values.dropna().items()}
        for row, values in table.select_dtypes("number").astype(float).iterrows()
    }


def read_histories(folder: Path, model: str = "") -> dict[str, dict[str, pd.DataFrame]]:
    """Return the histories in a model folder, of one model or all: by protocol, then by run."""
    histories: dict[str, dict[str, pd.DataFrame]] = {}
    for file in sorted(folder.glob(f"{model}*.history.csv")):
        name = file.name.removesuffix(".history.csv")
        protocol = "patient" if "_patient" in name else "official"
        histories.setdefault(protocol, {})[name] = pd.read_csv(file)
    return histories


def read_robustness(place: Path | str) -> dict[str, pd.DataFrame]:
    """Return the accuracy on spoilt pictures by model, beside a folder of predictions.

    Returns
    -------
    dict of model to DataFrame
        As `corruptions.robustness` gives them; empty where it was not measured.
    """
    file = paths.resolve(place).parent / "robustness.csv"
    if not file.is_file():
        return {}
    return {
        str(model): table.drop(columns=["model", "pictures", "seed"]).set_index("corruption")
        for model, table in pd.read_csv(file).groupby("model", sort=False)
    }


def last_epochs(histories: dict[str, dict[str, pd.DataFrame]]) -> dict[str, dict[str, float]]:
    """Return the last row of every history, by the name of the run, rounded to four digits."""
    return {
        name: {column: round(float(value), 4) for column, value in table.iloc[-1].dropna().items()}
        for runs in histories.values()
        for name, table in runs.items()
    }


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the content of `metrics.json` below a project or output folder."""
    return json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))


def _source_of_tumors(table: pd.DataFrame) -> str:
    return str(table.loc[table["label"] != "notumor", "source"].mode().iloc[0])


def _read_single(file: Path) -> Tables:
    """Read a table of anyone's; pictures of the benchmark are held against its published folds."""
    table = evaluation.read_predictions(file, reference=_reference_for)
    return {file.stem.removesuffix(".test"): {"patient": table}}


def _reference_for(table: pd.DataFrame) -> pd.DataFrame | None:
    """Return the published folds for a table that has pictures of them or no labels of its own."""
    benchmark = splits.benchmark()
    is_complete = {"label", "group", "fold"} <= set(table)
    is_other = not table["path"].isin(benchmark["path"]).any()
    return None if is_complete and is_other else benchmark


def _in_order(by_protocol: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    if "official" in by_protocol and "twin_in_training" in by_protocol["official"]:
        official = by_protocol["official"]
        free = official[~official["twin_in_training"].astype(bool)]
        by_protocol = {**by_protocol, "deduplicated": free.reset_index(drop=True)}
    return {name: by_protocol[name] for name in splits.PROTOCOLS if name in by_protocol}


def _measure_one(table: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    metrics = evaluation.metrics_with_intervals(table, resamples=resamples, seed=seed).dropna()
    values = metrics.astype(float).round(6).to_dict("index")
    return {"pictures": len(table), "groups": int(table["group"].nunique()), **values}
