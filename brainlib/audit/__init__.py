"""Find out what a collection of pictures is: copies, wrong labels, leaks and shortcuts.

`duplicates` finds the same picture twice, `findings` says what that means for labels and splits,
`shortcuts`, `mirroring` and `battery` measure how far one gets without looking at the tumour, and
`baselines` how far without a network. All work on the image table and its pixels; no picture is
decoded here.
"""

from brainlib.audit.baselines import (
    BaselineResult,
    classical_baseline,
    fit_classical_baseline,
    hog_features,
    mirror_hog,
)
from brainlib.audit.battery import (
    SHORTCUTS,
    run_battery,
    run_shortcut,
    source_classifier,
    sources_by_class,
)
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
    merge_groups,
    score_against_provenance,
    split_ties,
    ties_of_test_pictures,
    twins_across_splits,
)
from brainlib.audit.mirroring import mirror_flag, mirrored_by_class, undo_mirroring
from brainlib.audit.pictures import AuditError, thumbnails
from brainlib.audit.report import AuditReport, audit_collection
from brainlib.audit.shortcuts import (
    border_pixels,
    file_properties,
    head_mask,
    intensity_features,
    intensity_statistics,
    mask_heads,
    masked_head,
    nearest_neighbor,
    read_file_properties,
)

__all__ = [
    "DUPLICATE_THRESHOLD",
    "GROUP_THRESHOLD",
    "SHORTCUTS",
    "AuditError",
    "AuditReport",
    "BaselineResult",
    "NegativeControl",
    "audit_collection",
    "border_pixels",
    "classical_baseline",
    "conflicting_groups",
    "conflicting_labels",
    "duplicate_groups",
    "file_properties",
    "find_duplicates",
    "fit_classical_baseline",
    "group_from_audit",
    "groups_across_splits",
    "head_mask",
    "hog_features",
    "intensity_features",
    "intensity_statistics",
    "mask_heads",
    "masked_head",
    "merge_groups",
    "mirror_flag",
    "mirror_hog",
    "mirrored_by_class",
    "nearest_neighbor",
    "negative_control",
    "read_file_properties",
    "run_battery",
    "run_shortcut",
    "score_against_provenance",
    "source_classifier",
    "sources_by_class",
    "split_ties",
    "thumbnails",
    "ties_of_test_pictures",
    "twins_across_splits",
    "undo_mirroring",
]
