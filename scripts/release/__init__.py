"""The released network: files, measurements, out-of-distribution gate and study rule.

`python -m scripts.release` makes it from the trainings that `02_train` left in `model/`.
"""

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from brainlib import evaluation, paths
from brainlib.notebook import runs
from scripts import command
from scripts.release import gating, rules, scores, studies
from scripts.release.files import (
    CHECKED_IMAGES,
    FOLD,
    RELEASED,
    ReleaseError,
    file_hash,
    list_files,
    measure_files,
    read_images,
    write_files,
    write_manifest,
)

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
    resamples : int
        Bootstrap resamples of the groups behind each interval.
    """

    output: str = "."
    images: int = 200
    resamples: int = 1000


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
    ReleaseError
        Where predictions are missing, or a file disagrees with the Keras model.
    ModelError
        Where the model of fold 0 is missing or damaged.
    """
    if settings.images < 1 or settings.resamples < 1:
        raise ReleaseError("images and resamples must be at least 1")
    run = runs.Run("release", settings, paths.resolve(settings.output), smoke=False)
    predictions = read_predictions(run)
    released = write_files(run.model)
    tested = scores.tested_images(run)
    checked, sample = (
        scores.stratified_sample(tested[FOLD], count, settings.seed)
        for count in (CHECKED_IMAGES, settings.images)
    )
    files = measure_files(run.model, released, read_images(run, checked["path"]))
    sections: dict[str, Any] = {
        "release": {"checked_images": len(checked), **files},
        "maps": scores.measure_maps(run, tested),
        **scores.measure_damage(run, released, sample),
        "sizes": scores.measure_sizes(run, released, sample),
        "gate": gating.measure_gate(run),
        **measure_studies(predictions),
    }
    document = _write_sections(run, sections)
    rules.make_rules(run.model, RELEASED, FOLD)
    write_manifest(run.model)
    run.write_record("model/release", fold=FOLD, release=sections["release"])
    return document


def read_predictions(run: runs.Run) -> pd.DataFrame:
    """Return the test predictions of the released network on the patient folds.

    Raises
    ------
    ReleaseError
        Where there are none of fold 0.
    """
    place = run.model / "predictions"
    test = evaluation.read_tables(place).get(RELEASED, {}).get("patient")
    if test is None or not (test["fold"] == FOLD).any():
        raise ReleaseError(
            f"{place} holds no test predictions of {RELEASED} on fold {FOLD}: run "
            "notebooks/02_train.ipynb for every fold, or `make reproduce`"
        )
    return test


def measure_studies(predictions: pd.DataFrame) -> dict[str, Any]:
    """Measure the rule from slices to studies: a dict of `studies`, empty for too few folds."""
    if predictions["fold"].nunique() < LEAST_FOLDS:
        logger.warning("the rule for studies is not measured: that takes %d folds", LEAST_FOLDS)
        return {}
    logger.info("measuring the rule from slices to studies")
    return {"studies": studies.measure_studies(predictions)}


def _write_sections(run: runs.Run, sections: dict[str, Any]) -> dict[str, Any]:
    """Put sections into `metrics.json` and drop those that belong to other files or predictions."""
    document = run.update_metrics(**sections)
    outdated = {"studies"} - set(sections)
    if not is_measured_with(document, run.model):
        outdated.add("external")
    kept = {name: section for name, section in document.items() if name not in outdated}
    run.write_json(kept, "model/metrics")
    return kept


def is_measured_with(document: dict[str, Any], folder: Path) -> bool:
    """Return whether scans from elsewhere were measured with the released files."""
    external = document.get("external", {})
    hashes = {"model_sha256": file_hash(list_files(folder)["onnx"]),
              "gate_sha256": document["gate"]["sha256"]}  # fmt: skip
    return hashes.items() <= external.items()


def main() -> None:
    """Make the release of the trainings in `model/`."""
    parser = command.parser(__doc__)
    parser.add_argument("--images", type=int, default=200, help="corrupted to measure robustness")
    chosen: argparse.Namespace = parser.parse_args()
    make_release(ReleaseSettings(**vars(chosen)))
