"""Answers in the words of someone who reads scans: for the console, the report and the app."""

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES
from brainlib.imaging.errors import one_line
from brainlib.inference import INCOMPLETE, REFUSED, UNJUDGED, UNREADABLE, count_gaps
from brainlib.inference.rules import find_reliability

if TYPE_CHECKING:
    from brainlib.report.answers import Answer

NAMES = {
    "glioma": "glioma",
    "meningioma": "meningioma",
    "notumor": "none of the three tumours",
    "pituitary": "pituitary tumour",
}
"""The classes in running text."""

TITLES = {
    "glioma": "Glioma",
    "meningioma": "Meningioma",
    "notumor": "None of the three tumours was found",
    "pituitary": "Pituitary tumour",
}
"""The classes as headlines."""

NO_BREAK = "\u00a0"

NOTICE = (
    "Research and teaching only. This is not a medical device, it has not been tested in a clinic, "
    "and no decision about a person may rest on it."
)

NOT_FOR = (
    "Any decision about a person: diagnosis, triage, screening, second reading, planning.",
    "Ruling a tumour out. In the training data tumours and healthy heads come from different "
    "scanners: an answer without tumour may be about the scanner.",
    "Images unlike those it was trained on: CT, other sequences, scans after surgery, metastases, "
    "haemorrhage, infection. It can be wrong there and sure of it.",
    "Side, size, volume, grade or subtype.",
)
"""What an answer must not be used for, from the model card."""

LEAST_SURE = 0.5
"""An answer less probable than all others together is undecided, whatever its set."""

MOST_LINES = 4
"""So many unreadable files and reasons are listed, the rest is counted."""

_PLURALS = {
    "glioma": "were gliomas",
    "meningioma": "were meningiomas",
    "notumor": "had no tumour",
    "pituitary": "were pituitary tumours",
}


def line(answer: "Answer", name: str = "") -> str:
    """Return an answer in one line that is safe to print, after a name or the answer's own."""
    head = headline(answer)
    title = head["title"][:1].lower() + head["title"][1:]
    if head["kind"] == "none":
        title = answer.decision.replace(f"{answer.study['path']}: ", "")
    elif head["kind"] == "undecided":
        best = f"most probably {NAMES[answer.label]}, {percent(answer.probabilities[answer.label])}"
        title = f"undecided, {' or '.join(NAMES[name] for name in answer.set) or best}"
    parts = [title, head["probability"]]
    if answer.study["slices"] > 1:
        parts.append(f"{answer.study['accepted']} of {answer.study['slices']} slices classified")
    if answer.decision == UNJUDGED:
        parts.append("unjudged")
    text = f"{name or answer.name}: {', '.join(filter(None, parts))}"
    return one_line(text.replace(NO_BREAK, " "))


def headline(answer: "Answer") -> dict[str, Any]:
    """Return the answer to a study.

    Returns
    -------
    dict
        `kind` (`answer`, `undecided` or `none`), `title`, `probability` (text, may be empty) and
        `sentences`.
    """
    study, name = answer.study, answer.label
    if not name:
        return {"kind": "none", "probability": "", **_no_answer(answer)}
    probability = answer.probabilities[name]
    rules = answer.rules
    is_clear = probability >= LEAST_SURE and (rules is None or answer.set == (name,))
    sentences = []
    if rules is not None:
        sentences = [_set_sentence(answer), *_how_often(answer)]
    if answer.decision == UNJUDGED:
        sentences.append("This model has no out-of-distribution check, or no measured reliability.")
    if name == "notumor" and study["tumor_slices"]:
        count = int(study["tumor_slices"])
        which = "1 slice was" if count == 1 else f"{count} slices were"
        it = "it" if count == 1 else "them"
        sentences.append(f"{which} classified as tumour; please review {it}.")
    if study["gaps"]:
        sentences.append(f"{count_gaps(study['gaps'])}.")
    if answer.facts and "contrast" not in answer.facts:
        sentences.append(
            "The file does not say that contrast agent was given; tumours were learned on "
            "T1-weighted images after contrast."
        )
    return {
        "kind": "answer" if is_clear else "undecided",
        "title": TITLES[name] if is_clear else "Undecided",
        "probability": percent(probability) if is_clear else "",
        "sentences": sentences,
    }


def probability_bars(answer: "Answer") -> list[dict[str, Any]]:
    """Return a bar for each class: `class`, `name`, `text`, `width` in per cent, `is_answer`."""
    return [
        {
            "class": name,
            "name": _upper("none of the three" if name == "notumor" else NAMES[name]),
            "text": percent(probability),
            "width": round(100 * probability, 1),
            "is_answer": name == answer.label,
        }
        for name, probability in answer.probabilities.items()
    ]


def count_slices(study: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return pairs of a number and what it counts."""
    return [
        (int(study["slices"]), "slice in all" if int(study["slices"]) == 1 else "slices in all"),
        (int(study["accepted"]), "classified"),
        (int(study["tumor_slices"]), "called tumour"),
        (int(study["refused"]), "refused"),
        (int(study["unreadable"]), "unreadable"),
    ]


def slice_title(answer: "Answer", number: int) -> str:
    """Return which slice it is, counted from 1 with the total."""
    total = int(answer.study["slices"])
    return "The image" if total == 1 else f"Slice {number} of {total}"


def describe_slice(row: Mapping[str, Any], rules: Mapping[str, Any] | None) -> dict[str, str]:
    """Return `answer`, `set` and `reliability` of one classified slice."""
    name = row["class"]
    texts = {"answer": f"{NAMES[name]}, {percent(row[name])}", "set": "", "reliability": ""}
    if rules is not None:
        members = " or ".join(NAMES[one] for one in row["set"].split())
        level = _level(rules)
        texts["set"] = f"At {level}: {members}." if members else f"No class reaches {level}."
        found = find_reliability(rules["reliability"], name, float(row[name]))
        texts["reliability"] = _of_hundred(found, name, "held-out slices") if found else ""
    return texts


def list_refusals(slices: pd.DataFrame) -> list[tuple[str, str]]:
    """Return pairs of a reason and the slices that were refused for it."""
    refused = slices[slices["decision"].str.startswith(REFUSED)]
    reasons = refused["decision"].str.removeprefix(REFUSED)
    listed = [
        (_clipped(str(reason)), f"{ranges(numbers.astype(int).tolist())} ({len(numbers)})")
        for reason, numbers in refused["slice"].groupby(reasons, sort=False)
    ]
    return _shortened(listed, "other reasons")


def list_unreadable(slices: pd.DataFrame) -> list[tuple[str, str]]:
    """Return pairs of a file's name and what was wrong with it."""
    bad = slices[slices["error"] != ""]
    listed = [
        (_clipped(file_name(path)), _clipped(one_line(str(error).removeprefix(f"{path}: "))))
        for path, error in zip(bad["path"], bad["error"], strict=True)
    ]
    return _shortened(listed, "other files")


def known_limits(answer: "Answer") -> list[str]:
    """Return what is known to go wrong with the class that was answered."""
    name, rules = answer.label, answer.rules
    if not name or rules is None:
        return []
    limits = rules["limits"].get(name, {})
    lines = [
        text(name, limits)
        for key, text in (
            ("missed" if name == "notumor" else "sensitivity", _sensitivity),
            ("positive_predictive_value", _predictive_value),
            ("heat_peak_inside", _overlay_accuracy),
        )
        if limits.get(key)
    ]
    weakest = rules.get("limits_of_all")
    if weakest:
        lines.append(
            f"It is weakest on images of one origin, {weakest['part']}: "
            f"{_share(weakest, 'accuracy')} of all answers there are right."
        )
    return lines


def method(answer: "Answer") -> list[str]:
    """Return how the answer is computed, in paragraphs."""
    rules = answer.rules
    if not answer.label or rules is None:
        return []
    level, is_series = _level(rules), int(answer.study["slices"]) > 1
    lines = [
        rules["study"].get("sentence", "") if is_series else "",
        f"“At {level}”: the classes that remain are chosen so that, for patients like those they "
        f"were fitted on, {level} of such sets hold the right one, whichever class that is. “Of "
        "100” counts images of people that the network had never seen; the range is a 95 % "
        "interval over patients.",
        rules["study"].get("simulation", "") if is_series else "",
    ]
    return [line for line in lines if line]


def percent(probability: float) -> str:
    """Return a probability as text, never as 0 or 100 per cent; its blank breaks no line.

    Examples
    --------
    >>> [percent(value).replace(NO_BREAK, " ") for value in (0.934, 0.9999, 0.001)]
    ['93 %', 'over 99 %', 'under 1 %']
    """
    if probability > 0.99:
        return f"over{NO_BREAK}99{NO_BREAK}%"
    return f"under{NO_BREAK}1{NO_BREAK}%" if probability < 0.01 else _plain(probability, 0)


def file_name(path: Any) -> str:
    """Return the name of a file without its folders, which may name a patient."""
    return one_line(PurePath(str(path).replace("\\", "/")).name)


def ranges(numbers: list[int]) -> str:
    """Return numbers as text, runs joined.

    Examples
    --------
    >>> ranges([1, 2, 3, 8])
    '1 to 3, 8'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    return ", ".join(texts[:12]) + (" …" if len(texts) > 12 else "")


def _no_answer(answer: "Answer") -> dict[str, Any]:
    study, decision = answer.study, answer.decision
    if decision.startswith(INCOMPLETE):
        sentences = [
            f"{count_gaps(study['gaps'])}.",
            "No tumour was found in those that were, but that says nothing about the whole brain.",
        ]
        return {"title": "Incomplete", "sentences": sentences}
    counts = [
        f"{int(study[key])} of {int(study['slices'])} {words}"
        for key, words in (("refused", "refused"), ("unreadable", "unreadable"))
        if study[key]
    ]
    title = "Could not be read" if decision.startswith(UNREADABLE) else "Refused"
    if int(study["slices"]) == 1:
        return {"title": title, "sentences": ["The reason is below."]}
    return {"title": title, "sentences": [f"Slices: {', '.join(counts)}. The reasons are below."]}


def _set_sentence(answer: "Answer") -> str:
    name, level = answer.label, _level(answer.rules)
    probability = answer.probabilities[name]
    most = f"Most probable of the four classes: {NAMES[name]}, at {percent(probability)}"
    if answer.set == (name,) and probability < LEAST_SURE:
        return f"{most}; the others together are more probable."
    if answer.set == (name,) and probability >= answer.rules["conformal"].get("coverage", 0.9):
        return f"At a confidence of {level} no other of the four classes is left."
    if answer.set == (name,):
        second = max(
            (other for other in CLASS_NAMES if other != name), key=answer.probabilities.get
        )
        return f"{most}; next comes {NAMES[second]}, at {percent(answer.probabilities[second])}."
    if not answer.set:
        return f"{most}; no class reaches a confidence of {level}."
    listed = " or ".join(NAMES[member] for member in answer.set)
    if len(answer.set) == 1:
        return f"{most}, yet at a confidence of {level} only {listed} remains."
    return f"{most}; at a confidence of {level} it may be {listed}."


def _how_often(answer: "Answer") -> list[str]:
    is_single = int(answer.study["accepted"]) == 1
    rows = answer.rules.get("reliability" if is_single else "study_reliability") or []
    what = "held-out slices" if is_single else "simulated studies of held-out patients"
    found = find_reliability(rows, answer.label, answer.probabilities[answer.label])
    return [_of_hundred(found, answer.label, what)] if found else []


def _of_hundred(found: Mapping[str, Any], name: str, what: str) -> str:
    low, high = math.floor(100 * found["lower"]), math.ceil(100 * found["upper"])
    count = f"{low} to {high}" if high > low else f"{low}"
    bottom, top = (f"{100 * found[end]:.0f}" for end in ("low", "high"))
    if found["high"] >= 1:
        at = f"over {bottom}"
    else:
        at = f"{bottom} to {top}" if found["low"] > 0 else f"under {top}"
    return f"Of 100 {what} called {NAMES[name]} at {at}{NO_BREAK}%, {count} {_PLURALS[name]}."


def _sensitivity(name: str, limits: Mapping[str, Any]) -> str:
    if name == "notumor":
        missed = limits["missed"].items()
        shares = [f"{_plain(one['value'])} of {NAMES[tumor]} slices" for tumor, one in missed]
        return (
            f"It misses tumours: {', '.join(shares)}. These slices were chosen to show a tumour "
            "well; a faint or small one is missed more often."
        )
    line = f"It recognises {_share(limits, 'sensitivity')} of the slices that show a {NAMES[name]}"
    taken = limits.get("taken_for")
    error = f"{NAMES[taken['class']]} ({_plain(taken['share'])})" if taken else ""
    return f"{line}; the most frequent error is {error}." if taken else f"{line}."


def _predictive_value(name: str, limits: Mapping[str, Any]) -> str:
    line = f"Of its answers “{NAMES[name]}” {_share(limits, 'positive_predictive_value')} are right"
    really = limits.get("really_was")
    if not really:
        return f"{line}."
    return f"{line}; {_plain(really['share'])} of them {_PLURALS[really['class']]}."


def _overlay_accuracy(name: str, limits: Mapping[str, Any]) -> str:
    return (
        f"The heat map peaks inside the radiologist's outline on "
        f"{_share(limits, 'heat_peak_inside')} of {NAMES[name]} slices; the two outlines overlap "
        f"by {limits['dice']['value']:.2f} (Dice; 1 is perfect). A convincing overlay does not "
        "make an answer right."
    )


def _share(found: Mapping[str, Any], key: str) -> str:
    """Return a share with its interval, as text."""
    one = found[key] if isinstance(found[key], Mapping) else {"value": found[key], **found}
    if "low" not in one or not np.isfinite([one["low"], one["high"]]).all():
        return _plain(one["value"])
    low, high = (f"{100 * one[end]:.0f}" for end in ("low", "high"))
    return f"{_plain(one['value'])} ({low} to {high}{NO_BREAK}%)"


def _level(rules: Mapping[str, Any]) -> str:
    return _plain(rules["conformal"].get("coverage", 0.9))


def _plain(share: float, digits: int | None = None) -> str:
    digits = (0 if share >= 0.1 else 1) if digits is None else digits
    return f"{100 * share:.{digits}f}{NO_BREAK}%"


def _shortened(listed: list[tuple[str, str]], others: str) -> list[tuple[str, str]]:
    if len(listed) <= MOST_LINES:
        return listed
    count = len(listed) - MOST_LINES + 1
    return [*listed[: MOST_LINES - 1], (f"{count} {others}", "see predictions.csv")]


def _clipped(text: str, most: int = 90) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
