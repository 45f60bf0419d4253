"""What the network makes of a kind of tumour that it has never seen.

For each tumour class the short recipe is trained without it, on the training groups of one fold,
and asked about the validation groups, which have it. A kind that is not known should be answered
with less certainty than the kinds that are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special
from sklearn.metrics import roc_auc_score

from brainlib import CLASS_NAMES, paths
from brainlib.evaluation.intervals import mean_with_interval
from brainlib.notebook import runs
from brainlib.training import forget
from scripts.ablation.training import FOLD, Held, load, train
from scripts.ablation.variants import WHOLE, Variant, choose_variants, fingerprint

TUMORS = tuple(name for name in CLASS_NAMES if name != "notumor")
COLUMNS = ("unknown", "recipe", "group", "label", "answer", "certainty")


@dataclass(frozen=True)
class UnknownSettings(runs.Settings):
    """Parameters of the study.

    Attributes
    ----------
    source, output, seed
        As for every notebook; the seed chooses the validation groups and draws the intervals.
    epochs : int
        Instead of those of the short recipe, where it is not 0.
    resamples : int
        Resamplings of the groups behind each interval.
    """

    output: str = "."
    epochs: int = 0
    resamples: int = 1000


def study_unknown(settings: UnknownSettings) -> dict[str, Any]:
    """Train without each tumour class in turn, and put the section `unknown` into `metrics.json`.

    A training that is finished is kept in `model/unknown.csv`, and not made again.

    Returns
    -------
    dict
        The section, as `summarise_unknown` gives it.
    """
    run = runs.Run("unknown", settings, paths.resolve(settings.output), smoke=False)
    variant = choose_variants([WHOLE], settings.epochs)[WHOLE]
    recipe = fingerprint(variant, settings.seed, run.open_collection().file_hash)
    file = run.model / "unknown.csv"
    found = pd.read_csv(file, dtype=str) if file.is_file() else pd.DataFrame(columns=COLUMNS)
    found = found.astype({"certainty": float})
    kept, found = found[found["recipe"] != recipe], found[found["recipe"] == recipe]
    for name in TUMORS:
        if name not in set(found["unknown"]):
            held = load(settings.source, settings.seed)
            answers = answer_unknown(name, variant, held, run.model / "checkpoints" / f"no_{name}")
            found = pd.concat([found, answers.assign(recipe=recipe)], ignore_index=True)
            run.write_table(pd.concat([kept, found])[list(COLUMNS)], "model/unknown")
    section = summarise_unknown(found, settings.resamples, settings.seed)
    run.update_metrics(unknown=section)
    run.write_record("model/unknown", fold=FOLD, epochs=variant.schedule.epochs)
    return section


def answer_unknown(name: str, variant: Variant, held: Held, checkpoint: Path) -> pd.DataFrame:
    """Train a variant without one class, and ask it about the validation groups.

    Parameters
    ----------
    name : str
        The class that it does not see.
    variant : Variant
    held : Held
    checkpoint : Path
        Folder of the state of the fit; it is deleted at the end.

    Returns
    -------
    DataFrame
        A row for each validation picture: `unknown`, `group`, `label`, the class that is the
        `answer`, and its probability, `certainty`.
    """
    is_known = held.train.classes != CLASS_NAMES.index(name)
    network = train(variant, 0, held.train.part(np.flatnonzero(is_known)), checkpoint)
    shown = held.validation.resized(variant.schedule.sizes[-1][0])
    logits = network.predict(shown.pixels, batch_size=64, verbose=0)["logits"]
    probabilities = special.softmax(logits.astype(float), axis=1)
    forget(checkpoint)
    answers = held.table[["group", "label"]].astype(str).assign(unknown=name)
    answers["answer"] = np.take(CLASS_NAMES, probabilities.argmax(axis=1))
    answers["certainty"] = probabilities.max(axis=1).round(6)
    return answers


def summarise_unknown(
    answers: pd.DataFrame, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Compare the certainty about the unknown class with that about the known ones.

    Parameters
    ----------
    answers : DataFrame
        As `answer_unknown` gives it, one or several unknown classes.
    resamples, seed : int
        Of the groups.

    Returns
    -------
    dict
        By unknown class: `pictures` of it; `certainty_unknown` and `certainty_known`, the mean
        probability of the answer to it and to the tumours that were trained on, with 95 %
        intervals over groups; `auroc`, how well low certainty tells the unknown from the known
        tumours (0.5: not at all); `called`, the class it is most often taken for, and the `share`.
    """
    found = {}
    for name, rows in answers.groupby("unknown", sort=False):
        tumors = rows[rows["label"] != "notumor"]
        is_unknown = (tumors["label"] == name).to_numpy()
        of_it = tumors[is_unknown]
        called = of_it["answer"].value_counts(normalize=True)
        found[str(name)] = {
            "pictures": len(of_it),
            "certainty_unknown": _mean(of_it, resamples, seed),
            "certainty_known": _mean(tumors[~is_unknown], resamples, seed),
            "auroc": round(float(roc_auc_score(is_unknown, -tumors["certainty"])), 6),
            "called": str(called.index[0]),
            "share": round(float(called.iloc[0]), 6),
        }
    return found


def _mean(rows: pd.DataFrame, resamples: int, seed: int) -> dict[str, float]:
    groups = rows["group"].to_numpy(object)
    value, low, high = mean_with_interval(
        rows["certainty"].to_numpy(float), groups, resamples, seed
    )[:3]
    return {"value": round(value, 6), "low": round(low, 6), "high": round(high, 6)}
