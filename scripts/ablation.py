"""Contribution of each part of the network: short trainings with one part changed.

All train on the same few images of the training side of one fold and are scored on its validation
groups, never on a test fold. Each finished training is a table in `runs/ablation/` and is reused;
an interrupted one resumes at its last epoch. `python -m scripts.ablation`.
"""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict

from brainlib import CLASS_NAMES, explain, inference, models, paths
from brainlib.data import splits
from brainlib.evaluation.metrics import point_metrics
from brainlib.evaluation.tables import restrict_to_tumors
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


def study(
    source: str = "kaggle", output: str = ".", seed: int = 0, *, seeds: int = SEEDS,
    epochs: int = EPOCHS, images: int = IMAGES,
) -> dict[str, Any]:  # fmt: skip
    """Train what is missing, seed by seed, and put `ablation` into `metrics.json`."""
    run = runs.Run("ablation", runs.Settings(source, output, seed), paths.resolve(output))
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
    section = summarise(pd.concat(finished, ignore_index=True))
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


def summarise(finished: pd.DataFrame) -> dict[str, Any]:
    """Return the metrics of each variant over the seeds.

    Returns
    -------
    dict
        `seeds`, `images`, `groups`; and `variants`, by name: of each metric the mean as `value`,
        with the lowest and the highest seed as `low` and `high`.
    """
    first = finished[(finished["variant"] == WHOLE) & (finished["seed"] == 0)]
    scores = pd.DataFrame(
        {key: measure(table) for key, table in finished.groupby(["variant", "seed"])}
    ).T
    variants = {
        name: {metric: {"value": round(values.mean(), 6), "low": values.min(), "high": values.max()}
               for metric, values in scores.loc[name].round(6).items() if values.notna().all()}
        for name in (*VARIANTS, SEVERAL_VIEWS) if name in scores.index
    }  # fmt: skip
    return {"seeds": int(finished["seed"].nunique()), "images": len(first),
            "groups": int(first["group"].nunique()), "variants": variants}  # fmt: skip


def measure(table: pd.DataFrame) -> dict[str, float]:
    """Return each metric of a table; Dice is NaN where nothing was drawn."""
    kinds = restrict_to_tumors(table)
    return {
        **point_metrics(table, ["accuracy", "log_loss"]),
        "tumor_type_accuracy": point_metrics(kinds, ["accuracy"])["accuracy"],
        "dice": float(table["dice"].mean()),
    }


if __name__ == "__main__":
    command.run(study)
