"""The released network: files, measurements, out-of-distribution gate and study rule.

`python -m scripts.release` makes it from the trainings that `02_train` left in `model/`.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brainlib import paths
from brainlib.notebook import runs
from brainlib.paths import BrainlibError
from scripts.release import files, gating, rules, scores, studies
from scripts.release.files import FOLD, RELEASED

LEAST_FOLDS = 3
"""Folds that fitting and testing the rule for studies takes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReleaseSettings(runs.Settings):
    """Parameters of the release.

    Attributes
    ----------
    source, output, seed
        As for every notebook; trainings and predictions lie below the output folder.
    images : int
        Test images of fold 0 that are corrupted to measure robustness.
    """

    output: str = "."
    images: int = 200


def make_release(settings: ReleaseSettings) -> dict[str, Any]:
    """Write the released files, measure them, and put the numbers into `model/metrics.json`.

    Returns
    -------
    dict
        The content of `metrics.json`, with the sections `release`, `maps`, `robustness`, `margins`,
        `sizes`, `gate`, and `studies` where there are three folds. `external` (`scripts.external`)
        is kept where model and gate are the same.

    Raises
    ------
    BrainlibError
        Where predictions are missing, or a file disagrees with the Keras model;
        where the model of fold 0 is missing or damaged.
    """
    if settings.images < 1:
        raise BrainlibError("images must be at least 1")
    run = runs.Run("release", settings, paths.resolve(settings.output))
    predictions = rules.test_predictions(run.model, RELEASED)
    if FOLD not in set(predictions["fold"]):
        raise BrainlibError(
            f"there are no predictions of {RELEASED} on fold {FOLD} in {run.model}: run "
            "notebooks/02_train.ipynb for it, or `make reproduce`"
        )
    released = files.write_files(run.model)
    tested = scores.tested_images(run)
    checked, sample = (
        scores.stratified_sample(tested[FOLD], count, settings.seed)
        for count in (files.CHECKED_IMAGES, settings.images)
    )
    images = files.read_images(run, checked["path"])
    measured = files.measure_files(run.model, released, images)
    sections: dict[str, Any] = {
        "release": {"checked_images": len(checked), **measured},
        "maps": scores.measure_maps(run, tested),
        **scores.measure_damage(run, released, sample),
        "sizes": scores.measure_sizes(run, released, sample),
        "gate": gating.measure_gate(run),
        "studies": {},
    }
    if predictions["fold"].nunique() >= LEAST_FOLDS:
        sections["studies"] = studies.measure_studies(predictions)
    else:
        logger.warning("the rule for studies is not measured: that takes %d folds", LEAST_FOLDS)
    document = run.update_metrics(**sections)
    if not is_measured_with(document, run.model):
        document = run.update_metrics(external={})
    rules.make_rules(run.model, RELEASED, FOLD)
    files.write_manifest(run.model)
    run.write_record("model/release", fold=FOLD, release=sections["release"])
    return document


def is_measured_with(document: dict[str, Any], folder: Path) -> bool:
    """Return whether scans from elsewhere were measured with the released files."""
    hashes = {"model_sha256": paths.file_hash(files.list_files(folder)["onnx"]),
              "gate_sha256": document["gate"]["sha256"]}  # fmt: skip
    return hashes.items() <= document.get("external", {}).items()


def main(source: str = "kaggle", output: str = ".", seed: int = 0, images: int = 200) -> None:
    """Make the release of the trainings in `model/`."""
    make_release(ReleaseSettings(source, output, seed, images))
