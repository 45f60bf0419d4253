"""Data audit: duplicates, wrong labels, leaks between splits, and shortcut baselines.

All functions work on the image table and its pixels; nothing is decoded here.
"""

# ruff: noqa: F401

from brainlib.audit.baselines import BASELINES, Baseline, predict_sources, write_predictions
from brainlib.audit.duplicates import find_duplicates, group_from_audit, look_alikes_across_folds
from brainlib.audit.report import AuditReport, audit_collection, describe, twins_across_splits
