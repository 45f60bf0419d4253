"""The answers in words and HTML; whatever comes from a file or a user is escaped here.

What an answer means is said by `report.words`, so that the page and the report say the same.
"""

import base64
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import pandas as pd

from brainlib import CLASS_NAMES
from brainlib.inference import REFUSED, UNJUDGED
from brainlib.report import words
from brainlib.report.app.drawing import CLASS_COLORS
from brainlib.report.app.reading import Study

TITLE = "What does the network see in this scan?"
_MOST_LINES = 8


def heading(megabytes: int) -> str:
    """Return the top of the page: what it is, what it is not, and what it takes."""
    return (
        f'<h1>{TITLE}</h1><p class="brainlib-notice">{escape(words.NOTICE)}</p>'
        f'<p class="brainlib-takes" data-megabytes="{megabytes}">A picture (JPEG, PNG, TIFF, BMP), '
        "all DICOM files of a series at once, a NIfTI volume (.nii, .nii.gz), or a .zip of these; "
        f"up to {megabytes:,} MB at a time. Nothing leaves the machine that this page runs on, and "
        "files are deleted once they are read.</p>"
    )


def label(study: Study, rules: Mapping[str, Any] | None) -> str:
    """Return a study in one line, not escaped: its name and its answer."""
    said = _described(study, rules)
    return f"{study.name}: {said['title']}" + (
        f", {said['probability']}" if said["probability"] else ""
    )


def verdict(study: Study, rules: Mapping[str, Any] | None) -> str:
    """Return the answer to a study: class, probabilities, how sure, and what was left out."""
    said = _described(study, rules)
    color = CLASS_COLORS[study.answer["class"]] if said["kind"] == "answer" else "#8a939d"
    sure = f"<small>{said['probability']}</small>" if said["probability"] else ""
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in said["sentences"])
    return (
        f'<p class="brainlib-name">{escape(study.name)}</p>'
        f'<h2 style="border-color:{color}">{escape(said["title"])}{sure}</h2>'
        f"{_bars(study)}{sentences}{_left_out(study)}{_limits(study, rules)}"
    )


def slice_line(study: Study, place: int) -> str:
    """Return what is said of one slice, under its picture."""
    row = study.table.iloc[place]
    where = f"Slice {row['slice']}" if len(study.slices) > 1 else "This picture"
    where += f", {row['plane']}" if row["plane"] else ""
    if not row["class"]:
        return f"{where}: refused, {escape(row['decision'].removeprefix(REFUSED))}"
    name = row["class"]
    text = (
        f'{where}: <b style="border-color:{CLASS_COLORS[name]}">{words.NAMES[name]}</b> '
        f"{words.percent(row[name])}"
    )
    others = [words.NAMES[one] for one in row["set"].split() if one != name]
    text += f", or {' or '.join(others)}" if others else ""
    if place in study.deciding and len(study.slices) > 1:
        text += " · decided the answer"
    return text


def ribbon(study: Study) -> str:
    """Return a ribbon for over the slider: each slice in the colour of its class."""
    cells = []
    for place, row in enumerate(study.table.to_dict("records")):
        color = CLASS_COLORS.get(row["class"], "#4a525c")
        strength = row[row["class"]] ** 2 if row["class"] else 1
        decided = ' class="decided"' if place in study.deciding else ""
        cells.append(
            f'<span{decided}><i style="background:{color};opacity:{strength:.2f}"></i></span>'
        )
    return f'<div class="brainlib-ribbon" aria-hidden="true">{"".join(cells)}</div>'


def downloads(report: str, predictions: pd.DataFrame) -> str:
    """Return links that save the report of a study, where there is one, and the table."""
    table = predictions.to_csv(index=False, lineterminator="\n")
    links = [_link("Save the report", "report.html", "text/html", report)] if report else []
    links.append(_link("Save predictions.csv", "predictions.csv", "text/csv", table))
    return f'<p class="brainlib-links">{"".join(links)}</p>'


def problem_list(problems: Iterable[str]) -> str:
    """Return sentences, escaped, as a list; empty where there are none."""
    found = list(problems)
    if len(found) > _MOST_LINES:
        found = [*found[: _MOST_LINES - 1], f"And {len(found) - _MOST_LINES + 1} more like these."]
    if not found:
        return ""
    items = "".join(f"<li>{escape(_sentence(one))}</li>" for one in found)
    return f'<div class="brainlib-problems" role="alert"><ul>{items}</ul></div>'


def progress_line(slices: int) -> str:
    """Return what is shown while an upload is read."""
    done = f"{slices} slice{'s' * (slices != 1)} classified" if slices else "Reading"
    return f'<div class="brainlib-busy" role="status"><i></i><span>{done} …</span></div>'


def _described(study: Study, rules: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the headline of a study; of a model without rules only what it computed."""
    name = study.answer["class"]
    if rules is not None:
        return words.describe_answer(study.answer, rules)
    if name:
        title = words.NAMES[name].capitalize()
        sentences = ["How often this model is right has not been measured."]
        return {"kind": "answer", "title": title, "sentences": sentences,
                "probability": words.percent(study.answer[name])}  # fmt: skip
    reason = "Beside this model lies no rule that makes one answer of several slices."
    return {"kind": "none", "title": "No answer", "probability": "", "sentences": [reason]}


def _bars(study: Study) -> str:
    rows = "".join(
        f'<span>{bar["name"]}</span><span class="brainlib-bar"><i style="width:{bar["width"]}%;'
        f'background:{CLASS_COLORS[name]}"></i></span><b>{bar["text"]}</b>'
        for name, bar in zip(CLASS_NAMES, words.probability_bars(study.answer), strict=False)
    )
    return f'<div class="brainlib-bars">{rows}</div>' if rows else ""


def _left_out(study: Study) -> str:
    """Return how many slices there are, and what was not classified, with reasons."""
    counts = words.count_slices(study.answer)
    told = ", ".join(f"{count:,} {what}" for count, what in counts if count or what[0] == "s")
    parts = [f'<p class="brainlib-quiet">{told}.</p>' if study.answer["slices"] > 1 else ""]
    if (study.table["decision"] == UNJUDGED).any():
        parts.append("<p>Whether this is like what the network knows was not looked at.</p>")
    readable = study.table.assign(
        decision=study.table["decision"].mask(study.table["class"] != "", "accepted")
    )
    left = [
        *(f"{reason}: slice {which}" for reason, which in words.list_refusals(readable, 6)),
        *(f"{error}" for _, error in words.list_unreadable(study.rows, 6)),
    ]
    if study.answer["slices"] == 1 and study.answer["refused"]:
        left = [left[0].rsplit(": slice", 1)[0]]
    listed = "".join(f"<li>{escape(_sentence(line))}</li>" for line in left)
    return "".join(parts) + (f'<ul class="brainlib-quiet">{listed}</ul>' if left else "")


def _limits(study: Study, rules: Mapping[str, Any] | None) -> str:
    lines = words.describe_limits(study.answer, rules) if rules is not None else []
    listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
    title = "What is known to go wrong with this answer"
    return f"<details open><summary>{title}</summary><ul>{listed}</ul></details>" if lines else ""


def _sentence(text: str) -> str:
    """Return a text with a full stop, and a capital letter unless it begins with a file's name."""
    text = text.strip()
    first = text.split(" ", 1)[0]
    text = text[:1].upper() + text[1:] if first.isalpha() else text
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _link(text: str, name: str, kind: str, content: str) -> str:
    data = base64.b64encode(content.encode("utf-8", "surrogateescape")).decode()
    return (
        f'<a class="brainlib-button" download="{name}" href="data:{kind};base64,{data}">{text}</a>'
    )
