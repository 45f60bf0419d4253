"""Scans to tables, however many, on one machine or on a cluster.

Scans are cut into parts of one chunk. Each part is written whole or not at all; an interrupted run
resumes with the parts that are missing, and in the end they are joined.
"""

import csv
import hashlib
import logging
import os
import shutil
import socket
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from brainlib import CLASS_NAMES, __version__, imaging, paths
from brainlib.imaging.errors import readable
from brainlib.inference import classifier, cluster
from brainlib.inference.classifier import COLUMNS, STUDY_COLUMNS, Classifier
from brainlib.inference.studies import COUNTS
from brainlib.models import engines
from brainlib.paths import BrainlibError

PREDICTIONS, STUDIES = "predictions.csv", "studies.csv"

Rows = tuple[bytes, bytes]
"""Lines of `predictions.csv` and of `studies.csv`, without their headers."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
_TEXT_COLUMNS = ("path", "series", "decision", "error")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """All that a machine has to know to classify any part of the scans.

    Attributes
    ----------
    model : Path
        The model file, absolute; other machines need it at the same place.
    engine : str
        As for `open_classifier`.
    plane : str
        As for `imaging.open_scans`.
    """

    model: Path
    engine: str = "onnx"
    plane: str = "acquired"


def classify_scans(
    scans: list[imaging.Scan], output: Path | str, task: Task, scheduler: str = ""
) -> tuple[Path, Path]:
    """Classify scans into `predictions.csv`, a row a slice, and `studies.csv`, a row a study.

    Memory does not grow with the number of slices, only the list of scans does. An interrupted
    call with the same scans, model and task resumes with the parts that are missing.

    Parameters
    ----------
    scans : list of Scan
        As `imaging.list_scans` gives them.
    output : Path or str
        Folder of the two tables; older ones are replaced once all is done.
    task : Task
    scheduler : str
        Address of a running dask cluster, such as `tcp://10.0.0.1:8786`, whose workers see the
        same files; empty: this process does the work, on all its cores.

    Returns
    -------
    predictions, studies : Path

    Raises
    ------
    BrainlibError
        Where the scheduler does not answer, a worker has another model, or scans or model change
        meanwhile. What is done is kept for the next call;
        where the folder cannot be written to, another run is writing into it, or the model cannot
        be opened.
    """
    task = replace(task, model=paths.resolve(task.model))
    digest = model_digest(task)
    _open(task, digest, 0)  # errors of the model come before the work
    identity = _identity(scans, task)
    folder = paths.resolve(output)
    parts = folder / f"predictions-{identity[:16]}.parts"
    with paths.write_errors(folder), paths.locked(folder):
        pieces = list(cut(scans))
        for other in {*folder.glob("predictions-*.parts")} - {parts}:
            shutil.rmtree(other)  # of other scans or another model
        missing = [number for number in range(len(pieces)) if not _is_done(parts, number)]
        todo = [pieces[number] for number in missing]
        done = len(scans) - sum(map(len, todo))
        if done:
            logger.info("%d of %d scans are done already", done, len(scans))
        results = _on_cluster(todo, task, digest, scheduler) if scheduler else _here(todo, task)
        bar = tqdm(total=len(scans), initial=done, desc="classifying", unit=" scans", delay=2)
        with closing(results), bar:
            for place, rows in results:
                write_part(parts, missing[place], rows)
                bar.update(len(todo[place]))
        if _identity(scans, task) != identity:
            raise BrainlibError("scans or model changed while they were used: run it again")
        return _join(parts, len(pieces), folder)


def name_scans(scans: Iterable[imaging.Scan], hidden: str = "") -> list[imaging.Scan]:
    """Name studies: a DICOM series after its folder, too, and all so that no two share a name.

    Where names are the same, they get as much of their folders as tells them apart.

    Parameters
    ----------
    scans : iterable of Scan
        As `imaging.list_scans` gives them, of one path or of several.
    hidden : str
        A temporary folder, after which nothing is named.
    """
    scans = list(scans)
    parts = [_parts(scan, hidden) for scan in scans]
    lengths = {each: scan.series.count("/") + 1 for each, scan in zip(parts, scans, strict=True)}
    while True:
        names = {each: "/".join(each[-length:]) for each, length in lengths.items()}
        uses = Counter(names.values())
        shared = [each for each, name in names.items() if uses[name] > 1]
        if not shared:
            return [replace(scan, series=names[each])
                    for each, scan in zip(parts, scans, strict=True)]  # fmt: skip
        lengths |= {each: lengths[each] + 1 for each in shared}


def _parts(scan: imaging.Scan, hidden: str) -> tuple[str, ...]:
    """Return the path of a scan as it is named, in parts; its last one names a DICOM series."""
    path = Path(os.path.commonpath([frame.file for frame in scan.frames] or [scan.file]))
    if scan.frames:
        folder = "" if str(path) == hidden else path.name
        path = path.parent / f"{folder} {scan.series}".strip()
    return tuple(readable(path.as_posix()).split("/"))


def cut(scans: Iterable[imaging.Scan]) -> Iterator[list[imaging.Scan]]:
    """Cut scans into parts of one chunk; volumes, archives and long series are parts of their own.

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
        # a format that is not named here may hold any number of slices
        known = {"image": 1, "unreadable": 1, "dicom": len(scan.frames)}
        count = known.get(scan.kind, engines.CHUNK)
        if part and (slices + count > engines.CHUNK or scan.series in names):
            yield part
            part, names, slices = [], set(), 0
        part.append(scan)
        names.add(scan.series)
        slices += count
    if part:
        yield part


def classify_part(
    scans: list[imaging.Scan], task: Task, digest: str = "", threads: int = 1
) -> Rows:
    """Read and classify one part; this is what threads and clusters map over the parts.

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
    predictions, studies : bytes
        CSV without header, UTF-8.

    Raises
    ------
    BrainlibError
        Where the model on this machine is another one.
    """
    opened = _open(task, digest or model_digest(task), threads)
    read = (one for scan in scans for one in classifier.read_slices(scan, task.plane))
    table = classifier.classify(opened, read)
    return to_csv(table), to_csv(classifier.summarise(opened, table))


def model_digest(task: Task) -> str:
    """Return a hash over the files beside a model that its answers depend on."""
    suffixes = (f".{task.engine}", ".gate.npz", ".rules.json")
    files = [task.model.with_suffix(suffix) for suffix in suffixes]
    return " ".join(_hash(file, paths.stamp(file)) for file in files)


@lru_cache(maxsize=64)
def _hash(file: Path, stamp: bytes) -> str:
    return paths.file_hash(file) if file.is_file() else "absent"


@lru_cache(maxsize=2)  # opened once and not once a part; sessions of ONNX Runtime can be shared
def _open(task: Task, digest: str, threads: int = 0) -> Classifier:
    if model_digest(task) != digest:
        raise BrainlibError(
            f"{task.model} on {socket.gethostname()} is not the model that the work was ordered "
            "with, or its gate or rules are not: copy the files there again"
        )
    return classifier.open_classifier(task.model, task.engine, threads)


def _here(pieces: list[list[imaging.Scan]], task: Task) -> Iterator[tuple[int, Rows]]:
    """Classify parts side by side, one a core: faster than two cores for one part."""
    abreast = 1 if task.engine == "keras" else max(1, min(_cores(), len(pieces)))
    answer = partial(classify_part, task=task, threads=0 if abreast == 1 else 1)
    pool = ThreadPoolExecutor(abreast)
    try:
        for place, future in cluster.submit(pool, answer, pieces, lambda: 2 * abreast):
            yield place, future.result()
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
    answer = partial(classify_part, task=task, digest=digest)
    with closing(cluster.spread(answer, pieces, scheduler, retries=2)) as results:
        for place, rows, error in results:
            if type(error).__name__ == "KilledWorker":
                raise BrainlibError(
                    f"workers of the cluster died one after the other over {pieces[place][0].file} "
                    f"or a scan after it: give them more memory, or take the scan out ({error})"
                ) from error
            if error is not None:
                raise error
            yield place, rows


def _identity(scans: list[imaging.Scan], task: Task) -> str:
    """Return a hash over what decides the tables: files with size and time, model, task."""
    how = (__version__, task.engine, task.plane, STUDY_COLUMNS, engines.CHUNK, model_digest(task))
    return hashlib.sha256(repr((how, stamp_scans(scans))).encode()).hexdigest()


def stamp_scans(scans: Iterable[imaging.Scan]) -> str:
    """Return a hash over names, sizes and times of the files of scans, which tells of a change."""
    identity = hashlib.sha256()
    for scan in scans:
        named = (str(scan.file), scan.series, scan.kind, scan.error, len(scan.frames))
        identity.update(repr(named).encode())
        for file in dict.fromkeys((scan.file, *(frame.file for frame in scan.frames))):
            identity.update(paths.stamp(file))
    return identity.hexdigest()


def _files(parts: Path, number: int) -> tuple[Path, Path]:
    return parts / f"{number:07d}.{PREDICTIONS}", parts / f"{number:07d}.{STUDIES}"


def _is_done(parts: Path, number: int) -> bool:
    """Return whether a part is there, and no file of it was emptied by a loss of power."""
    return all(file.is_file() and file.stat().st_size for file in _files(parts, number))


def write_part(parts: Path, number: int, rows: Rows) -> None:
    """Write the lines of a part, whole or not at all."""
    for file, lines in zip(_files(parts, number), rows, strict=True):
        with paths.atomic_write(file) as temporary:
            temporary.write_bytes(lines)


def _join(parts: Path, count: int, folder: Path) -> tuple[Path, Path]:
    """Join the parts into the two tables, and remove them."""
    targets, headers = (folder / PREDICTIONS, folder / STUDIES), (COLUMNS, STUDY_COLUMNS)
    with paths.atomic_write(targets[0]) as slices, paths.atomic_write(targets[1]) as series:
        for place, temporary in enumerate((slices, series)):
            with temporary.open("wb") as stream:
                stream.write((",".join(headers[place]) + "\n").encode())
                for number in range(count):
                    stream.write(_files(parts, number)[place].read_bytes())
    shutil.rmtree(parts)
    return targets


def to_csv(table: pd.DataFrame, header: bool = False) -> bytes:
    """Return a table of slices or studies as CSV; names that a spreadsheet would run are quoted.

    A text that starts with `=`, `+`, `-` or `@` gets a `'` in front, which `read_slice_table` and
    `read_study_table` take away again.
    """
    texts = [name for name in _TEXT_COLUMNS if name in table]
    safe = table.assign(**{name: table[name].map(_without_formula) for name in texts})
    # csv takes a lone carriage return, which a file's name may hold, for no reason to quote
    has_return = safe[texts].apply(lambda column: column.str.contains("\r")).any(axis=None)
    quoting = csv.QUOTE_NONNUMERIC if has_return else csv.QUOTE_MINIMAL
    text = safe.to_csv(index=False, header=header, lineterminator="\n", quoting=quoting)
    return text.encode("utf-8", "surrogateescape")


def _without_formula(text: str) -> str:
    narrow = unicodedata.normalize("NFKC", text[:1])  # some spreadsheets run full-width ones, too
    return f"'{text}" if narrow.startswith(_FORMULA_STARTS) else text


def read_slice_table(path: Path) -> pd.DataFrame:
    """Read `predictions.csv` as `classify` gives it: what is not there is an empty text.

    Raises
    ------
    BrainlibError
        Where the file is absent or is no such table.
    """
    return _read_table(path, COLUMNS, ("slice", *CLASS_NAMES))


def read_study_table(path: Path) -> pd.DataFrame:
    """Read `studies.csv` as `summarise` gives it.

    Raises
    ------
    BrainlibError
        Where the file is absent or is no such table.
    """
    return _read_table(path, STUDY_COLUMNS, (*COUNTS, *CLASS_NAMES, "tumor_slices", "gaps"))


def _read_table(path: Path, columns: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    text = dict.fromkeys((name for name in columns if name not in numbers), str)
    missing = {name: [""] for name in numbers}
    try:
        table = pd.read_csv(
            path, dtype=text, na_values=missing, keep_default_na=False,
            encoding="utf-8", encoding_errors="surrogateescape",
        )  # fmt: skip
        for name in set(_TEXT_COLUMNS) & set(columns):
            table[name] = table[name].str.removeprefix("'")
        return table[list(columns)]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise BrainlibError(
            f"{path} is no table of `brainlib classify` or 04_infer ({error})"
        ) from error
