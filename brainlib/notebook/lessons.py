"""Steps of the notebooks that depend on the model or the source, so that cells need not ask."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from IPython.display import Markdown

from brainlib import evaluation, explain, imaging, inference, models, plots, report
from brainlib.data import splits
from brainlib.notebook.runs import Run
from brainlib.paths import BrainlibError

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)


def summarize(model: "keras.Model") -> pd.DataFrame:
    """Return the parts of what is trained of a model, the network inside or the model itself.

    Returns
    -------
    DataFrame
        A row for each part with weights, layers whose names begin alike, and a last row `total`:
        `layers`, `output` (height x width x channels, of its last layer) and `parameters`.
    """
    network = models.network_of(model) if models.draws_maps(model) else model
    shapes = [getattr(layer.output, "shape", ()) for layer in network.layers]
    names = pd.Series([layer.name for layer in network.layers])
    columns = {
        "part": names.str.replace(r"\d.*|(?<!imagenet)(?<!second)_.*", "", regex=True),
        "layers": 1,
        "output": [" x ".join(map(str, shape[1:])) for shape in shapes],
        "parameters": [layer.count_params() for layer in network.layers],
    }
    rules = {"layers": "sum", "output": "last", "parameters": "sum"}
    parts = pd.DataFrame(columns).groupby("part", sort=False).agg(rules).query("parameters > 0")
    parts.loc["total"] = (parts["layers"].sum(), "", network.count_params())
    return parts.assign(parameters=parts["parameters"].map("{:,}".format))


def shown(table: pd.DataFrame, otherwise: str) -> pd.DataFrame | Markdown:
    """Return a table to display or, where it has no rows, a sentence that says why."""
    return table if len(table) else Markdown(otherwise)


def main_rows(run: Run, scores: evaluation.Scores) -> pd.DataFrame:
    """Return the headline metrics of the first model, the networks and the two best others.

    They are of the strictest protocol of the first model.
    """
    headline = evaluation.headline(scores)
    if headline.empty:
        return headline
    main, protocol = headline.index[0]
    rows = headline.xs(protocol, level="protocol")
    first = [name for name in dict.fromkeys((main, *run.networks)) if name in rows.index]
    best = rows.drop(first).sort_values("accuracy", ascending=False).head(2)
    rows = pd.concat([rows.loc[first], best]).rename_axis(f"on {plots.readable(protocol)}")
    return rows.rename(index=run.readable, columns=plots.readable)


def write_scores(run: Run, sections: Mapping[str, evaluation.Scores]) -> None:
    """Write the headline metrics of all models and protocols to `model/scores.csv`."""
    tables = {name: evaluation.headline(scores) for name, scores in sections.items() if scores}
    run.write_table(pd.concat(tables, names=["section"]).reset_index(), "model/scores")


def choose_scans(run: Run, count: int = 12) -> list[imaging.Scan]:
    """List the scans that a run of `04_infer` names, or some test images of its source.

    These are of patient fold 0, which the released network has never seen; of a source that cannot
    be divided by patients, of its own test images.

    Raises
    ------
    BrainlibError
        If there is nothing at the path in the parameter `scans`.
    """
    if run.settings.scans:
        return inference.name_scans(imaging.list_scans(run.settings.scans, run.settings.plane))
    collection = run.open_collection()
    table = collection.table
    try:
        test = table[splits.assign_folds(table) == 0]
    except BrainlibError as error:
        logger.warning("no patient folds, so its own test images, or any, are shown: %s", error)
        test = table[table["split"] == "Testing"] if (table["split"] == "Testing").any() else table
    chosen = test["path"].sample(min(count, len(test)), random_state=run.settings.seed)
    # two images of the same name in different folders are two studies
    return [replace(imaging.list_scans(collection.root / path)[0], series=path) for path in chosen]


def known_labels(run: Run, predictions: pd.DataFrame) -> pd.Series:
    """Return the true class of each slice, empty where it is unknown, as for one's own scans."""
    known = run.collection.table.set_index("path")["label"] if run.collection else {}
    return predictions["series"].map(known).fillna("")


def first_slices(scans: Iterable[imaging.Scan], count: int, plane: str) -> list[imaging.ScanSlice]:
    """Return the first slices that could be read, for display."""
    slices = (image for scan in scans for image in imaging.read_scan(scan, plane))
    return list(islice((image for image in slices if image.pixels is not None), count))


def draw_maps(model: report.Model, images: Sequence[np.ndarray]) -> list[explain.Maps]:
    """Return outlines and heat maps of some images; none if the model draws none."""
    engine = model.classifier.predict
    return list(explain.draw_maps(engine, images)) if engine.draws_maps else []
