"""From an upload to studies with their answers; nothing of it stays on disk."""

import dataclasses
import logging
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES, imaging, inference
from brainlib.inference.classifier import in_batches
from brainlib.report.app.uploads import PageError, Saved, save_uploads

MOST_SLICES = 3000
MOST_PIXELS = 600_000_000
"""Slices and pixels of one upload that are kept in memory to scroll through."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Study:
    """A picture, a volume or a series, with its answers.

    Attributes
    ----------
    slices : list of ScanSlice
        Those that could be read, in order.
    table : DataFrame
        As `inference.classify` gives it, a row for each of `slices`, indexed from 0.
    rows : DataFrame
        The same with what could not be read.
    answer : mapping
        As a row of `studies.summarise_studies`; `class` is empty where there is no answer.
    """

    slices: list[imaging.ScanSlice]
    table: pd.DataFrame
    rows: pd.DataFrame
    answer: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What it is called."""
        return str(self.answer["series"])

    @property
    def deciding(self) -> list[int]:
        """Places in `slices` of those that decided, the most telling first."""
        numbers = self.table["slice"].tolist()
        return [numbers.index(int(number)) for number in self.answer["deciding"].split()]


@dataclass(frozen=True, eq=False)
class Reading:
    """What an upload holds.

    Attributes
    ----------
    studies : list of Study
    predictions : DataFrame
        As `inference.classify` gives it, with the names that the files were uploaded under.
    problems : list of str
        What could not be taken and why, a sentence each.
    """

    studies: list[Study] = field(default_factory=list)
    predictions: pd.DataFrame = field(default_factory=pd.DataFrame)
    problems: list[str] = field(default_factory=list)


def read_uploads(
    classifier: inference.Classifier,
    uploads: Iterable[Mapping[str, Any]],
    plane: str = "acquired",
    progress: Callable[[int], None] = lambda slices: None,
) -> Reading:
    """Read and classify what was uploaded.

    Parameters
    ----------
    classifier : Classifier
    uploads : iterable of mappings
        As for `save_uploads`. The files are deleted again before this returns.
    plane : str
        As for `imaging.open_scans`.
    progress : function
        Called with the number of slices that are done.

    Raises
    ------
    PageError
        Where nothing of it is a scan.
    """
    with tempfile.TemporaryDirectory(prefix="brainlib-upload-") as place:
        folder = Path(place).resolve()
        saved = save_uploads(uploads, folder)
        try:
            scans = imaging.list_scans(folder, plane)
        except imaging.ImageError as error:
            reasons = " ".join([*saved.problems, *_passed_over(saved, [])])
            raise PageError(
                reasons or "the upload is empty: choose pictures, DICOM files or a NIfTI volume."
            ) from error
        problems = [*saved.problems, *_passed_over(saved, scans)]
        slices: list[imaging.ScanSlice] = []
        tables = [inference.classify(classifier, [])]
        for batch in in_batches(_within_memory(scans, plane, problems), 16):
            tables.append(inference.classify(classifier, batch))
            slices += batch
            progress(len(slices))
    slices = [_named(one, saved, folder) for one in slices]
    table = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    table["path"] = [str(one.file) for one in slices]
    table["series"] = [one.series for one in slices]
    table["error"] = [one.error for one in slices]
    studies = list(_studies(slices, table, classifier.rules))
    shown = {study.name for study in studies}
    problems += table.loc[(table["error"] != "") & ~table["series"].isin(shown), "error"].tolist()
    return Reading(studies, table, problems)


def _within_memory(
    scans: list[imaging.Scan], plane: str, problems: list[str]
) -> Iterator[imaging.ScanSlice]:
    count = pixels = 0
    for scan in scans:
        for one in imaging.read_scan(scan, plane):
            count += 1
            pixels += 0 if one.pixels is None else one.pixels.size
            if count > MOST_SLICES or pixels > MOST_PIXELS:
                problems.append(
                    f"Only the first {count - 1:,} slices were read, as many as fit on a page: "
                    "for more, name their folder in 04_infer."
                )
                return
            yield one


def _passed_over(saved: Saved, scans: list[imaging.Scan]) -> Iterator[str]:
    """Name what is no scan, file by file where they are few."""
    seen = {scan.file for scan in scans} | {one.file for scan in scans for one in scan.frames}
    names = [name for file, name in saved.names.items() if file not in seen]
    if len(names) > 5:
        yield f"{len(names)} files are no picture, no DICOM and no NIfTI, and were passed over."
    else:
        yield from (f"{name}: it is no picture, no DICOM and no NIfTI." for name in names)


def _named(one: imaging.ScanSlice, saved: Saved, folder: Path) -> imaging.ScanSlice:
    """Return a slice under the name that its file was uploaded under."""
    name = saved.names.get(one.file, one.file.name)
    series = saved.names.get(folder / one.series, one.series)
    return dataclasses.replace(
        one, file=Path(name), series=series, error=_reason(one.error, saved, folder)
    )


def _reason(error: str, saved: Saved, folder: Path) -> str:
    """Put the uploaded names into a message, in place of our own and of the folder's."""

    def name_of(found: re.Match) -> str:
        return saved.names.get(folder / found[1], found[1])

    named = re.sub(rf"{re.escape(str(folder))}/(\d{{5}}(?:\.\w+)*)", name_of, error)
    return named.replace(str(folder), "the upload")


def _studies(
    slices: list[imaging.ScanSlice], table: pd.DataFrame, rules: Mapping[str, Any] | None
) -> Iterator[Study]:
    """Give what has slices to look at; what has none is a problem of the upload."""
    for _, rows in table.groupby("series", sort=False):
        chosen = [row for row in rows.index if slices[row].pixels is not None]
        if chosen:
            shown = table.loc[chosen].reset_index(drop=True)
            found = [slices[row] for row in chosen]
            yield Study(found, shown, rows.reset_index(drop=True), _answer(rows, rules))


def _answer(rows: pd.DataFrame, rules: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the answer to a study; several slices have one where there is a rule for it."""
    from brainlib.inference import studies

    is_answered = rows["class"] != ""
    if rules is not None:
        judged = rows.assign(decision=rows["decision"].mask(is_answered, inference.ACCEPTED))
        return studies.summarise_studies(judged, rules["study"]).iloc[0].to_dict()
    answered = rows[is_answered]
    is_single = len(answered) == 1
    first = answered.iloc[0] if is_single else {"class": "", **dict.fromkeys(CLASS_NAMES, np.nan)}
    unreadable = int((rows["error"] != "").sum())
    return {
        "series": rows["series"].iloc[0], "path": rows["path"].iloc[0], "slices": len(rows),
        "accepted": len(answered), "refused": len(rows) - len(answered) - unreadable,
        "unreadable": unreadable, **{name: first[name] for name in ("class", *CLASS_NAMES)},
        "tumor_slices": int((answered["class"] != "notumor").sum()),
        "deciding": str(answered["slice"].iloc[0]) if is_single else "",
    }  # fmt: skip
