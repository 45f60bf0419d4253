"""Steps of the notebooks that depend on the model, so that no cell has to ask which one it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from brainlib import explain, imaging, models, report

if TYPE_CHECKING:
    import keras


def trained_part(model: "keras.Model") -> "keras.Model":
    """Return the part of a model that is trained: the network inside, or the model itself."""
    return models.network_of(model) if models.draws_maps(model) else model


def draw_maps(model: report.Model, images: Sequence[np.ndarray]) -> explain.Maps | None:
    """Return where a model looks in some images; None where it draws no maps."""
    return explain.draw_maps(model.drawer, images) if model.drawer else None


def write_reports(
    model: report.Model,
    scans: Sequence[imaging.Scan],
    predictions: pd.DataFrame,
    studies: pd.DataFrame,
    folder: Path,
    most: int,
) -> list[str]:
    """Write the reports of the first studies and return their names.

    A model that was not released has no gate and no rules, and so no report: the list is empty.
    """
    if model.classifier.gate is None or model.classifier.rules is None:
        return []
    paths = report.write_reports(model, scans, predictions, studies, folder, most)
    return [path.name for path in paths]
