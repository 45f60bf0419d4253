"""Data audit: duplicates, wrong labels, leaks between splits, and shortcut baselines.

All functions work on the image table and its pixels; nothing is decoded here.
"""

from brainlib.audit.baselines import (
    BASELINES,
    Baseline,
    describe_source_scores,
    predict_sources,
    sources_by_class,
    write_predictions,
)
from brainlib.audit.duplicates import (
    find_duplicates,
    group_from_audit,
    look_alikes_across_folds,
)
from brainlib.audit.report import AuditReport, audit_collection, twins_across_splits

__all__ = [
    "BASELINES",
    "AuditReport",
    "Baseline",
    "audit_collection",
    "describe_source_scores",
    "find_duplicates",
    "group_from_audit",
    "look_alikes_across_folds",
    "predict_sources",
    "sources_by_class",
    "twins_across_splits",
    "write_predictions",
]
