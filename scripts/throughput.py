"""How fast scans become answers, beside the naive way, in one run on this machine.

Every way runs in a process of its own, from files on disk to a table on disk, in turns; the ratios
are the result, the seconds its illustration. What a cluster of many machines would take is worked
out from what is measured here, with all that is assumed named.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES, imaging, inference, paths
from brainlib.data import open_collection
from brainlib.inference import cluster, folder

MODEL = "model/brain_tumor.keras"
PICTURES, NAIVE_PICTURES = 2000, 100
"""Pictures in the folder; of these the naive way gets some, and is scaled up."""

ROUNDS, COLD_STARTS, WARM_ROUNDS = 3, 7, 50
KERAS_BATCH = 32
NAIVE, BATCHES = "keras: one `predict` a picture", "keras: `predict` in batches of 32"
ENGINES = ("onnx", "keras")
PARTS = 400
"""Finished parts that are handed through a cluster, to see what the machine in charge can do."""

JOIN_RATE = 100e6
"""Bytes a second at which the parts are assumed to be joined, which reads and writes them."""


def write_tables(source: str = "kaggle", pictures: int = PICTURES) -> dict[str, pd.DataFrame]:
    """Measure, write `figures/bench_inference.csv` and `figures/bench_many.csv`, return both.

    Parameters
    ----------
    source : str
        As for the notebooks; a source of fewer pictures is measured on all that it has.
    pictures : int
    """
    collection = open_collection(source)
    chosen = collection.table["path"].sample(min(pictures, len(collection.table)), random_state=0)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "scans"
        place.mkdir()
        for number, path in enumerate(chosen):
            link = place / f"{number:05d}{Path(path).suffix}"
            link.symlink_to(collection.root / path)
            link.read_bytes()  # all ways find the files in the memory of the disk
        rows = {**measure_folder(place), **measure_one(next(place.iterdir()))}
        many = measure_cluster(place)
    table = pd.DataFrame(rows).T.rename_axis("way")
    tables = {"bench_inference": table, "bench_many": pd.concat([many, estimate(many)])}
    for name, one in tables.items():
        with paths.atomic_write(paths.project_root() / "figures" / f"{name}.csv") as written:
            one.to_csv(written, float_format="%.4g", lineterminator="\n")
    return tables


def measure_folder(place: Path, rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """Measure each way from a folder of pictures to a table, medians over some rounds.

    Returns
    -------
    dict of way to dict
        `seconds` from the start of the process to the table, the naive way's scaled up from some
        of the pictures; `start_seconds` of these until the model was ready;
        `pictures_a_second` after that; `times_naive` and `times_batches`: how many times faster
        than those two ways from the start, and `running_times_naive`, `running_times_batches`
        without the start; `megabytes`, the most memory it took.
    """
    ways = [NAIVE, BATCHES, *ENGINES]
    found = [{way: _in_a_process("folder", way, place) for way in ways} for _ in range(rounds)]
    rows = {way: pd.DataFrame([one[way] for one in found]).median().to_dict() for way in ways}
    for row in rows.values():
        for name, other in (("naive", rows[NAIVE]), ("batches", rows[BATCHES])):
            row[f"times_{name}"] = other["seconds"] / row["seconds"]
            row[f"running_times_{name}"] = row["pictures_a_second"] / other["pictures_a_second"]
    return {f"folder, {way}": row for way, row in rows.items()}


def measure_one(picture: Path, rounds: int = COLD_STARTS) -> dict[str, dict[str, float]]:
    """Measure one picture from a cold start, and again in the same process, medians.

    Returns
    -------
    dict of way to dict
        `seconds` from the start of a process, and of one picture more in it.
    """
    rows = {}
    for way in (NAIVE, "onnx"):
        found = pd.DataFrame([_in_a_process("one", way, picture) for _ in range(rounds)]).median()
        rows[f"one picture, cold, {way}"] = {"seconds": found["cold"]}
        rows[f"one picture, warm, {way}"] = {"seconds": found["warm"]}
    return rows


def measure_cluster(place: Path, most_workers: int = 2) -> pd.DataFrame:
    """Measure workers of one thread each, and what the machine in charge of them can do.

    Returns
    -------
    DataFrame
        A row a number: `value`, and in `what` its unit and how it was taken.
    """
    scans, listed, size = _list(place)
    rows = {
        "files listed a second": (len(scans) / listed, "one machine, first bytes of each file"),
        "bytes a listed file": (size, "memory of the machine in charge"),
    }
    for count in range(1, most_workers + 1):
        rate, parts, row_bytes = _rate_of_workers(scans, count)
        rows[f"pictures a second, {count} workers"] = rate, "one core each"
    rows["parts a second"] = parts, f"ordered, fetched and written, of {folder.PART_PICTURES} rows"
    rows["bytes a row"] = row_bytes, "of both tables"
    gain = (
        rows[f"pictures a second, {most_workers} workers"][0]
        / rows["pictures a second, 1 workers"][0]
    )
    rows["times one worker"] = gain, f"{most_workers} workers of this machine"
    return _as_table(rows)


def estimate(
    measured: pd.DataFrame, slices: float = 1e8, machines: int = 100, cores: int = 2
) -> pd.DataFrame:
    """Work out how long very many slices take on many machines, from what was measured on one.

    Assumed, and to be checked on the cluster before it is believed:

    - every machine is like this one: `cores` cores, each as fast as the one worker that was
      measured, times the share of it that was left where two ran side by side (memory and disk are
      shared within a machine, and nothing is between machines);
    - slices are single pictures like those measured, so that reading them costs what it did here;
    - the files lie on storage that gives all machines together as many a second as they classify:
      the row `files a second` says how many that are, and a single file server will not do;
    - parts are independent, so that more machines are faster in proportion until the one machine
      in charge, which orders, fetches and writes them, can do no more: it takes the longer of both;
    - the list of files is made before, by the machine in charge alone, and its memory holds it:
      the rows `hours to list` and `gigabytes of list` say what that means. Given as a hundred
      folders to calls side by side, both are a hundredth;
    - parts are joined at 100 megabytes a second;
    - a machine that is lost costs the parts at work there, seconds each, and is replaced.

    Parameters
    ----------
    measured : DataFrame
        As `measure_cluster` gives it.
    slices : float
    machines : int
    cores : int
        Of each machine.

    Returns
    -------
    DataFrame
        As `measure_cluster`: `value` and `what`.

    Examples
    --------
    >>> names = ["pictures a second, 1 workers", "times one worker", "parts a second",
    ...     "files listed a second", "bytes a row", "bytes a listed file"]
    >>> measured = pd.DataFrame({"value": [100.0, 2.0, 200.0, 5000.0, 300.0, 1000.0]}, index=names)
    >>> round(float(estimate(measured).loc["hours in all", "value"]), 1)
    7.0
    """
    value = measured["value"]
    share = value["times one worker"] / 2
    rate = value["pictures a second, 1 workers"] * share * machines * cores
    compute = slices / rate / 3600
    charge = math.ceil(slices / folder.PART_PICTURES) / value["parts a second"] / 3600
    listing = slices / value["files listed a second"] / 3600
    joining = slices * value["bytes a row"] / JOIN_RATE / 3600
    what = f"{slices:,.0f} slices, {machines} machines of {cores} cores"
    return _as_table(
        {
            "files a second": (rate, f"{what}: what the storage must give"),
            "hours to compute": (compute, what),
            "hours to order, fetch and write": (charge, f"{what}, at the same time"),
            "hours to list": (listing, f"{what}, before"),
            "hours to join": (joining, f"{what}, after"),
            "hours in all": (listing + max(compute, charge) + joining, what),
            "gigabytes of list": (slices * value["bytes a listed file"] / 1e9, what),
        }
    )


def _as_table(rows: dict[str, tuple[float, str]]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, "index", columns=["value", "what"]).rename_axis("measured")


def _in_a_process(kind: str, way: str, place: Path) -> dict[str, float]:
    """Measure in a fresh process, whose clock starts before it does."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "scripts.throughput", kind, way, str(place), output]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            [*command, str(time.time())], stderr=subprocess.PIPE, text=True, env=environment,
            cwd=paths.project_root(),
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{way} could not be measured: {done.stderr[-1000:]}")
        return json.loads((Path(output) / "measured.json").read_text("utf-8"))


def _measure_here(kind: str, way: str, place: str, output: str, began: str) -> None:
    measure = {"folder": _folder_way, "one": _one_way}[kind]
    found = measure(way, Path(place), Path(output), float(began))
    (Path(output) / "measured.json").write_text(json.dumps(found), encoding="utf-8")


def _folder_way(way: str, place: Path, output: Path, began: float) -> dict[str, float]:
    files = sorted(place.iterdir())
    few = files[:NAIVE_PICTURES] if way == NAIVE else files
    if way in ENGINES:
        task = inference.Task(paths.resolve(MODEL), way)
        folder.open_task(task)
        ready = time.time()
        inference.classify_scans(imaging.list_scans(place), output, task)
    else:
        model = _load_keras(few[0])
        ready = time.time()
        (_one_by_one if way == NAIVE else _in_batches)(model, few, output / "predictions.csv")
    work = (time.time() - ready) / len(few) * len(files)
    return {
        "seconds": ready - began + work,
        "start_seconds": ready - began,
        "pictures_a_second": len(files) / work,
        "megabytes": peak_memory() / 1e6,
    }


def peak_memory() -> int:
    """Return the most memory that this process has held at once, bytes.

    Where Linux says it: `getrusage` counts what the process held that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def _load_keras(picture: Path) -> Any:
    """Load the model as the README says, and let it answer once: the first time is slow."""
    import keras

    model = keras.models.load_model(paths.resolve(MODEL))
    model.predict(imaging.read_picture(picture)[np.newaxis, ..., np.newaxis], verbose=0)
    return model


def _one_by_one(model: Any, files: list[Path], output: Path) -> None:
    pictures = (imaging.read_picture(file)[np.newaxis, ..., np.newaxis] for file in files)
    answers = [model.predict(picture, verbose=0)[0] for picture in pictures]
    _write(files, np.array(answers), output)


def _in_batches(model: Any, files: list[Path], output: Path) -> None:
    """Decode all, then predict those of one size together."""
    pictures = [imaging.read_picture(file) for file in files]
    order = sorted(range(len(files)), key=lambda place: pictures[place].shape)
    answers = np.empty((len(files), len(CLASS_NAMES)))
    for _, alike in groupby(order, key=lambda place: pictures[place].shape):
        rows = list(alike)
        stack = np.stack([pictures[row] for row in rows])[..., np.newaxis]
        answers[rows] = model.predict(stack, batch_size=KERAS_BATCH, verbose=0)
    _write(files, answers, output)


def _write(files: list[Path], answers: np.ndarray, output: Path) -> None:
    table = pd.DataFrame(answers, columns=list(CLASS_NAMES))
    table.assign(path=[str(file) for file in files]).to_csv(output, index=False)


def _one_way(way: str, picture: Path, output: Path, began: float) -> dict[str, float]:
    if way == NAIVE:
        model = _load_keras(picture)
        answer = partial(_one_by_one, model, [picture], output / "predictions.csv")
    else:
        opened = inference.open_classifier(MODEL, way)

        def answer() -> None:
            table = inference.classify(opened, imaging.open_scans(picture))
            table.to_csv(output / "predictions.csv", index=False)

    answer()
    cold, times = time.time() - began, []
    for _ in range(WARM_ROUNDS):
        started = time.perf_counter()
        answer()
        times.append(time.perf_counter() - started)
    if way != NAIVE and "tensorflow" in sys.modules:
        raise AssertionError("an answer without Keras has imported TensorFlow")
    return {"cold": cold, "warm": float(np.median(times))}


def _list(place: Path) -> tuple[list[imaging.Scan], float, float]:
    """Return what there is to read, the seconds that the list took, and its bytes a file."""
    began = time.perf_counter()
    imaging.list_scans(place)
    seconds = time.perf_counter() - began
    tracemalloc.start()
    scans = imaging.list_scans(place)
    size = tracemalloc.get_traced_memory()[0] / len(scans)
    tracemalloc.stop()
    return scans, seconds, size


def _rate_of_workers(scans: list[imaging.Scan], count: int) -> tuple[float, float, float]:
    """Return pictures a second, finished parts a second, and bytes a row of both tables."""
    from distributed import LocalCluster

    task = inference.Task(paths.resolve(MODEL))
    with (
        tempfile.TemporaryDirectory() as output,
        LocalCluster(
            n_workers=count, threads_per_worker=1, processes=True, host="127.0.0.1",
            dashboard_address=None, memory_limit=0,
        ) as started,
    ):  # fmt: skip
        address = started.scheduler_address
        warm = scans[: 2 * count * folder.PART_PICTURES]  # every worker has loaded the model
        inference.classify_scans(warm, f"{output}/warm", task, address)
        began = time.perf_counter()
        inference.classify_scans(scans, f"{output}/all", task, address)
        rate = len(scans) / (time.perf_counter() - began)
        rows = folder.answer_part(warm[: folder.PART_PICTURES], task)
        parts = Path(output) / "parts"
        began = time.perf_counter()
        for place, found, _ in cluster.spread(partial(_ready, rows), range(PARTS), address):
            folder.write_part(parts, place, found)
        speed = PARTS / (time.perf_counter() - began)
        shutil.rmtree(parts)
    return rate, speed, sum(map(len, rows)) / len(warm[: folder.PART_PICTURES])


def _ready(rows: folder.Rows, part: int) -> folder.Rows:
    return rows


if __name__ == "__main__":
    _measure_here(*sys.argv[1:])
