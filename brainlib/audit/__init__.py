"""Find out what a collection of pictures is: copies, wrong labels, leaks and shortcuts.

`duplicates` finds the same picture twice, `findings` says what that means for labels and splits,
`folds` whether people are kept apart in spite of other cropping, `shortcuts` measures how far one
gets without looking at the tumour, or without a network, and `sources` how much of a class is its
scanner. All work on the image table and its pixels; no picture is decoded here.
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
    twins_across_splits,
)
from brainlib.audit.folds import LOOK_ALIKE_THRESHOLD, crop_heads, look_alikes_across_folds
from brainlib.audit.pictures import AuditError, thumbnails
from brainlib.audit.report import AuditReport, audit_collection
from brainlib.audit.shortcuts import (
    SHORTCUTS,
    border_features,
    head_mask,
    hog_features,
    intensity_features,
    mask_heads,
    predict_shortcut,
    read_file_properties,
    shortcut_features,
)
from brainlib.audit.sources import source_classifier, sources_by_class

__all__ = [
    "DUPLICATE_THRESHOLD",
    "GROUP_THRESHOLD",
    "LOOK_ALIKE_THRESHOLD",
    "SHORTCUTS",
    "AuditError",
    "AuditReport",
    "NegativeControl",
    "audit_collection",
    "border_features",
    "conflicting_groups",
    "conflicting_labels",
    "crop_heads",
    "duplicate_groups",
    "find_duplicates",
    "group_from_audit",
    "groups_across_splits",
    "head_mask",
    "hog_features",
    "intensity_features",
    "look_alikes_across_folds",
    "mask_heads",
    "negative_control",
    "predict_shortcut",
    "read_file_properties",
    "score_against_provenance",
    "shortcut_features",
    "source_classifier",
    "sources_by_class",
    "split_ties",
    "thumbnails",
    "ties_of_test_pictures",
    "twins_across_splits",
]
