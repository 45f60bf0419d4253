"""From a folder of scans to tables, however large it is, on one machine or on many.

The scans are cut into parts. Each part becomes a small table of its own, written whole or not at
all; what was killed goes on with the parts that are missing, and in the end they are joined.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from tqdm.auto import tqdm

from brainlib import images, paths, studies
from brainlib.inference.classifier import (
    COLUMNS,
    Classifier,
    answer_batch,
    in_batches,
    open_classifier,
    refusals,
)

if TYPE_CHECKING:
    import distributed

PART_PICTURES = 256
"""Pictures in a part; a volume or a series is a part of its own. A kill costs one part at most."""

PREDICTIONS, STUDIES = "predictions.csv", "studies.csv"

logger = logging.getLogger(__name__)


class InferenceError(ValueError):
    """Scans that cannot be classified as asked, or tables that cannot be written."""


@dataclass(frozen=True)
class Task:
    """What classifies any part of the scans: all that a machine has to know.

    Attributes
    ----------
    model : Path
        The model file, absolute; other machines need it at the same place.
    engine : str
        A key of `engines.SUFFIXES`.
    plane : str
        As for `images.open_scans`.
    """

    model: Path
    engine: str = "onnx"
    plane: str = "acquired"


def classify_scans(
    scans: list[images.Scan], output: Path | str, task: Task, scheduler: str = ""
) -> tuple[Path, Path]:
    """Classify scans into `predictions.csv`, a row a slice, and `studies.csv`, a row a series.

    Memory does not grow with the number of slices, only the list of scans does. Where an earlier
    call with the same scans, model and task was stopped, it goes on with the parts that are
    missing.

    Parameters
    ----------
    scans : list of Scan
        As `images.list_scans` gives them.
    output : Path or str
        Folder of the two tables; older ones are replaced once all is done.
    task : Task
    scheduler : str
        Address of a running dask cluster, such as `tcp://10.0.0.1:8786`, whose workers see the
        same files; empty: this process does the work.

    Returns
    -------
    predictions, studies : Path

    Raises
    ------
    InferenceError
        Where the folder cannot be written to or is full, or the scheduler does not answer. What is
        done is kept for the next call.
    EngineError, GateError, RulesError
        As `open_classifier`.
    """
    open_classifier(task.model, task.engine)  # what is wrong with it is said before the work
    folder = paths.resolve(output)
    parts = folder / "predictions.parts"
    pieces = list(cut(scans))
    try:
        _discard_other_parts(parts, _identity(scans, task))
        missing = [number for number in range(len(pieces)) if not _part(parts, number).is_file()]
        if len(missing) < len(pieces):
            logger.info("%d of %d parts are there", len(pieces) - len(missing), len(pieces))
        todo = [pieces[number] for number in missing]
        tables = _on_cluster(todo, task, scheduler) if scheduler else _here(todo, task)
        progress = tqdm(total=sum(map(len, todo)), desc="classifying", unit=" scans", delay=2)
        for place, table in tables:
            number = missing[place]
            _write(table, _part(parts, number))
            progress.update(len(pieces[number]))
        progress.close()
        return _join(parts, len(pieces), folder, open_classifier(task.model, task.engine))
    except OSError as error:
        raise InferenceError(
            f"the tables cannot be written to {folder} ({error.strerror or error}): make room or "
            "name another output folder, and run it again; what is done is kept"
        ) from error


def cut(scans: Iterable[images.Scan]) -> Iterator[list[images.Scan]]:
    """Cut scans into parts: up to 256 pictures, or one volume or series.

    Examples
    --------
    >>> [len(part) for part in cut([])]
    []
    """
    pictures: list[images.Scan] = []
    for scan in scans:
        if pictures and (scan.kind in ("dicom", "nifti") or len(pictures) == PART_PICTURES):
            yield pictures
            pictures = []
        if scan.kind in ("dicom", "nifti"):
            yield [scan]
        else:
            pictures.append(scan)
    if pictures:
        yield pictures


def classify_part(scans: list[images.Scan], task: Task) -> pd.DataFrame:
    """Read and classify one part; it is this function that a cluster maps over the parts.

    Parameters
    ----------
    scans : list of Scan
    task : Task

    Returns
    -------
    DataFrame
        As `classify`.
    """
    return next(table for _, table in _here([scans], task))


@lru_cache(maxsize=4)
def _opened(model: Path, engine: str) -> Classifier:
    return open_classifier(model, engine)  # once a process, not once a part


def _here(pieces: list[list[images.Scan]], task: Task) -> Iterator[tuple[int, pd.DataFrame]]:
    """Classify parts one after the other; slices are read while those before them are classified.

    Yields
    ------
    place : int
        Of the part in `pieces`.
    table : DataFrame
    """
    classifier = _opened(task.model, task.engine)
    tables: list[pd.DataFrame] = []
    for place, batch, reasons in _ahead(_read(pieces, task, classifier)):
        if batch is None:
            yield place, pd.concat(tables, ignore_index=True)
            tables = []
        else:
            tables.append(answer_batch(classifier, batch, reasons))


def _read(
    pieces: list[list[images.Scan]], task: Task, classifier: Classifier
) -> Iterator[tuple[int, list[images.ScanSlice] | None, list[str]]]:
    """Give the slices of each part in batches, with why they are refused; None ends a part."""
    for place, piece in enumerate(pieces):
        slices = (one for scan in piece for one in images.read_scan(scan, task.plane))
        for batch in in_batches(slices):
            yield place, batch, refusals(classifier, batch)
        yield place, None, []


def _ahead(items: Iterator) -> Iterator:
    """Give items while another thread makes the next one."""
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, items, None)
            yield item


def _on_cluster(
    pieces: list[list[images.Scan]], task: Task, scheduler: str
) -> Iterator[tuple[int, pd.DataFrame]]:
    client = connect(scheduler)
    from distributed import as_completed

    with client:
        futures = client.map(classify_part, pieces, task=task, pure=False, retries=2)
        places = {future.key: place for place, future in enumerate(futures)}
        finished = as_completed(futures)
        del futures  # a part's table leaves the cluster once it is written here
        for future in finished:
            yield places[future.key], future.result()


def connect(scheduler: str) -> "distributed.Client":
    """Connect to a running dask cluster.

    Parameters
    ----------
    scheduler : str
        Its address, such as `tcp://10.0.0.1:8786`.

    Raises
    ------
    InferenceError
        Where dask is not installed, or nothing answers there.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise InferenceError(
            "a cluster needs dask: `pip install 'brainlib[cluster]'`, on every machine"
        ) from error
    try:
        return Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise InferenceError(
            f"no scheduler answers at {scheduler!r} ({error}): start one with `dask scheduler` and "
            "give its address, such as tcp://10.0.0.1:8786"
        ) from error


def _identity(scans: list[images.Scan], task: Task) -> str:
    """Return a hash over what decides the tables: files with size and time, model, task."""
    digest = hashlib.sha256(repr((task.engine, task.plane, COLUMNS)).encode())
    for file in (task.model, *task.model.parent.glob(f"{task.model.stem}.*")):
        digest.update(_stamp(file))
    for scan in scans:
        digest.update(_stamp(scan.file))
        for frame in scan.frames:
            digest.update(_stamp(frame.file))
    return digest.hexdigest()


def _stamp(file: Path) -> bytes:
    try:
        status = file.stat()
    except OSError:  # what cannot be read has a row that says so
        return repr(str(file)).encode()
    return repr((str(file), status.st_size, status.st_mtime_ns)).encode()


def _discard_other_parts(parts: Path, identity: str) -> None:
    name = parts / "identity.json"
    if parts.is_dir():
        try:
            found = json.loads(name.read_text("utf-8"))
        except (OSError, ValueError):
            found = ""
        if found != identity:
            logger.info("%s is of other scans or another model: it is made anew", parts.name)
            shutil.rmtree(parts)
    with paths.atomic_write(name) as temporary:
        temporary.write_text(json.dumps(identity), encoding="utf-8")


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:07d}.csv"


def _write(table: pd.DataFrame, path: Path) -> None:
    with paths.atomic_write(path) as temporary:
        table.to_csv(
            temporary, index=False, encoding="utf-8", errors="surrogateescape", lineterminator="\n"
        )


def _join(parts: Path, count: int, folder: Path, classifier: Classifier) -> tuple[Path, Path]:
    """Join the parts into the two tables, one part in memory at a time, and remove them."""
    predictions, found = folder / PREDICTIONS, folder / STUDIES
    rule = (classifier.rules or {}).get("study")
    with (
        paths.atomic_write(predictions) as rows,
        paths.atomic_write(found) as series,
        rows.open("w", encoding="utf-8", errors="surrogateescape", newline="") as slices_stream,
        series.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        for number in range(count):
            table = read_predictions(_part(parts, number))
            summary = studies.summarise_studies(table, rule)
            for part, target in ((table, slices_stream), (summary, stream)):
                part.to_csv(target, index=False, header=number == 0, lineterminator="\n")
    shutil.rmtree(parts)
    return predictions, found


def read_predictions(path: Path) -> pd.DataFrame:
    """Read `predictions.csv` as `classify` gives it: what is not there is an empty text.

    Raises
    ------
    InferenceError
        Where the file is absent or is no such table.
    """
    text = dict.fromkeys(("path", "series", "plane", "class", "set", "decision", "error"), str)
    numbers = {name: [""] for name in COLUMNS if name not in text}
    try:
        table = pd.read_csv(
            path, dtype=text, na_values=numbers, keep_default_na=False,
            encoding="utf-8", encoding_errors="surrogateescape",
        )  # fmt: skip
        return table[list(COLUMNS)]
    except (OSError, ValueError, KeyError) as error:
        raise InferenceError(
            f"{path} is no table of predictions ({error}): write it with 04_infer"
        ) from error
