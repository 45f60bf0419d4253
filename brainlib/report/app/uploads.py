"""Uploads to answers; nothing of an upload stays on disk.

Of its name each file keeps the last part, made harmless, and so does the folder that it was dropped
with: a DICOM series is named after it.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

from brainlib import imaging, inference, paths
from brainlib.paths import BrainlibError
from brainlib.report.answers import Answer, Model
from brainlib.report.app import LIMIT_VARIABLE

SERVER_MEGABYTES = 10
"""What a Jupyter server lets through unless it is told otherwise; more ends the connection."""

MOST_SLICES, MOST_PIXELS = 3000, 600_000_000
"""Slices and pixels of one upload that are kept in memory to scroll through."""


def upload_limit() -> int:
    """Return how many megabytes can be uploaded at a time."""
    return int(os.environ.get(LIMIT_VARIABLE, SERVER_MEGABYTES))


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
    BrainlibError
        Where nothing of it is a scan, or it is too large for a page.
    """
    slices = pixels = 0

    def watch(read: Iterator[imaging.ScanSlice]) -> Iterator[imaging.ScanSlice]:
        nonlocal slices, pixels
        for one in read:
            slices += 1
            pixels += 0 if one.pixels is None else one.pixels.size
            if slices > MOST_SLICES or pixels > MOST_PIXELS:
                raise BrainlibError(
                    f"the upload has more than {slices - 1:,} slices of this size, too many for a "
                    "page: choose fewer files, or use `brainlib classify` with their folder"
                )
            if slices % 16 == 0:
                progress(slices)
            yield one

    with paths.temporary_folder() as folder:
        order = {name: place for place, name in enumerate(save_uploads(uploads, folder))}
        scans = imaging.list_scans(folder, model.plane)
        if scans[0].file == folder:
            raise BrainlibError(" ".join(_passed_over(folder, [])))
        scans = inference.name_scans(scans, str(folder))
        answers = list(model.answers(scans, watch, str(folder)))
        answers.sort(key=lambda answer: order.get(answer.slices["path"].iloc[0], 0))
        return answers, _passed_over(folder, scans)


def save_uploads(uploads: Iterable[Mapping[str, Any]], folder: Path) -> list[str]:
    """Write uploads into an empty folder, and return their names: a second one gets a number.

    A name may start with the folder of the file, as `drop.js` gives it: `t1_axial/IM1.dcm`.
    """
    saved = []
    for upload in uploads:
        *folders, name = map(_safe, re.split(r"[\\/]", upload["name"]))
        above = folder.joinpath(*folders[-1:])
        above = folder if above.is_file() else above
        above.mkdir(exist_ok=True)
        names = chain([name], (f"{number} {name}" for number in count(2)))
        file = next(above / name for name in names if not (above / name).exists())
        file.write_bytes(upload["content"])
        saved.append(file.relative_to(folder).as_posix())
    return saved


def _safe(name: str) -> str:
    """Return a name without what a file system or a terminal would act on."""
    shown = "".join(letter if letter.isprintable() else " " for letter in name).strip(" .:")
    return shown.encode("utf-8", "replace")[-200:].decode("utf-8", "ignore") or "unnamed"


def _passed_over(folder: Path, scans: list[imaging.Scan]) -> list[str]:
    """Name what is no scan, file by file where they are few."""
    seen = {scan.file for scan in scans} | {one.file for scan in scans for one in scan.frames}
    names = [file.name for file in sorted(folder.rglob("*")) if file.is_file() and file not in seen]
    if len(names) > 5:
        return [f"{len(names)} files were skipped: no image, DICOM or NIfTI."]
    return [f"{name}: skipped, for it is no image, DICOM or NIfTI." for name in names]
