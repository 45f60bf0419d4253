"""From an upload to files in a folder, under names of our own.

What a file was called is shown and never used as a path. Archives are read within limits, because
a small one can hold a disk full of zeros.
"""

import io
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brainlib.paths import BrainlibError

LIMIT_VARIABLE = "BRAINLIB_UPLOAD_MB"
"""The environment variable that says how many megabytes the server lets through at a time."""

SERVER_MEGABYTES = 10
"""What a Jupyter server lets through unless it is told otherwise; more ends the connection."""

UNPACKED_BYTES = 2_000_000_000
MOST_FILES = 10_000
_CHUNK = 1 << 20
_ENTRY = b"PK\x01\x02"  # each file of an archive has one in its list of contents
_ENCRYPTED = 1


class PageError(BrainlibError):
    """An upload that cannot be taken as it is, or a page that cannot be served."""


@dataclass(frozen=True)
class Saved:
    """What an upload left in a folder.

    Attributes
    ----------
    names : dict of Path to str
        The files, and what each was called; no two alike.
    problems : list of str
        What could not be taken and why, a sentence each.
    """

    names: dict[Path, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def upload_limit() -> int:
    """Return how many megabytes can be uploaded at a time."""
    try:
        return max(1, int(os.environ.get(LIMIT_VARIABLE, SERVER_MEGABYTES)))
    except ValueError:
        return SERVER_MEGABYTES


def save_uploads(uploads: Iterable[Mapping[str, Any]], folder: Path) -> Saved:
    """Write uploads into a folder; of archives, the files in them.

    Parameters
    ----------
    uploads : iterable of mappings
        With `name` and `content` (bytes), as `ipywidgets.FileUpload` gives them.
    folder : Path
        An empty folder that exists.

    Raises
    ------
    OSError
        Where the folder is full or cannot be written to.
    """
    saved = Saved()
    for upload in sorted(uploads, key=lambda upload: upload["name"]):
        content = bytes(upload["content"])
        name = upload["name"]
        if content[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            _save_archive(name, content, folder, saved)
        else:
            _new_file(name, folder, saved).write_bytes(content)
    return saved


def _save_archive(name: str, content: bytes, folder: Path, saved: Saved) -> None:
    try:
        if content.count(_ENTRY) + len(saved.names) > MOST_FILES:
            raise PageError(f"it holds more than {MOST_FILES:,} files: take it apart")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _unpack(name, archive, folder, saved)
    except PageError as error:
        saved.problems.append(f"{name}: {error}.")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        saved.problems.append(
            f"{name}: the archive is damaged, or packed in a way that is not known here ({error}); "
            "pack it again, or upload the files themselves."
        )


def _unpack(name: str, archive: zipfile.ZipFile, folder: Path, saved: Saved) -> None:
    # all archives of an upload share the room
    room = UNPACKED_BYTES - sum(file.stat().st_size for file in saved.names)
    found = False
    for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
        if entry.is_dir() or _is_hidden(entry.filename):
            continue
        found = True
        if entry.flag_bits & _ENCRYPTED:
            raise PageError("it is encrypted: unpack it first, then upload the files")
        file = _new_file(f"{name}/{entry.filename}", folder, saved)
        try:
            room -= _copy(archive, entry, file, room)
        except Exception:
            del saved.names[file]
            file.unlink(missing_ok=True)
            raise
    if not found:
        raise PageError("the archive is empty")


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: Path, room: int) -> int:
    """Unpack one file, counting what comes out and not what its header promises."""
    written = 0
    with archive.open(entry) as packed, file.open("wb") as target:
        while chunk := packed.read(_CHUNK):
            written += len(chunk)
            if written > room:
                raise PageError(
                    f"unpacked it is larger than {UNPACKED_BYTES / 1e9:.0f} GB: take it apart"
                )
            target.write(chunk)
    return written


def _is_hidden(name: str) -> bool:
    """Return whether a file is one of those that a system leaves in archives unasked."""
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts if part.strip("."))


def _new_file(name: str, folder: Path, saved: Saved) -> Path:
    """Return where to write the next file; only an ending that is known is kept."""
    from brainlib.imaging.scans import SCAN_SUFFIXES  # here, so that serving loads no images

    suffixes = sorted(SCAN_SUFFIXES, key=len, reverse=True)
    suffix = next((end for end in suffixes if name.lower().endswith(end)), "")
    file = folder / f"{len(saved.names):05d}{suffix}"
    taken = set(saved.names.values())
    number = 2
    shown = name
    while shown in taken:
        shown = f"{name} ({number})"
        number += 1
    saved.names[file] = shown
    return file
