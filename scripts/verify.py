"""Released files against `metrics.json`, evaluated again from the data.

Three things are checked: the hash of the network, its probabilities on the test images of the fold
that it was not trained on (Keras and ONNX), and every metric, computed again from the prediction
tables. `python -m scripts.verify` ends with status 2 where one differs.
"""

from typing import Any

import numpy as np

from brainlib import CLASS_NAMES, evaluation, inference, models
from brainlib.models import engines
from brainlib.notebook import runs
from brainlib.paths import BrainlibError, file_hash, resolve
from scripts import command
from scripts.release.files import FOLD, RELEASED, list_files, read_images

TOLERANCE = 5e-3
"""How far probabilities may be apart: machines round differently, and a grey value beyond a
threshold moves the square around the head by a fraction of a pixel."""

METRIC_TOLERANCE = 2e-6
"""How far metrics may be apart: `metrics.json` has six digits."""


def verify(source: str, output: str) -> list[str]:
    """Check the release and return what was checked, a line each.

    Raises
    ------
    BrainlibError
        Naming everything that differs.
    """
    folder = resolve(output) / "model"
    document = evaluation.read_metrics(folder.parent)
    run = runs.Run("verify", runs.Settings(source, output), folder.parent)
    run.open_collection()
    checks = [check_hash(document, folder), *check_metrics(document, folder),
              *check_probabilities(run)]  # fmt: skip
    if differing := [line for line, is_same in checks if not is_same]:
        raise BrainlibError("not what metrics.json says: " + "; ".join(differing))
    return [line for line, _ in checks]


def check_hash(document: dict[str, Any], folder: Any) -> tuple[str, bool]:
    """Compare the hash of the released network."""
    file = list_files(folder)[RELEASED]
    return f"hash of {file.name}", file_hash(file) == document["release"][RELEASED]["sha256"]


def check_metrics(document: dict[str, Any], folder: Any) -> list[tuple[str, bool]]:
    """Compute every metric again from the prediction tables."""
    checks = []
    for model, by_protocol in evaluation.read_tables(folder / "predictions").items():
        for protocol, table in by_protocol.items():
            published = document["results"][model][protocol]
            again = evaluation.point_metrics(table)
            same = [abs(again[name] - metric["value"]) <= METRIC_TOLERANCE
                    for name, metric in published.items() if isinstance(metric, dict)]  # fmt: skip
            checks.append((f"{len(same)} metrics of {model}, {protocol}", all(same)))
    return checks


def check_probabilities(run: runs.Run) -> list[tuple[str, bool]]:
    """Classify the test images of the fold again, with Keras and with ONNX Runtime."""
    name = runs.run_name(RELEASED, "patient", FOLD)
    table = evaluation.read_predictions(run.model / "predictions" / f"{name}.test.csv")
    expected = table[list(CLASS_NAMES)].to_numpy()
    images = read_images(run, table["path"])
    files, checks = list_files(run.model), []
    loaded = {"Keras": models.load_model(files[RELEASED]), "ONNX": engines.open_onnx(files["onnx"])}
    for engine, model in loaded.items():
        given = inference.predict_images(model, images)
        accuracy = (given.argmax(axis=1) == evaluation.label_codes(table)).mean()
        difference = float(np.abs(given - expected).max())
        line = f"{len(images)} images with {engine}, accuracy {accuracy:.4f}, {difference:.1e} off"
        checks.append((line, difference <= TOLERANCE))
    return checks


def main(source: str = "kaggle", output: str = ".") -> None:
    """Verify the release and print what was checked."""
    print("\n".join(verify(source, output)))


if __name__ == "__main__":
    command.run(main)
