"""The network of release 13: the mean of two that were trained on for three epochs (fold 0).

`python -m scripts.further_epochs RELEASE12 RELEASE11` was run once, with the released files. The
first shows the healthy head with bent grey values, the second as it is. Second readings are fitted
anew. An interrupted run resumes.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from brainlib import models, paths, training
from brainlib.data import splits
from brainlib.notebook import runs
from brainlib.training import healthy_head
from scripts import command

EPOCHS, RATE, AVERAGE = 3, 2e-4, 0.99
SEEDS, BENT = (1, 0), (2 / 3, 0.0)


def main(release12: Path, release11: Path, source: str = "kaggle", output: str = ".") -> None:
    """Write `model/lesion_net_patient0.keras`."""
    run = runs.Run("further_epochs", runs.Settings(source, output), paths.resolve(output))
    loaded = run.load_images(models.TRAINING_SIZES["lesion_net"])
    split = splits.make_split(loaded.table, "patient", 0, 0, 0.0)
    seen = training.examples(loaded, split.train, run.collection.root)
    folder, members = run.model.parent / "runs" / "further_epochs", []
    folder.mkdir(parents=True, exist_ok=True)
    for start, seed, bent in zip((release12, release11), SEEDS, BENT, strict=True):
        file = folder / f"member{seed}.keras"
        if not file.is_file():
            healthy_head.BENT = bent
            recipe = replace(training.recipe("lesion_net", seed, EPOCHS, 0, RATE), average=AVERAGE)
            further = first_reading(models.load_model(start))
            training.fit(further, seen, None, recipe, folder / f"state{seed}")
            models.save_model(further, file)
        members.append(models.load_model(file))
    mean, *others = members
    for weight, *same in zip(*(member.weights for member in members), strict=True):
        if weight.dtype.startswith("float"):
            weight.assign(np.mean([weight, *same], axis=0))
    both = training.add_second_reading(mean, seen)
    models.save_model(both, run.model / "lesion_net_patient0.keras")


def first_reading(trained):
    """Return a trained model without its second readings."""
    model = models.build_model("lesion_net", 0)
    known = {layer.name: layer.get_weights() for layer in models.network_of(trained).layers}
    for layer in models.network_of(model).layers:
        if layer.weights and not layer.name.startswith("second_"):
            layer.set_weights(known[layer.name])
    return model


if __name__ == "__main__":
    command.run(main)
