"""From the runs of a study to what each part brings, with intervals."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from brainlib.evaluation.intervals import resampled_weights
from scripts.ablation.variants import VARIANTS, WHOLE

METRICS = {
    "accuracy": ("right", "pictures"),
    "tumor_type_accuracy": ("type_right", "typed"),
    "log_loss": ("loss", "pictures"),
    "dice": ("dice", "outlined"),
}
"""Each metric is the sum of one column of a run over the sum of another."""

COLUMNS = ["variant", "seed", "recipe", "seconds", "group",
           *dict.fromkeys(name for pair in METRICS.values() for name in pair)]  # fmt: skip
CONFIDENCE_LEVEL = 0.95


def summarise(finished: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Sum up the runs of a study, each variant against the whole recipe.

    Parameters
    ----------
    finished : DataFrame
        `COLUMNS`, all variants with the same groups.
    resamples, seed : int
        Of the groups.

    Returns
    -------
    dict
        `seeds`, `pictures`, `groups`, the `minutes` of all trainings; and `variants`, by name:
        `title`, `seconds` of a training (median), and for each metric of `METRICS` that it has its
        mean over the seeds, `value`, with `low` and `high` as `interval` gives them; the same under
        `difference` for the variant less the whole recipe, seed by seed and group by group.
    """
    whole = finished[finished["variant"] == WHOLE]
    one = whole[whole["seed"] == whole["seed"].min()]
    by_run = finished.drop_duplicates(["variant", "seed"])
    names = [name for name in VARIANTS if name in set(finished["variant"])]
    return {
        "seeds": int(by_run.groupby("variant").size().min()),
        "pictures": int(one["pictures"].sum()),
        "groups": len(one),
        "minutes": round(float(by_run["seconds"].sum()) / 60, 1),
        "variants": {
            name: {
                "title": VARIANTS[name].title,
                "seconds": round(float(by_run.loc[by_run["variant"] == name, "seconds"].median())),
                **_compared(finished[finished["variant"] == name], whole, resamples, seed),
            }
            for name in names
        },
    }


def _compared(
    variant: pd.DataFrame, whole: pd.DataFrame, resamples: int, seed: int
) -> dict[str, Any]:
    found: dict[str, Any] = {"difference": {}}
    is_other = variant["variant"].iloc[0] != WHOLE
    for metric, columns in METRICS.items():
        if not variant[columns[1]].any():
            continue
        values, resampled = _replicates(variant, columns, resamples, seed)
        found[metric] = interval(values, resampled)
        if is_other:
            both = sorted(set(variant["seed"]) & set(whole["seed"]))
            pairs = [
                _replicates(part[part["seed"].isin(both)], columns, resamples, seed)
                for part in (variant, whole)
            ]
            (values, resampled), (base, resampled_base) = pairs
            found["difference"][metric] = interval(values - base, resampled - resampled_base)
    return found


def _replicates(
    part: pd.DataFrame, columns: tuple[str, str], resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a metric by seed (s,), and the same for each resampling of the groups (r, s)."""
    sums, counts = (
        part.pivot(index="group", columns="seed", values=column).sort_index().to_numpy(float)
        for column in columns
    )
    with np.errstate(invalid="ignore"):  # a draw without any picture that counts
        draws = [
            (weights @ sums) / (weights @ counts)
            for weights in resampled_weights(np.arange(len(sums)), resamples, seed)
        ]
    return sums.sum(axis=0) / counts.sum(axis=0), np.concatenate(draws)


def interval(values: np.ndarray, resampled: np.ndarray) -> dict[str, float]:
    """Return the mean over seeds, and a 95 % interval that covers other seeds and other patients.

    The two sources of chance are added as variances: that of the mean over resampled groups, and
    that between seeds divided by their number. Few seeds say little about their variance, which
    Student's distribution makes up for, with the degrees of freedom of Satterthwaite (1946).

    Parameters
    ----------
    values : float array of shape (seeds,)
    resampled : float array of shape (resamples, seeds)

    Returns
    -------
    dict
        `value`, `low`, `high`; one seed says nothing about others and has no limits.

    Examples
    --------
    >>> interval(np.array([0.8, 0.9, 0.85]), np.full((100, 3), 0.85))
    {'value': 0.85, 'low': 0.725793, 'high': 0.974207}
    """
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return {"value": round(mean, 6)}
    means = resampled.mean(axis=1)
    by_patient = float(np.var(means[~np.isnan(means)], ddof=1))
    by_seed = float(np.var(values, ddof=1)) / count
    total = by_patient + by_seed
    freedom = (count - 1) * (total / by_seed) ** 2 if by_seed else np.inf
    margin = float(stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, freedom)) * total**0.5
    limits = {"value": mean, "low": mean - margin, "high": mean + margin}
    return {name: round(number, 6) for name, number in limits.items()}
