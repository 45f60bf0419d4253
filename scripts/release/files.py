"""What is released: which model, with which temperature, in which files."""

import logging
from pathlib import Path

import keras
import numpy as np

from brainlib import models
from brainlib.evaluation import results
from brainlib.models import engines, export
from brainlib.notebook import runs
from brainlib.paths import BrainlibError

MODEL, BASELINE = runs.MODEL_NAMES
FOLD = 0
"""The fold whose model is released: the first, so that nobody chose it by its score."""

MAPS_FILE, MAPS_ONNX = f"{MODEL}_maps.keras", f"{MODEL}_maps.onnx"
ENGINES = {"onnx": (".onnx", export.export_onnx, engines.open_onnx)}
"""The files that run without TensorFlow: how each ends, is written, and is opened."""

logger = logging.getLogger(__name__)


class ReleaseError(BrainlibError):
    """A release that cannot be made of what is there."""


def fit_temperature(folder: Path) -> float:
    """Return the temperature of fold 0, fitted on pictures that its model is not tested on.

    They are its validation pictures where it has any, else the test pictures of the other folds.

    Parameters
    ----------
    folder : Path
        The model folder, with `predictions`.

    Raises
    ------
    ReleaseError
        Where there are no predictions of fold 0.
    ResultsError
        Where there are none of any other fold either, nor of validation pictures.
    """
    place = folder / "predictions"
    test, validation = (
        results.read_tables(place, part).get(MODEL, {}).get("patient")
        for part in ("test", "validation")
    )
    if test is None or not (test["fold"] == FOLD).any():
        raise ReleaseError(
            f"{place} holds no test predictions of {MODEL} on fold {FOLD}: run "
            "notebooks/02_train.ipynb for every fold, or `make reproduce`"
        )
    if validation is not None and (validation["fold"] == FOLD).any():
        test = test[test["fold"] == FOLD]  # other folds need not have a validation table
    else:
        validation = None
    return results.calibrate(test, validation).temperatures[FOLD]


def write_model(folder: Path, temperature: float) -> keras.Model:
    """Write `brain_tumor.keras`, the model of fold 0 with its temperature inside, and return it.

    A file with just these weights is left as it is, so that its hash stays the same.
    """
    path = folder / f"{MODEL}.keras"
    trained = models.load_model(fold_file(folder, MODEL))
    wanted = models.for_release(trained, temperature)
    there = _load_if_same(path, wanted)
    if there is None:
        models.save_model(wanted, path)
    return there or models.load_model(path)


def write_copies(folder: Path, released: keras.Model) -> None:
    """Write the model with maps and all other formats, where these are older than the model."""
    original = folder / f"{MODEL}.keras"
    maps = models.with_maps(released)
    if not is_current(folder / MAPS_FILE, original):
        models.save_model(maps, folder / MAPS_FILE)
    if not is_current(folder / MAPS_ONNX, original):
        logger.info("writing %s", MAPS_ONNX)
        export.export_onnx(maps, folder / MAPS_ONNX)
    for suffix, write, _ in ENGINES.values():
        path = original.with_suffix(suffix)
        if not is_current(path, original):
            logger.info("writing %s", path.name)
            write(released, path)


def fold_file(folder: Path, model: str, fold: int = FOLD) -> Path:
    """Return where the model of a patient fold lies."""
    return folder / f"{runs.run_name(model, 'patient', fold)}.keras"


def list_files(folder: Path) -> dict[str, Path]:
    """Return where each released file lies, and the one of the starting network, by name."""
    baselines = [fold_file(folder, BASELINE),
                 folder / f"{runs.run_name(BASELINE, 'official', 0)}.keras"]  # fmt: skip
    return {
        MODEL: folder / f"{MODEL}.keras",
        "maps": folder / MAPS_FILE,
        "maps_onnx": folder / MAPS_ONNX,
        **{name: folder / f"{MODEL}{suffix}" for name, (suffix, *_) in ENGINES.items()},
        BASELINE: next((file for file in baselines if file.is_file()), baselines[0]),
    }


def is_current(path: Path, original: Path) -> bool:
    """Return whether a file is there and no older than what it is made from.

    What it was made from may be gone: the models of the folds are too many to be kept in git.
    """
    if not path.is_file():
        return False
    return not original.is_file() or path.stat().st_mtime >= original.stat().st_mtime


def _load_if_same(path: Path, wanted: keras.Model) -> keras.Model | None:
    """Return the model in a file where it has the same weights and temperature."""
    try:
        found = models.load_model(path)
        scales = [model.get_layer("temperature").scale for model in (found, wanted)]
    except (ValueError, BrainlibError):  # absent or damaged, or a model of another kind
        return None
    weights = found.get_weights(), wanted.get_weights()
    is_same = (
        scales[0] == scales[1]
        and len(weights[0]) == len(weights[1])
        and all(np.array_equal(*pair) for pair in zip(*weights, strict=True))
    )
    return found if is_same else None
