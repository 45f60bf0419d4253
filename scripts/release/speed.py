"""Whether the released files answer alike, how large they are, and how fast."""

import hashlib
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from brainlib import imaging, models
from brainlib.models import engines, export
from brainlib.notebook import runs
from scripts.release.files import (
    BASELINE,
    ENGINES,
    MAPS_FILE,
    MAPS_ONNX,
    MODEL,
    ReleaseError,
    list_files,
)
from scripts.release.samples import stratified_sample

CHECKED_PICTURES = 64
ROUNDS = 5

Answer = Callable[[np.ndarray], np.ndarray]
"""From uint8 `(n, height, width, 1)` to probabilities `(n, 4)`."""


def measure_files(
    run: runs.Run, released: keras.Model, table: pd.DataFrame, temperature: float
) -> dict[str, Any]:
    """Hold the released files against the Keras model, and measure their size and speed.

    Returns
    -------
    dict
        `temperature`, `checked_pictures`, `cores`, and `speed_ratio`: how many times as many
        pictures a second as the starting network. For `brain_tumor`, `maps`, `maps_onnx`, `onnx`,
        `seed_cnn` a dict of `bytes` and `megabytes`, of `largest_difference` from the
        Keras model's probabilities, of `pictures_a_second` and of `speed_ratio`, as far as they
        apply; `brain_tumor` has the `sha256` of its file and its `parameters` too.

    Raises
    ------
    ReleaseError
        Where a file differs by more than 0.0001.
    """
    sample = stratified_sample(table, CHECKED_PICTURES, run.settings.seed)
    stacks = _stacks([imaging.read_picture(run.collection.root / path) for path in sample["path"]])
    ways = {MODEL: released.predict_on_batch, **_opened(run.model)}
    differences = check_files(ways, stacks)
    del ways["maps"], ways["maps_onnx"]
    ways[BASELINE] = models.build_model(BASELINE).predict_on_batch  # as fast as a trained one
    speeds = compare_speeds(ways, stacks, ROUNDS)
    files = {name: size for name, path in list_files(run.model).items() if (size := _size(path))}
    measured = {
        name: files.get(name, {}) | differences.get(name, {}) | speeds.get(name, {})
        for name in dict.fromkeys([*files, *speeds])
    }
    measured[MODEL] |= {
        "parameters": released.count_params(),
        "sha256": file_hash(run.model / f"{MODEL}.keras"),
    }
    return {
        "temperature": temperature,
        "checked_pictures": len(sample),
        "cores": os.cpu_count(),
        "speed_ratio": speeds[MODEL]["speed_ratio"],
        **measured,
    }


def check_files(ways: dict[str, Answer], stacks: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Compare all ways of asking the model with the first, the Keras model itself.

    Parameters
    ----------
    ways : dict of name to Answer
    stacks : list of uint8 arrays of shape (n, height, width, 1)

    Returns
    -------
    dict of name to dict
        `largest_difference` between probabilities, of each way but the first.

    Raises
    ------
    ReleaseError
        Where it is more than `export.TOLERANCE`, or not a number.
    """
    answers = {
        name: np.concatenate([np.asarray(answer(stack)) for stack in stacks])
        for name, answer in ways.items()
    }
    expected = answers.pop(next(iter(ways)))
    found = {}
    for name, answered in answers.items():
        difference = float(np.abs(answered - expected).max())
        if not difference <= export.TOLERANCE:
            raise ReleaseError(
                f"the released file {name} differs by {difference:.2g} from the Keras model, and "
                f"{export.TOLERANCE} is allowed: delete it, so that it is written again"
            )
        found[name] = {"largest_difference": round(difference, 9)}
    return found


def compare_speeds(
    ways: dict[str, Answer], stacks: list[np.ndarray], rounds: int = ROUNDS
) -> dict[str, dict[str, float]]:
    """Measure all ways in turns, so that whatever else the machine does falls on all alike.

    Returns
    -------
    dict of name to dict
        `pictures_a_second`, the median over the rounds, and `speed_ratio`, that over the median of
        the last way.
    """
    for answer in ways.values():  # tracing and first allocations are not what is measured
        _rate(answer, stacks)
    rates = [{name: _rate(answer, stacks) for name, answer in ways.items()}
             for _ in tqdm(range(rounds), "speed", delay=2, leave=False)]  # fmt: skip
    medians = pd.DataFrame(rates).median()
    ratios = medians / medians.iloc[-1]
    return {
        name: {
            "pictures_a_second": round(float(medians[name]), 1),
            "speed_ratio": round(float(ratios[name]), 3),
        }
        for name in ways
    }


def _rate(answer: Answer, stacks: list[np.ndarray]) -> float:
    began = time.perf_counter()
    for stack in stacks:
        np.asarray(answer(stack))
    return sum(map(len, stacks)) / (time.perf_counter() - began)


def _stacks(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Put pictures of one size together, in arrays (n, height, width, 1)."""
    by_size = itertools.groupby(sorted(pictures, key=np.shape), key=np.shape)
    return [np.stack(list(alike))[..., np.newaxis] for _, alike in by_size]


def _opened(folder: Path) -> dict[str, Answer]:
    """Return how to ask each copy of the model, from its file."""
    maps = keras.models.load_model(folder / MAPS_FILE, compile=False)
    opened = {
        name: open_file(folder / f"{MODEL}{suffix}")
        for name, (suffix, _, open_file) in ENGINES.items()
    }
    draw = engines.open_maps(folder / MAPS_ONNX)
    return {
        "maps": lambda stack: maps.predict_on_batch(stack)["probabilities"],
        "maps_onnx": lambda stack: draw(stack)["probabilities"],
        **opened,
    }


def _size(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    size = path.stat().st_size
    return {"bytes": size, "megabytes": round(size / 1e6, 3)}


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
