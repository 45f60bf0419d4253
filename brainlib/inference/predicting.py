"""From pictures to probabilities, and to the prediction table of a fold."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm import tqdm

from brainlib import CLASS_NAMES, imaging
from brainlib.models import engines

if TYPE_CHECKING:
    import keras


def predict_pictures(
    model: "keras.Model | engines.Engine", pictures: Iterable[np.ndarray]
) -> np.ndarray:
    """Classify grey pictures at their own sizes; the model scales them.

    Parameters
    ----------
    model : keras.Model or Engine
        One of ours, as loaded from its file.
    pictures : iterable of uint8 arrays of shape (height, width)
        Neighbours of one size are predicted together.

    Returns
    -------
    float32 array of shape (n, 4)
        Probabilities in `CLASS_NAMES` order.
    """
    answer = getattr(model, "predict_on_batch", model)
    probabilities = [np.empty((0, len(CLASS_NAMES)), np.float32)]
    for batch in engines.batches(pictures):
        probabilities.append(answer(np.stack(batch)[..., np.newaxis]))
    return np.concatenate(probabilities)


def predict_table(model: "keras.Model", table: pd.DataFrame, root: Path, fold: int) -> pd.DataFrame:
    """Classify the pictures of an image table from their files, as any user of the model would.

    Returns
    -------
    DataFrame
        A prediction table: `path, patient, group, label, fold`, the four probabilities, and
        `source`, `plane` and `twin_in_training` for breakdowns.
    """
    progress = tqdm(table["path"], "predicting", delay=2)
    pictures = (imaging.read_picture(root / path) for path in progress)
    probabilities = predict_pictures(model, pictures)
    predictions = table[["path", "patient", "group", "label"]].assign(fold=fold)
    predictions[list(CLASS_NAMES)] = probabilities.astype(float)
    extras = table[["source", "plane", "twin_in_training"]]
    return pd.concat([predictions, extras], axis="columns").reset_index(drop=True)
