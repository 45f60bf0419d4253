"""Conformal thresholds, study rule and known limits of the released network, as one file."""

import json
from pathlib import Path
from typing import Any

from brainlib import evaluation, explain
from brainlib.inference import rules
from scripts.release import studies


def make_rules(folder: Path, model: str, fold: int = 0) -> dict[str, Any]:
    """Fit the rules of a model folder from what lies there, write them, and return them.

    Parameters
    ----------
    folder : Path
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
    place = folder / "predictions"
    test, validation = (
        evaluation.read_tables(place, part).get(model, {}).get("patient")
        for part in ("test", "validation")
    )
    if test is None:
        raise rules.RulesError(
            f"{place} holds no test predictions of {model} under protocol patient: run "
            "notebooks/02_train.ipynb for every fold, or `make reproduce`"
        )
    file = folder / "metrics.json"
    metrics = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    others = test[test["fold"] != fold]
    study = studies.fit_study_rule(others if len(others) else test)
    maps = explain.read_maps(place, model)
    fitted = rules.fit_rules(test, validation, metrics, study, maps, fold, model=model)
    rules.write_rules(fitted, folder / f"{model}.rules.json")
    return fitted
