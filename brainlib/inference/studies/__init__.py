"""From the answers to slices to one answer for a study, by a rule that is fitted and measured.

`pooling` turns the probabilities of slices into those of a study, `summary` a table of slices into
one of studies; both need NumPy and pandas and no more. `simulation` puts held-out slices together
to studies whose answer is known, `fitting` chooses the rule on them, and measures it.

A study is a series, or a patient where patients are known. A study of one slice has that slice's
answer.
"""

from brainlib.inference.studies.fitting import fit_study_rule, measure_studies
from brainlib.inference.studies.pooling import (
    StudyError,
    check_rule,
    describe_rule,
    study_probabilities,
)
from brainlib.inference.studies.simulation import DESCRIPTION
from brainlib.inference.studies.summary import COLUMNS, summarise_studies

__all__ = [
    "COLUMNS",
    "DESCRIPTION",
    "StudyError",
    "check_rule",
    "describe_rule",
    "fit_study_rule",
    "measure_studies",
    "study_probabilities",
    "summarise_studies",
]
