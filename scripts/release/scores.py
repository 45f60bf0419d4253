"""Measurements of the released network: its maps, damaged images, other sizes."""

import logging
from collections.abc import Iterable
from functools import partial
from typing import Any

import keras
import numpy as np
import pandas as pd
from PIL import Image

from brainlib import evaluation, explain, inference, models
from brainlib.data import splits
from brainlib.evaluation import corruptions
from brainlib.evaluation.bootstrap import mean_with_interval
from brainlib.notebook import runs
from scripts.release.files import BASELINE, RELEASED, fold_file, is_current, read_images
from scripts.release.margins import MARGINS

LARGE_SIZE = 512
"""Pixels of the longer side to which images are enlarged for the comparison of sizes."""

logger = logging.getLogger(__name__)


def tested_images(run: runs.Run) -> dict[int, pd.DataFrame]:
    """Return the image table of the test images of each patient fold, as `02_train` has them."""
    table = run.load_images(models.TRAINING_SIZES[RELEASED]).table
    return {
        fold: splits.subset(
            table, splits.make_split(table, "patient", fold, run.settings.seed, 0.0), "test"
        )
        for fold in range(splits.FOLDS)
    }


def stratified_sample(table: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Draw `count` rows of an image table, each class with its share of the table."""
    shuffled = table.sample(frac=1, random_state=seed)
    by_label = shuffled.groupby("label")["path"]
    place = (by_label.cumcount() + 0.5) / by_label.transform("size")
    return shuffled.loc[place.sort_values(kind="stable").index[:count]].reset_index(drop=True)


def measure_maps(run: runs.Run, tested: dict[int, pd.DataFrame]) -> dict[str, Any]:
    """Score the maps of every fold's model on its test images.

    Tables are written to `model/maps/<name>.csv` and reused where they are newer than their model.
    A fold with neither table nor model is skipped with a warning.

    Returns
    -------
    dict
        As `evaluation.summarize_maps` gives it, with the number of `folds`.
    """
    scored = []
    for fold, table in tested.items():
        model_file = fold_file(run.model, RELEASED, fold)
        scores = run.model / "maps" / f"{model_file.stem}.csv"
        if is_current(scores, model_file):
            scored.append(explain.read_scores(scores))
        elif model_file.is_file():
            model = models.load_model(model_file)
            scored.append(explain.score_maps(model, table, run.collection.root, fold))
            run.write_table(scored[-1], f"model/maps/{model_file.stem}")
        else:
            logger.warning("there is no %s: maps of fold %d are not scored", model_file, fold)
    joined = pd.concat(scored, ignore_index=True)
    return {"folds": len(scored), **evaluation.summarize_maps(joined)}


def measure_damage(run: runs.Run, released: keras.Model, sample: pd.DataFrame) -> dict[str, Any]:
    """Measure accuracy on corrupted images and on images with margins, of both networks.

    The table of corruptions is written to `model/robustness.csv`.

    Returns
    -------
    dict
        The sections `robustness` and `margins`: `images`, and by network the accuracy on `clean`
        images and in each condition. `robustness` has it by strength with its `mean`, and
        `accuracy_kept`, the mean share of the clean accuracy; `margins` a dict of `accuracy` and
        `kept` for each.
    """
    networks = {RELEASED: released}
    if fold_file(run.model, BASELINE).is_file():
        networks[BASELINE] = models.load_model(fold_file(run.model, BASELINE))
    images, seed = read_images(run, sample["path"]), run.settings.seed
    truth = evaluation.label_codes(sample)
    sections: dict[str, Any] = {name: {"images": len(sample)} for name in ("robustness", "margins")}
    tables = []
    for name, network in networks.items():
        logger.info("measuring the robustness of %s", name)
        predict = partial(inference.predict_images, network)
        table = corruptions.robustness(predict, images, truth, seed)
        tables.append(
            pd.concat({(name, len(sample), seed): table}, names=["model", "images", "seed"])
        )
        sections["robustness"][name] = evaluation.rounded(table)
        if table.loc["clean", "mean"]:  # else there is nothing to keep
            kept = round(corruptions.accuracy_kept(table), 6)
            sections["robustness"][name]["accuracy_kept"] = kept
        sections["margins"][name] = _margins(predict, images, truth)
    run.write_table(pd.concat(tables).reset_index(), "model/robustness")
    return sections


def _margins(predict: Any, images: list[np.ndarray], truth: np.ndarray) -> dict[str, Any]:
    accuracies = {
        name: float((predict([change(image) for image in images]).argmax(axis=1) == truth).mean())
        for name, change in {"clean": np.asarray, **MARGINS}.items()
    }
    clean = accuracies["clean"]
    return {
        name: {"accuracy": round(value, 6)} | ({"kept": round(value / clean, 6)} if clean else {})
        for name, value in accuracies.items()
    }


def measure_sizes(run: runs.Run, released: keras.Model, sample: pd.DataFrame) -> dict[str, Any]:
    """Measure how often the same head gets the same class in its file's size and enlarged.

    Returns
    -------
    dict
        `same_class`, as `share` gives it, and the `size` of the longer side, pixels.
    """
    images = read_images(run, sample["path"])
    answers = [inference.predict_images(released, shown).argmax(axis=1)
               for shown in (images, map(_enlarged, images))]  # fmt: skip
    return {"size": LARGE_SIZE, "same_class": share(answers[0] == answers[1], sample["group"])}


def _enlarged(image: np.ndarray) -> np.ndarray:
    factor = LARGE_SIZE / max(image.shape)
    height, width = (round(factor * side) for side in image.shape)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def share(values: Iterable[bool], groups: Iterable) -> dict[str, Any]:
    """Return a share with its interval over groups; without limits where there is one group."""
    return mean_with_interval(np.array([*values], bool), np.array([*groups], str))
