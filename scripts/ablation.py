"""Contribution of each part of the network: short trainings with one part changed.

All train on the same few images of the training side of one fold and are scored on its validation
groups, never on a test fold. Each finished training is a table in `runs/ablation/` and is reused;
an interrupted one resumes at its last epoch. `python -m scripts.ablation`.
"""

import hashlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict

from brainlib import CLASS_NAMES, explain, inference, models, paths
from brainlib.data import splits
from brainlib.evaluation.bootstrap import resampled_weights
from brainlib.evaluation.metrics import weighted_metrics
from brainlib.evaluation.tables import group_codes, restrict_to_tumors
from brainlib.models.registry import MODELS
from brainlib.notebook import runs
from brainlib.training import RECIPES, Examples, Schedule, examples, fit, forget
from scripts import command

RELEASED = next(iter(MODELS))
FOLD = 0
"""The fold whose test images the study never looks at."""

SIZE, IMAGES, EPOCHS, SEEDS = 128, 512, 7, 3
"""Squares, training images, epochs and trainings of each variant: an hour on two cores."""

CLASSES = list(CLASS_NAMES)


WHOLE, SEVERAL_VIEWS = "whole", "several_views"
VARIANTS: dict[str, dict[str, Any]] = {
    WHOLE: {},
    "no_pretraining": {"pretrained": False},
    "no_outlines": {"outlines": False},
    "no_head": {"find_head": False},
}
"""What is trained: fields of `models.Parts` that are changed, or no outlines to train on."""

TITLES = {
    WHOLE: "full network",
    "no_pretraining": "without ImageNet weights",
    "no_outlines": "without outlines, class labels only",
    "no_head": "without finding the head",
    SEVERAL_VIEWS: "mean of the image and its mirror image",  # of the full network
}


def study(
    source: str = "kaggle", output: str = ".", seed: int = 0, *, seeds: int = SEEDS,
    epochs: int = EPOCHS, images: int = IMAGES,
) -> dict[str, Any]:  # fmt: skip
    """Train what is missing, seed by seed, and put `ablation` into `metrics.json`."""
    run = runs.Run("ablation", runs.Settings(source, output, seed), paths.resolve(output), False)
    loaded = run.load_images(SIZE)
    split = splits.make_split(loaded.table, "patient", FOLD, seed)
    rows = np.random.default_rng(seed).permutation(split.train)[:images]
    train = examples(loaded, rows, run.collection.root)
    table = splits.subset(loaded.table, split, "validation").reset_index(drop=True)
    finished = []
    for draw in range(seeds):
        # small batches: as many steps as few images allow; the moving average covers some 30
        schedule = replace(RECIPES[RELEASED], epochs=epochs, batch_size=8, seed=draw, average=0.97)
        for name, changed in VARIANTS.items():
            choices = [changed, asdict(schedule), SIZE, images, seed, run.collection.file_hash]
            digest = hashlib.sha256(json.dumps(choices).encode()).hexdigest()[:12]
            file = run.output / "runs" / "ablation" / f"{name}_{draw}_{digest}.csv"
            if not file.is_file():
                model = train_variant(changed, schedule, train, file.with_suffix(""))
                scored = score(name, model, table, run.collection.root)
                run.write_table(scored, f"runs/ablation/{file.stem}")
                forget(file.with_suffix(""))
            finished.append(pd.read_csv(file, dtype={"group": str}).assign(seed=draw))
    section = summarise(pd.concat(finished, ignore_index=True), seed=seed)
    section |= {"trained_on": len(train), "epochs": epochs, "size": SIZE}
    run.update_metrics(ablation=section)
    return section


def train_variant(
    changed: dict[str, Any], schedule: Schedule, seen: Examples, checkpoint: Path
) -> keras.Model:
    """Train the network with one part changed, on what it may see."""
    changed = dict(changed)
    if not changed.pop("outlines", True):
        seen = replace(seen, outlined=np.zeros(len(seen), bool))
    parts = models.Parts(size=SIZE, **changed)
    if not parts.pretrained:  # random weights are not worth keeping
        schedule = replace(schedule, frozen_blocks=0)
    keras.utils.clear_session()
    keras.utils.set_random_seed(schedule.seed)
    model = MODELS[RELEASED](parts)
    fit(model, seen, None, schedule, checkpoint, finds_head=parts.find_head)
    return model


def score(name: str, model: keras.Model, table: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Score a model on the validation images, the full network also with several views.

    Returns
    -------
    DataFrame
        A prediction table with `variant`, and `dice` of the outlined tumours, NaN elsewhere.
    """
    answers = inference.predict_table(model, table, root, FOLD)
    scored = [recalibrate(answers).assign(variant=name, dice=np.nan)]
    if VARIANTS[name].get("outlines", True):
        maps = explain.score_maps(models.with_maps(model), table, root, FOLD)
        scored[0]["dice"] = answers["path"].map(maps.set_index("path")["dice"])
    if name == WHOLE:
        pixels = keras.Input((None, None, None))
        views = [model(pixels), model(keras.ops.flip(pixels, axis=2))]
        both = keras.Model(pixels, keras.layers.Average()(views))
        answers = inference.predict_table(both, table, root, FOLD)
        scored.append(recalibrate(answers).assign(variant=SEVERAL_VIEWS))
    return pd.concat(scored, ignore_index=True).round(6)


def recalibrate(answers: pd.DataFrame) -> pd.DataFrame:
    """Return a prediction table whose P(tumour) is calibrated on other groups (Platt, 1999).

    The released calibration belongs to the released recipe and would favour some variants.
    """
    healthy = answers["notumor"].clip(1e-9, 1 - 1e-9)
    tumor = cross_val_predict(
        LogisticRegression(C=1e3), np.log(1 / healthy - 1).to_frame(),
        answers["label"] != "notumor", groups=answers["group"], cv=GroupKFold(5),
        method="predict_proba",
    )[:, 1]  # fmt: skip
    answers[CLASSES] = answers[CLASSES].mul(tumor / (1 - healthy), axis="index")
    return answers.assign(notumor=1 - tumor)


def summarise(finished: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Compare each variant with the full network.

    Returns
    -------
    dict
        `seeds`, `images`, `groups`; and `variants`, by name: `title`, each metric as `interval`
        gives it, and under `difference` the same for the variant minus the full network, seed by
        seed on the same groups.
    """
    first = finished[(finished["variant"] == WHOLE) & (finished["seed"] == 0)]
    draws = resampled_weights(group_codes(first), resamples, seed)
    weights = np.concatenate([np.ones((1, len(first))), *draws])
    measured = {
        name: [measure(table, weights) for _, table in rows.groupby("seed")]
        for name, rows in finished.groupby("variant")
    }
    variants = {}
    for name in (name for name in TITLES if name in measured):
        variants[name] = {"title": TITLES[name], "difference": {}}
        for metric in measured[name][0]:
            own, whole = (np.stack([one[metric] for one in measured[variant]], axis=1)
                          for variant in (name, WHOLE))  # fmt: skip
            variants[name][metric] = interval(own)
            if name != WHOLE:
                variants[name]["difference"][metric] = interval(own - whole)
    return {"seeds": len(measured[WHOLE]), "images": len(first),
            "groups": int(first["group"].nunique()), "variants": variants}  # fmt: skip


def measure(table: pd.DataFrame, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return each metric of a table for several weightings (r, n) of its images, arrays (r,)."""
    is_tumor = table["label"] != "notumor"
    main_source = table.loc[is_tumor, "source"].mode().iloc[0]
    typed = is_tumor & (table["source"] == main_source)
    kinds = restrict_to_tumors(table, main_source)
    answered = weighted_metrics(table, weights, ["accuracy", "log_loss"])
    kind = weighted_metrics(kinds, weights[:, typed], ["accuracy"])
    measured = {"accuracy": answered[:, 0], "tumor_type_accuracy": kind[:, 0],
                "log_loss": answered[:, 1]}  # fmt: skip
    drawn = table["dice"].notna()
    if drawn.any():
        share = weights[:, drawn] / weights[:, drawn].sum(axis=1, keepdims=True)
        measured["dice"] = share @ table["dice"][drawn].to_numpy()
    return measured


def interval(measured: np.ndarray) -> dict[str, float]:
    """Return the mean over seeds, with a 95 % interval over other seeds and other patients.

    The variance of the mean over resampled groups and the variance between seeds, divided by their
    number, are added; Student's distribution has the degrees of freedom of Satterthwaite (1946).

    Parameters
    ----------
    measured : float array of shape (1 + resamples, seeds)
        The values, then those of each resample.

    Examples
    --------
    >>> interval(np.array([[0.8, 0.9, 0.85], [0.85, 0.85, 0.85], [0.85, 0.85, 0.85]]))
    {'value': 0.85, 'low': 0.725793, 'high': 0.974207}
    """
    values, count = measured[0], measured.shape[1]
    limits = {"value": float(values.mean())}
    if count > 1:
        by_seed = float(values.var(ddof=1)) / count
        total = float(np.nanvar(measured[1:].mean(axis=1), ddof=1)) + by_seed
        freedom = (count - 1) * (total / by_seed) ** 2 if by_seed else np.inf
        margin = float(stats.t.ppf(0.975, freedom)) * total**0.5
        limits |= {"low": limits["value"] - margin, "high": limits["value"] + margin}
    return {name: round(limit, 6) for name, limit in limits.items()}


def main() -> None:
    """Study the parts of the released network."""
    parser = command.parser(__doc__)
    for name, default in (("seeds", SEEDS), ("epochs", EPOCHS), ("images", IMAGES)):
        parser.add_argument(f"--{name}", type=int, default=default)
    study(**vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(command.run(main))
