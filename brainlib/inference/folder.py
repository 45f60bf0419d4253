"""From a folder of scans to tables, however large it is, on one machine or on many.

The scans are cut into parts. Each part becomes rows of its own, written whole or not at all; what
was killed goes on with the parts that are missing, and in the end they are joined.
"""

import csv
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from brainlib import CLASS_NAMES, __version__, imaging, paths
from brainlib.inference import cluster, studies
from brainlib.inference.classifier import (
    ACCEPTED,
    COLUMNS,
    UNJUDGED,
    Classifier,
    answer_batch,
    in_batches,
    open_classifier,
    refusals,
)
from brainlib.inference.cluster import InferenceError
from brainlib.inference.studies.summary import COUNTS
from brainlib.models import engines

PART_PICTURES = 128
"""Pictures in a part. A kill costs the parts that are being worked on, one a core."""

CORE_BATCH = 8
"""Pictures that a single core is given at once: more do not fit into its cache, and are slower."""

PREDICTIONS, STUDIES = "predictions.csv", "studies.csv"

MEAN_RULE = {
    "pooling": {"kind": "top", "average": "probability", "share": 1.0, "least": 1},
    "temperature": 1.0,
    "offsets": dict.fromkeys(CLASS_NAMES, 0.0),
}
"""How slices make a study where no fitted rule lies beside the model: their mean."""

Rows = tuple[bytes, bytes]
"""What a part comes to: lines of `predictions.csv` and of `studies.csv`, without their headers."""

logger = logging.getLogger(__name__)


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
        As for `imaging.open_scans`.
    """

    model: Path
    engine: str = "onnx"
    plane: str = "acquired"


def classify_scans(
    scans: list[imaging.Scan], output: Path | str, task: Task, scheduler: str = ""
) -> tuple[Path, Path]:
    """Classify scans into `predictions.csv`, a row a slice, and `studies.csv`, a row a series.

    Memory does not grow with the number of slices, only the list of scans does. Where an earlier
    call with the same scans, model and task was stopped, it goes on with the parts that are
    missing.

    Parameters
    ----------
    scans : list of Scan
        As `imaging.list_scans` gives them.
    output : Path or str
        Folder of the two tables; older ones are replaced once all is done.
    task : Task
    scheduler : str
        Address of a running dask cluster, such as `tcp://10.0.0.1:8786`, whose workers see the
        same files and have one thread for each core; empty: this process does the work, on all
        its cores.

    Returns
    -------
    predictions, studies : Path

    Raises
    ------
    InferenceError
        Where the folder cannot be written to or is full, the scheduler does not answer, or a
        worker has another model. What is done is kept for the next call.
    EngineError, GateError, RulesError
        As `open_classifier`.
    """
    task = dataclasses.replace(task, model=paths.resolve(task.model))
    open_task(task)  # what is wrong with it is said before the work
    digest = model_digest(task)
    folder = paths.resolve(output)
    parts = folder / "predictions.parts"
    pieces = list(cut(scans))
    with _named(folder):
        _discard_other_parts(parts, _identity(scans, task, digest))
        missing = [number for number in range(len(pieces)) if not _is_done(parts, number)]
    todo = [pieces[number] for number in missing]
    done = len(scans) - sum(map(len, todo))
    if done:
        logger.info("%d of %d scans are done already", done, len(scans))
    found = _on_cluster(todo, task, digest, scheduler) if scheduler else _here(todo, task, digest)
    bar = tqdm(total=len(scans), initial=done, desc="classifying", unit=" scans", delay=2)
    with closing(found), bar:
        for place, rows in found:
            with _named(folder):
                write_part(parts, missing[place], rows)
            bar.update(len(todo[place]))
    with _named(folder):
        return _join(parts, len(pieces), folder)


def cut(scans: Iterable[imaging.Scan]) -> Iterator[list[imaging.Scan]]:
    """Cut scans into parts: up to 128 pictures or slices, or one volume or series that has more.

    Scans of one name, which come from different folders, are never in one part: they would be taken
    for one study.

    Examples
    --------
    >>> [len(part) for part in cut([])]
    []
    """
    part: list[imaging.Scan] = []
    names: set[str] = set()
    slices = 0
    for scan in scans:
        count = {"dicom": len(scan.frames), "nifti": PART_PICTURES}.get(scan.kind, 1)
        if part and (slices + count > PART_PICTURES or scan.series in names):
            yield part
            part, names, slices = [], set(), 0
        part.append(scan)
        names.add(scan.series)
        slices += count
    if part:
        yield part


def classify_part(
    scans: list[imaging.Scan], task: Task, digest: str = "", threads: int = 0
) -> pd.DataFrame:
    """Read and classify one part; slices are read while those before them are classified.

    Parameters
    ----------
    scans : list of Scan
    task : Task
    digest : str
        What `model_digest` gave where the work was ordered; empty: any model will do.
    threads : int
        Cores for the engine; 0: all of them.

    Returns
    -------
    DataFrame
        As `classify`.

    Raises
    ------
    InferenceError
        Where the model on this machine is another one.
    EngineError, GateError, RulesError
        As `open_classifier`.
    """
    classifier = open_task(task, digest, threads)
    batches = _ahead(_read(scans, task.plane, classifier))
    tables = [answer_batch(classifier, batch, reasons) for batch, reasons in batches]
    return pd.concat(tables, ignore_index=True)


def answer_part(scans: list[imaging.Scan], task: Task, digest: str = "", threads: int = 1) -> Rows:
    """Turn one part into lines of the two tables; this is what a cluster maps over the parts.

    Parameters
    ----------
    scans : list of Scan
    task, digest, threads
        As `classify_part`; a task of dask has one core.

    Returns
    -------
    predictions, studies : bytes
        CSV without header, UTF-8.

    Raises
    ------
    InferenceError, EngineError, GateError, RulesError
        As `classify_part`.
    """
    table = classify_part(scans, task, digest, threads)
    rule = (open_task(task, digest, threads).rules or {}).get("study", MEAN_RULE)
    judged = table.assign(decision=table["decision"].replace(UNJUDGED, ACCEPTED))
    summary = studies.summarise_studies(judged, rule)
    return _lines(table, COLUMNS), _lines(summary, studies.COLUMNS)


def model_digest(task: Task) -> str:
    """Return a hash over the files that a task answers with: the engine's, the gate, the rules."""
    digest = hashlib.sha256()
    for suffix in (engines.SUFFIXES.get(task.engine, ""), ".gate.npz", ".rules.json"):
        file = task.model.with_suffix(suffix)
        if file.is_file():
            status = file.stat()
            digest.update(suffix.encode() + _hash(file, status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _hash(file: Path, size: int, modified: int) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


_own, _shared = threading.local(), SimpleNamespace()


def open_task(task: Task, digest: str = "", threads: int = 0) -> Classifier:
    """Return the classifier of this thread, opened once and not once a part.

    Each thread has its own, so that none waits for another; Keras spreads over the cores by itself
    and takes seconds to load, so all threads share one. Parameters and errors are those of
    `classify_part`.
    """
    place = _shared if task.engine == "keras" else _own
    wanted = (task, digest or model_digest(task), threads)
    key, classifier = getattr(place, "opened", (None, None))
    if key != wanted:
        if digest and model_digest(task) != digest:
            raise InferenceError(
                f"{task.model} on {socket.gethostname()} is not the model that the work was "
                "ordered with, or its gate or rules are not: copy the files there again"
            )
        classifier = _open(task, threads)
        place.opened = wanted, classifier
    return classifier


def _open(task: Task, threads: int) -> Classifier:
    classifier = open_classifier(task.model, task.engine)
    if not threads or task.engine == "keras":
        return classifier
    answer_all = engines.open_onnx(task.model.with_suffix(engines.SUFFIXES[task.engine]), threads)

    def answer(pictures: np.ndarray) -> np.ndarray:
        few = range(0, len(pictures), CORE_BATCH)
        return np.concatenate([answer_all(pictures[first : first + CORE_BATCH]) for first in few])

    return dataclasses.replace(classifier, answer=answer)


def _here(pieces: list[list[imaging.Scan]], task: Task, digest: str) -> Iterator[tuple[int, Rows]]:
    """Classify parts side by side, one a core; give each when it is done.

    One core for each of two parts is faster than two cores for one: nothing waits for another.
    """
    cores = _cores()
    abreast = 1 if task.engine == "keras" else min(cores, len(pieces))
    if abreast <= 1:
        yield from enumerate(answer_part(piece, task, digest, 0) for piece in pieces)
        return
    answer = partial(answer_part, task=task, digest=digest, threads=cores // abreast)
    upcoming, running = enumerate(pieces), {}
    pool = ThreadPoolExecutor(abreast)
    try:
        while True:
            for place, piece in islice(upcoming, 2 * abreast - len(running)):
                running[pool.submit(answer, piece)] = place
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """Return the cores that this process may use, which on a cluster are not all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _on_cluster(
    pieces: list[list[imaging.Scan]], task: Task, digest: str, scheduler: str
) -> Iterator[tuple[int, Rows]]:
    answer = partial(answer_part, task=task, digest=digest)
    with closing(cluster.spread(answer, pieces, scheduler, retries=2)) as found:
        for place, rows, error in found:
            if type(error).__name__ == "KilledWorker":
                raise InferenceError(
                    f"workers of the cluster died one after the other over {pieces[place][0].file} "
                    f"or a scan after it: give them more memory, or take the scan out ({error})"
                ) from error
            if error is not None:
                raise error
            yield place, rows


def _read(
    scans: list[imaging.Scan], plane: str, classifier: Classifier
) -> Iterator[tuple[list[imaging.ScanSlice], list[str]]]:
    """Give the slices in batches, with why they are refused."""
    for batch in in_batches(one for scan in scans for one in _slices(scan, plane)):
        yield batch, refusals(classifier, batch)


def _slices(scan: imaging.Scan, plane: str) -> Iterator[imaging.ScanSlice]:
    """Give the slices of a scan, at least one: a fault of a reader costs its scan, no more."""
    number, reason = 0, "it holds no slice"
    try:
        for one in imaging.read_scan(scan, plane):
            number, reason = one.number + 1, ""
            yield one
    except Exception as error:
        logger.warning("%s cannot be read", scan.file, exc_info=True)
        reason = f"it cannot be read ({type(error).__name__}: {error})"
    if reason:
        error = " ".join(f"{scan.file}: {reason}; copy it again or take it out".splitlines())
        yield imaging.ScanSlice(scan.file, scan.series, number, error=error)


def _ahead(items: Iterator) -> Iterator:
    """Give items while another thread makes the next one."""
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, items, None)
            yield item


def _identity(scans: list[imaging.Scan], task: Task, digest: str) -> str:
    """Return a hash over what decides the tables: files with size and time, model, task."""
    how = (__version__, task.engine, task.plane, COLUMNS, studies.COLUMNS, PART_PICTURES, digest)
    identity = hashlib.sha256(repr(how).encode())
    for scan in scans:
        named = (str(scan.file), scan.series, scan.kind, scan.error, len(scan.frames))
        identity.update(repr(named).encode())
        on_disk = scan.root / scan.file.relative_to(scan.given)
        for file in dict.fromkeys((on_disk, *(frame.file for frame in scan.frames))):
            identity.update(_stamp(file))
    return identity.hexdigest()


def _stamp(file: Path) -> bytes:
    try:
        status = file.stat()
    except OSError:  # what cannot be read has a row that says so
        return repr(str(file)).encode()
    return repr((str(file), status.st_size, status.st_mtime_ns)).encode()


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Say where it was that something could not be written."""
    try:
        yield
    except OSError as error:
        raise InferenceError(
            f"the tables cannot be written to {folder} ({error.strerror or error}): make room or "
            "name another output folder, and run it again; what is done is kept"
        ) from error


def _discard_other_parts(parts: Path, identity: str) -> None:
    name = parts / "identity.json"
    if parts.is_dir():
        try:
            found = json.loads(name.read_text("utf-8"))
        except (OSError, ValueError):
            found = ""
        if found == identity:
            return
        logger.info("%s is of other scans or another model: it is made anew", parts.name)
        shutil.rmtree(parts)
    with paths.atomic_write(name) as temporary:
        temporary.write_text(json.dumps(identity), encoding="utf-8")


def _files(parts: Path, number: int) -> tuple[Path, Path]:
    return parts / f"{number:07d}.{PREDICTIONS}", parts / f"{number:07d}.{STUDIES}"


def _is_done(parts: Path, number: int) -> bool:
    """Return whether a part is there, and no file of it was emptied by a loss of power."""
    return all(file.is_file() and file.stat().st_size for file in _files(parts, number))


def write_part(parts: Path, number: int, rows: Rows) -> None:
    """Write the lines of a part into the folder of the parts, where they are whole or absent."""
    for file, lines in zip(_files(parts, number), rows, strict=True):
        with paths.atomic_write(file) as temporary:
            temporary.write_bytes(lines)


def _lines(table: pd.DataFrame, columns: Iterable[str]) -> bytes:
    # csv takes a lone carriage return, which a file's name may hold, for no reason to quote
    has_return = table.select_dtypes(exclude="number").apply(lambda c: c.str.contains("\r")).any()
    quoting = csv.QUOTE_NONNUMERIC if has_return.any() else csv.QUOTE_MINIMAL
    text = table[list(columns)].to_csv(
        index=False, header=False, lineterminator="\n", quoting=quoting
    )
    return text.encode("utf-8", "surrogateescape")


def _join(parts: Path, count: int, folder: Path) -> tuple[Path, Path]:
    """Join the parts into the two tables, and remove them."""
    targets = folder / PREDICTIONS, folder / STUDIES
    headers = COLUMNS, studies.COLUMNS
    with paths.atomic_write(targets[0]) as slices, paths.atomic_write(targets[1]) as series:
        for place, (temporary, header) in enumerate(zip((slices, series), headers, strict=True)):
            with temporary.open("wb") as stream:
                stream.write((",".join(header) + "\n").encode())
                for number in range(count):
                    with _files(parts, number)[place].open("rb") as part:
                        shutil.copyfileobj(part, stream)
    shutil.rmtree(parts)
    return targets


def read_predictions(path: Path) -> pd.DataFrame:
    """Read `predictions.csv` as `classify` gives it: what is not there is an empty text.

    Raises
    ------
    InferenceError
        Where the file is absent or is no such table.
    """
    return _read_table(path, COLUMNS, ("slice", *CLASS_NAMES))


def read_studies(path: Path) -> pd.DataFrame:
    """Read `studies.csv` as `studies.summarise_studies` gives it.

    Raises
    ------
    InferenceError
        Where the file is absent or is no such table.
    """
    return _read_table(path, studies.COLUMNS, (*COUNTS, *CLASS_NAMES, "tumor_slices"))


def _read_table(path: Path, columns: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    text = dict.fromkeys((name for name in columns if name not in numbers), str)
    missing = {name: [""] for name in numbers}
    try:
        table = pd.read_csv(
            path, dtype=text, na_values=missing, keep_default_na=False,
            encoding="utf-8", encoding_errors="surrogateescape",
        )  # fmt: skip
        return table[list(columns)]
    except (OSError, ValueError, KeyError) as error:
        raise InferenceError(
            f"{path} is no table of 04_infer ({error}): write it with that notebook"
        ) from error
