"""Where the network looks, what it makes of spoilt pictures, and of another scanner."""

import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES, evaluation, explain, imaging, inference, models, paths
from brainlib.evaluation import corruptions, results
from brainlib.notebook import runs
from scripts.release.files import BASELINE, MODEL, ReleaseError, fold_file, is_current
from scripts.release.samples import stratified_sample
from scripts.release.speed import file_hash

_OF_A_MODEL = ["model", "pictures", "seed"]
"""The columns of the table of robustness that say what a row is about."""

logger = logging.getLogger(__name__)


def measure_maps(run: runs.Run, tested: dict[int, pd.DataFrame]) -> dict[str, Any]:
    """Score the maps of every fold's model on its test pictures, and sum them up.

    Tables are written to `model/maps/<name>.csv`, and kept where they are newer than their model.
    A fold with neither table nor model is left out with a warning.

    Returns
    -------
    dict
        As `evaluation.summarise_maps` gives it, with the number of `folds`.
    """
    scored = []
    for fold, table in tested.items():
        model_file = fold_file(run.model, MODEL, fold)
        scores = run.model / "maps" / f"{model_file.stem}.csv"
        if is_current(scores, model_file):
            scored.append(explain.read_scores(scores))
        elif model_file.is_file():
            model = models.load_model(model_file)
            scored.append(explain.score_maps(model, table, run.collection.root, fold))
            run.write_table(scored[-1], f"model/maps/{model_file.stem}")
        else:
            logger.warning("there is no %s: maps of fold %d are not scored", model_file, fold)
    joined = pd.concat(scored, ignore_index=True)
    summary = evaluation.summarise_maps(joined, run.settings.resamples, run.settings.seed)
    return {"folds": len(scored), **summary}


def measure_robustness(run: runs.Run, released: keras.Model, table: pd.DataFrame) -> dict[str, Any]:
    """Measure released and starting network on spoilt test pictures, and write the table.

    The table is `model/robustness.csv`; what it says of a model is kept where it is newer than the
    model, or the model is gone, and about as many pictures. A model with neither file nor rows is
    left out with a warning.

    Returns
    -------
    dict
        `pictures`, their number; and for each model, for `clean` and each corruption the accuracy
        by strength and its `mean`, and `accuracy_kept`, the mean share of the clean accuracy.
    """
    settings = run.settings
    sample = stratified_sample(table, settings.pictures, settings.seed)
    files = {MODEL: run.model / f"{MODEL}.keras", BASELINE: fold_file(run.model, BASELINE)}
    tables = {name: _known_robustness(run, name, file, len(sample)) for name, file in files.items()}
    for name, file in files.items():
        if tables[name] is None and file.is_file():
            model = released if name == MODEL else models.load_model(file)
            logger.info("measuring the robustness of %s", file.name)
            tables[name] = _spoil(run, model, sample)
            _write_robustness(run, tables, len(sample))
        elif tables[name] is None:
            logger.warning("there is no %s: its robustness is not measured", file)
    measured = {name: _summed_up(found) for name, found in tables.items() if found is not None}
    return {"pictures": len(sample), **measured}


def measure_other_scanner(run: runs.Run, released: keras.Model) -> dict[str, Any]:
    """Classify a healthy scan of another scanner, slice by slice.

    Returns
    -------
    dict
        `called_notumor`, the share of the slices; `slices`, their number; `unreadable`, how many
        could not be read and do not count; `called_<class>`, the numbers of other answers; the name
        of the `scan`; and `model_sha256`, of the model file that answered.

    Raises
    ------
    ReleaseError
        Where no slice can be read.
    """
    place = run.settings.healthy_scan
    file = run.model / f"{MODEL}.keras"
    # without the gate: what the network itself makes of another scanner
    network = inference.Classifier(released.predict_on_batch, file, "keras")
    answers = inference.classify(network, imaging.open_scans(place))
    read = answers[answers["error"] == ""]
    if read.empty:
        raise ReleaseError(f"no slice of {place} can be read: {answers['error'].iloc[0]}")
    counts = read["class"].value_counts()
    others = {f"called_{name}": int(counts[name]) for name in CLASS_NAMES
              if name != "notumor" and name in counts}  # fmt: skip
    return {
        "called_notumor": round(float((read["class"] == "notumor").mean()), 6),
        "slices": len(read),
        **others,
        "unreadable": len(answers) - len(read),
        "scan": paths.resolve(place).name,
        "model_sha256": file_hash(file),
    }


def _known_robustness(run: runs.Run, name: str, file: Path, pictures: int) -> pd.DataFrame | None:
    """Return what was measured of a model, where it is still right."""
    path = run.model / "robustness.csv"
    if not is_current(path, file):
        return None
    table = pd.read_csv(path)
    wanted = pd.Series([name, pictures, run.settings.seed], _OF_A_MODEL)
    found = table[(table[_OF_A_MODEL] == wanted).all(axis="columns")]
    return None if found.empty else found.drop(columns=_OF_A_MODEL).set_index("corruption")


def _write_robustness(run: runs.Run, tables: dict[str, pd.DataFrame | None], pictures: int) -> None:
    parts = [
        found.reset_index().assign(model=name, pictures=pictures, seed=run.settings.seed)
        for name, found in tables.items()
        if found is not None
    ]
    joined = pd.concat(parts, ignore_index=True)
    ordered = [*_OF_A_MODEL, *joined.columns.drop(_OF_A_MODEL)]
    run.write_table(joined[ordered], "model/robustness")


def _spoil(run: runs.Run, model: keras.Model, sample: pd.DataFrame) -> pd.DataFrame:
    pictures = [imaging.read_picture(run.collection.root / path) for path in sample["path"]]
    truth = pd.Index(CLASS_NAMES).get_indexer(sample["label"])
    return corruptions.robustness(
        lambda spoilt: inference.predict_pictures(model, spoilt),
        pictures,
        truth,
        run.settings.seed,
    )


def _summed_up(table: pd.DataFrame) -> dict[str, Any]:
    kept = corruptions.accuracy_kept(table)
    known = {"accuracy_kept": round(kept, 6)} if np.isfinite(kept) else {}
    return results.rounded(table) | known
