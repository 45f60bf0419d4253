"""The network of release 14: that of fold 0, trained on for three epochs.

`python -m scripts.further_epochs` was run once, from `model/lesion_net_patient0.keras` as the GPU
had trained it. An interrupted run resumes.
"""

from dataclasses import replace

from brainlib import models, paths, training
from brainlib.data import splits
from brainlib.notebook import runs
from scripts import command

EPOCHS, RATE, AVERAGE, SEED = 3, 2e-4, 0.99, 1


def main(source: str = "kaggle", output: str = ".") -> None:
    """Write `model/lesion_net_patient0.keras`."""
    run = runs.Run("further_epochs", runs.Settings(source, output), paths.resolve(output))
    loaded = run.load_images(models.TRAINING_SIZES["lesion_net"])
    split = splits.make_split(loaded.table, "patient", 0, 0, 0.0)
    seen = training.examples(loaded, split.train, run.collection.root)
    file = run.model / "lesion_net_patient0.keras"
    trained, model = models.load_model(file), models.build_model("lesion_net", 0)
    known = {layer.name: layer.get_weights() for layer in models.network_of(trained).layers}
    for layer in models.network_of(model).layers:
        if layer.weights and not layer.name.startswith("second_"):
            layer.set_weights(known[layer.name])
    recipe = replace(training.recipe("lesion_net", SEED, EPOCHS, 0, RATE), average=AVERAGE)
    training.fit(model, seen, None, recipe, run.model.parent / "runs" / "further_epochs")
    models.save_model(training.add_second_reading(model, seen), file)


if __name__ == "__main__":
    command.run(main)
