"""From scans and a saved model to a table of predictions."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from brainlib import CLASS_NAMES, images
from brainlib.runs import Run

BATCH_SIZE = 64
BATCH_PIXELS = BATCH_SIZE * 512 * 512


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


def choose_slices(run: Run, count: int = 12) -> Iterator[images.ScanSlice]:
    """Read the slices that a run of `04_infer` names, or some test pictures of its source.

    Yields
    ------
    ScanSlice
        One after the other, so that memory does not grow with their number.

    Raises
    ------
    ImageError
        Where the parameter `pictures` names nothing that could be a scan.
    """
    if run.settings.pictures:
        return images.open_scans(run.settings.pictures, run.settings.plane)
    collection = run.open_collection()
    table = collection.table
    test = table[table["split"] == "Testing"] if (table["split"] == "Testing").any() else table
    chosen = test["path"].sample(min(count, len(test)), random_state=run.settings.seed)
    return (next(images.open_scans(collection.root / path)) for path in chosen)


def readable(slices: Iterable[images.ScanSlice], count: int) -> list[images.ScanSlice]:
    """Return the first slices that have pixels, to look at."""
    return list(itertools.islice((one for one in slices if one.pixels is not None), count))


def classify(model: keras.Model, slices: Iterable[images.ScanSlice]) -> pd.DataFrame:
    """Classify slices of one's own.

    Parameters
    ----------
    model : keras.Model
    slices : iterable of ScanSlice
        As `images.open_scans` reads them.

    Returns
    -------
    DataFrame
        `path`, `series`, `slice` (its place in the series, from 0), `plane`, `class`, the four
        probabilities, and `error`: what cannot be read has its reason there, no class, and no
        probabilities.
    """
    rows = []

    def pixels() -> Iterator[np.ndarray]:
        for one in tqdm(slices, "classifying", delay=2, unit=" slices"):
            rows.append((str(one.file), one.series, one.number, one.plane, one.error))
            if one.pixels is not None:
                yield one.pixels

    probabilities = predict_pictures(model, pixels())
    table = pd.DataFrame(rows, columns=["path", "series", "slice", "plane", "error"])
    table.loc[table["error"] == "", list(CLASS_NAMES)] = probabilities.astype(float)
    table["class"] = table[list(CLASS_NAMES)].dropna().idxmax(axis="columns")
    return table[["path", "series", "slice", "plane", "class", *CLASS_NAMES, "error"]]
