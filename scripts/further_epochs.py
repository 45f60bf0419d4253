"""The network of release 12: that of release 8 (fold 0), trained on for three epochs.

`python -m scripts.further_epochs MODEL` was run once, with the released file of release 11, whose
second readings are fitted anew on the result.
"""

from dataclasses import replace
from pathlib import Path

from brainlib import models, paths, training
from brainlib.data import splits
from brainlib.notebook import runs
from scripts import command

EPOCHS, RATE, AVERAGE = 3, 2e-4, 0.99


def main(model: Path, source: str = "kaggle", output: str = ".") -> None:
    """Write `model/lesion_net_patient0.keras` and the predictions of its fold."""
    run = runs.Run("further_epochs", runs.Settings(source, output), paths.resolve(output))
    loaded = run.load_images(models.TRAINING_SIZES["lesion_net"])
    split = splits.make_split(loaded.table, "patient", 0, 0, 0.0)
    seen = training.examples(loaded, split.train, run.collection.root)
    old, further = models.network_of(models.load_model(model)), models.build_model("lesion_net", 0)
    known = {layer.name: layer.get_weights() for layer in old.layers}
    for layer in models.network_of(further).layers:
        if layer.weights and not layer.name.startswith("second_"):
            layer.set_weights(known[layer.name])
    recipe = replace(training.recipe("lesion_net", 0, EPOCHS, 0, RATE), average=AVERAGE)
    training.fit(further, seen, None, recipe, run.folder / "further_epochs")
    models.save_model(further, run.folder / "further.keras")
    both = training.add_second_reading(further, seen)
    models.save_model(both, run.model / "lesion_net_patient0.keras")


if __name__ == "__main__":
    command.run(main)
