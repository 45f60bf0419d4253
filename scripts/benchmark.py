"""Speed of what the README claims, side by side with the naive way, on this machine.

Each way starts from files on disk and ends with a table on disk, in a process of its own where its
start counts. Ways are timed in turns, so that other load on the machine falls on all alike: the
ratios are the result. `python -m scripts.benchmark` puts them into `metrics.json`.
"""

import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlib import audit, imaging, inference, paths
from brainlib.models.registry import MODELS, TRAINING_SIZES
from brainlib.notebook import runs
from scripts import command

RELEASED = next(iter(MODELS))
IMAGES, NAIVE_IMAGES = 2000, 100
"""Images in the folder; of these the naive way gets some, and its time is scaled up."""

ROUNDS, WARM_ROUNDS = 3, 50
AUDITED = (7_000, 70_000)

NAIVE = """
import pathlib, sys, time
import keras, numpy, pandas, PIL.Image
model = keras.models.load_model(sys.argv[1])
files, rows = sorted(pathlib.Path(sys.argv[2]).iterdir())[: int(sys.argv[4])], []
model.predict(numpy.asarray(PIL.Image.open(files[0]).convert("L"))[None, ..., None], verbose=0)
began = time.perf_counter()
for file in files:
    pixels = numpy.asarray(PIL.Image.open(file).convert("L"))[None, ..., None]
    rows.append([file.name, *model.predict(pixels, verbose=0)[0]])
print(time.perf_counter() - began)
pandas.DataFrame(rows).to_csv(sys.argv[3])
"""
"""What a user would write: one `predict` an image."""


def measure(
    source: str = "kaggle", output: str = ".", images: int = IMAGES
) -> dict[str, dict[str, float]]:
    """Time all ways.

    Returns
    -------
    dict
        By what is timed: `seconds`, those of the naive way as `naive_seconds`, and their ratio,
        `times`; `images_a_second` for folders.
    """
    run = runs.Run("benchmark", runs.Settings(source), paths.resolve(output), smoke=False)
    collection = run.open_collection()
    chosen = collection.table["path"].sample(min(images, len(collection.table)), random_state=0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "scans"
        folder.mkdir()
        for number, path in enumerate(chosen):
            link = folder / f"{number:05d}{Path(path).suffix}"
            link.symlink_to(collection.root / path)
            link.read_bytes()  # all ways find the files in the page cache
        found = {
            "folder to table": _folder(folder),
            "one image, from a cold start": _cold(next(folder.iterdir())),
            "one image, warm": _warm(next(folder.iterdir())),
            "collection, cached": _cached(run),
            **_workers(folder),
        }
    found |= {f"duplicates among {count:,} images": _duplicates(count) for count in AUDITED}
    run.update_metrics(benchmark={"cores": os.cpu_count(), **found})
    return found


def _folder(folder: Path) -> dict[str, float]:
    count = len(list(folder.iterdir()))
    few = min(NAIVE_IMAGES, count)

    def naive() -> float:
        began = time.perf_counter()
        loop = float(_naive(folder, few))
        return time.perf_counter() - began + loop * (count / few - 1)

    found = _compared(lambda: _timed(lambda: _classify(folder)), naive)
    return found | {"images_a_second": round(count / found["seconds"], 1)}


def _cold(image: Path) -> dict[str, float]:
    return _compared(
        lambda: _timed(lambda: _python("-m", "brainlib", "classify", image)),
        lambda: _timed(lambda: _naive(image.parent, 1)),
    )


def _warm(image: Path) -> dict[str, float]:
    import keras

    model = keras.models.load_model(paths.resolve(_model()))
    classifier = inference.open_classifier(_model(), "onnx")

    def ours() -> float:
        times = [_timed(lambda: inference.classify(classifier, imaging.open_scans(image)))
                 for _ in range(WARM_ROUNDS)]  # fmt: skip
        return float(np.median(times))

    def naive() -> float:
        times = [_timed(lambda: model.predict(imaging.read_image(image)[None, ..., None],
                                              verbose=0)) for _ in range(WARM_ROUNDS)]  # fmt: skip
        return float(np.median(times))

    return _compared(ours, naive)


def _cached(run: runs.Run) -> dict[str, float]:
    collection, size = run.collection, TRAINING_SIZES[RELEASED]
    files = [collection.root / path for path in collection.table["path"]]
    imaging.load_images(collection, size)
    return _compared(
        lambda: _timed(lambda: imaging.load_images(collection, size)),
        lambda: _timed(lambda: [imaging.resize(imaging.read_image(one), size) for one in files]),
    )


def _workers(folder: Path) -> dict[str, dict[str, float]]:
    """Time a folder on a dask cluster of one and of two workers of one thread each."""
    from distributed import LocalCluster

    found, count = {}, len(list(folder.iterdir()))
    for workers in (1, 2):
        with LocalCluster(
            n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None,
            memory_limit=0,
        ) as cluster:  # fmt: skip
            address = cluster.scheduler_address
            seconds = _timed(lambda at=address: _classify(folder, "--scheduler", at))
        found[f"folder to table, {workers} dask workers"] = {
            "seconds": round(seconds, 2),
            "images_a_second": round(count / seconds, 1),
        }
    return found


def _duplicates(count: int) -> dict[str, float]:
    """Time the search for duplicates among images of noise, 64 by 64 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 1), np.uint8)
    table = pd.DataFrame({"path": [f"{row}.png" for row in range(count)]})
    tracemalloc.start()
    seconds = _timed(lambda: audit.find_duplicates(table, pixels))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"seconds": round(seconds, 2), "gigabytes": round(peak / 1e9, 2)}


def _compared(ours: Callable[[], float], naive: Callable[[], float]) -> dict[str, float]:
    """Time two ways in turns and keep the median of each."""
    times = [(ours(), naive()) for _ in range(ROUNDS)]
    seconds, naive_seconds = np.median(times, axis=0)
    return {
        "seconds": round(float(seconds), 4),
        "naive_seconds": round(float(naive_seconds), 4),
        "times": round(float(naive_seconds / seconds), 2),
    }


def _timed(way: Callable[[], Any]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def _model() -> str:
    return f"model/{RELEASED}.keras"


def _classify(folder: Path, *options: str) -> None:
    with tempfile.TemporaryDirectory() as output:
        _python("-m", "brainlib", "classify", folder, "--output", output, *options)


def _naive(folder: Path, count: int) -> str:
    with tempfile.TemporaryDirectory() as output:
        return _python("-c", NAIVE, _model(), folder, Path(output) / "table.csv", count)


def _python(*arguments: Any) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True,
        cwd=paths.project_root(), env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"could not be timed: {done.stderr[-1000:]}")
    return done.stdout


def main() -> None:
    """Time all ways and print the table."""
    parser = command.parser(__doc__)
    parser.add_argument("--images", type=int, default=IMAGES, help="in the folder to classify")
    chosen = parser.parse_args()
    print(pd.DataFrame(measure(chosen.source, chosen.output, chosen.images)).T.to_string())


if __name__ == "__main__":
    sys.exit(command.run(main))
