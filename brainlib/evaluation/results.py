"""Transitional: old names."""
from dataclasses import dataclass
import pandas as pd
from brainlib.evaluation.scores import *
from brainlib.evaluation.tables import *
from brainlib.evaluation.tables import read_tables
from brainlib.evaluation.scores import METRICS_FILE, read_metrics, rounded, score_tables as measure
from brainlib.evaluation.conformal import COVERAGE, cross_conformal
from brainlib.evaluation.tables import EvaluationError as ResultsError
CONFORMAL_ALPHA = 1 - COVERAGE
main_model = lambda tables: next(iter(tables))
most_honest = preferred_protocol
@dataclass(frozen=True)
class Calibrated:
    table: pd.DataFrame
    sets: pd.DataFrame
    temperatures: dict
def calibrate(test, validation):
    return Calibrated(test, cross_conformal(test, validation), {f: 1.0 for f in range(5)})
