"""Self-contained HTML files: a report for a study, and one summary page for a folder.

A file holds its images and its style, no script, and asks the network for nothing; it opens from
disk and prints on A4. Whatever comes from a scan, its name above all, is escaped by the templates.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import count, groupby
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import pandas as pd

from brainlib import CLASS_COLORS, __version__, imaging, inference, paths
from brainlib.inference import rules
from brainlib.inference.classifier import COPY, MISSING
from brainlib.paths import BrainlibError
from brainlib.report import drawing, words
from brainlib.report.study import ClassifiedStudy
from brainlib.report.volumes import write_outline

SUMMARY = "index.html"
PICTURED = 4
"""Slices that a report shows at most: more would not fit on two pages."""
SIDE = 420
"""Longer side of an embedded image, pixels: 180 dots an inch in print."""

logger = logging.getLogger(__name__)

Study = TypeVar("Study", bound=ClassifiedStudy)

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("brainlib.report", ""), undefined=jinja2.StrictUndefined,
    autoescape=True, trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
"""The templates; whatever is put into them is escaped."""

TEMPLATES.globals |= {
    "words": words, "drawing": drawing, "inference": inference, "CLASS_COLORS": CLASS_COLORS,
    "version": __version__, "find_reliability": rules.find_reliability,
}  # fmt: skip
TEMPLATES.filters |= {"percent": words.percent, "plain": words.plain}


def write_report(path: Path | str, answer: ClassifiedStudy, outlines: Sequence[str] = ()) -> Path:
    """Write the report of a study, whole or not at all; arguments are those of `render_report`.

    Examples
    --------
    >>> write_report("report.html", brainlib.load()("scan.dcm"))  # doctest: +SKIP
    PosixPath('report.html')
    """
    return paths.write_text(Path(path), render_report(answer, outlines=outlines))


def render_report(
    answer: ClassifiedStudy, made: datetime | None = None, outlines: Sequence[str] = ()
) -> str:
    """Return the report of a study as HTML text.

    Parameters
    ----------
    answer : Answer
        Of its images at most 4 are shown, those of the deciding slices.
    made : datetime, optional
        When; now by default.
    outlines : sequence of str
        Names of files beside it that hold the outline.
    """
    is_copy = answer.slices["decision"].str.startswith(COPY)
    is_shown = (answer.slices["error"] == "") & ~is_copy
    return TEMPLATES.get_template("report.html").render(
        **describe(answer, made),
        figures=_figures(answer),
        slices=answer.slices[is_shown].to_dict("records"),
        outlines=outlines,
        is_synthetic=bool((answer.rules or {}).get("synthetic")),
    )


def describe(answer: ClassifiedStudy, made: datetime | None = None) -> dict[str, Any]:
    """Return what report and app say of a study, for their templates."""
    is_missing = answer.slices["decision"].str.startswith(MISSING)
    return {
        "answer": answer,
        "head": words.headline(answer),
        "counted": {**answer.study, "missing": int(is_missing.sum())},
        **words.left_out(answer.slices),
        "made": made or datetime.now(UTC),
    }


def write_reports(
    classifier: inference.Classifier,
    scans: Sequence[imaging.Scan],
    predictions: pd.DataFrame,
    studies: pd.DataFrame,
    folder: Path,
    plane: str = "acquired",
    most: int | None = None,
) -> list[Path]:
    """Write a report for each study, named after it, and a summary page of all.

    Beside the report of a study in which a tumour was outlined lies the outline: as a NIfTI mask,
    and of a DICOM series as DICOM SEG.

    Parameters
    ----------
    classifier : Classifier
        What classified them.
    scans : sequence of Scan
        What was classified; they are read again.
    predictions, studies : DataFrame
        As `inference.read_slice_table` and `inference.read_study_table` give them.
    folder : Path
    plane : str
        In which they were cut.
    most : int, optional
        Of the first studies only.

    Returns
    -------
    list of Path
        The reports, in order; the summary is `index.html` beside them.

    Raises
    ------
    BrainlibError
        Where the folder cannot be written to, or the scans change meanwhile.
    """
    remove_reports(folder)
    stamp = inference.stamp_scans(scans)
    stems: list[str] = []
    lines = []
    for row, answer in enumerate(ClassifiedStudy.of_tables(classifier, predictions, studies)):
        if most is None or row < most:
            stems.append(file_stem(answer.name, stems))
        said = words.line(answer).removeprefix(f"{answer.name}: ")
        stem = stems[row] if row < len(stems) else ""
        lines.append({"name": answer.name, "line": said, "stem": stem})
    summary = TEMPLATES.get_template("summary.html").render(lines=lines, digest=_digest(studies))
    # first, for it names what has to go where this run is killed
    paths.write_text(folder / SUMMARY, summary)
    answers = ClassifiedStudy.of_tables(classifier, predictions, studies)
    for stem, (answer, scan) in zip(stems, read_again(answers, scans, plane), strict=False):
        _write_study(folder / f"{stem}.html", answer, scan)
    if inference.stamp_scans(scans) != stamp:
        remove_reports(folder)
        raise BrainlibError("scans changed while their reports were written: run it again")
    return [folder / f"{stem}.html" for stem in stems]


def remove_reports(folder: Path, but_of: pd.DataFrame | None = None) -> None:
    """Remove the summary of earlier scans, and the reports and outlines that it links to.

    Those of the table of studies `but_of` stay.
    """
    summary = folder / SUMMARY
    text = summary.read_text("utf-8") if summary.is_file() else ""
    if " brainlib</title>" not in text or (but_of is not None and _digest(but_of) in text):
        return
    for stem in re.findall(r'<a href="([\w-]+)\.html"', text, re.ASCII):
        for ending in (".html", ".outline.nii.gz", ".outline.dcm"):
            (folder / f"{stem}{ending}").unlink(missing_ok=True)
    summary.unlink()


def file_stem(name: str, taken: Iterable[str] = ()) -> str:
    """Return a file name of letters and digits, without ending, that is not taken yet."""
    stem = re.sub(r"(\.(nii|gz|dcm|png|jpe?g|tiff?|bmp|ima))+$", "", name, flags=re.IGNORECASE)
    stem = "-".join(re.findall(r"\w+", stem, re.ASCII))[:120] or "study"
    stem = f"{stem}-study" if stem == Path(SUMMARY).stem else stem
    used = {one.lower() for one in taken}
    names = (f"{stem}{f'-{number}' * (number > 1)}" for number in count(1))
    return next(name for name in names if name.lower() not in used)


def _digest(studies: pd.DataFrame) -> str:
    return hashlib.sha256(inference.to_csv(studies)).hexdigest()


def read_again(
    answers: Iterable[Study], scans: Iterable[imaging.Scan], plane: str
) -> Iterator[tuple[Study, imaging.Scan]]:
    """Give the studies of tables with their images, and the scan of each."""
    read = (
        (scan, study)
        for scan in scans  # an archive holds several studies
        for _, study in groupby(
            inference.read_slices(scan, plane), lambda one: one.series or str(one.file)
        )
    )
    for answer, (scan, slices) in zip(answers, read, strict=False):
        answer.images.update({one.number + 1: one for one in slices if one.pixels is not None})
        yield answer, scan


def _write_study(path: Path, answer: ClassifiedStudy, scan: imaging.Scan) -> None:
    outlines: list[Path] = []
    if answer.label and answer.study["tumor_slices"] and answer.draws_maps and answer.irregular:
        logger.warning("%s: no outline file, because %s", answer.name, answer.irregular)
    if answer.outline is not None:
        image = next(iter(answer.images.values()))
        files = [*dict.fromkeys(frame.file for frame in scan.frames)]
        model = answer.classifier.model.stem
        outlines = write_outline(path.with_suffix(""), answer.outline, image, files, model)
    write_report(path, answer, [file.name for file in outlines])


def _figures(answer: ClassifiedStudy) -> list[dict[str, Any]]:
    shown = [number for number in answer.deciding if number in answer.images]
    middle = sorted(answer.images)[len(answer.images) // 2 :][:1]
    figures = []
    for number in shown[:PICTURED] or middle:
        image, (outline, heat_map) = answer.images[number], answer.maps(number)
        has_outline = outline is not None and (outline >= drawing.OUTLINE_THRESHOLD).any()
        has_heat = heat_map is not None
        layers = [(None, None), (outline, heat_map)][: 1 + (has_outline or has_heat)]
        drawn = [drawing.draw_slice(image.pixels, *maps, image.affine, SIDE) for maps in layers]
        figures.append({"number": number, "images": [drawing.encode(image) for image in drawn],
                        "has_outline": has_outline, "has_heat": has_heat})  # fmt: skip
    return figures
