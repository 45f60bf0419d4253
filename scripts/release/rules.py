"""Conformal thresholds, study rule and known limits of the released network, as one file."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from brainlib import CLASS_NAMES, __version__, evaluation, explain
from brainlib.evaluation.scores import interval_of
from brainlib.inference import rules
from brainlib.paths import BrainlibError
from scripts.release import studies


def test_predictions(folder: Path, model: str) -> pd.DataFrame:
    """Return the test predictions of a model under protocol `patient`, from its model folder.

    Raises
    ------
    BrainlibError
        Where there are none.
    """
    table = evaluation.read_tables(folder / "predictions").get(model, {}).get("patient")
    if table is None:
        raise BrainlibError(
            f"{folder / 'predictions'} holds no test predictions of {model} under protocol "
            "patient: run notebooks/02_train.ipynb for every fold, or `make reproduce`"
        )
    return table


def make_rules(folder: Path | str, model: str, fold: int = 0) -> dict[str, Any]:
    """Fit the rules of a model folder from what lies there, write them, and return them.

    Parameters
    ----------
    folder : Path or str
        The model folder, with `predictions`, `metrics.json` and `maps`.
    model : str
        The model's name; the rules are written to `<model>.rules.json`.
    fold : int
        The fold whose model is released.

    Raises
    ------
    BrainlibError
        Where there are no predictions of the model under protocol `patient`.
    """
    folder = Path(folder)
    test = test_predictions(folder, model)
    tables = evaluation.read_tables(folder / "predictions", "validation")
    validation = tables.get(model, {}).get("patient")
    file = folder / "metrics.json"
    metrics = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    others = test[test["fold"] != fold]
    study = studies.fit_study_rule(others if len(others) else test)
    maps = explain.read_maps(folder / "predictions", model)
    fitted = fit_rules(test, validation, metrics, study, maps, fold, model=model)
    rules.write_rules(fitted, folder / f"{model}.rules.json")
    return fitted


def fit_rules(
    test: pd.DataFrame, validation: pd.DataFrame | None, metrics: dict[str, Any],
    study: dict[str, Any], maps: pd.DataFrame | None = None, fold: int = 0,
    resamples: int = 1000, model: str = "lesion_net",
) -> dict[str, Any]:  # fmt: skip
    """Fit all that turns probabilities into answers.

    Parameters
    ----------
    test, validation : DataFrame
        Prediction tables of the model under protocol `patient`; validation on the validation
        groups of each fold, or None.
    metrics : dict
        The content of `metrics.json`; of it `source`, `synthetic`, `release`, `by_subgroup`
        and `studies` are used where they are there.
    study : dict
        The rule for studies: `offset` and `temperature`, conformal `thresholds` by class with their
        `coverage`, and in words its `sentence` and `simulation`.
    maps : DataFrame, optional
        As `explain.read_maps` gives it.
    fold : int
        The fold whose model is released: thresholds and the rule for studies are fitted without
        its patients, where there are other folds.
    resamples : int
    model : str
        The model's name.

    Returns
    -------
    dict
        Plain JSON. `model`, `model_sha256`, `brainlib`, `source`, `synthetic`, `fold`, `held_out`
        (counts); `conformal` {coverage, thresholds by class}; `study`; `reliability`, as
        `evaluation.reliability_by_answer` gives it; `study_reliability`, the same for simulated
        studies, empty where they were not measured; `limits` by class: `sensitivity`,
        `positive_predictive_value` (each `value`, `low`, `high`), `taken_for` and `really_was`
        (the most frequent confusion: `class`, `share`, `images`), `missed` for `notumor` (by
        tumour, the share called so), `dice` and `heat_peak_inside` where maps are known; and
        `limits_of_all` with the weakest source.
    """
    others = test[test["fold"] != fold]
    if validation is not None:
        others = validation[validation["fold"] == fold]
    thresholds = evaluation.fit_conformal(others)
    released = metrics.get("release", {}).get(model, {})
    return {
        "model": model,
        "model_sha256": released.get("sha256", ""),
        "brainlib": __version__,
        "source": metrics.get("source", ""),
        "synthetic": bool(metrics.get("synthetic", False)),
        "fold": fold,
        "held_out": {"images": len(test), "groups": int(test["group"].nunique())},
        "conformal": {
            "coverage": evaluation.COVERAGE,
            "thresholds": {name: round(value, 6) for name, value in thresholds.items()},
        },
        "study": study,
        "reliability": evaluation.reliability_by_answer(test, resamples),
        "study_reliability": metrics.get("studies", {}).get("reliability", []),
        "limits": {name: _limits_of(name, test, maps, resamples) for name in CLASS_NAMES},
        "limits_of_all": _weakest_source(metrics),
    }


def _limits_of(
    name: str, table: pd.DataFrame, maps: pd.DataFrame | None, resamples: int
) -> dict[str, Any]:
    table = table.assign(answer=table[list(CLASS_NAMES)].astype(float).idxmax(axis="columns"))
    table = table.assign(is_called=table["answer"] == name, is_right=table["label"] == name)
    of_class, called = table[table["is_right"]], table[table["is_called"]]
    limits: dict[str, Any] = {
        "images": len(of_class),
        "sensitivity": interval_of(of_class, "is_called", resamples),
        "positive_predictive_value": interval_of(called, "is_right", resamples),
        "taken_for": _most_frequent(of_class["answer"], name),
        "really_was": _most_frequent(called["label"], name),
    }
    if name == "notumor":
        by_tumor = {tumor: table[table["label"] == tumor] for tumor in CLASS_NAMES if tumor != name}
        limits["missed"] = {tumor: interval_of(rows, "is_called", resamples) or None
                            for tumor, rows in by_tumor.items() if len(rows)}  # fmt: skip
    elif maps is not None:
        drawn = maps[maps["label"] == name]
        for score in ("dice", "heat_peak_inside"):
            limits[score] = interval_of(drawn, score, resamples)
    return {key: value for key, value in limits.items() if value or key in ("images", "missed")}


def _most_frequent(classes: pd.Series, name: str) -> dict[str, Any] | None:
    """Return the class that is most often confused with one, and for what share of its images."""
    others = classes[classes != name].value_counts()
    return next(({"class": str(other), "share": round(count / len(classes), 6), "images": count}
                 for other, count in others.items()), None)  # fmt: skip


def _weakest_source(metrics: dict[str, Any]) -> dict[str, Any]:
    parts = metrics.get("by_subgroup", {}).items()
    sources = [{"part": name, **{key: part[key] for key in ("accuracy", "low", "high")}}
               for name, part in parts if name.startswith("source ")]  # fmt: skip
    return min(sources, key=lambda source: source["accuracy"], default={})
