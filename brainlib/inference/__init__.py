"""Scans to answers: which class, how sure, or why there is none.

`classifier` answers for slices and pools them to studies, `folder` writes tables of folders of any
size, on one machine or on a `cluster`; `gate` refuses what is out of distribution, `studies` holds
the pooling of slices, and `rules` says what a probability is worth.
"""

# ruff: noqa: F401

from brainlib.inference.classifier import (
    COLUMNS,
    INCOMPLETE,
    STUDY_COLUMNS,
    UNJUDGED,
    Classifier,
    classify,
    describe_gaps,
    model_sha256,
    open_classifier,
    predict_images,
    predict_table,
    read_slices,
    rows_of_studies,
    summarise,
)
from brainlib.inference.folder import (
    Task,
    classify_scans,
    cut,
    name_scans,
    read_slice_table,
    read_study_table,
    stamp_scans,
    to_csv,
)
