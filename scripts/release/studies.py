"""The rule from slices to a study: fitted and measured on held-out patients."""

import itertools
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES, evaluation
from brainlib.evaluation.scores import interval_of
from brainlib.inference import studies
from brainlib.paths import BrainlibError

SENSITIVITY = 0.975
"""Share of the held-out tumour patients whose study is to be called some tumour."""

COVERAGE = 0.9
SHARES = (1.0, 0.5, 0.2, 0.1)
"""Shares of slices that show the tumour, in the studies that a temperature is fitted on."""

UNSEEN_SHARE = 0.05
DRAWS, MOST_SLICES = 2, 12
TEMPERATURES = np.geomspace(0.5, 4, 16).round(4).tolist()
OFFSETS = np.arange(8, -8, -0.1).round(1).tolist()
BIN_EDGES = (0.0, 0.7, 0.9, 0.97, 1.0)
SIMULATION = (
    "These studies are simulated, because the collection has single slices through tumours and no "
    "complete series: slices through the tumour of one held-out patient are mixed with tumour-free "
    "slices of other held-out people; a healthy study has tumour-free slices only. Locations are "
    "unknown, so the second strongest slice stands for persistent evidence. Tumour-free slices "
    "come from other scanners than tumours. Real series can be harder, and a tumour visible in a "
    "single slice is easily missed."
)


def fit_study_rule(predictions: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """Fit the rule for studies.

    The temperature has the least log loss on simulated studies. The offset is the highest with
    which 97.5 % of the tumour patients are called some tumour: healthy heads have no say in it,
    for in the collection they come from other scanners.

    Parameters
    ----------
    predictions : DataFrame
        A prediction table of held-out images, with patients.

    Returns
    -------
    dict
        `offset`, `temperature`, `sensitivity`, conformal `thresholds` by class with their
        `coverage`, and in words `sentence` and `simulation`.
    """
    rules = [_with_offset(predictions, temperature) for temperature in TEMPERATURES]
    simulated = _simulate(predictions, SHARES, np.random.default_rng(seed))
    answers = [_answer(*simulated, rule) for rule in rules]
    best = int(np.argmin([answer["log_loss"].mean() for answer in answers]))
    thresholds = evaluation.fit_conformal(answers[best], COVERAGE)
    return {
        **rules[best],
        "sensitivity": SENSITIVITY,
        "coverage": COVERAGE,
        "thresholds": {name: round(value, 6) for name, value in thresholds.items()},
        "sentence": studies.SENTENCE,
        "simulation": SIMULATION,
    }


def measure_studies(
    predictions: pd.DataFrame, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Measure answers to simulated studies of each fold, by the rule fitted on the other folds.

    Returns
    -------
    dict
        The section `studies` of `metrics.json`: `patients`, `sensitivity`, `simulation` in words;
        `shares`, by the percentage of slices that show the tumour: the number of `studies`, and
        `value`, `low` and `high` (over people) of `accuracy`, `log_loss`, `tumor_found` (tumour
        studies called some tumour), `healthy_found` (healthy ones called `notumor`), `type_right`
        (tumour studies called by their type) and `set_coverage`; and `reliability`, how often
        answers were right, by class and probability.
    """
    answered = []
    for fold, tested in predictions.groupby("fold"):
        rule = fit_study_rule(predictions[predictions["fold"] != fold], seed)
        simulated = _simulate(tested, (*SHARES, UNSEEN_SHARE), np.random.default_rng(seed))
        table = _answer(*simulated, rule)
        sets = evaluation.conformal_sets(table, rule["thresholds"]).to_numpy()
        is_covered = sets[np.arange(len(table)), evaluation.label_codes(table)]
        answered.append(table.assign(is_covered=is_covered))
    table = pd.concat(answered, ignore_index=True)
    interval = partial(interval_of, resamples=resamples, seed=seed)

    def measure(rows: pd.DataFrame) -> dict[str, Any]:
        tumors, healthy = rows[rows["label"] != "notumor"], rows[rows["label"] == "notumor"]
        return {
            "studies": len(rows),
            "accuracy": interval(rows, "is_right"),
            "log_loss": interval(rows, "log_loss"),
            "tumor_found": interval(tumors, "is_called_tumor"),
            "healthy_found": interval(healthy, "is_right"),
            "type_right": interval(tumors, "is_right"),
            "set_coverage": interval(rows, "is_covered"),
        }

    return {
        "patients": int(table["group"][table["label"] != "notumor"].nunique()),
        "sensitivity": SENSITIVITY,
        "simulation": SIMULATION,
        "shares": {f"{share:.0%}": measure(rows)
                   for share, rows in table.groupby("share", sort=False)},
        "reliability": [
            {"studies" if key == "images" else key: row[key] for key in row if key != "groups"}
            for row in evaluation.reliability_by_answer(
                table[table["share"].isin(SHARES)], resamples, BIN_EDGES, least=(1, 2))
        ],
    }  # fmt: skip


def _with_offset(predictions: pd.DataFrame, temperature: float) -> dict[str, float]:
    """Return a rule of this temperature, with the offset that calls enough patients a tumour."""
    tumors = predictions[(predictions["label"] != "notumor") & (predictions["patient"] != "")]
    images = tumors.groupby(["patient", "label"])["label"].transform("size")
    tumors = tumors[images >= studies.LEAST_SLICES]
    if tumors.empty:
        raise BrainlibError("no tumour patient has three images: give such predictions")
    codes = pd.factorize(tumors["patient"] + tumors["label"])[0]
    for offset in OFFSETS:
        rule = {"offset": offset, "temperature": temperature}
        answers, _ = studies.study_probabilities(tumors, codes, rule)
        if (answers.argmax(axis=1) != studies.NOTUMOR).mean() >= SENSITIVITY:
            return rule
    return rule


def _simulate(
    predictions: pd.DataFrame, shares: tuple[float, ...], random: np.random.Generator
) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame]:
    """Put studies together, one for each tumour, share and draw, and a healthy one for every other.

    A healthy study has as many slices, so that their number tells nothing.

    Returns
    -------
    slices : DataFrame
        Their four probabilities.
    codes : int array of shape (n,)
        The study of each slice.
    studies : DataFrame
        `label`, `group` (a person) and `share` of each.
    """
    table = predictions.reset_index(drop=True)
    free = np.flatnonzero(table["label"] == "notumor")
    tumors = table[(table["label"] != "notumor") & (table["patient"] != "")]
    drawn, rows = [], []
    by_patient = tumors.groupby(["patient", "label"]).groups.items()
    for index, ((patient, label), images) in enumerate(by_patient):
        for share, draw in itertools.product(shares, range(DRAWS)):
            shown = random.permutation(images.to_numpy())[:MOST_SLICES]
            size = max(len(shown), round(len(shown) / share))
            drawn.append(np.concatenate([shown, random.choice(free, size - len(shown))]))
            rows.append((label, patient, share))
            if index % 2 == draw % 2:
                drawn.append(random.choice(free, size))
                rows.append(("notumor", f"healthy {index}", share))
    codes = np.repeat(np.arange(len(drawn)), list(map(len, drawn)))
    slices = table.loc[np.concatenate(drawn), list(CLASS_NAMES)]
    return slices, codes, pd.DataFrame(rows, columns=["label", "group", "share"])


def _answer(
    slices: pd.DataFrame, codes: np.ndarray, table: pd.DataFrame, rule: dict[str, Any]
) -> pd.DataFrame:
    """Return the studies with their probabilities, and whether they are right."""
    answers, _ = studies.study_probabilities(slices, codes, rule)
    answer, truth = np.take(CLASS_NAMES, answers.argmax(axis=1)), evaluation.label_codes(table)
    return table.assign(
        **dict(zip(CLASS_NAMES, answers.T, strict=True)),
        is_right=answer == table["label"],
        is_called_tumor=answer != "notumor",
        log_loss=-np.log(np.maximum(answers[np.arange(len(table)), truth], 1e-15)),
    )
