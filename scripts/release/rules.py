"""Conformal thresholds, study rule and known limits of the released network, as one file."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from brainlib import evaluation, explain
from brainlib.inference import rules
from scripts.release import studies


def test_predictions(folder: Path, model: str) -> pd.DataFrame:
    """Return the test predictions of a model under protocol `patient`, from its model folder.

    Raises
    ------
    RulesError
        Where there are none.
    """
    table = evaluation.read_tables(folder / "predictions").get(model, {}).get("patient")
    if table is None:
        raise rules.RulesError(
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
    RulesError
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
    fitted = rules.fit_rules(test, validation, metrics, study, maps, fold, model=model)
    rules.write_rules(fitted, folder / f"{model}.rules.json")
    return fitted
