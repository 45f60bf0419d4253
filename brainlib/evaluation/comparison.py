"""Paired comparison of models on the same images."""

import numpy as np
import pandas as pd

from brainlib.evaluation.bootstrap import percentile_interval, resampled_weights
from brainlib.evaluation.metrics import metric_names, point_metrics, weighted_metrics
from brainlib.evaluation.tables import Tables, group_codes, is_correct, require_same_images


def compare(
    first: pd.DataFrame,
    second: pd.DataFrame,
    metric: str = "accuracy",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float | int]:
    """Compare two models on the same images, pair by pair.

    Parameters
    ----------
    first, second : DataFrame
        Prediction tables of the same images, in any order. The groups are those of `first`.
    metric : str
        A name from `METRICS`.
    resamples, seed : int
        Both tables see the same resamples.

    Returns
    -------
    dict
        `first` and `second`, the metric of each; `difference`, first minus second, with its 95 %
        interval `low`, `high` over resampled groups; `only_first_right` and `only_second_right`,
        the images that only one model classifies correctly, and `p_value`, McNemar's exact test
        (1947) on them; `p_value_groups`, the sign test on the groups in which one has more right;
        `images` and `groups`.

        McNemar's test takes images as independent and is too optimistic where a patient has
        many slices; the interval and the sign test do not.

    Examples
    --------
    >>> first = pd.DataFrame({"path": list("ab"), "group": list("ab"), "label": "glioma",
    ...     "glioma": [0.9, 0.8], "meningioma": 0.0, "notumor": 0.0, "pituitary": [0.1, 0.2]})
    >>> second = first.assign(glioma=[0.9, 0.3], pituitary=[0.1, 0.7])
    >>> compare(first, second)["difference"]
    0.5
    """
    [metric] = metric_names([metric])
    require_same_images(first, second)
    second = second.set_index("path").loc[first["path"]].reset_index()
    groups = group_codes(first)
    own, other = (point_metrics(table, [metric])[metric] for table in (first, second))
    differences = [
        np.subtract(*(weighted_metrics(table, weights, [metric]) for table in (first, second)))
        for weights in resampled_weights(groups, resamples, seed)
    ]
    low, high = percentile_interval(np.concatenate(differences))
    lead = is_correct(first).astype(int) - is_correct(second)
    group_lead = np.bincount(groups, lead)
    return {
        "first": own, "second": other, "difference": own - other, "low": low, "high": high,
        "only_first_right": int((lead > 0).sum()), "only_second_right": int((lead < 0).sum()),
        "p_value": _sign_test(lead), "p_value_groups": _sign_test(group_lead),
        "images": len(first), "groups": len(group_lead),
    }  # fmt: skip


def compare_with_others(tables: Tables, model: str, protocol: str = "patient") -> pd.DataFrame:
    """Compare a model with every other on the same images, of the folds that the model has.

    Returns
    -------
    DataFrame
        A row for each other model, as `compare` gives it.
    """
    first = tables[model][protocol]
    rows = {
        other: compare(first, by_protocol[protocol].query("fold in @first.fold"))
        for other, by_protocol in tables.items()
        if other != model and protocol in by_protocol
    }
    columns = ["difference", "low", "high", "p_value", "p_value_groups"]  # where there are no rows
    table = pd.DataFrame.from_dict(rows, "index") if rows else pd.DataFrame(columns=columns)
    return table.rename_axis(f"{model} against")


def _sign_test(leads: np.ndarray) -> float:
    from scipy.stats import binomtest

    wins, losses = int((leads > 0).sum()), int((leads < 0).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
