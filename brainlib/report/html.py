"""Self-contained HTML files: a report for a study, and one summary page for a folder.

A file holds its images and its style, no script, and asks the network for nothing; it opens from
disk and prints on A4. Whatever comes from a scan, its name above all, is escaped by the templates.
"""

import re
from collections.abc import Iterable
from datetime import datetime, timezone
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from brainlib import __version__, imaging, inference, paths
from brainlib.report import drawing, words
from brainlib.report.answers import PICTURED, Answer, Model

if TYPE_CHECKING:
    import jinja2

SUMMARY = "index.html"
SIDE = 420
"""Longer side of an embedded image, pixels: 180 dots an inch in print."""


def write_report(path: Path | str, answer: Answer) -> Path:
    """Write the report of a study, whole or not at all.

    Examples
    --------
    >>> write_report("report.html", brainlib.load()("scan.dcm"))  # doctest: +SKIP
    PosixPath('report.html')
    """
    path = Path(path)
    with paths.atomic_write(path) as temporary:
        temporary.write_text(render_report(answer), encoding="utf-8")
    return path


def render_report(answer: Answer, made: datetime | None = None) -> str:
    """Return the report of a study as HTML text.

    Parameters
    ----------
    answer : Answer
        Of its `pixels` at most 4 are shown, those of the deciding slices.
    made : datetime, optional
        When; now by default.
    """
    readable = answer.slices[answer.slices["error"] == ""]
    figures = _figures(answer)
    return template("report.html").render(
        answer=words.headline(answer),
        name=answer.name,
        is_single=answer.study["slices"] == 1,
        bars=words.probability_bars(answer),
        counts=words.count_slices(answer.study),
        figures=figures,
        has_outline=any(figure["has_outline"] for figure in figures),
        has_heat=any(figure["has_heat"] for figure in figures),
        strip=drawing.draw_strip(readable, answer.deciding),
        refused=words.list_refusals(answer.slices),
        unreadable=words.list_unreadable(answer.slices),
        limits=words.known_limits(answer),
        method=words.method(answer),
        not_for=words.NOT_FOR,
        notice=words.NOTICE,
        facts=_facts(answer, made or datetime.now(timezone.utc)),
        is_synthetic=bool((answer.rules or {}).get("synthetic")),
        heat_colors=drawing.HEAT_COLORS,
        outline_color=drawing.OUTLINE_COLOR,
    )


def write_reports(
    model: Model,
    scans: Iterable[imaging.Scan],
    predictions: pd.DataFrame,
    studies: pd.DataFrame,
    folder: Path,
    most: int | None = None,
) -> list[Path]:
    """Write a report for each study, named after its file, and a summary page of all.

    Parameters
    ----------
    model : Model
        What classified them.
    scans : iterable of Scan
        What was classified; the deciding slices are read again.
    predictions, studies : DataFrame
        As `inference.read_predictions` and `inference.read_studies` give them.
    folder : Path
    most : int, optional
        Of the first studies only.

    Returns
    -------
    list of Path
        The reports, in order; the summary is `index.html` beside them.

    Raises
    ------
    InferenceError
        For a model without gate or rules: its answers are not judged.
    """
    classifier = model.classifier
    if classifier.gate is None or classifier.rules is None:
        raise inference.InferenceError(
            f"{classifier.model.name} has no gate or no rules beside it, and a report needs both: "
            "make them with `python -m scripts.release`, or take the released model"
        )
    rows_of = dict(list(predictions.groupby("series", sort=False)))
    scan_of = {scan.series: scan for scan in scans}
    written: dict[str, Path] = {}
    lines = []
    for place, study in enumerate(studies.to_dict("records")):
        rows = rows_of[study["series"]].reset_index(drop=True)
        answer = Answer(study, rows, {}, model)
        said = str(answer).removeprefix(f"{answer.name}: ")
        line = {"name": answer.name, "line": said, "link": ""}
        if most is None or place < most:
            slices = _deciding_slices(answer, scan_of[study["series"]], model.plane)
            pixels = {one.number + 1: one.pixels for one in slices if one.pixels is not None}
            facts = slices[0].facts if slices else {}
            line["link"] = _file_name(answer.name, written)
            path = folder / line["link"]
            written[line["link"]] = write_report(path, Answer(study, rows, pixels, model, facts))
        lines.append(line)
    page = template("summary.html").render(lines=lines, notice=words.NOTICE)
    with paths.atomic_write(folder / SUMMARY) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return list(written.values())


@cache
def template(name: str) -> "jinja2.Template":
    """Return one of the templates; whatever is put into it is escaped."""
    import jinja2  # here, so that importing this room costs nothing

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("brainlib.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _figures(answer: Answer) -> list[dict[str, Any]]:
    rows = {int(row["slice"]): row for row in answer.slices.to_dict("records") if row["class"]}
    shown = [number for number in answer.deciding if number in answer.pixels and number in rows]
    return [_figure(answer, number, rows[number]) for number in shown[:PICTURED]]


def _figure(answer: Answer, number: int, row: dict[str, Any]) -> dict[str, Any]:
    pixels, plane = answer.pixels[number], row["plane"]
    outline, heat_map = answer.maps(number)
    has_outline = outline is not None and bool((outline >= drawing.OUTLINE_THRESHOLD).any())
    overlay = ""
    if has_outline or heat_map is not None:
        overlay = drawing.data_uri(drawing.draw_slice(pixels, outline, heat_map, plane, SIDE))
    return {
        "title": words.slice_title(answer, number),
        **words.describe_slice(row, answer.rules),
        "plain": drawing.data_uri(drawing.draw_slice(pixels, plane=plane, size=SIDE)),
        "overlay": overlay,
        "has_outline": has_outline,
        "has_heat": heat_map is not None,
    }


def _deciding_slices(answer: Answer, scan: imaging.Scan, plane: str) -> list[imaging.ScanSlice]:
    wanted = answer.deciding[:PICTURED]
    slices = inference.read_slices(scan, plane) if wanted else ()
    return [one for one in slices if one.number + 1 in wanted]


def _file_name(name: str, taken: Iterable[str]) -> str:
    """Return a file name of letters and digits that is not taken yet."""
    stem = re.sub(r"(\.(nii|gz|dcm|png|jpe?g|tiff?|bmp|ima))+$", "", name, flags=re.IGNORECASE)
    stem = "-".join(re.findall(r"\w+", stem, re.ASCII))[:60] or "study"
    stem = f"{stem}-study" if stem == Path(SUMMARY).stem else stem
    used = {one.lower() for one in taken}
    names = (f"{stem}{f'-{number}' * (number > 1)}.html" for number in count(1))
    return next(name for name in names if name.lower() not in used)


def _facts(answer: Answer, made: datetime) -> list[tuple[str, str]]:
    """Return where the answer comes from, as pairs of name and value."""
    classifier, rules = answer.model.classifier, answer.rules or {}
    planes = [plane for plane in answer.slices["plane"].unique() if plane]
    held_out = rules.get("held_out", {})
    facts = [
        ("Study", answer.name),
        ("File", words.file_name(answer.study["path"])),
        (
            "Series",
            ", ".join(f"{what}: {fact}" for what, fact in answer.facts.items()) or "not stated",
        ),
        ("Plane", ", ".join(planes) or "not stated in the file, side unknown"),
        ("Made", made.strftime("%Y-%m-%d %H:%M %Z").strip()),
        ("Made with", f"brainlib {__version__}, engine {classifier.engine}"),
        ("Model", classifier.model.stem),
        ("Model file, SHA-256", inference.model_sha256(classifier) or "not recorded"),
        ("Trained on", str(rules.get("source") or "not recorded")),
    ]
    if held_out:
        facts.append((
            "Measured on",
            f"{held_out['pictures']:,} held-out slices of {held_out['groups']:,} patients or "
            "clusters of similar images",
        ))  # fmt: skip
    return facts
