"""From prediction tables to metrics with intervals, calibration, conformal sets and comparisons.

Everything here reads a **prediction table** and nothing else, so neither model nor accelerator is
needed: one row a picture, `path, patient, group, label, fold`, and one probability column for each
of `CLASS_NAMES`. Columns `source` and `plane` are used for breakdowns where they are present.

Every interval resamples groups, not pictures: neighbouring slices of one patient are near copies,
and counting them as independent makes a result look more certain than it is.
"""

from brainlib.evaluation.calibration import (
    apply_temperature,
    area_under_risk_coverage,
    fit_temperature,
    reliability,
    risk_coverage,
)
from brainlib.evaluation.comparison import compare
from brainlib.evaluation.conformal import conformal_sets, describe_sets, fit_conformal
from brainlib.evaluation.intervals import breakdown, metrics_with_intervals
from brainlib.evaluation.maps import summarise_maps
from brainlib.evaluation.metrics import METRICS, point_metrics
from brainlib.evaluation.reports import class_report, confusion, most_confused
from brainlib.evaluation.tables import (
    EvaluationError,
    check_predictions,
    join_reference,
    per_patient,
    probabilities,
    read_predictions,
    restrict_to_tumors,
    true_classes,
)

__all__ = [
    "METRICS",
    "EvaluationError",
    "apply_temperature",
    "area_under_risk_coverage",
    "breakdown",
    "check_predictions",
    "class_report",
    "compare",
    "conformal_sets",
    "confusion",
    "describe_sets",
    "fit_conformal",
    "fit_temperature",
    "join_reference",
    "metrics_with_intervals",
    "most_confused",
    "per_patient",
    "point_metrics",
    "probabilities",
    "read_predictions",
    "reliability",
    "restrict_to_tumors",
    "risk_coverage",
    "summarise_maps",
    "true_classes",
]
