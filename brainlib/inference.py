"""From pictures and a saved model to a table of predictions."""

from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from brainlib import CLASS_NAMES, images, paths
from brainlib.datasets import PICTURE_SUFFIXES
from brainlib.runs import Run

BATCH_SIZE = 64
BATCH_PIXELS = BATCH_SIZE * 512 * 512


class InferenceError(ValueError):
    """Nothing to classify at the place that was named."""


def predict_pictures(model: keras.Model, pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Classify grey pictures at their own sizes; the model scales them.

    Parameters
    ----------
    model : keras.Model
        One of ours, as loaded from its file.
    pictures : iterable of uint8 arrays of shape (height, width)
        Neighbours of one size are predicted together.

    Returns
    -------
    float32 array of shape (n, 4)
        Probabilities in `CLASS_NAMES` order.
    """
    probabilities, batch = [np.empty((0, len(CLASS_NAMES)), np.float32)], []
    for picture in pictures:
        if batch and (picture.shape != batch[0].shape or len(batch) >= _batch_size(picture)):
            probabilities.append(_predict_batch(model, batch))
            batch = []
        batch.append(picture)
    if batch:
        probabilities.append(_predict_batch(model, batch))
    return np.concatenate(probabilities)


def _batch_size(picture: np.ndarray) -> int:
    return max(1, min(BATCH_SIZE, BATCH_PIXELS // picture.size))


def _predict_batch(model: keras.Model, batch: list[np.ndarray]) -> np.ndarray:
    return model.predict_on_batch(np.stack(batch)[..., np.newaxis])


def predict_table(model: keras.Model, table: pd.DataFrame, root: Path, fold: int) -> pd.DataFrame:
    """Classify the pictures of an image table from their files, as any user of the model would.

    Returns
    -------
    DataFrame
        A prediction table: `path, patient, group, label, fold`, the four probabilities, and
        `source`, `plane` and `twin_in_training` for breakdowns.
    """
    progress = tqdm(table["path"], "predicting", delay=2)
    pictures = (images.read_picture(root / path) for path in progress)
    probabilities = predict_pictures(model, pictures)
    predictions = table[["path", "patient", "group", "label"]].assign(fold=fold)
    predictions[list(CLASS_NAMES)] = probabilities.astype(float)
    extras = table[["source", "plane", "twin_in_training"]]
    return pd.concat([predictions, extras], axis="columns").reset_index(drop=True)


def list_pictures(place: Path | str) -> list[Path]:
    """Return the picture, or all pictures below the folder, that a path names, sorted.

    Raises
    ------
    InferenceError
        Where there is nothing, or no picture.
    """
    place = paths.resolve(place)
    if place.is_file():
        return [place]
    found = sorted(
        file
        for file in place.rglob("*")
        if file.is_file() and file.suffix.lower() in PICTURE_SUFFIXES
    )
    if not found:
        raise InferenceError(
            f"{place} is neither a picture nor a folder with pictures "
            f"({', '.join(PICTURE_SUFFIXES)})"
        )
    return found


def choose_pictures(run: Run, count: int = 12) -> list[Path]:
    """Return the pictures that a run of `04_infer` names, or some test pictures of its source."""
    if run.settings.pictures:
        return list_pictures(run.settings.pictures)
    collection = run.open_collection()
    table = collection.table
    test = table[table["split"] == "Testing"] if (table["split"] == "Testing").any() else table
    chosen = test["path"].sample(min(count, len(test)), random_state=run.settings.seed)
    return [collection.root / path for path in chosen]


def classify(model: keras.Model, files: Iterable[Path]) -> pd.DataFrame:
    """Classify pictures of one's own.

    Parameters
    ----------
    model : keras.Model
    files : iterable of Path

    Returns
    -------
    DataFrame
        `path`, `class`, the four probabilities, and `error`: a picture that cannot be read has its
        reason there, no class, and no probabilities.
    """
    files = list(files)
    errors: dict[Path, str] = {}

    def readable() -> Iterable[np.ndarray]:
        for file in tqdm(files, "classifying", delay=2):
            try:
                yield images.read_picture(file)
            except images.ImageError as error:
                errors[file] = str(error)

    probabilities = predict_pictures(model, readable())
    table = pd.DataFrame({"path": [str(file) for file in files]})
    table["error"] = [errors.get(file, "") for file in files]
    table.loc[table["error"] == "", list(CLASS_NAMES)] = probabilities.astype(float)
    table["class"] = table[list(CLASS_NAMES)].dropna().idxmax(axis="columns")
    return table[["path", "class", *CLASS_NAMES, "error"]]
