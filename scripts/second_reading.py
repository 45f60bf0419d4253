"""The second reading of the kind of tumour, added to the trainings of release 8.

The networks of folds 1 to 4 are not in the repository, but the outlines that they drew on their
test images are (`model/maps`). The second reading needs nothing else of them, since its features
are those of ImageNet in every fold. Fold 0 is answered by its network, as a user is.
`python -m scripts.second_reading` was run once.
"""

import json
import shutil

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
from brainlib.training.reading import fit_kinds, pool
from scripts import command
from scripts.release.files import FOLD, RELEASED

SIZE = models.TRAINING_SIZES[RELEASED]
KINDS = [name for name in CLASS_NAMES if name != "notumor"]


def add_branch(trained):
    """Return the trained network with the branch that ImageNet's features come from."""
    network, old = lesion_net.build_lesion_net(), models.network_of(trained)
    weights = {layer.name: layer.get_weights() for layer in old.layers}
    for layer in models.network_of(network).layers:
        if weights.get(layer.name):
            layer.set_weights(weights[layer.name])
    return network


def pool_inside(network, seen):
    """Return the features of the second reading of some examples, as `pool` does."""
    augmenter = Augmenter(Augmentation(), SIZE, True)
    squares, targets, _ = cropped_examples(seen, augmenter)
    return pool(network, squares, 1 - targets["tissue"][..., :1])


def combine(table, second):
    """Return a prediction table whose kind is the mean of two readings, in log probabilities."""
    tumor = table[KINDS].sum(axis=1).to_numpy()[:, np.newaxis]
    logits = (np.log(table[KINDS].to_numpy().clip(1e-12) / tumor) + second) / 2
    kinds = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, np.newaxis])
    return table.assign(**dict(zip(KINDS, (kinds * tumor).T, strict=True)))


def measure(table):
    """Return the metrics that a second reading can change."""
    figshare = restrict_to_tumors(table, "figshare")
    values = point_metrics(table, ["accuracy", "macro_f1", "log_loss"])
    values["tumor_type_accuracy"] = point_metrics(figshare, ["accuracy"])["accuracy"]
    return {name: round(float(value), 6) for name, value in values.items()}


def main(source: str = "kaggle", output: str = ".", seed: int = 0) -> None:
    """Add the second reading to the released network and to the predictions of five folds."""
    settings = runs.Settings(source, output, seed)
    run = runs.Run("second_reading", settings, paths.resolve(output), False)
    loaded = run.load_images(SIZE)
    table, root = loaded.table, run.collection.root
    network = add_branch(models.load_model(run.model / f"{RELEASED}.keras"))
    maps = explain.read_maps(run.model / "predictions", RELEASED).set_index("path")
    rows = np.flatnonzero(table["path"].isin(maps.index))
    position = pd.Series(np.arange(len(rows)), index=table["path"].iloc[rows])
    seen = training.examples(loaded, rows, root)
    true = pool_inside(network, seen)
    outlines = maps.loc[table["path"].iloc[rows], "outline"]
    points = [np.array(json.loads(text or "[]"), float).reshape(-1, 2) for text in outlines]
    drawn = np.stack([imaging.draw_polygon(polygon * SIZE, SIZE) for polygon in points])
    own = pool_inside(network, training.Examples(seen.pixels, seen.classes, drawn, seen.outlined))[0]
    was_drawn = (outlines != "").to_numpy()
    before, after, document = [], [], {}
    for fold in range(splits.FOLDS):
        split = splits.make_split(table, "patient", fold, run.settings.seed, 0.0)
        taught = position[position.index.isin(table["path"].iloc[split.train])].to_numpy()
        name = f"{RELEASED}_patient{fold}.test"
        file = run.model / "predictions" / f"{name}.csv"
        answers = pd.read_csv(file, dtype={"patient": str, "group": str}, keep_default_na=False)
        before.append(answers)
        kernel, bias = fit_kinds(true[:, taught], seen.classes[taught])
        asked = answers["path"].map(position)
        second = np.zeros((len(answers), len(KINDS)))
        known = asked.notna().to_numpy(copy=True)
        known[known] = was_drawn[asked[known].astype(int).to_numpy()]
        second[known] = own[asked[known].astype(int).to_numpy()] @ kernel + bias
        combined = combine(answers, second)
        combined.loc[~known, KINDS] = answers.loc[~known, KINDS]
        if fold == FOLD:
            measured = {"first": measure(answers), "both, drawn outlines": measure(combined)}
            fitted = training.add_second_reading(
                network, training.examples(loaded, split.train, root)
            )
            models.save_model(fitted, run.model / f"{RELEASED}_patient0.keras")
            shutil.copyfile(run.model / f"{RELEASED}_patient0.keras", run.model / f"{RELEASED}.keras")
            combined = inference.predict_table(
                fitted, splits.subset(table, split, "test"), root, fold
            )
            document["fold_0"] = measured | {"both": measure(combined)}
        after.append(combined)
        run.write_table(combined, f"model/predictions/{name}")
    document |= {"first": measure(pd.concat(before)), "both": measure(pd.concat(after))}
    run.update_metrics(second_reading=document)


if __name__ == "__main__":
    command.run(main)
