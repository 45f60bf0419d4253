"""Scores of all models under all protocols, as `metrics.json` holds them."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from brainlib import CLASS_NAMES, paths
from brainlib.data import splits
from brainlib.evaluation.bootstrap import mean_with_interval, metrics_with_intervals
from brainlib.evaluation.tables import PUBLISHED, Tables, parse_run, per_patient, restrict_to_tumors

METRICS_FILE = "model/metrics.json"
HEADLINE = ("accuracy", "macro_f1", "log_loss")

Scores = dict[str, dict[str, dict[str, Any]]]
"""By model, then by protocol: `images`, `groups`, and for each metric `value`, `low`, `high`."""


def score_tables(
    tables: Tables, resamples: int, seed: int = 0, detailed: Collection[str] | None = None
) -> Scores:
    """Compute the metrics of all tables, with intervals.

    Parameters
    ----------
    tables : Tables
    resamples, seed : int
    detailed : collection of str, optional
        Models with all of `METRICS`, all by default; the others have those of `HEADLINE`.
    """
    scores: Scores = {}
    for model, by_protocol in tables.items():
        names = None if detailed is None or model in detailed else HEADLINE
        scores[model] = {
            protocol: {"images": len(table), "groups": int(table["group"].nunique())}
            | rounded(metrics_with_intervals(table, resamples, seed, names).dropna())
            for protocol, table in by_protocol.items()
        }
    return scores


def headline(scores: Scores) -> pd.DataFrame:
    """Return `n` and the headline metrics as text, `value (low to high)`, a row a protocol."""
    text = "{value:.3f} ({low:.3f} to {high:.3f})".format
    rows = {
        (model, protocol): {"n": values["images"]}
        | {name.replace("_", " "): text(**values[name]) for name in HEADLINE if name in values}
        for model, by_protocol in scores.items()
        for protocol, values in by_protocol.items()
    }
    return pd.DataFrame(rows).T.rename_axis(["model", "protocol"]) if rows else pd.DataFrame()


def preferred_protocol(by_protocol: dict[str, Any]) -> str:
    """Return the most honest protocol that there is a table of."""
    return next(name for name in splits.PROTOCOLS if name in by_protocol)


def tumor_type_tables(tables: Tables) -> Tables:
    """Restrict every table to the tumours of the source that most of its tumours come from.

    In the Kaggle collection that is figshare. Tables that do not know their sources are left out.
    """
    restricted = {model: {name: restrict_to_tumors(t) for name, t in by_protocol.items()
                          if "source" in t} for model, by_protocol in tables.items()}  # fmt: skip
    return {model: by_protocol for model, by_protocol in restricted.items() if by_protocol}


def patient_tables(tables: Tables) -> Tables:
    """Average the slices of each patient under protocol `patient`, for every model."""
    return {model: {"patient": per_patient(by_protocol["patient"])}
            for model, by_protocol in tables.items() if "patient" in by_protocol}  # fmt: skip


def without_look_alikes(table: pd.DataFrame, predictions: Path | str) -> pd.DataFrame:
    """Leave out images that look like one in another fold.

    Parameters
    ----------
    table : DataFrame
        Prediction table under protocol `patient`.
    predictions : Path or str
        The prediction tables; `01_explore` writes `look_alikes.csv` beside their folder. Without
        it, the published list is used for images of the published folds. Of other images nothing
        is known, and none is returned.
    """
    file = paths.resolve(predictions).parent / "look_alikes.csv"
    if not file.is_file():
        if not table["path"].isin(splits.benchmark()["path"]).all():
            return table.head(0)
        file = paths.resolve(PUBLISHED).parent / file.name
    pairs = pd.read_csv(file)
    return table[~table["path"].isin({*pairs["first"], *pairs["second"]})]


def summarize_maps(scored: pd.DataFrame, resamples: int = 1000) -> dict[str, Any]:
    """Summarise the scores of heat maps and outlines, with intervals over groups.

    Parameters
    ----------
    scored : DataFrame
        As `explain.score_maps` gives it.

    Returns
    -------
    dict
        Counts: `images`, `groups`, `correct` (the right class predicted), `without_outline`. Then
        by name an interval: `dice`, `dice_<label>`; `heat_peak_inside` and `outline_peak_inside`
        among correct images. What has no image is left out.

    Examples
    --------
    >>> scored = pd.DataFrame({"label": "glioma", "answer": "glioma", "group": list("ab"),
    ...     "dice": [0.6, 0.8], "heat_peak_inside": True, "outline_peak_inside": True,
    ...     "outline": "[]"})
    >>> summarize_maps(scored)["dice"]["value"]
    0.7
    """
    correct = scored[scored["answer"] == scored["label"]]
    means = {name: (correct, name) for name in ("heat_peak_inside", "outline_peak_inside")}
    means |= {f"dice_{name}": (scored[scored["label"] == name], "dice") for name in CLASS_NAMES}
    means["dice"] = scored, "dice"
    means = {name: interval_of(*mean, resamples) for name, mean in means.items()}
    counts = {"images": len(scored), "groups": int(scored["group"].nunique()),
              "correct": len(correct),
              "without_outline": int((scored["outline"] == "").sum())}  # fmt: skip
    return counts | {name: mean for name, mean in means.items() if mean}


def interval_of(
    table: pd.DataFrame, column: str, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Return `value`, `low` and `high` of the mean of a column, over the groups of a table."""
    values, groups = table[column].to_numpy(float), table["group"].astype(str).to_numpy(object)
    interval = mean_with_interval(values, groups, resamples, seed)
    return {name: interval[name] for name in ("value", "low", "high") if name in interval}


def read_robustness(predictions: Path | str) -> dict[str, pd.DataFrame]:
    """Return the accuracy on corrupted images by model, from beside a folder of predictions.

    Returns
    -------
    dict of model to DataFrame
        As `corruptions.robustness` gives them, with the number of `images`; empty where it was
        not measured.
    """
    file = paths.resolve(predictions).parent / "robustness.csv"
    if not file.is_file():
        return {}
    tables = pd.read_csv(file).drop(columns="seed", errors="ignore").set_index("corruption")
    by_model = tables.groupby("model", sort=False)
    return {str(name): table.drop(columns="model") for name, table in by_model}


def read_histories(folder: Path, model: str) -> dict[str, dict[str, pd.DataFrame]]:
    """Return the training histories of a model by protocol and run."""
    histories: dict[str, dict[str, pd.DataFrame]] = {}
    for file in sorted(folder.glob("*.history.csv")):
        name = file.name.removesuffix(".history.csv")
        run = parse_run(name)
        if run and run[0] == model:
            histories.setdefault(run[1], {})[name] = pd.read_csv(file)
    return histories


def rounded(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the numbers of a table by row and column, to six digits, without missing ones.

    Examples
    --------
    >>> rounded(pd.DataFrame({"value": [0.5], "low": [float("nan")]}, index=["accuracy"]))
    {'accuracy': {'value': 0.5}}
    """
    numbers = table.select_dtypes("number").astype(float)
    return {str(row): values.dropna().map(lambda x: round(x, 6)).to_dict()
            for row, values in numbers.iterrows()}  # fmt: skip


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the content of `metrics.json` below a project or output folder."""
    return json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
