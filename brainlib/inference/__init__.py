"""From scans and a saved model to answers: which class, how sure, or why there is none.

`classifier` answers for slices, `folder` for folders of any size, on one machine or on many;
`predicting` asks a model and nothing else; `reporting` writes the reports of studies; `choosing` is
what `04_infer` shows.
"""

from brainlib.inference.choosing import choose_scans, readable
from brainlib.inference.classifier import (
    ACCEPTED,
    COLUMNS,
    REFUSED,
    UNJUDGED,
    Classifier,
    answer_batch,
    classify,
    open_classifier,
    open_drawer,
)
from brainlib.inference.cluster import InferenceError, connect
from brainlib.inference.folder import (
    PART_PICTURES,
    Task,
    classify_part,
    classify_scans,
    read_predictions,
    read_studies,
)
from brainlib.inference.predicting import predict_pictures, predict_table
from brainlib.inference.reporting import write_reports

__all__ = [
    "ACCEPTED",
    "COLUMNS",
    "PART_PICTURES",
    "REFUSED",
    "UNJUDGED",
    "Classifier",
    "InferenceError",
    "Task",
    "answer_batch",
    "choose_scans",
    "classify",
    "classify_part",
    "classify_scans",
    "connect",
    "open_classifier",
    "open_drawer",
    "predict_pictures",
    "predict_table",
    "read_predictions",
    "read_studies",
    "readable",
    "write_reports",
]
