"""The reports of the studies that `classify_scans` wrote tables of."""

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from brainlib import imaging
from brainlib.inference import Classifier
from brainlib.report.html import MOST_PICTURES, ReportError, write_report


def write_reports(
    classifier: Classifier,
    scans: Iterable[imaging.Scan],
    predictions: pd.DataFrame,
    studies: pd.DataFrame,
    folder: Path,
    most: int = 1,
    plane: str = "acquired",
) -> list[Path]:
    """Write the report of the first studies, each into a file of its own.

    Parameters
    ----------
    classifier : Classifier
        What classified them, with gate and rules.
    scans : iterable of Scan
        What was classified; the deciding slices are read again.
    predictions, studies : DataFrame
        The tables of `classify_scans`.
    folder : Path
    most : int
        How many.
    plane : str
        The plane that they were classified in.

    Returns
    -------
    list of Path

    Raises
    ------
    ReportError
        For a model without gate or rules: its answers are not judged.
    EngineError
        Where the file that draws the maps is missing.
    """
    from brainlib import explain  # here: who wants a table alone need not wait for them

    if classifier.gate is None or classifier.rules is None:
        raise ReportError(
            f"{classifier.model.name} has no gate or no rules beside it, and a report needs both: "
            "make them with `python -m scripts.release`, or take the released model"
        )
    drawer = explain.open_drawer(classifier.model, classifier.engine)
    by_series = {scan.series: scan for scan in scans}
    written = []
    for place, (_, study) in enumerate(studies.head(most).iterrows(), 1):
        rows = predictions[predictions["series"] == study["series"]]
        wanted = [int(number) for number in str(study["deciding"]).split()]
        pictures = _pixels(by_series[study["series"]], wanted[:MOST_PICTURES], plane)
        maps = explain.draw_maps(drawer, pictures.values()) if drawer and pictures else None
        path = folder / f"{place:03d}-{_file_name(study['series'])}.html"
        written.append(
            write_report(
                path, study, rows, pictures, maps, classifier.rules, engine=classifier.engine
            )
        )
    return written


def _pixels(scan: imaging.Scan, wanted: list[int], plane: str) -> dict[int, np.ndarray]:
    """Return the pixels of some slices by their numbers, in the order asked for."""
    slices = (one for one in imaging.read_scan(scan, plane) if one.number in wanted)
    found = {one.number: one.pixels for one in slices if one.pixels is not None}
    return {number: found[number] for number in wanted if number in found}


def _file_name(series: str) -> str:
    """Return the letters and digits of a name, so that any file system takes it."""
    words = re.findall(r"[A-Za-z0-9]+", PurePath(series).name)
    return "-".join(islice(words, 8))[:60] or "study"
