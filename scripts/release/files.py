"""Released files: the network of one fold, its ONNX copy, and the manifest of all."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from brainlib import imaging, models, paths
from brainlib.models import engines, export, manifest
from brainlib.models.registry import MODELS
from brainlib.notebook import runs
from brainlib.paths import BrainlibError, file_hash

RELEASED, BASELINE = list(MODELS)[:2]
"""The released network and the starting network, the first two of the registry."""

FOLD = 0
"""The released network is that of fold 0, named before any fold was scored."""

JUDGED_BY = (".gate.npz", ".rules.json")
"""Endings of the files that judge and pool the network's answers."""

CHECKED_IMAGES = 64

Answer = Callable[[np.ndarray], np.ndarray]
"""From uint8 `(n, height, width, 1)` to probabilities `(n, 4)`."""

logger = logging.getLogger(__name__)


def list_files(folder: Path) -> dict[str, Path]:
    """Return the path of each released file, by its name in `metrics.json`."""
    return {RELEASED: folder / f"{RELEASED}.keras", "onnx": folder / f"{RELEASED}.onnx"}


def write_manifest(folder: Path) -> Path:
    """Write the manifest of all files that the released network's answers depend on."""
    files = (folder / f"{RELEASED}{suffix}" for suffix in (".keras", ".onnx", *JUDGED_BY))
    return manifest.write_manifest(folder / f"{RELEASED}.keras", files)


def fold_file(folder: Path, model: str = RELEASED, fold: int = FOLD) -> Path:
    """Return the path of the model of a patient fold."""
    return folder / f"{runs.run_name(model, 'patient', fold)}.keras"


def write_files(folder: Path) -> keras.Model:
    """Write the released files as far as they are absent or outdated, and return the network.

    Raises
    ------
    BrainlibError
        Where the model of fold 0 is missing or damaged.
    """
    files, trained = list_files(folder), fold_file(folder)
    released = models.load_model(trained)
    copy = files[RELEASED]
    if not (copy.is_file() and copy.read_bytes() == trained.read_bytes()):
        with paths.atomic_write(copy) as temporary:
            shutil.copyfile(trained, temporary)
    if not is_current(files["onnx"], files[RELEASED]):
        logger.info("writing %s", files["onnx"].name)
        export.export_onnx(released, files["onnx"])
    # until the release is complete nobody answers with these files and the last one's gate or rules
    manifest.write_manifest(files[RELEASED], files.values())
    return released


def is_current(path: Path, original: Path) -> bool:
    """Return whether a file exists and is no older than what it is made from, if that exists."""
    if not path.is_file():
        return False
    return not original.is_file() or path.stat().st_mtime >= original.stat().st_mtime


def measure_files(
    folder: Path, released: keras.Model, images: list[np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Measure the size of each released file, and how far ONNX Runtime's answers are from Keras'.

    Returns
    -------
    dict of name to dict
        `megabytes`, and `largest_difference` of probabilities; for the network itself
        `parameters` and `sha256` instead of a difference.

    Raises
    ------
    BrainlibError
        Where a file differs by more than `export.TOLERANCE`.
    """
    files = list_files(folder)
    stacks = [image[np.newaxis, ..., np.newaxis] for image in images]
    difference = check_file(released.predict_on_batch, engines.open_onnx(files["onnx"]), stacks)
    measured = {
        "onnx": {"largest_difference": round(difference, 9)},
        RELEASED: {"parameters": released.count_params(), "sha256": file_hash(files[RELEASED])},
    }
    return {
        name: {"megabytes": round(path.stat().st_size / 1e6, 3), **measured[name]}
        for name, path in files.items()
    }


def check_file(expected: Answer, engine: engines.Engine, stacks: list[np.ndarray]) -> float:
    """Return how far an engine's probabilities are from those of the Keras model.

    Raises
    ------
    BrainlibError
        Where the largest difference exceeds `export.TOLERANCE`, or is not a number.
    """
    difference = max(
        float(np.abs(engine(stack)["probabilities"] - expected(stack)).max()) for stack in stacks
    )
    if not difference <= export.TOLERANCE:
        raise BrainlibError(
            f"the released ONNX file differs by {difference:.2g} from the Keras model, and "
            f"{export.TOLERANCE} is allowed: delete it, so that it is written again"
        )
    return difference


def read_images(run: runs.Run, paths_of: Any) -> list[np.ndarray]:
    """Read images of the collection, uint8 arrays of shape (height, width)."""
    return [imaging.read_image(run.collection.root / path) for path in paths_of]
