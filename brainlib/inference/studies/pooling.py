"""From the probabilities of slices to those of a study.

A rule has two steps. The first pools the slices of a study into a score for each class: the mean,
of probabilities or of their logarithms, over the slices that are most probably tumour (top-k
pooling, as in multiple-instance learning; Ilse et al., 2020, name the common ones), or a noisy-or
(Pearl, 1988). The second divides the scores by a temperature and adds an offset for each class
(vector scaling; Guo et al., 2017), because a pooled probability is no longer one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from brainlib import CLASS_NAMES
from brainlib.paths import BrainlibError

FLOOR = 1e-6
"""Probabilities count as at least this, or one slice would forbid a class to a whole study."""

NOTUMOR = CLASS_NAMES.index("notumor")

_PARTS = {"top": {"average", "share", "least"}, "noisy_or": {"power"}}


class StudyError(BrainlibError):
    """Slices or a rule from which no answer for a study can be made."""


def study_probabilities(
    probabilities: np.ndarray, codes: np.ndarray, rule: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Apply a rule to the slices of some studies.

    Parameters
    ----------
    probabilities : float array of shape (n, 4)
        Of slices, in `CLASS_NAMES` order.
    codes : int array of shape (n,)
        The study of each slice, numbered from 0 without gaps.
    rule : mapping
        As `fit_study_rule` gives it.

    Returns
    -------
    float64 array of shape (studies, 4)
        A study of one slice has that slice's probabilities.
    bool array of shape (n,)
        Which slices were pooled.

    Examples
    --------
    >>> rule = {"pooling": {"kind": "top", "average": "probability", "share": 0.5, "least": 1},
    ...     "temperature": 1.0, "offsets": dict.fromkeys(CLASS_NAMES, 0.0)}
    >>> slices = np.array([[0.8, 0.1, 0.1, 0.0], [0.0, 0.0, 1.0, 0.0]])
    >>> study_probabilities(slices, np.array([0, 0]), rule)[0].round(2).tolist()
    [[0.8, 0.1, 0.1, 0.0]]
    """
    check_rule(rule)
    if not len(codes):
        return np.empty((0, len(CLASS_NAMES))), np.empty(0, bool)
    scores, is_pooled = pool(probabilities, codes, rule["pooling"])
    offsets = np.array([rule["offsets"][name] for name in CLASS_NAMES], float)
    answers = np.exp(log_softmax(scores / rule["temperature"] + offsets))
    is_single = np.bincount(codes)[codes] == 1
    answers[codes[is_single]] = probabilities[is_single]
    return answers, is_pooled


def pool(
    probabilities: np.ndarray, codes: np.ndarray, pooling: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return a score for each class of each study, a logarithm, and which slices it rests on.

    Parameters
    ----------
    probabilities : float array of shape (n, 4)
    codes : int array of shape (n,)
        The study of each slice, numbered from 0 without gaps.
    pooling : mapping
        `kind` "top": `share` of the slices, at least `least` of them, those with the highest
        probability of a tumour, and `average`, "probability" or "log". `kind` "noisy_or": that all
        n slices are free of tumour has the product of their probabilities of that, to the power
        n ** -`power`; the type is their mean, each slice weighing as its probability of a tumour.

    Returns
    -------
    float64 array of shape (studies, 4)
    bool array of shape (n,)
    """
    values = np.maximum(np.asarray(probabilities, np.float64), FLOOR)
    values /= values.sum(axis=1, keepdims=True)
    if pooling["kind"] == "noisy_or":
        return _noisy_or(values, codes, pooling["power"]), np.ones(len(codes), bool)
    is_top = _most_suspicious(values[:, NOTUMOR], codes, pooling["share"], pooling["least"])
    if pooling["average"] == "log":
        return _means(np.log(values[is_top]), codes[is_top]), is_top
    return np.log(_means(values[is_top], codes[is_top])), is_top


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Return logarithms of probabilities, float array of shape (n, 4)."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def check_rule(rule: Mapping[str, Any]) -> None:
    """Refuse what is not a rule.

    Raises
    ------
    StudyError
        Where a part is missing, or the temperature is not positive.
    """
    try:
        kind = rule["pooling"]["kind"]
        absent = _PARTS[kind] - set(rule["pooling"])
        absent |= set(CLASS_NAMES) - set(rule["offsets"])
        is_complete = not absent and float(rule["temperature"]) > 0
    except (KeyError, TypeError, ValueError):
        is_complete = False
    if not is_complete:
        raise StudyError(
            "the rule for studies lacks its pooling, offsets or temperature: take the one that "
            "fit_study_rule gives, or the section study of the rules of the model"
        )


def describe_rule(rule: Mapping[str, Any]) -> str:
    """Return in a sentence how a study gets its answer.

    Examples
    --------
    >>> describe_rule({"pooling": {"kind": "top", "average": "log", "share": 0.2, "least": 1}})
    'The answer to the study is the mean of the logarithms of the probabilities over the 20 % of ...
    """
    pooling = rule["pooling"]
    if pooling["kind"] == "noisy_or":
        how = (
            "takes the slices as separate chances to see a tumour (a noisy-or), and its type from "
            "their mean, in which a slice weighs as its probability of a tumour"
        )
    else:
        what = {
            "log": "the mean of the logarithms of the probabilities",
            "probability": "the mean of the probabilities",
        }[pooling["average"]]
        how = f"is {what} over {_which_slices(pooling)}"
    return (
        f"The answer to the study {how}; then it is made as sure as it was right on held-out "
        "studies, by a temperature and an offset for each class. A single slice keeps its own "
        "probabilities."
    )


def _which_slices(pooling: Mapping[str, Any]) -> str:
    share, least = pooling["share"], pooling["least"]
    which = "most probably show a tumour"
    if share >= 1:
        return "all slices"
    if not share:
        return f"the {least} slices that {which}" if least > 1 else f"the slice that {which}"
    floor = f" (at least {least})" if least > 1 else ""
    return f"the {share:.0%} of the slices{floor} that {which}".replace("%", " %")


def _most_suspicious(
    notumor: np.ndarray, codes: np.ndarray, share: float, least: int
) -> np.ndarray:
    """Return which slices are among the first of their study; of equals the earlier row."""
    order = np.lexsort((notumor, codes))
    sizes = np.bincount(codes)
    first = np.cumsum(sizes) - sizes
    wanted = np.maximum(least, np.ceil(share * sizes - 1e-9))
    ordered_codes = codes[order]
    rank = np.arange(len(codes)) - first[ordered_codes]
    is_top = np.empty(len(codes), bool)
    is_top[order] = rank < wanted[ordered_codes]
    return is_top


def _noisy_or(values: np.ndarray, codes: np.ndarray, power: float) -> np.ndarray:
    sizes = np.bincount(codes)
    free = _sums(np.log(values[:, [NOTUMOR]]), codes)[:, 0] * sizes ** -float(power)
    scores = np.log(_sums(values, codes))
    scores[:, NOTUMOR] = -np.inf  # the type is asked given that there is a tumour
    scores = log_softmax(scores) + np.log(np.maximum(-np.expm1(free), FLOOR))[:, np.newaxis]
    scores[:, NOTUMOR] = free
    return scores


def _means(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return _sums(values, codes) / np.bincount(codes)[:, np.newaxis]


def _sums(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(codes, column) for column in values.T], axis=1)
