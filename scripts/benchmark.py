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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlib import imaging, inference, paths
from brainlib.data.datasets import Collection
from brainlib.notebook import runs
from scripts import command

MODEL = f"model/{paths.RELEASED_MODEL}"
IMAGES, NAIVE_IMAGES = 2000, 100
"""Images in the folder; of these the naive way gets some, and its time is scaled up."""

ROUNDS, WARM_ROUNDS = 3, 50

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


def measure(source: str, output: str) -> dict[str, dict[str, float]]:
    """Time all ways.

    Returns
    -------
    dict
        By what is timed: `seconds`, those of the naive way as `naive_seconds`, and their ratio,
        `times`; `images_a_second` for folders.
    """
    run = runs.Run("benchmark", runs.Settings(source), paths.resolve(output))
    collection = run.open_collection()
    with tempfile.TemporaryDirectory() as temporary:
        folder = link_images(collection, Path(temporary) / "scans", IMAGES)
        first = next(folder.iterdir())
        timed = {
            "folder to table": _folder(folder),
            "one image, from a cold start": _compared(
                lambda: seconds_of(run_python, "-m", "brainlib", "classify", first),
                lambda: seconds_of(_naive, folder, 1),
            ),
            "one image, warm": _warm(first),
        }
    run.update_metrics(benchmark={"cores": os.cpu_count(), **timed})
    return timed


def link_images(collection: Collection, folder: Path, count: int) -> Path:
    """Fill a folder with links to images of a collection, again from the first where it is small.

    All are read once, so that every way finds them in the page cache.
    """
    folder.mkdir()
    shuffled = collection.table["path"].sample(frac=1, random_state=0)
    for index, path in enumerate(np.resize(shuffled.to_numpy(object), count)):
        link = folder / f"{index:06d}{Path(path).suffix}"
        link.symlink_to(collection.root / path)
        link.read_bytes()
    return folder


def _folder(folder: Path) -> dict[str, float]:
    def naive() -> float:
        began = time.perf_counter()
        loop = float(_naive(folder, NAIVE_IMAGES))
        return time.perf_counter() - began + loop * (IMAGES / NAIVE_IMAGES - 1)

    timed = _compared(lambda: seconds_of(classify, folder), naive)
    return timed | {"images_a_second": round(IMAGES / timed["seconds"], 1)}


def _warm(image: Path) -> dict[str, float]:
    import keras

    model = keras.models.load_model(paths.resolve(MODEL))
    classifier = inference.open_classifier(MODEL, "onnx")

    def median(way: Callable[[], Any]) -> Callable[[], float]:
        return lambda: float(np.median([seconds_of(way) for _ in range(WARM_ROUNDS)]))

    return _compared(
        median(lambda: inference.classify(classifier, imaging.open_scans(image))),
        median(lambda: model.predict(imaging.read_image(image)[None, ..., None], verbose=0)),
    )


def _compared(ours: Callable[[], float], naive: Callable[[], float]) -> dict[str, float]:
    """Time two ways in turns and keep the median of each."""
    seconds, naive_seconds = np.median([(ours(), naive()) for _ in range(ROUNDS)], axis=0)
    return {
        "seconds": round(float(seconds), 4),
        "naive_seconds": round(float(naive_seconds), 4),
        "times": round(float(naive_seconds / seconds), 2),
    }


def seconds_of(way: Callable[..., Any], *arguments: Any) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    way(*arguments)
    return time.perf_counter() - began


def classify(folder: Path) -> None:
    """Classify a folder into tables, in a process of its own."""
    with tempfile.TemporaryDirectory() as output:
        run_python("-m", "brainlib", "classify", folder, "--output", output)


def _naive(folder: Path, count: int) -> str:
    with tempfile.TemporaryDirectory() as output:
        return run_python("-c", NAIVE, MODEL, folder, Path(output) / "table.csv", count)


def run_python(*arguments: Any) -> str:
    """Run Python in the project's root and return what it prints."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True,
        cwd=paths.project_root(), env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"could not be timed: {done.stderr[-1000:]}")
    return done.stdout


def main(source: str = "kaggle", output: str = ".") -> None:
    """Time all ways and print the table."""
    print(pd.DataFrame(measure(source, output)).T.to_string())


if __name__ == "__main__":
    command.run(main)
