"""Answers in the words of someone who reads scans: for the console, the report and the app.

Full sentences are in the template `parts.html`, which report and app share.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import groupby

import pandas as pd

from brainlib.imaging.errors import one_line
from brainlib.inference.classifier import COPY, MISSING, REFUSED, UNJUDGED, UNREADABLE
from brainlib.inference.rules import is_undecided
from brainlib.report.study import ClassifiedStudy, file_name

NAMES = {
    "glioma": "glioma", "meningioma": "meningioma", "notumor": "none of the three tumours",
    "pituitary": "pituitary tumour",
}  # fmt: skip
"""The classes in running text."""

TITLES = {name: text.capitalize() for name, text in NAMES.items()}
TITLES["notumor"] += " was found"
"""The classes as headlines."""

NO_BREAK = "\u00a0"

MOST_LINES = 4
"""Number of unreadable files and reasons listed; the others are counted."""

_OTHER_SEQUENCE = re.compile(r"\b(T2\S*|PD|FLAIR|STIR|DWI|ADC|SWI)\b", re.IGNORECASE)
_T1 = re.compile(r"\b(T1\S*|MP2?RAGE|SPGR|BRAVO|VIBE)\b", re.IGNORECASE)
_AFTER_CONTRAST = re.compile(r"\b(post|gd|gado\S*|km|contrast|c)\b", re.IGNORECASE)


def headline(answer: ClassifiedStudy) -> dict[str, str]:
    """Return `kind` (`answer`, `undecided` or `none`), `title` and `probability`, maybe empty."""
    kind, title, probability = "none", "Incomplete", ""
    if answer.label and is_undecided(answer.rules, answer.study):
        kind, title = "undecided", "Undecided"
    elif answer.label:
        kind, title = "answer", TITLES[answer.label]
        probability = percent(answer.probabilities[answer.label])
    elif answer.decision.startswith((UNREADABLE, REFUSED)):
        title = "Refused" if answer.decision.startswith(REFUSED) else "Could not be read"
    return {"kind": kind, "title": title, "probability": probability}


def line(answer: ClassifiedStudy) -> str:
    """Return an answer in one line that is safe to print, after its name."""
    head = headline(answer)
    title = head["title"][:1].lower() + head["title"][1:]
    if head["kind"] == "none":
        title = answer.decision
    elif head["kind"] == "undecided":
        best = f"most probably {NAMES[answer.label]}, {percent(answer.probabilities[answer.label])}"
        title = f"undecided, {' or '.join(NAMES[name] for name in answer.set) or best}"
    parts = [title, head["probability"]]
    if answer.study["slices"] > 1:
        parts.append(f"{answer.study['accepted']} of {answer.study['slices']} slices classified")
    if answer.decision == UNJUDGED:
        parts.append("unjudged")
    text = f"{answer.name}: {', '.join(filter(None, parts))}"
    return one_line(text.replace(NO_BREAK, " "))


def left_out(slices: pd.DataFrame) -> dict[str, list[tuple[str, str]]]:
    """Return what was not classified and why.

    Returns
    -------
    dict of str to list of pairs
        `refused` and `missing`: a reason and the slices; `copies`, which are no slices of the
        study, and `unreadable`: the name of a file and what is wrong with it.
    """
    decision, path, listed = slices["decision"], slices["path"], {}
    is_copy, is_bad = decision.str.startswith(COPY), slices["error"] != ""
    for name, start in (("refused", REFUSED), ("missing", MISSING)):
        rows = slices[decision.str.startswith(start) & ~is_copy]
        by_reason = rows["slice"].groupby(rows["decision"].str.removeprefix(start), sort=False)
        reasons = [(str(reason), f"{ranges(numbers.astype(int).tolist())} ({len(numbers)})")
                   for reason, numbers in by_reason]  # fmt: skip
        listed[name] = _shortened(reasons, "other reasons")
    copies = zip(path[is_copy], decision[is_copy].str.removeprefix(REFUSED), strict=True)
    unreadable = zip(path[is_bad], slices["error"][is_bad], strict=True)
    for name, pairs in (("copies", copies), ("unreadable", unreadable)):
        files = [(file_name(file), one_line(str(text))) for file, text in pairs]
        listed[name] = _shortened(files, "other files")
    return listed


def sequence_doubt(facts: Mapping[str, str]) -> str:
    """Return what speaks against T1-weighting after contrast: `other`, `unknown`, `none`, or "".

    Examples
    --------
    >>> [sequence_doubt({"description": text}) for text in ("Ax T2 FLAIR", "T1 post", "Ax T1")]
    ['other', '', 'none']
    """
    description = facts.get("description", "")
    if _OTHER_SEQUENCE.search(description) and not _T1.search(description):
        return "other"
    if "contrast" in facts or _AFTER_CONTRAST.search(description):
        return ""
    return "none" if facts else "unknown"


def trained_on(answer: ClassifiedStudy) -> str:
    """Return the images that a model was trained on, as its rules or its run record tell."""
    if source := (answer.rules or {}).get("source"):
        return source
    with suppress(OSError, ValueError, TypeError, LookupError):  # absent, damaged, of other tools
        record = json.loads(answer.classifier.model.with_suffix(".run.json").read_bytes())
        name, version = record["source"]["name"], record["source"]["version"]
        synthetic = ", synthetic images" if record["source"]["synthetic"] else ""
        return one_line(f"{name} version {version}".removesuffix(" version ") + synthetic)
    return "unknown: the model has neither rules nor a run record beside it"


def percent(probability: float) -> str:
    """Return a probability as text, never as 0 or 100 per cent; its blank breaks no line.

    Examples
    --------
    >>> [percent(value).replace(NO_BREAK, " ") for value in (0.934, 0.9999, 0.001)]
    ['93 %', 'over 99 %', 'under 1 %']
    """
    if probability > 0.99:
        return f"over{NO_BREAK}99{NO_BREAK}%"
    return f"under{NO_BREAK}1{NO_BREAK}%" if probability < 0.01 else plain(probability, 0)


def plain(share: float, digits: int | None = None) -> str:
    """Return a share in per cent, with a decimal below 10 %."""
    digits = (0 if share >= 0.1 else 1) if digits is None else digits
    return f"{100 * share:.{digits}f}{NO_BREAK}%"


def ranges(numbers: list[int]) -> str:
    """Return numbers as text, runs joined.

    Examples
    --------
    >>> ranges([1, 2, 3, 8])
    '1 to 3, 8'
    """
    runs = groupby(enumerate(sorted(set(numbers))), lambda pair: pair[1] - pair[0])
    ends = [(run[0][1], run[-1][1]) for run in (list(pairs) for _, pairs in runs)]
    texts = [f"{first} to {last}" if last > first else f"{first}" for first, last in ends]
    return ", ".join(texts[:12]) + (" …" if len(texts) > 12 else "")


def _shortened(listed: list[tuple[str, str]], others: str) -> list[tuple[str, str]]:
    if len(listed) <= MOST_LINES:
        return listed
    count = len(listed) - MOST_LINES + 1
    return [*listed[: MOST_LINES - 1], (f"{count} {others}", "see predictions.csv")]
