"""How well heat maps and outlines hit the tumour, over groups."""

from typing import Any

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES
from brainlib.evaluation.intervals import mean_with_interval


def summarise_maps(scored: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Average the scores of maps, with 95 % intervals from resampling groups.

    Parameters
    ----------
    scored : DataFrame
        As `explain.score_maps` gives it.
    resamples, seed : int
        As for `metrics_with_intervals`.

    Returns
    -------
    dict
        Counts: `pictures`, `groups`, `correct` (answered with the right class) and
        `without_outline` (where nothing reaches `explain.OUTLINE_THRESHOLD`). Then by name a dict
        of `value`, `low` and `high`: `dice`, `dice_<label>`, `dice_correct`; `heat_peak_inside` and
        `outline_peak_inside` among correct answers, the same with `_all` among all pictures. What
        has no picture is left out, and limits where fewer than two groups bear on them.

    Examples
    --------
    >>> scored = pd.DataFrame({"label": "glioma", "answer": "glioma", "group": list("ab"),
    ...     "dice": [0.6, 0.8], "heat_peak_inside": True, "outline_peak_inside": True,
    ...     "outline": "[]"})
    >>> summarise_maps(scored)["dice"]["value"]
    0.7
    """
    correct = scored[scored["answer"] == scored["label"]]
    by_label = [label for label in CLASS_NAMES if (scored["label"] == label).any()]
    parts = {
        "dice": (scored, "dice"),
        **{f"dice_{label}": (scored[scored["label"] == label], "dice") for label in by_label},
        "dice_correct": (correct, "dice"),
        "heat_peak_inside": (correct, "heat_peak_inside"),
        "outline_peak_inside": (correct, "outline_peak_inside"),
        "heat_peak_inside_all": (scored, "heat_peak_inside"),
        "outline_peak_inside_all": (scored, "outline_peak_inside"),
    }
    measured = {
        name: _mean(part[column], part["group"], resamples, seed)
        for name, (part, column) in parts.items()
        if len(part)
    }
    return {
        "pictures": len(scored),
        "groups": int(scored["group"].nunique()),
        "correct": len(correct),
        "without_outline": int((scored["outline"] == "").sum()),
        **measured,
    }


def _mean(values: pd.Series, groups: pd.Series, resamples: int, seed: int) -> dict[str, float]:
    numbers = values.to_numpy(float), groups.astype(str).to_numpy(object)
    found = mean_with_interval(*numbers, resamples, seed)[:3]
    named = zip(("value", "low", "high"), found, strict=True)
    return {name: round(number, 6) for name, number in named if np.isfinite(number)}
