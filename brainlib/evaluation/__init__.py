"""Prediction tables to metrics with intervals, calibration, conformal sets and comparisons.

Everything here reads prediction tables and nothing else, see `tables`; a metric is a further entry
of `METRICS`. Every interval resamples groups, not images: neighbouring slices of a patient are near
copies, and counting them as independent makes a result look more certain than it is.
"""

# ruff: noqa: F401
# isort: off
# fmt: off

from brainlib.evaluation.bootstrap import (
    break_down, compare, compare_with_others, metrics_with_intervals,
)
from brainlib.evaluation.conformal import (
    COVERAGE, conformal_sets, cross_conformal, describe_sets, fit_conformal,
)
from brainlib.evaluation.metrics import METRICS, point_metrics
from brainlib.evaluation.reports import (
    class_report, confusion, most_confused, reliability, reliability_by_answer, risk_coverage,
)
from brainlib.evaluation.scores import (
    Scores, headline, patient_tables, preferred_protocol, read_histories,
    read_metrics, read_robustness, rounded, score_tables, summarize_maps, tumor_type_tables,
    without_look_alikes,
)
from brainlib.evaluation.tables import (
    Tables, check_predictions, is_correct, label_codes, per_patient, probabilities,
    read_predictions, read_tables, restrict_to_tumors,
)
