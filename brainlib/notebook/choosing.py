"""Scans for `04_infer`: those that are named, or some test images of its source."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from brainlib import imaging
from brainlib.notebook.runs import Run


def choose_scans(run: Run, count: int = 12) -> list[imaging.Scan]:
    """List the scans that a run of `04_infer` names, or some test images of its source.

    Raises
    ------
    BrainlibError
        Where the parameter `scans` names nothing that could be a scan.
    """
    if run.settings.scans:
        return imaging.list_scans(run.settings.scans, run.settings.plane)
    collection = run.open_collection()
    table = collection.table
    test = table[table["split"] == "Testing"] if (table["split"] == "Testing").any() else table
    chosen = test["path"].sample(min(count, len(test)), random_state=run.settings.seed)
    # two images of the same name in different folders are two studies
    return [replace(imaging.list_scans(collection.root / path)[0], series=path) for path in chosen]


def readable(
    scans: Iterable[imaging.Scan], count: int, plane: str = "acquired"
) -> list[imaging.ScanSlice]:
    """Return the first slices that have pixels, to look at."""
    slices = (image for scan in scans for image in imaging.read_scan(scan, plane))
    return list(islice((image for image in slices if image.pixels is not None), count))
