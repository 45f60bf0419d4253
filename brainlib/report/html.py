"""One self-contained HTML file for a study: the answer, how sure it is, why, and what it is not.

The file holds its pictures and its style, no script, and asks the network for nothing; it opens
from disk and prints on A4. `words` says what the numbers mean, `drawing` makes the pictures, the
template `brainlib/report/report.html` puts them on the page. Everything that comes from a file, its
name above all, is escaped.
"""

from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from brainlib import __version__, paths
from brainlib.imaging.errors import one_line
from brainlib.paths import BrainlibError
from brainlib.report import drawing, words

if TYPE_CHECKING:
    from jinja2 import Template

    from brainlib.explain import Maps

MOST_PICTURES = 4
"""So many pictures are shown: more would not fit on two pages."""

MOST_LINES = 4
"""So many unreadable files and reasons are listed, the rest is counted."""


class ReportError(BrainlibError):
    """A study that no report can be written of."""


def write_report(
    path: Path | str,
    study: Mapping[str, Any] | pd.Series,
    slices: pd.DataFrame,
    pictures: Mapping[int, np.ndarray],
    maps: "Maps | None",
    rules: Mapping[str, Any],
    *,
    model_sha256: str = "",
    engine: str = "",
    made: datetime | None = None,
) -> Path:
    """Write the report of a study.

    Parameters
    ----------
    path : Path or str
        The HTML file to write, whole or not at all.
    study : mapping or Series
        A row of `studies.summarise_studies`.
    slices : DataFrame
        The rows of that study, as `inference.classify` gives them.
    pictures : mapping of slice number to uint8 array of shape (height, width)
        Slices to show; at most 4 are shown, those in the study's `deciding` first. May be empty.
    maps : explain.Maps or None
        Of `pictures`, in their order; None where there are none.
    rules : mapping
        As `rules.read_rules` gives them.
    model_sha256 : str
        Of the model file that answered; that in the rules by default.
    engine : str
        What computed the answer, such as `onnx`.
    made : datetime, optional
        When; now by default.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    ReportError
        Where a picture is of no slice in the table, or maps and pictures do not go together.

    Examples
    --------
    >>> write_report("report.html", study, slices, {}, None, read_rules(file))  # doctest: +SKIP
    PosixPath('report.html')
    """
    path = Path(path)
    page = render_report(
        study, slices, pictures, maps, rules, model_sha256=model_sha256, engine=engine, made=made
    )
    with paths.atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render_report(
    study: Mapping[str, Any] | pd.Series,
    slices: pd.DataFrame,
    pictures: Mapping[int, np.ndarray],
    maps: "Maps | None",
    rules: Mapping[str, Any],
    *,
    model_sha256: str = "",
    engine: str = "",
    made: datetime | None = None,
) -> str:
    """Return the report of a study as HTML text; parameters and errors as for `write_report`."""
    study = _as_written(study)
    study["series"] = one_line(PurePath(str(study["series"])).name)  # no names of folders
    rows = slices[slices["error"].fillna("") == ""]
    accepted = rows[rows["decision"] == "accepted"]
    context = {
        "study": study,
        "answer": words.describe_answer(study, rules),
        "bars": words.probability_bars(study),
        "counts": words.count_slices(study),
        "figures": _figures(study, accepted, pictures, maps, rules),
        "has_maps": maps is not None and bool(pictures),
        "strip": drawing.draw_strip(rows, _deciding(study)),
        "refused": words.list_refusals(rows, MOST_LINES),
        "unreadable": words.list_unreadable(slices, MOST_LINES),
        "limits": words.describe_limits(study, rules),
        "method": words.describe_method(study, rules),
        "forbidden": words.FORBIDDEN,
        "notice": words.NOTICE,
        "facts": _facts(study, slices, rules, model_sha256, engine, made),
        "is_synthetic": bool(rules.get("synthetic")),
    }
    return _template().render(context)


@cache
def _template() -> "Template":
    import jinja2  # here, so that importing this room costs nothing

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("brainlib.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


def _as_written(study: Mapping[str, Any] | pd.Series) -> dict[str, Any]:
    """Return a study with empty text where a table read back from CSV has a missing value."""
    found = dict(study)
    return found | {name: "" for name in ("series", "path", "class", "deciding")
                    if pd.isna(found[name])}  # fmt: skip


def _deciding(study: Mapping[str, Any]) -> list[int]:
    return [int(number) for number in str(study["deciding"]).replace(".0", "").split()]


def _figures(
    study: Mapping[str, Any],
    accepted: pd.DataFrame,
    pictures: Mapping[int, np.ndarray],
    maps: "Maps | None",
    rules: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return what is shown of each picture, the deciding ones first."""
    numbers = list(pictures)
    if maps is not None and len(maps.outlines) != len(numbers):
        raise ReportError(
            f"{len(maps.outlines)} maps for {len(numbers)} pictures: draw the maps of just these"
        )
    by_number = {int(row["slice"]): row for row in accepted.to_dict("records")}
    unknown = [number for number in numbers if number not in by_number]
    if unknown:
        raise ReportError(
            f"there is a picture of slice {unknown[0]}, which is no accepted slice of the study "
            f"{study.get('series', '')}: give pictures of slices that were classified"
        )
    first = [number for number in _deciding(study) if number in pictures]
    shown = [*first, *(number for number in numbers if number not in first)][:MOST_PICTURES]
    is_single = int(study["slices"]) == 1
    return [
        {
            "title": "The picture" if is_single else f"Slice {number}",
            **words.describe_slice(by_number[number], rules),
            **drawing.draw_slice(pictures[number], *_maps_of(maps, numbers.index(number))),
        }
        for number in shown
    ]


def _maps_of(maps: "Maps | None", place: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    return (None, None) if maps is None else (maps.outlines[place], maps.heat_maps[place])


def _facts(
    study: Mapping[str, Any],
    slices: pd.DataFrame,
    rules: Mapping[str, Any],
    model_sha256: str,
    engine: str,
    made: datetime | None,
) -> list[tuple[str, str]]:
    """Return where the answer comes from, as pairs of name and value."""
    made = made or datetime.now(timezone.utc)
    planes = [plane for plane in slices["plane"].fillna("").unique() if plane]
    held_out = rules.get("held_out", {})
    file = one_line(PurePath(str(study["path"])).name)
    facts = [
        ("Study", str(study["series"])),
        ("File", file or f"{slices['path'].nunique()} files"),
        ("Plane", ", ".join(planes) or "not stated in the file"),
        ("Made", made.strftime("%Y-%m-%d %H:%M %Z").strip()),
        ("Made with", f"brainlib {__version__}" + (f", engine {engine}" if engine else "")),
        ("Model", str(rules.get("model", "brain_tumor"))),
        ("Model file, SHA-256", model_sha256 or rules.get("model_sha256") or "not recorded"),
        ("Trained on", str(rules.get("source") or "not recorded")),
    ]
    if held_out:
        facts.append((
            "Measured on",
            f"{held_out['pictures']:,} held-out slices of {held_out['groups']:,} patients or "
            "clusters of like pictures",
        ))  # fmt: skip
    return facts


__all__ = ["MOST_PICTURES", "ReportError", "render_report", "write_report"]
