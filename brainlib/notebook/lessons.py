"""Steps of the notebooks that depend on the model or the source, so that cells need not ask."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from brainlib import explain, imaging, models, report
from brainlib.data import splits
from brainlib.notebook.runs import Run
from brainlib.paths import BrainlibError

if TYPE_CHECKING:
    import keras


def trained_part(model: "keras.Model") -> "keras.Model":
    """Return the part of a model that is trained: the network inside, or the model itself."""
    return models.network_of(model) if models.draws_maps(model) else model


def choose_scans(run: Run, count: int = 12) -> list[imaging.Scan]:
    """List the scans that a run of `04_infer` names, or some test images of its source.

    These are of patient fold 0, which the released network has never seen; of a source that cannot
    be divided by patients, of its own test images.

    Raises
    ------
    BrainlibError
        If the parameter `scans` names nothing that could be a scan.
    """
    if run.settings.scans:
        return imaging.list_scans(run.settings.scans, run.settings.plane)
    collection = run.open_collection()
    table = collection.table
    try:
        test = table[splits.assign_folds(table) == 0]
    except BrainlibError:
        test = table[table["split"] == "Testing"] if (table["split"] == "Testing").any() else table
    chosen = test["path"].sample(min(count, len(test)), random_state=run.settings.seed)
    # two images of the same name in different folders are two studies
    return [replace(imaging.list_scans(collection.root / path)[0], series=path) for path in chosen]


def first_slices(
    scans: Iterable[imaging.Scan], count: int, plane: str = "acquired"
) -> list[imaging.ScanSlice]:
    """Return the first slices that could be read, for display."""
    slices = (image for scan in scans for image in imaging.read_scan(scan, plane))
    return list(islice((image for image in slices if image.pixels is not None), count))


def draw_maps(model: report.Model, images: Sequence[np.ndarray]) -> explain.Maps | None:
    """Return outlines and heat maps of some images; None if the model draws none."""
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

    A model that was not released has no out-of-distribution check and no rules, and so no report:
    the list is empty.
    """
    if model.classifier.gate is None or model.classifier.rules is None:
        return []
    files = report.write_reports(model, scans, predictions, studies, folder, most)
    return [file.name for file in files]
