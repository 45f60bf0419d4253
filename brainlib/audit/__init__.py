"""Find out what a collection of pictures is: copies, wrong labels, leaks and shortcuts.

`duplicates` finds the same picture twice, `findings` says what that means for labels and splits.
All of it works on the image table and its pixels; no file is decoded.
"""

from brainlib.audit.duplicates import (
    DUPLICATE_THRESHOLD,
    GROUP_THRESHOLD,
    NegativeControl,
    duplicate_groups,
    find_duplicates,
    group_from_audit,
    negative_control,
)
from brainlib.audit.findings import (
    conflicting_groups,
    conflicting_labels,
    groups_across_splits,
    score_against_provenance,
    split_ties,
    ties_of_test_pictures,
)
from brainlib.audit.pictures import AuditError, thumbnails

__all__ = [
    "DUPLICATE_THRESHOLD",
    "GROUP_THRESHOLD",
    "AuditError",
    "NegativeControl",
    "conflicting_groups",
    "conflicting_labels",
    "duplicate_groups",
    "find_duplicates",
    "group_from_audit",
    "groups_across_splits",
    "negative_control",
    "score_against_provenance",
    "split_ties",
    "thumbnails",
    "ties_of_test_pictures",
]
