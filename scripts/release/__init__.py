"""The released network: one fold's model, calibrated, in five files, with their measures.

`make release` writes it from the trainings that `02_train` left. `files` says what is released,
`samples` which pictures it is tried on, `speed` how alike, large and fast the files are, `scores`
where the network looks, and what it makes of spoilt pictures and of another scanner, `gating` the
gate beside it. Each step keeps what is there and still right, so that a run which was stopped goes
on where it was, and a second one costs little.
"""

import logging
from dataclasses import dataclass
from typing import Any

from brainlib import paths
from brainlib.evaluation import results
from brainlib.inference import studies
from brainlib.notebook import runs
from scripts.release.files import (
    BASELINE,
    FOLD,
    MODEL,
    ReleaseError,
    fit_temperature,
    fold_file,
    list_files,
    write_copies,
    write_model,
)
from scripts.release.gating import measure_gate
from scripts.release.rules import make_rules
from scripts.release.samples import stratified_sample, tested_pictures
from scripts.release.scores import measure_maps, measure_other_scanner, measure_robustness
from scripts.release.speed import check_files, compare_speeds, measure_files

__all__ = [
    "BASELINE",
    "FOLD",
    "MODEL",
    "ReleaseError",
    "ReleaseSettings",
    "check_files",
    "compare_speeds",
    "fit_temperature",
    "fold_file",
    "list_files",
    "make_release",
    "make_rules",
    "measure_files",
    "measure_gate",
    "measure_maps",
    "measure_other_scanner",
    "measure_robustness",
    "measure_studies",
    "stratified_sample",
    "tested_pictures",
    "write_copies",
    "write_model",
    "write_sections",
]

LEAST_FOLDS = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReleaseSettings(runs.Settings):
    """Parameters of the release.

    Attributes
    ----------
    source, output, seed
        As for every notebook; the trainings and their predictions lie below the output folder.
    pictures : int
        Test pictures that are spoilt to measure robustness.
    resamples : int
        Resamplings of the groups behind each interval.
    healthy_scan : str
        A scan without tumour from another scanner, a file or folder; empty where there is none.
    """

    output: str = "."
    pictures: int = 200
    resamples: int = 1000
    healthy_scan: str = ""


def make_release(settings: ReleaseSettings) -> dict[str, Any]:
    """Write the released files, measure them, and put the numbers into `model/metrics.json`.

    Parameters
    ----------
    settings : ReleaseSettings

    Returns
    -------
    dict
        The content of `metrics.json`, with the sections `release`, `maps`, `robustness`, `gate`,
        `studies` where there are three folds, and `other_scanners` where a scan was given, or was
        once for the very same model file. The rules are written last, from all of these.

    Raises
    ------
    ReleaseError
        Where predictions are missing, or a file answers otherwise than the Keras model.
    ModelError
        Where the model of fold 0 is missing or damaged.
    """
    if settings.pictures < 1 or settings.resamples < 1:
        raise ReleaseError("pictures and resamples must be at least 1")
    run = runs.Run("release", settings, paths.resolve(settings.output), smoke=False)
    temperature = fit_temperature(run.model)
    released = write_model(run.model, temperature)
    write_copies(run.model, released)
    tested = tested_pictures(run)
    sections: dict[str, Any] = {
        "release": measure_files(run, released, tested[FOLD], temperature),
        "maps": measure_maps(run, tested),
        "robustness": measure_robustness(run, released, tested[FOLD]),
        "gate": measure_gate(run),
        **measure_studies(run),
    }
    if settings.healthy_scan:
        sections["other_scanners"] = measure_other_scanner(run, released)
    document = write_sections(run, sections)
    make_rules(run.model, MODEL, FOLD)
    run.write_record("model/release", fold=FOLD, release=sections["release"])
    return document


def measure_studies(run: runs.Run) -> dict[str, Any]:
    """Measure the rule from slices to studies: a dict of `studies`, empty for too few folds."""
    test, validation = (
        results.read_tables(run.model / "predictions", part).get(MODEL, {}).get("patient")
        for part in ("test", "validation")
    )
    if test["fold"].nunique() < LEAST_FOLDS:
        logger.warning("the rule for studies is not measured: that takes %d folds", LEAST_FOLDS)
        return {}
    logger.info("measuring the rule from slices to studies")
    return {"studies": studies.measure_studies(results.calibrate(test, validation).table)}


def write_sections(run: runs.Run, sections: dict[str, Any]) -> dict[str, Any]:
    """Put sections into `metrics.json`; what was said of another model's file goes."""
    document = run.update_metrics(**sections)
    if "studies" not in sections and document.pop("studies", None):
        run.write_json(document, "model/metrics")
    scanner = document.get("other_scanners")
    if scanner and scanner["model_sha256"] != document["release"][MODEL]["sha256"]:
        logger.warning("another scanner was measured with an older model: name --healthy-scan")
        del document["other_scanners"]
        run.write_json(document, "model/metrics")
    return document
