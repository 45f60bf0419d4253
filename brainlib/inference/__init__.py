"""From scans and a saved model to answers: which class, how sure, or why there is none.

`classifier` answers for slices, `folder` for folders of any size, on one machine or on many;
`predicting` asks a model and nothing else; `gate` refuses what the model does not know, `studies`
pools slices, and `rules` says what a probability is worth.
"""

from brainlib.inference.classifier import (
    ACCEPTED,
    COLUMNS,
    REFUSED,
    UNJUDGED,
    Classifier,
    answer_batch,
    classify,
    open_classifier,
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
    "classify",
    "classify_part",
    "classify_scans",
    "connect",
    "open_classifier",
    "predict_pictures",
    "predict_table",
    "read_predictions",
    "read_studies",
]
