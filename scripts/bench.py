"""How fast the pieces are, each beside the naive way, in one run on this machine.

Machines differ and are shared, so the ratios are the result and the rates are its illustration.
The audit, which has no naive way that would end, is measured alone: seconds and memory.
"""

import itertools
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from brainlib import audit, imaging, inference, models, paths, training
from brainlib.data import datasets, phantom
from scripts import command, throughput

PATIENTS, SLICES = 24, 8
ROUNDS = 3
_STEPS = 8
AUDITED = (7_000, 70_000)


def write_tables() -> dict[str, pd.DataFrame]:
    """Measure, write `figures/bench.csv` and `figures/bench_audit.csv`, and return both tables."""
    tables = {"bench": measure(), "bench_audit": measure_audit()}
    for name, table in tables.items():
        with paths.atomic_write(paths.project_root() / "figures" / f"{name}.csv") as temporary:
            table.to_csv(temporary, lineterminator="\n")
    return tables


def measure() -> pd.DataFrame:
    """Measure each way against the naive one, in turns, and keep the median rate of each.

    Returns
    -------
    DataFrame
        A row for each comparison: `ours` and `naive` in pictures a second, and their `ratio`.
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        root = phantom.write_phantom(Path(folder) / "phantom", patients=PATIENTS, slices=SLICES)
        collection = datasets.open_folder(root)
        count = len(collection.table)
        rows = {"make the phantom": {"ours": count / (time.perf_counter() - began)}}
        ways = _ways(collection)
        for name, (ours, naive) in ways.items():
            rates = [(_rate(ours), _rate(naive)) for _ in range(ROUNDS)]
            rows[name] = dict(zip(("ours", "naive"), np.median(rates, axis=0), strict=True))
    table = pd.DataFrame(rows).T.rename_axis("pictures a second")
    return table.assign(ratio=table["ours"] / table["naive"]).round(2)


def measure_audit(counts: tuple[int, ...] = AUDITED) -> pd.DataFrame:
    """Measure the search for copies among pictures of noise, 64 by 64 pixels.

    Returns
    -------
    DataFrame
        A row for each count: `seconds`, and `gigabytes`, the highest memory that the search takes
        beside the pictures.
    """
    rows = {count: _audit_cost(count) for count in counts}
    columns = ["seconds", "gigabytes"]
    return pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("pictures").round(2)


def _audit_cost(count: int) -> tuple[float, float]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 1), np.uint8)
    table = pd.DataFrame({"path": [f"{row}.png" for row in range(count)]})
    tracemalloc.start()
    began = time.perf_counter()
    audit.find_duplicates(table, pixels)
    seconds = time.perf_counter() - began
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return seconds, highest / 1e9


def _ways(collection: datasets.Collection) -> dict[str, tuple[Callable[[], int], ...]]:
    files = [collection.root / path for path in collection.table["path"]]
    loaded = imaging.load_images(collection)
    network = models.build_model("seed_cnn")
    pictures = [imaging.read_picture(file) for file in files[:64]]

    def load_cached() -> int:
        return len(imaging.load_images(collection).table)

    def decode_one_by_one() -> int:
        return len(
            [imaging.resize(imaging.read_picture(file), models.INPUT_SIZE) for file in files]
        )

    def predict_in_batches() -> int:
        return len(inference.predict_pictures(network, pictures))

    def predict_one_by_one() -> int:
        few = pictures[:16]
        return len([network.predict(x[None, ..., None], verbose=0) for x in few])

    return {
        "load the collection: cached, against decoding again": (load_cached, decode_one_by_one),
        "train: jit off, against jit on": tuple(_trainer(loaded, jit) for jit in (False, True)),
        "predict: batches, against one `predict` a picture": (
            predict_in_batches,
            predict_one_by_one,
        ),
    }


def _trainer(loaded: imaging.LoadedImages, jit: bool) -> Callable[[], int]:
    whole = models.build_model("seed_cnn")
    # XLA cannot compile the resizing of TensorFlow: both ways train what comes after it
    network = keras.Model(whole.get_layer("resizing").output, whole.output)
    network.compile("adam", "sparse_categorical_crossentropy", jit_compile=jit)
    batches = training.ShuffledBatches(
        training.examples(loaded, np.arange(len(loaded.table))), batch_size=32, seed=0
    )
    network.train_on_batch(*batches[0])  # tracing and compiling are not what is measured

    def train() -> int:
        for index in itertools.islice(itertools.cycle(range(batches.steps - 1)), _STEPS):
            network.train_on_batch(*batches[index])
        keras.ops.convert_to_numpy(network.weights[0])  # wait for what is still being computed
        return _STEPS * batches.batch_size

    return train


def _rate(way: Callable[[], int]) -> float:
    began = time.perf_counter()
    return way() / (time.perf_counter() - began)


def main() -> None:
    """Measure the pieces and the way from scans to tables, and print all tables."""
    for table in (write_tables() | throughput.write_tables()).values():
        print(table.to_string())


if __name__ == "__main__":
    sys.exit(command.run(main))
