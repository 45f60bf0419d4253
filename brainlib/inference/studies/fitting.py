"""The rule from slices to a study: chosen, fitted and measured on held-out patients."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES
from brainlib.inference.studies.pooling import (
    NOTUMOR,
    StudyError,
    describe_rule,
    log_softmax,
    pool,
    study_probabilities,
)
from brainlib.inference.studies.simulation import (
    DESCRIPTION,
    SHARES,
    UNSEEN_SHARE,
    Part,
    Simulation,
    redraw,
    simulate,
    split_parts,
)

PLAIN = "plain_mean"
"""The rule to beat: the mean of the probabilities over all slices, with nothing fitted."""

DRAWS = 2
BIN_EDGES = (0.0, 0.7, 0.9, 0.97, 1.0)
CONFORMAL_ALPHA = 0.1

_METRICS = ("accuracy", "log_loss", "calibration_error")
_SHRINKAGE = 5e-4  # a touch, so that all stays finite where a class is absent or never missed


def _top(average: str, share: float, least: int) -> dict[str, Any]:
    return {"kind": "top", "average": average, "share": share, "least": least}


def _candidates() -> dict[str, dict[str, Any]]:
    found = {}
    for average, ending in (("probability", ""), ("log", "_log")):
        found[f"mean{ending}"] = _top(average, 1.0, 1)
        for least in (3, 5):
            found[f"top_{least}{ending}"] = _top(average, 0.0, least)
        for percent, least in itertools.product((10, 20, 30), (1, 3)):
            floor = f"_at_least_{least}" if least > 1 else ""
            found[f"top_{percent}_percent{floor}{ending}"] = _top(average, percent / 100, least)
    for name, power in (("noisy_or", 0.0), ("noisy_or_root", 0.5)):
        found[name] = {"kind": "noisy_or", "power": power}
    return {"top_1": _top("probability", 0.0, 1), **found}


CANDIDATES = _candidates()
"""The ways to pool that are tried, by name."""


def fit_study_rule(predictions: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """Choose and fit the rule from slices to a study on simulated studies.

    Every candidate is fitted on the studies of all folds but one and measured on that one; the
    candidate with the least log loss, the three shares of tumour slices counting alike, is fitted
    again on all folds.

    Parameters
    ----------
    predictions : DataFrame
        A prediction table of held-out images.
    seed : int

    Returns
    -------
    dict
        Plain JSON: `name`, `pooling`, `temperature`, `offsets` by class, `thresholds` (conformal,
        for the set of a study; fitted on answers of rules that had not seen the study's fold),
        `coverage`, `sentence`, `simulation` (in words), `fitted_on` (counts) and `candidates`
        (cross-fitted `log_loss` and `accuracy` of each).

    Raises
    ------
    StudyError
        Where a fold has no known tumour patient or no slice without tumour.
    EvaluationError
        For what is no prediction table.
    """
    values, parts = _checked(predictions)
    simulation = simulate(parts, SHARES, DRAWS, np.random.default_rng(seed))
    return _fit(values, simulation, parts)


def measure_studies(
    predictions: pd.DataFrame, resamples: int = 200, seed: int = 0
) -> dict[str, Any]:
    """Measure how right and how sure the answers to studies are, for people that no rule has seen.

    The whole of `fit_study_rule`, choice included, is done on all folds but one and measured on
    simulated studies of that one. For an interval, patients and groups of each fold are drawn with
    replacement and studies simulated of those.

    Parameters
    ----------
    predictions : DataFrame
        As for `fit_study_rule`, of at least three folds.
    resamples : int
    seed : int

    Returns
    -------
    dict
        The section `studies` of `metrics.json`: `patients`, `healthy_groups`, `resamples`,
        `simulation` in words, `chosen` (the candidate of each fold); `shares`, by the percentage of
        slices that show the tumour: the number of `studies`, and `value`, `low` and `high` of
        `accuracy`, `log_loss`, `calibration_error`, `tumor_found` (tumour studies called some
        tumour), `healthy_found` (healthy ones called `notumor`), `type_right` (tumour studies
        called by their type) and `set_coverage` (sets that hold the class); `plain_mean`, the same
        without intervals for the mean of the probabilities; `candidates`, cross-fitted; and
        `reliability`, how often answers were right, by class and probability.

    Raises
    ------
    StudyError
        For predictions of fewer than three folds, else as `fit_study_rule`.
    """
    values, parts = _checked(predictions)
    if predictions["fold"].nunique() < 3:
        raise StudyError(
            "studies are measured on a fold that no rule has seen, and a rule is chosen on two at "
            "least: give predictions of three folds or more"
        )
    generator = np.random.default_rng(seed)
    fitted = simulate(parts, SHARES, DRAWS, generator)
    rules = _rules_without_each_fold(values, fitted, parts)
    shares = (*SHARES, UNSEEN_SHARE)
    studies = _answered(values, simulate(parts, shares, DRAWS, generator), rules)
    replicates = [
        _answered(values, simulate(redraw(parts, generator), shares, 1, generator), rules)
        for _ in range(resamples)
    ]
    plain = dict.fromkeys(rules, _plain_rule())
    plain_studies = _answered(values, simulate(parts, shares, DRAWS, generator), plain)
    return {
        "patients": sum(len(part.patients) for part in parts),
        "healthy_groups": sum(len(part.healthy) for part in parts),
        "resamples": resamples,
        "simulation": DESCRIPTION,
        "chosen": {str(fold): rule["name"] for fold, rule in rules.items()},
        "shares": _by_share(studies, replicates),
        PLAIN: _by_share(plain_studies, []),
        "candidates": _compare_candidates(values, fitted, parts)[0],
        "reliability": _reliability(studies, replicates),
    }


def _checked(predictions: pd.DataFrame) -> tuple[np.ndarray, list[Part]]:
    from brainlib import evaluation  # here, so that applying a rule loads no SciPy

    evaluation.check_predictions(predictions)
    return evaluation.probabilities(predictions), split_parts(predictions)


def _fit(values: np.ndarray, simulation: Simulation, parts: list[Part]) -> dict[str, Any]:
    from brainlib import evaluation

    compared, held_out = _compare_candidates(values, simulation, parts)
    best = min(compared, key=lambda name: compared[name]["log_loss"])
    scores = pool(values[simulation.rows], simulation.codes, CANDIDATES[best])[0]
    truth = _truth(simulation.studies)
    temperature, offsets = _fit_scaling(scores, truth)
    answers = _table(np.exp(held_out[best]), simulation.studies)
    thresholds = evaluation.fit_conformal(answers, 1 - CONFORMAL_ALPHA)
    rule = {
        "name": best,
        "pooling": CANDIDATES[best],
        "temperature": round(temperature, 4),
        "offsets": {
            name: round(float(offset), 4) for name, offset in zip(CLASS_NAMES, offsets, strict=True)
        },
        "coverage": 1 - CONFORMAL_ALPHA,
        "thresholds": {name: round(value, 6) for name, value in thresholds.items()},
        "simulation": DESCRIPTION,
        "fitted_on": {
            "patients": sum(len(part.patients) for part in parts),
            "healthy_groups": sum(len(part.healthy) for part in parts),
            "studies": len(simulation.studies),
            "shares": list(SHARES),
        },
        "candidates": compared,
    }
    return {"name": best, "sentence": describe_rule(rule), **rule}


def _plain_rule() -> dict[str, Any]:
    return {
        "name": PLAIN,
        "pooling": _top("probability", 1.0, 1),
        "temperature": 1.0,
        "offsets": dict.fromkeys(CLASS_NAMES, 0.0),
        "thresholds": dict.fromkeys(CLASS_NAMES, 1.0),
    }


def _compare_candidates(
    values: np.ndarray, simulation: Simulation, parts: list[Part]
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Return log loss and accuracy of each candidate, and its answers, all cross-fitted."""
    truth, folds = _truth(simulation.studies), simulation.studies["fold"].to_numpy()
    compared, answers = {}, {}
    for name, pooling in CANDIDATES.items():
        scores = pool(values[simulation.rows], simulation.codes, pooling)[0]
        found = np.empty_like(scores)
        for part in parts:
            is_out = folds == part.fold
            temperature, offsets = _fit_scaling(scores[~is_out], truth[~is_out])
            found[is_out] = log_softmax(scores[is_out] / temperature + offsets)
        answers[name] = found
        compared[name] = {
            "log_loss": round(-float(found[np.arange(len(truth)), truth].mean()), 6),
            "accuracy": round(float((found.argmax(axis=1) == truth).mean()), 6),
        }
    return compared, answers


def _rules_without_each_fold(
    values: np.ndarray, simulation: Simulation, parts: list[Part]
) -> dict[int, dict[str, Any]]:
    """Return the rule of each fold, chosen and fitted on the others."""
    folds = simulation.studies["fold"].to_numpy()
    return {
        part.fold: _fit(
            values,
            _chosen_studies(simulation, folds != part.fold),
            [other for other in parts if other is not part],
        )
        for part in parts
    }


def _chosen_studies(simulation: Simulation, is_chosen: np.ndarray) -> Simulation:
    is_slice = is_chosen[simulation.codes]
    codes = (np.cumsum(is_chosen) - 1)[simulation.codes[is_slice]]
    studies = simulation.studies[is_chosen].reset_index(drop=True)
    return Simulation(simulation.rows[is_slice], codes, studies)


def _fit_scaling(scores: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the temperature and the offsets, 0 for `notumor`, with the least log loss."""
    from scipy.optimize import minimize

    wanted = np.eye(len(CLASS_NAMES))[truth]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = scores * np.exp(parameters[0])
        answers = log_softmax(scaled + _with_notumor(parameters[1:]))
        error = (np.exp(answers) - wanted) / len(truth)
        value = -(answers * wanted).sum() / len(truth) + _SHRINKAGE * np.square(parameters).sum()
        slopes = [(error * scaled).sum(), *np.delete(error.sum(axis=0), NOTUMOR)]
        return value, np.array(slopes) + 2 * _SHRINKAGE * parameters

    # BFGS: the compiled L-BFGS-B takes a second where other programs use all cores
    found = minimize(loss, np.zeros(len(CLASS_NAMES)), jac=True, method="BFGS").x
    return float(np.exp(-found[0])), _with_notumor(found[1:])


def _with_notumor(offsets: np.ndarray) -> np.ndarray:
    return np.insert(offsets, NOTUMOR, 0.0)


def _truth(studies: pd.DataFrame) -> np.ndarray:
    return pd.Index(CLASS_NAMES).get_indexer(studies["label"])


def _table(answers: np.ndarray, studies: pd.DataFrame) -> pd.DataFrame:
    table = studies.reset_index(drop=True).copy()
    table[list(CLASS_NAMES)] = answers
    return table


def _answered(
    values: np.ndarray, simulation: Simulation, rules: Mapping[int, Mapping[str, Any]]
) -> pd.DataFrame:
    """Return the studies with the answer of the rule that has not seen their fold, and its set."""
    folds = simulation.studies["fold"].to_numpy()
    answers = np.empty((len(folds), len(CLASS_NAMES)))
    thresholds = np.empty_like(answers)
    for fold, rule in rules.items():
        is_in = folds == fold
        part = _chosen_studies(simulation, is_in)
        answers[is_in] = study_probabilities(values[part.rows], part.codes, rule)[0]
        thresholds[is_in] = [rule["thresholds"][name] for name in CLASS_NAMES]
    table = _table(answers, simulation.studies)
    truth = _truth(table)
    is_member = 1 - answers <= thresholds
    return table.assign(
        truth=truth,
        answer=answers.argmax(axis=1),
        confidence=answers.max(axis=1),
        is_covered=is_member[np.arange(len(truth)), truth],
    )


def _scores(studies: pd.DataFrame) -> dict[str, float]:
    from brainlib.evaluation.metrics import point_metrics

    is_right = (studies["answer"] == studies["truth"]).to_numpy()
    is_healthy = (studies["truth"] == NOTUMOR).to_numpy()
    called_tumor = (studies["answer"] != NOTUMOR).to_numpy()
    return {
        **point_metrics(studies, _METRICS),
        "tumor_found": float(called_tumor[~is_healthy].mean()),
        "healthy_found": float(is_right[is_healthy].mean()),
        "type_right": float(is_right[~is_healthy].mean()),
        "set_coverage": float(studies["is_covered"].mean()),
    }


def _by_share(studies: pd.DataFrame, replicates: list[pd.DataFrame]) -> dict[str, dict[str, Any]]:
    found = {}
    for share, part in studies.groupby("share", sort=False):
        values = _scores(part)
        drawn = pd.DataFrame(
            [_scores(again[again["share"] == share]) for again in replicates], columns=list(values)
        )
        found[f"{share:.0%}"] = {
            "studies": len(part),
            **{name: _with_limits(name, value, drawn[name]) for name, value in values.items()},
        }
    return found


def _with_limits(name: str, value: float, drawn: pd.Series) -> dict[str, float]:
    known = {"value": round(value, 6)}
    if len(drawn.dropna()) < 2:
        return known
    low, high = np.quantile(drawn.dropna(), [0.025, 0.975])
    if name == "calibration_error":  # chance lifts it in each draw too: turned about the value
        low, high = max(0.0, 2 * value - high), max(value, 2 * value - low)
    return known | {"low": round(float(low), 6), "high": round(float(high), 6)}


def _reliability(studies: pd.DataFrame, replicates: list[pd.DataFrame]) -> list[dict[str, Any]]:
    """Return by class and bin how often answers were right, over the shares that were fitted."""
    rows = []
    for number, name in enumerate(CLASS_NAMES):
        for low, high in itertools.pairwise(BIN_EDGES):
            part = _in_bin(studies, number, low, high)
            drawn = [_in_bin(again, number, low, high).mean() for again in replicates]
            drawn = [share for share in drawn if np.isfinite(share)]
            if len(part) and len(drawn) > 1:
                lower, upper = _share_limits(float(part.mean()), drawn, len(part))
                rows.append({
                    "class": name, "low": low, "high": high, "studies": len(part),
                    "observed": round(float(part.mean()), 6),
                    "lower": round(float(lower), 6), "upper": round(float(upper), 6),
                })  # fmt: skip
    return rows


def _share_limits(observed: float, drawn: list[float], studies: int) -> tuple[float, float]:
    """Return percentiles; for 0 and 1, which no draw changes, Clopper and Pearson's limits.

    Their trials are people, each of whom gives about a study for every share and draw.
    """
    lower, upper = np.quantile(drawn, [0.025, 0.975])
    margin = 1 - 0.025 ** (1 / max(1, studies // (DRAWS * len(SHARES))))
    if observed >= 1:
        lower = min(float(lower), 1 - margin)
    if observed <= 0:
        upper = max(float(upper), margin)
    return float(lower), float(upper)


def _in_bin(studies: pd.DataFrame, number: int, low: float, high: float) -> pd.Series:
    """Return which of the answers in a bin are right; the last bin holds 1."""
    confidence = studies["confidence"]
    is_in = (confidence >= low) & ((confidence < high) | (high >= 1))
    is_in &= (studies["answer"] == number) & studies["share"].isin(SHARES)
    return studies.loc[is_in, "truth"] == number
