"""From the prediction tables of a model folder to `metrics.json`, and from there to every text.

A prediction table is named after its run: `<model>.test.csv` for the official split,
`<model>_patient<fold>.test.csv` for a fold; `.validation.csv` beside it.
"""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from brainlib import evaluation, paths, splits

METRICS_FILE = "model/metrics.json"
HEADLINE = ("accuracy", "macro_f1", "log_loss")
_TABLE_NAME = re.compile(r"(?P<model>.+?)(_patient(?P<fold>\d))?\.(?P<part>test|validation)\.csv")

Tables = dict[str, dict[str, pd.DataFrame]]
"""Prediction tables by model, then by protocol, in the order of `splits.PROTOCOLS`."""


class ResultsError(ValueError):
    """Prediction tables that are not there."""


def read_tables(place: Path | str) -> Tables:
    """Read the test predictions in a folder, the folds of a model joined into one table.

    Parameters
    ----------
    place : Path or str
        A folder of prediction tables, or one table, which is then taken as protocol `patient`.

    Returns
    -------
    dict of model to dict of protocol to DataFrame
        `deduplicated` is `official` without the pictures that have a twin in Training.

    Raises
    ------
    ResultsError
        Where there is no prediction table.
    """
    place = paths.resolve(place)
    if place.is_file():
        return {place.stem.removesuffix(".test"): {"patient": evaluation.read_predictions(place)}}
    parts: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for file in sorted(place.glob("*.test.csv")):
        name = _TABLE_NAME.fullmatch(file.name)
        if name:
            protocol = "patient" if name["fold"] else "official"
            parts.setdefault((name["model"], protocol), []).append(
                evaluation.read_predictions(file)
            )
    if not parts:
        raise ResultsError(
            f"{place} holds no prediction table (<name>.test.csv): run notebooks/02_train.ipynb"
        )
    tables: Tables = {}
    for (model, protocol), found in parts.items():
        tables.setdefault(model, {})[protocol] = pd.concat(found, ignore_index=True)
    return {model: _in_order(by_protocol) for model, by_protocol in tables.items()}


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
    return pd.DataFrame(rows).T.rename_axis(["model", "protocol"])


def last_epochs(histories: dict[str, dict[str, pd.DataFrame]]) -> dict[str, dict[str, float]]:
    """Return the last row of every history, by the name of the run, rounded to four digits."""
    return {
        name: {column: round(float(value), 4) for column, value in table.iloc[-1].items()}
        for runs in histories.values()
        for name, table in runs.items()
    }


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the content of `metrics.json` below a project or output folder."""
    return json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))


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
