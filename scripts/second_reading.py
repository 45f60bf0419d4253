"""The predictions of release 11: the networks of release 8, read a second time on right crops.

The networks of folds 1 to 4 are not in the repository, but their predictions of release 8 are (in
FIRST, taken from the history of git), and the outlines that they drew (`model/maps`). The kind of
tumour is read a second time inside these; the evidence of a tumour is that of release 8. Fold 0 is
answered by its network, as a user is. `python -m scripts.second_reading FIRST` was run once.
"""

import json
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES, evaluation, explain, imaging, inference, models, paths, training
from brainlib.data import splits
from brainlib.evaluation.metrics import point_metrics
from brainlib.evaluation.tables import restrict_to_tumors
from brainlib.models import lesion_net
from brainlib.notebook import runs
from brainlib.training.augmentation import Augmentation, Augmenter
from brainlib.training.batches import cropped_examples
from brainlib.training.reading import KIND_STRENGTH, fit_reading, pool
from scripts import command

SIZE = models.TRAINING_SIZES["lesion_net"]
KINDS = [name for name in CLASS_NAMES if name != "notumor"]
BEFORE, NOW = (2.7, 1.1, 1.8), lesion_net.CALIBRATION


def recalibrate(table: pd.DataFrame, second: np.ndarray | None = None) -> pd.DataFrame:
    """Return a table of release 8 with today's calibration and, where given, a second reading."""
    tumor = table[KINDS].sum(axis=1).to_numpy().clip(1e-15)
    none = table["notumor"].to_numpy().clip(1e-15)
    evidence = (np.log(tumor) - np.log(none)) * BEFORE[1] - BEFORE[0]
    odds = (evidence + NOW[0]) / NOW[1]
    kinds = np.log(table[KINDS].to_numpy().clip(1e-15) / tumor[:, np.newaxis]) * BEFORE[2] / NOW[2]
    if second is not None:
        read = np.isfinite(second).all(axis=1)
        kinds[read] = (kinds[read] - np.logaddexp.reduce(kinds[read], axis=1)[:, None]
                       + second[read]) / 2  # fmt: skip
    kinds = kinds - np.logaddexp.reduce(kinds, axis=1)[:, np.newaxis]
    shares = np.exp(kinds - np.logaddexp(0, -odds)[:, np.newaxis])
    return table.assign(notumor=np.exp(-np.logaddexp(0, odds)),
                        **dict(zip(KINDS, shares.T, strict=True)))  # fmt: skip


def pool_inside(network: keras.Model, seen: training.Examples) -> np.ndarray:
    """Return the features of the second reading of some examples, as `pool` does."""
    augmenter = Augmenter(Augmentation(), SIZE, True)
    squares, targets, _ = cropped_examples(seen, augmenter)
    return pool(network, squares, 1 - targets["tissue"][..., :1])


def measure(table: pd.DataFrame) -> dict[str, float]:
    """Return the metrics that a second reading can change."""
    figshare = restrict_to_tumors(table[table["source"] == "figshare"])
    values = point_metrics(table, ["accuracy", "macro_f1", "log_loss"])
    values["tumor_type_accuracy"] = point_metrics(figshare, ["accuracy"])["accuracy"]
    return {name: round(float(value), 6) for name, value in values.items()}


def main(first: Path, source: str = "kaggle", output: str = ".", seed: int = 0) -> None:
    """Write the predictions of the five folds and of the official split."""
    run = runs.Run("second_reading", runs.Settings(source, output, seed), paths.resolve(output))
    loaded = run.load_images(SIZE)
    table, root = loaded.table, run.collection.root
    released = models.load_model(run.model / "lesion_net_patient0.keras")
    maps = explain.read_maps(run.model / "predictions", "lesion_net").set_index("path")
    rows = np.flatnonzero(table["path"].isin(maps.index))
    position = pd.Series(np.arange(len(rows)), index=table["path"].iloc[rows])
    seen = training.examples(loaded, rows, root)
    network = lesion_net.build_lesion_net()
    true = pool_inside(network, seen)
    outlines = maps.loc[table["path"].iloc[rows], "outline"]
    points = [np.array(json.loads(text or "[]"), float).reshape(-1, 2) for text in outlines]
    drawn = np.stack([imaging.draw_polygon(polygon * SIZE, SIZE) for polygon in points])
    own = pool_inside(network, training.Examples(seen.pixels, seen.classes, drawn, seen.outlined))
    own, was_drawn = own[: len(rows)], (outlines != "").to_numpy()
    kinds = np.concatenate([seen.classes, seen.classes])
    before, after = [], []
    for fold in range(splits.FOLDS):
        split = splits.make_split(table, "patient", fold, run.settings.seed, 0.0)
        name = f"lesion_net_patient{fold}.test"
        answers = pd.read_csv(Path(first) / f"{name}.csv", dtype={"patient": str, "group": str},
                              keep_default_na=False)  # fmt: skip
        before.append(recalibrate(answers))
        is_taught = position.index.isin(table["path"].iloc[split.train])
        taught = np.flatnonzero(np.concatenate([is_taught, is_taught]))
        kernel, bias = fit_reading(true[taught], kinds[taught], KIND_STRENGTH)
        second = np.full((len(answers), len(KINDS)), np.nan)
        asked = answers["path"].map(position)
        known = asked.notna().to_numpy(copy=True)
        known[known] = was_drawn[asked[known].astype(int).to_numpy()]
        second[known] = own[asked[known].astype(int).to_numpy()] @ kernel + bias
        combined = recalibrate(answers, second)
        print(fold, "first:", measure(recalibrate(answers)), "both:", measure(combined), flush=True)
        if fold == 0:
            test = splits.subset(table, split, "test")
            by_network = inference.predict_table(released, test, root, fold)
            of_fold = {"first": measure(recalibrate(answers)), "both": measure(by_network),
                       "both, drawn outlines": measure(combined)}  # fmt: skip
            combined = by_network
        after.append(combined)
        run.write_table(combined, f"model/predictions/{name}")
    name = "lesion_net_official.test"
    official = pd.read_csv(Path(first) / f"{name}.csv", dtype={"patient": str, "group": str},
                           keep_default_na=False)  # fmt: skip
    run.write_table(recalibrate(official), f"model/predictions/{name}")
    document = {"first": measure(pd.concat(before)), "both": measure(pd.concat(after)),
                "fold_0": of_fold}  # fmt: skip
    print(document)
    metrics = evaluation.read_metrics(paths.project_root()) | {"second_reading": document}
    run.write_json(metrics, "model/metrics")


if __name__ == "__main__":
    command.run(main)
