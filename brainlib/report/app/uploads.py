"""Uploads to answers; nothing of an upload stays on disk.

Each file gets a folder of its own, and only the last part of its name, made harmless. Archives are
unpacked within limits, because a small one can hold a disk full of zeros.
"""

import io
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from brainlib import imaging
from brainlib.report import ReportError
from brainlib.report.answers import Answer, Model
from brainlib.report.app import LIMIT_VARIABLE

SERVER_MEGABYTES = 10
"""What a Jupyter server lets through unless it is told otherwise; more ends the connection."""

UNPACKED_BYTES = 2_000_000_000
MOST_FILES = 10_000
MOST_SLICES, MOST_PIXELS = 3000, 600_000_000
"""Slices and pixels of one upload that are kept in memory to scroll through."""

_CHUNK = 1 << 20
_ENTRY = b"PK\x01\x02"  # each file of an archive has one in its list of contents
_ENCRYPTED = 1


def upload_limit() -> int:
    """Return how many megabytes can be uploaded at a time."""
    try:
        return max(1, int(os.environ.get(LIMIT_VARIABLE, SERVER_MEGABYTES)))
    except ValueError:
        return SERVER_MEGABYTES


def read_uploads(
    model: Model,
    uploads: Iterable[Mapping[str, Any]],
    progress: Callable[[int], None] = lambda slices: None,
) -> tuple[list[Answer], list[str]]:
    """Read and classify what was uploaded.

    Parameters
    ----------
    model : Model
    uploads : iterable of mappings
        With `name` and `content` (bytes), as `ipywidgets.FileUpload` gives them. The files are
        deleted again before this returns.
    progress : function
        Called with the number of slices that were read.

    Returns
    -------
    answers : list of Answer
        In the order of the upload.
    problems : list of str
        What was not taken and why, a sentence each.

    Raises
    ------
    ReportError
        Where nothing of it is a scan, or it is too large for a page.
    """
    count = pixels = 0

    def watch(one: imaging.ScanSlice) -> None:
        nonlocal count, pixels
        count += 1
        pixels += 0 if one.pixels is None else one.pixels.size
        if count > MOST_SLICES or pixels > MOST_PIXELS:
            raise ReportError(
                f"the upload holds more than {count - 1:,} slices of this size, as many as fit on "
                "a page: choose fewer files, or use `brainlib classify` with their folder"
            )
        if count % 16 == 0:
            progress(count)

    with tempfile.TemporaryDirectory(prefix="brainlib-upload-") as place:
        folder = Path(place).resolve()
        problems = save_uploads(uploads, folder)
        try:
            scans = imaging.list_scans(folder, model.plane)
        except imaging.ImageError as error:
            reasons = " ".join([*problems, *_passed_over(folder, [])])
            raise ReportError(
                reasons or "the upload is empty: choose images, DICOM files or a NIfTI volume."
            ) from error
        problems += _passed_over(folder, scans)
        return list(model.answers(scans, watch, folder)), problems


def save_uploads(uploads: Iterable[Mapping[str, Any]], folder: Path) -> list[str]:
    """Write uploads into an empty folder; of archives, the files in them.

    Returns
    -------
    list of str
        What could not be taken and why, a sentence each.
    """
    problems: list[str] = []
    for upload in uploads:
        name, content = upload["name"], bytes(upload["content"])
        if not content.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            _new_file(name, folder).write_bytes(content)
            continue
        try:
            if content.count(_ENTRY) + len(list(folder.iterdir())) > MOST_FILES:
                raise ReportError(f"it holds more than {MOST_FILES:,} files: split it")
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                _unpack(archive, folder)
        except ReportError as error:
            problems.append(f"{_safe(name)}: {error}.")
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
            problems.append(
                f"{_safe(name)}: the archive is damaged, or compressed in an unknown way; pack it "
                "again, or upload the files themselves."
            )
    return problems


def _unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    # all archives of an upload share the room
    room = UNPACKED_BYTES - sum(file.stat().st_size for file in folder.rglob("*"))
    entries = [one for one in archive.infolist() if not one.is_dir() and not _is_hidden(one)]
    if not entries:
        raise ReportError("the archive is empty")
    for entry in sorted(entries, key=lambda entry: entry.filename):
        if entry.flag_bits & _ENCRYPTED:
            raise ReportError("it is encrypted: unpack it first, then upload the files")
        file = _new_file(entry.filename, folder)
        try:
            room -= _copy(archive, entry, file, room)
        except Exception:
            file.unlink(missing_ok=True)
            raise


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: Path, room: int) -> int:
    """Unpack one file, counting what comes out and not what its header promises."""
    written = 0
    with archive.open(entry) as packed, file.open("wb") as target:
        while chunk := packed.read(_CHUNK):
            written += len(chunk)
            if written > room:
                raise ReportError(
                    f"unpacked it is larger than {UNPACKED_BYTES / 1e9:.0f} GB: split it"
                )
            target.write(chunk)
    return written


def _is_hidden(entry: zipfile.ZipInfo) -> bool:
    """Return whether a file is one of those that a system leaves in archives unasked."""
    parts = entry.filename.replace("\\", "/").split("/")
    return parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts if part.strip("."))


def _new_file(name: str, folder: Path) -> Path:
    place = folder / f"{len(list(folder.iterdir())):05d}"
    place.mkdir()
    return place / _safe(name)


def _safe(name: str) -> str:
    """Return the last part of a name, without what a file system or a terminal would act on."""
    last = re.split(r"[\\/]", name)[-1]
    shown = "".join(letter if letter.isprintable() else " " for letter in last).strip(" .")
    return shown.encode("utf-8", "replace")[-200:].decode("utf-8", "ignore") or "unnamed"


def _passed_over(folder: Path, scans: list[imaging.Scan]) -> Iterator[str]:
    """Name what is no scan, file by file where they are few."""
    seen = {scan.file for scan in scans} | {one.file for scan in scans for one in scan.frames}
    names = [file.name for file in sorted(folder.rglob("*")) if file.is_file() and file not in seen]
    if len(names) > 5:
        yield f"{len(names)} files are no image, no DICOM and no NIfTI, and were passed over."
    else:
        yield from (f"{name}: it is no image, no DICOM and no NIfTI." for name in names)
