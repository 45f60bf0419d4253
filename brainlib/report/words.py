"""What a report says: numbers in the words of someone who reads scans."""

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES
from brainlib.imaging.errors import one_line
from brainlib.inference.rules import find_reliability

NAMES = {
    "glioma": "glioma",
    "meningioma": "meningioma",
    "notumor": "no tumour",
    "pituitary": "pituitary tumour",
}
"""What the page calls each class."""

NO_BREAK = "\u00a0"
"""A blank that no line is broken at."""

NOTICE = (
    "Research and teaching only. This is not a medical device, nobody has tested it in a clinic, "
    "and no decision about a person may rest on it."
)

FORBIDDEN = (
    "Any decision about a person: diagnosis, triage, screening, second reading, planning.",
    "Ruling a tumour out. In the training data tumours and healthy heads come from different "
    "scanners: “no tumour” may be about the scanner.",
    "Other pictures than those it was trained on: CT, other sequences, scans after surgery, "
    "metastases, bleeding, infection. It can be wrong there and sure of it.",
    "Side, size, volume, grade or subtype.",
)
"""What the answer must not be used for, from the model card."""

LEAST_SURE = 0.5
"""An answer less probable than all others together is called undecided, whatever its set."""

_PLURAL = {
    "glioma": "were gliomas",
    "meningioma": "were meningiomas",
    "notumor": "had no tumour",
    "pituitary": "were pituitary tumours",
}


def describe_answer(study: Mapping[str, Any], rules: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headline of a study.

    Returns
    -------
    dict
        `kind` (`answer`, `undecided` or `none`), `title`, `probability` (text, may be empty) and
        `sentences`.
    """
    name = study["class"]
    if not name:
        sentences = [_why_none(study), "The network has nothing to say about this study."]
        return {"kind": "none", "title": "No answer", "probability": "", "sentences": sentences}
    chosen = _study_set(study, rules)
    is_clear = chosen == [name] and float(study[name]) >= LEAST_SURE
    title = _upper(NAMES[name])
    sentences = [_set_in_words(name, study[name], chosen, rules), *_how_often(study, rules)]
    if name == "notumor" and int(study["tumor_slices"]):
        count = int(study["tumor_slices"])
        sentences.append(
            f"Yet {count} slice{'s' * (count > 1)}, taken alone, would be called tumour: look."
        )
    return {
        "kind": "answer" if is_clear else "undecided",
        "title": title if is_clear else "Undecided",
        "probability": "" if not is_clear else percent(study[name]),
        "sentences": sentences,
    }


def probability_bars(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a bar for each class: `name`, `text`, `width` in per cent, `is_answer`."""
    if not study["class"]:
        return []
    return [
        {
            "name": _upper(NAMES[name]),
            "text": percent(study[name]),
            "width": round(100 * float(study[name]), 1),
            "is_answer": name == study["class"],
        }
        for name in CLASS_NAMES
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


def describe_slice(row: Mapping[str, Any], rules: Mapping[str, Any]) -> dict[str, Any]:
    """Return `answer`, `set` and `reliability` of one slice, in words."""
    name = row["class"]
    found = find_reliability(rules["reliability"], name, float(row[name]))
    members = " or ".join(NAMES[one] for one in str(row.get("set") or "").split() if one in NAMES)
    level = _plain(rules["conformal"].get("coverage", 0.9))
    return {
        "answer": f"{NAMES[name]}, {percent(row[name])}",
        "set": f"At {level}: {members or 'none of the four'}.",
        "reliability": _of_hundred(found, name, "held-out slices") if found else "",
    }


def list_refusals(rows: pd.DataFrame, most: int) -> list[tuple[str, str]]:
    """Return pairs of a reason and the slices that were refused for it."""
    refused = rows[rows["decision"] != "accepted"]
    reasons = refused["decision"].str.removeprefix("refused:").str.strip()
    listed = [
        (_clipped(str(reason)), f"{_ranges(numbers.astype(int).tolist())} ({len(numbers)})")
        for reason, numbers in refused["slice"].groupby(reasons, sort=False)
    ]
    return _shortened(listed, most, "other reasons")


def list_unreadable(slices: pd.DataFrame, most: int) -> list[tuple[str, str]]:
    """Return pairs of a file's name and what was wrong with it."""
    bad = slices[slices["error"].fillna("") != ""]
    listed = [
        (
            _clipped(one_line(PurePath(str(path).replace("\\", "/")).name)),
            _clipped(one_line(str(error).removeprefix(f"{path}: "))),
        )
        for path, error in zip(bad["path"], bad["error"], strict=True)
    ]
    return _shortened(listed, most, "other files")


def describe_limits(study: Mapping[str, Any], rules: Mapping[str, Any]) -> list[str]:
    """Return what is known to go wrong with the class that was answered."""
    name = study["class"]
    if not name:
        return []
    limits = rules["limits"].get(name, {})
    lines = [_missed_tumors(limits)] if name == "notumor" else [_sensitivity(name, limits)]
    lines += [_wrong_answers(name, limits), _maps(name, limits)]
    weakest = rules.get("limits_of_all")
    if weakest:
        lines.append(
            f"It is weakest on pictures of one origin, {weakest['part']}: "
            f"{_share(weakest, 'accuracy')} of all answers there are right."
        )
    return [line for line in lines if line]


def describe_method(study: Mapping[str, Any], rules: Mapping[str, Any]) -> list[str]:
    """Return how the answer comes about, in paragraphs."""
    if not study["class"]:
        return []
    rule = rules["study"]
    lines = [rule.get("sentence", "")] if int(study["slices"]) > 1 else []
    coverage = rules["conformal"].get("coverage", 0.9)
    level = _plain(coverage)
    lines.append(
        f"“At {level}”: the classes left are chosen so that, for patients like those they were "
        f"fitted on, {level} of such sets hold the right one, whichever class that is. “Of 100” "
        "counts pictures of people that the network had never seen; the range is a 95 % interval "
        "over patients."
    )
    if int(study["slices"]) > 1:
        lines.append(rule.get("simulation", ""))
    return [line.replace("  ", " ") for line in lines if line]


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


def _why_none(study: Mapping[str, Any]) -> str:
    refused, unreadable, total = (int(study[name]) for name in ("refused", "unreadable", "slices"))
    if not total:
        return "There is no slice."
    if refused == total:
        what = "The slice was refused" if total == 1 else f"All {total} slices were refused"
    elif unreadable == total:
        what = "The file could not be read" if total == 1 else f"None of {total} could be read"
    else:
        what = f"Of {total} slices {refused} were refused and {unreadable} could not be read"
    return f"{what}; the reasons are below."


def _study_set(study: Mapping[str, Any], rules: Mapping[str, Any]) -> list[str]:
    """Return the conformal set of a study; a single slice has that of slices."""
    section = rules["conformal"] if int(study["accepted"]) == 1 else rules["study"]
    thresholds = section.get("thresholds") or rules["conformal"]["thresholds"]
    return [name for name in CLASS_NAMES if 1 - float(study[name]) <= thresholds[name]]


def _set_in_words(
    name: str, probability: float, chosen: list[str], rules: Mapping[str, Any]
) -> str:
    level = _plain(rules["conformal"].get("coverage", 0.9))
    most = f"{_upper(NAMES[name])} is the most probable of the four, at {percent(probability)}"
    if chosen == [name] and probability < LEAST_SURE:
        return f"{most}, and more probably it is another."
    if chosen == [name]:
        return f"At a confidence of {level} no other of the four classes is left."
    if not chosen:
        return f"{most}; no class is sure enough to stand at a confidence of {level}."
    listed = " or ".join(NAMES[member] for member in chosen)
    if len(chosen) == 1:
        return f"{most}, yet at a confidence of {level} only {listed} would stand."
    return f"{most}; at a confidence of {level} it may be {listed}."


def _how_often(study: Mapping[str, Any], rules: Mapping[str, Any]) -> list[str]:
    name = study["class"]
    is_single = int(study["accepted"]) == 1
    key = "reliability" if is_single else "study_reliability"
    what = "held-out slices" if is_single else "simulated studies of held-out patients"
    found = find_reliability(rules.get(key) or [], name, float(study[name]))
    return [_of_hundred(found, name, what)] if found else []


def _of_hundred(found: Mapping[str, Any], name: str, what: str) -> str:
    low, high = math.floor(100 * found["lower"]), math.ceil(100 * found["upper"])
    count = f"{low} to {high}" if high > low else f"{low}"
    bottom, top = (f"{100 * found[end]:.0f}" for end in ("low", "high"))
    if found["high"] >= 1:
        at = f"over {bottom}"
    else:
        at = f"{bottom} to {top}" if found["low"] > 0 else f"under {top}"
    return f"Of 100 {what} called {NAMES[name]} at {at}{NO_BREAK}%, {count} {_PLURAL[name]}."


def _sensitivity(name: str, limits: Mapping[str, Any]) -> str:
    if "sensitivity" not in limits:
        return ""
    line = (
        f"Of slices that show a {NAMES[name]} it calls {_share(limits, 'sensitivity')} by the name"
    )
    taken = limits.get("taken_for")
    if not taken:
        return f"{line}."
    other = f"{NAMES[taken['class']]} ({_plain(taken['share'])})"
    return f"{line}; it most often takes one for {other}."


def _missed_tumors(limits: Mapping[str, Any]) -> str:
    missed = limits.get("missed")
    if not missed:
        return ""
    parts = [f"{_plain(one['value'])} of {NAMES[tumor]} slices" for tumor, one in missed.items()]
    return (
        f"It calls tumours “no tumour”: {', '.join(parts)}. These slices were chosen to show a "
        "tumour well; a faint or small one is missed more often."
    )


def _wrong_answers(name: str, limits: Mapping[str, Any]) -> str:
    if "positive_predictive_value" not in limits:
        return ""
    line = f"Of its answers “{NAMES[name]}” {_share(limits, 'positive_predictive_value')} are right"
    really = limits.get("really_was")
    if not really:
        return f"{line}."
    was = "showed no tumour" if really["class"] == "notumor" else f"were {NAMES[really['class']]}"
    return f"{line}; of all of them {_plain(really['share'])} {was}, the most frequent error."


def _maps(name: str, limits: Mapping[str, Any]) -> str:
    if "heat_peak_inside" not in limits:
        return ""
    dice = limits["dice"]["value"]
    return (
        f"The heat map peaks inside the radiologist's outline on "
        f"{_share(limits, 'heat_peak_inside')} of {NAMES[name]} slices; the two outlines overlap "
        f"by {dice:.2f} (Dice; 1 is perfect). A convincing overlay does not make an answer right."
    )


def _share(found: Mapping[str, Any], key: str) -> str:
    """Return a share with its interval, as text."""
    one = found[key] if isinstance(found[key], Mapping) else {"value": found[key], **found}
    if "low" not in one or not np.isfinite([one["low"], one["high"]]).all():
        return _plain(one["value"])
    low, high = (f"{100 * one[end]:.0f}" for end in ("low", "high"))
    return f"{_plain(one['value'])} ({low} to {high}{NO_BREAK}%)"


def _plain(share: float, digits: int | None = None) -> str:
    digits = (0 if share >= 0.1 else 1) if digits is None else digits
    return f"{100 * share:.{digits}f}{NO_BREAK}%"


def _ranges(numbers: list[int]) -> str:
    """Return numbers as text, runs joined.

    Examples
    --------
    >>> _ranges([0, 1, 2, 7])
    '0 to 2, 7'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    return ", ".join(texts[:12]) + (" …" if len(texts) > 12 else "")


def _shortened(listed: list[tuple[str, str]], most: int, others: str) -> list[tuple[str, str]]:
    if len(listed) <= most:
        return listed
    return [*listed[: most - 1], (f"{len(listed) - most + 1} {others}", "see predictions.csv")]


def _clipped(text: str, most: int = 90) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
