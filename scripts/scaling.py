"""Growth of time and memory with the number of images, on this machine.

Each way is measured at several sizes, in a process of its own. Time is that of the processors,
which other load on the machine hardly changes; the exponent of growth is fitted to what each size
takes beyond the smallest one, which is mostly start-up. `python -m scripts.scaling` writes
`figures/scaling.csv` and `scaling` in `metrics.json`.
"""

import multiprocessing
import os
import resource
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES, audit, evaluation, paths
from brainlib.data import splits
from brainlib.data.datasets import complete_table
from brainlib.notebook import runs
from scripts import benchmark, command

COLLECTION = 7_023
"""Images of the Kaggle collection, the unit of the estimates."""

FACTORS = (10, 1_000, 100_000)
IMAGES_A_GROUP = 6
LEAST = 20 * IMAGES_A_GROUP  # a group of each class for each of five folds


def audited(count: int, source: str) -> Callable[[], Any]:
    """Search for duplicates among images of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 1), np.uint8)
    table = pd.DataFrame({"path": [f"{row}.png" for row in range(count)]})
    return lambda: audit.find_duplicates(table, pixels)


def trained(count: int, source: str) -> Callable[[], Any]:
    """Train the released network for one epoch."""
    from brainlib import models, training  # here, because they load TensorFlow

    name = next(iter(models.MODELS))
    run = runs.Run("scaling", runs.Settings(source), Path())
    loaded = run.load_images(models.TRAINING_SIZES[name])
    rows = np.resize(np.random.default_rng(0).permutation(len(loaded.table)), count)
    seen = training.examples(loaded, rows, run.collection.root)
    model, recipe = models.build_model(name, 0), training.recipe(name, epochs=1)
    checkpoint = Path(tempfile.mkdtemp()) / "state"
    return lambda: training.fit(model, seen, None, recipe, checkpoint)


def folds(count: int, source: str) -> Callable[[], Any]:
    """Draw five folds that cut no group."""
    return lambda: splits.assign_folds(_labels(count))


def scored(count: int, source: str) -> Callable[[], Any]:
    """Compute all metrics with intervals from a prediction table."""
    random = np.random.default_rng(0)
    table = _labels(count)
    table[list(CLASS_NAMES)] = random.dirichlet(np.ones(4), count)
    return lambda: evaluation.metrics_with_intervals(table)


def classified(count: int, source: str) -> Callable[[], Any]:
    """Classify a folder of images into tables."""
    collection = runs.open_collection(source)
    folder = benchmark.link_images(collection, Path(tempfile.mkdtemp()) / "scans", count)
    return lambda: benchmark.classify(folder)


def _labels(count: int) -> pd.DataFrame:
    group = np.arange(count) // IMAGES_A_GROUP
    return complete_table(pd.DataFrame({
        "path": np.arange(count).astype(str), "source": "any", "split": "",
        "label": np.take(CLASS_NAMES, group % len(CLASS_NAMES)),
        "group": group.astype(str), "patient": group.astype(str),
    }))  # fmt: skip


WAYS = {
    "audit": (audited, (200, 2_000, 7_000, 20_000)),
    "training, one epoch": (trained, (32, 160, 320, 640)),
    "cross-validation, folds": (folds, (600, 6_000, 20_000, 60_000)),
    "cross-validation, metrics": (scored, (600, 2_000, 6_000, 20_000)),
    "inference": (classified, (20, 500, 2_000)),
}
"""What is measured, and at which numbers of images."""


def measure(source: str, output: str, share: float = 1.0) -> pd.DataFrame:
    """Measure every way at every size, and estimate what more images take.

    Parameters
    ----------
    source, output : str
    share : float
        Of the sizes, to try the script.

    Returns
    -------
    DataFrame
        `way`, `images`, `seconds` of processor time, `user` of these, `wall` time, `megabytes`.
    """
    rows = []
    context = multiprocessing.get_context("spawn")
    for way, (_, sizes) in WAYS.items():
        for count in (max(min(LEAST, sizes[0]), int(size * share)) for size in sizes):
            with ProcessPoolExecutor(1, context) as pool:
                rows.append(pool.submit(_measured, way, count, source).result())
    table = pd.DataFrame(rows)
    run = runs.Run("scaling", runs.Settings(source), paths.resolve(output))
    run.open_collection()
    run.write_table(table, "figures/scaling")
    growth = {way: estimate(rows) for way, rows in table.groupby("way", sort=False)}
    run.update_metrics(scaling={"cores": os.cpu_count(), "ways": growth})
    return table


def _measured(way: str, count: int, source: str) -> dict[str, Any]:
    call = WAYS[way][0](count, source)
    before = os.times()
    call()
    user, system, child_user, child_system, wall = np.subtract(os.times(), before)
    peaks = [resource.getrusage(who).ru_maxrss
             for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]  # fmt: skip
    user += child_user
    seconds = {"seconds": user + system + child_system, "user": user, "wall": wall}
    rounded = {name: round(value, 2) for name, value in seconds.items()}
    return {"way": way, "images": count, **rounded, "megabytes": round(max(peaks) / 1000)}


def estimate(rows: pd.DataFrame) -> dict[str, Any]:
    """Fit the growth of one way and extrapolate it.

    Returns
    -------
    dict
        `images`, the largest size, with its times and `megabytes`; `exponent` of the time beyond
        the smallest size, the steeper of all sizes' and the two largest's; `core_hours`, by factor
        of the collection.

    Examples
    --------
    >>> sizes = np.array([1, 100, 1000])
    >>> rows = pd.DataFrame({"images": sizes, "seconds": 5 + sizes**2 / 1e6, "way": "audit"})
    >>> estimate(rows)["exponent"]
    2.0
    """
    first, last = rows.iloc[0], rows.iloc[-1]
    grown = rows.iloc[1:]
    beyond = (grown["seconds"] - first["seconds"]).clip(lower=1e-3)
    sizes, times = np.log(grown["images"]), np.log(beyond)
    # of a sum the steepest part wins in the end
    steepest = max(np.polyfit(sizes, times, 1)[0], *np.polyfit(sizes[-2:], times[-2:], 1)[:1])
    core_hours = {
        str(factor): float(
            f"{last['seconds'] * (factor * COLLECTION / last['images']) ** steepest / 3600:.3g}"
        )
        for factor in FACTORS
    }
    known = last.drop("way").to_dict()
    return known | {"exponent": round(float(steepest), 2), "core_hours": core_hours}


def main(source: str = "kaggle", output: str = ".", share: float = 1.0) -> None:
    """Measure growth and print the table."""
    print(measure(source, output, share).to_string())


if __name__ == "__main__":
    command.run(main)
