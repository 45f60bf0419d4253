"""Data audit: duplicates, wrong labels, leaks between splits, and shortcut baselines.

All functions work on the image table and its pixels; nothing is decoded here.
"""

# ruff: noqa: F401
# isort: off
# fmt: off

from brainlib.audit.baselines import BASELINES, Baseline, predict_sources, write_predictions
from brainlib.audit.duplicates import (
    audit_collection, describe, find_duplicates, group_from_audit, look_alikes_across_folds,
    twins_across_splits,
)
