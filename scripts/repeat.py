"""A training repeated from its run record alone, and both predictions compared.

`python -m scripts.repeat model/lesion_net_patient0.run.json` opens the source that the record
names, refuses other data, lists what else differs (versions, backend, commit), runs `02_train` with
the recorded parameters and prints how far the two tables of predictions are apart.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from brainlib import CLASS_NAMES, evaluation, paths
from brainlib.notebook import pipeline, runs
from brainlib.paths import BrainlibError
from scripts import command


def repeat(record: Path, output: str = "runs/repeat", threads: int | None = None) -> dict[str, Any]:
    """Repeat a training and compare its predictions with the recorded ones.

    Parameters
    ----------
    record : Path
        `<name>.run.json` of `02_train`, with its `predictions/<name>.test.csv` beside it.
    output : str
        Folder that the repeated run writes to.
    threads : int, optional
        Threads of TensorFlow, as recorded by default; 0: as many as it likes.

    Returns
    -------
    dict
        `differing`, what is not as recorded, a line each; and what `compare` returns.

    Raises
    ------
    BrainlibError
        For the record of another notebook, or a source that holds other files.
    """
    recorded = runs.read_record(record)
    if recorded["notebook"] != "02_train":
        raise BrainlibError(f"{record} is of {recorded['notebook']}: give that of a training")
    source, seed = recorded["parameters"]["source"], recorded["parameters"]["seed"]
    opened = runs.open_collection(source, seed)
    if opened.file_hash != recorded["source"]["file_hash"]:
        raise BrainlibError(
            f"{source!r} is {opened.name} version {opened.version} with other files than those of "
            f"{record.name}: their hash is {opened.file_hash[:12]}, recorded is "
            f"{recorded['source']['file_hash'][:12]}"
        )
    own = {"source", "output", "seed"}
    parameters = {name: v for name, v in recorded["parameters"].items() if name not in own}
    os.environ["KERAS_BACKEND"] = recorded["backend"]
    threads = recorded.get("threads", 0) if threads is None else threads
    if threads:
        os.environ |= dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"), str(threads))
    pipeline.run([pipeline.Step("02_train", parameters)], source, output, seed)
    name = record.name.removesuffix(".run.json")
    table = f"predictions/{name}.test.csv"
    first, second = record.parent / table, paths.resolve(output) / "model" / table
    return {"differing": list(_differing(recorded)), **compare(first, second)}


def _differing(recorded: dict[str, Any]) -> list[str]:
    """Return what is not as the record says, a line each."""
    run = runs.Run("repeat", runs.Settings(), Path())
    now = {"git commit": run.git_commit, **run.versions()["version"]}
    then = {"git commit": recorded["git_commit"], **recorded["versions"]}
    return [f"{what}: {then[what]}, now {now.get(what)}" for what in then
            if then[what] != now.get(what)]  # fmt: skip


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Return how far two prediction tables of the same images are apart.

    Returns
    -------
    dict
        `images`; `largest` and `mean` difference of a probability; `same_class`, a share; and
        `accuracy`, that of both.
    """
    tables = [evaluation.read_predictions(file).sort_values("path") for file in (first, second)]
    if list(tables[0]["path"]) != list(tables[1]["path"]):
        raise BrainlibError(f"{first} and {second} are of different images")
    recorded, repeated = (table[list(CLASS_NAMES)].to_numpy() for table in tables)
    return {
        "images": len(recorded),
        "largest": float(np.abs(recorded - repeated).max()),
        "mean": float(np.abs(recorded - repeated).mean()),
        "same_class": float((recorded.argmax(axis=1) == repeated.argmax(axis=1)).mean()),
        "accuracy": [evaluation.point_metrics(table, ["accuracy"])["accuracy"] for table in tables],
    }


def main(record: Path, output: str = "runs/repeat", threads: int | None = None) -> None:
    """Repeat a run and print what differs."""
    result = repeat(record, output, threads)
    lines = [f"differs: {line}" for line in result.pop("differing")]
    print(*lines, *(f"{name}: {value}" for name, value in result.items()), sep="\n")


if __name__ == "__main__":
    command.run(main)
