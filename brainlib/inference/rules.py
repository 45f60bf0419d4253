"""All that turns the probabilities of a model into answers, in one small file beside it.

`lesion_net.rules.json` is written at release and read with every answer. Its sections:
`conformal` (coverage and thresholds), `study` (from slices to a study), `reliability` and
`study_reliability` (how often answers like this were right) and `limits` (what is known to go
wrong, class by class). What is fitted never saw a patient of the released model's own test fold;
what is measured rests on all held-out patients, each answered by a network that never saw them.
"""

import json
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from brainlib import CLASS_NAMES, paths
from brainlib.evaluation.conformal import is_in_set
from brainlib.models import manifest
from brainlib.paths import BrainlibError

_SHARES = {"thresholds", "coverage", "sensitivity", "low", "high", "observed", "lower", "upper",
           "value", "share", "accuracy"}  # fmt: skip
"""Names of what lies between 0 and 1, wherever it is in the rules."""

_ADVICE = "write it again with `python -m scripts.release`, from the predictions of the folds"


LEAST_SURE = 0.5
"""An answer less probable than this is undecided, whatever its set."""


def study_set(rules: Mapping[str, Any] | None, study: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the conformal set of a row of `studies.csv`; empty without rules or answer."""
    if rules is None or not study["class"]:
        return ()
    section = rules["conformal"] if study["accepted"] == 1 else rules["study"]
    limits = section.get("thresholds") or rules["conformal"]["thresholds"]
    return tuple(name for name in CLASS_NAMES if is_in_set(float(study[name]), limits[name]))


def is_undecided(rules: Mapping[str, Any] | None, study: Mapping[str, Any]) -> bool:
    """Return whether an answer is improbable, or its conformal set is not its class alone."""
    name = study["class"]
    is_unsure = rules is not None and study_set(rules, study) != (name,)
    return is_unsure or study[name] < LEAST_SURE


def read_rules(path: Path | str) -> dict[str, Any] | None:
    """Read and check the rules of a model; None for a model of one's own that has none.

    Parameters
    ----------
    path : Path or str
        `lesion_net.rules.json`.

    Returns
    -------
    dict or None
        See `scripts.release.rules.fit_rules`.

    Raises
    ------
    BrainlibError
        Where the file is no JSON, or lacks a part; the message says which, and how to make it;
        where it is not the released one, or absent beside a released model.
    """
    content = manifest.read_file(Path(path))
    if content is None:
        return None
    try:
        rules = json.loads(content)
    except ValueError as error:
        raise BrainlibError(f"{path} cannot be read as JSON ({error}): {_ADVICE}") from error
    problem = _problem(rules)
    if problem:
        raise BrainlibError(f"{path} {problem}: {_ADVICE}")
    return rules


def write_rules(rules: Mapping[str, Any], path: Path | str) -> Path:
    """Write rules as JSON, whole or not at all.

    Raises
    ------
    BrainlibError
        For what `read_rules` would refuse.
    """
    problem = _problem(rules)
    if problem:
        raise BrainlibError(f"these rules for {path} would be refused, for the file {problem}")
    text = json.dumps(rules, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return paths.write_text(Path(path), text)


def find_reliability(
    rows: list[dict[str, Any]], name: str, probability: float
) -> dict[str, Any] | None:
    """Return the bin that an answer lies in, None where there is none.

    Examples
    --------
    >>> rows = [{"class": "glioma", "low": 0.9, "high": 1.0, "observed": 0.95}]
    >>> find_reliability(rows, "glioma", 1.0)["observed"]
    0.95
    """
    of_class = (row for row in rows if row["class"] == name and row["low"] <= probability)
    return next((row for row in of_class if probability < row["high"] or row["high"] >= 1), None)


def _shares(part: Any, name: str = "") -> Iterator[float]:
    """Give all that has to lie between 0 and 1, however deep."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            yield from _shares(value, name if name == "thresholds" else key)
    elif isinstance(part, list):
        for value in part:
            yield from _shares(value, name)
    elif name in _SHARES:
        yield part


def _problem(rules: Any) -> str:
    """Return what is wrong with rules, empty where nothing is."""
    try:
        thresholds = rules["conformal"]["thresholds"]
        for part in (thresholds, rules["study"].get("thresholds", thresholds), rules["limits"]):
            itemgetter(*CLASS_NAMES)(part)
        for row in (*rules["reliability"], *rules.get("study_reliability", ())):
            itemgetter("class", "low", "high", "observed", "lower", "upper")(row)
        offset, temperature = itemgetter("offset", "temperature")(rules["study"])
        if not all(0 <= share <= 1 for share in _shares(rules)):
            return "has a threshold or a share that is not between 0 and 1"
        is_rule = np.isfinite(offset) and 0 < temperature < np.inf
    except KeyError as error:
        return f"has no {error}"
    except (AttributeError, TypeError):
        return "holds no rules"
    return "" if is_rule else "has no offset for studies, or a temperature that is not positive"
