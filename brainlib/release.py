"""The released network: one fold's model, calibrated, in four files, and what each is measured at.

`make release` writes it from the trainings that `02_train` left. Each step keeps what is there and
still right, so that a run which was stopped goes on where it was, and a second one costs little.
"""

import hashlib
import itertools
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from brainlib import (
    CLASS_NAMES,
    corruptions,
    engines,
    explain,
    export,
    images,
    inference,
    models,
    paths,
    results,
    runs,
    splits,
)

MODEL, BASELINE = runs.MODEL_NAMES
FOLD = 0
"""The fold whose model is released: the first, so that nobody chose it by its score."""

MAPS_FILE = f"{MODEL}_maps.keras"
ENGINES = {
    "onnx": (".onnx", export.export_onnx, engines.open_onnx),
    "litert": (".tflite", export.export_litert, engines.open_litert),
}
"""The files that run without TensorFlow: how each ends, is written, and is run."""

CHECKED_PICTURES = 64
ROUNDS = 5

logger = logging.getLogger(__name__)

Answer = Callable[[np.ndarray], np.ndarray]
"""From uint8 `(n, height, width, 1)` to probabilities `(n, 4)`."""


class ReleaseError(ValueError):
    """A release that cannot be made of what is there."""


@dataclass(frozen=True)
class ReleaseSettings(runs.Settings):
    """Parameters of the release.

    Attributes
    ----------
    source, output, seed
        As for every notebook; the trainings and their predictions lie below the output folder.
    pictures : int
        Test pictures that are spoilt to measure robustness.
    resamples : int
        Resamplings of the groups behind each interval.
    healthy_scan : str
        A scan without tumour from another scanner, a file or folder; empty where there is none.
    """

    output: str = "."
    pictures: int = 200
    resamples: int = 1000
    healthy_scan: str = ""


def make_release(settings: ReleaseSettings) -> dict[str, Any]:
    """Write the released files, measure them, and put the numbers into `model/metrics.json`.

    Parameters
    ----------
    settings : ReleaseSettings

    Returns
    -------
    dict
        The content of `metrics.json`, with the sections `release`, `maps`, `robustness`, and
        `other_scanners` where a scan was given, or was once for the very same model file.

    Raises
    ------
    ReleaseError
        Where predictions are missing, or a file answers otherwise than the Keras model.
    ModelError
        Where the model of fold 0 is missing or damaged.
    """
    if settings.pictures < 1 or settings.resamples < 1:
        raise ReleaseError("pictures and resamples must be at least 1")
    run = runs.Run("release", settings, paths.resolve(settings.output), smoke=False)
    temperature = fit_temperature(run.model)
    released = write_model(run.model, temperature)
    write_copies(run.model, released)
    tested = tested_pictures(run)
    sections: dict[str, Any] = {
        "release": measure_files(run, released, tested[FOLD], temperature),
        "maps": measure_maps(run, tested),
        "robustness": measure_robustness(run, tested[FOLD]),
    }
    if settings.healthy_scan:
        sections["other_scanners"] = measure_other_scanner(run, released)
    document = _write_sections(run, sections)
    run.write_record("model/release", fold=FOLD, release=sections["release"])
    return document


# --- the files


def fit_temperature(folder: Path) -> float:
    """Return the temperature of fold 0, fitted on pictures that its model is not tested on.

    They are its validation pictures where it has any, else the test pictures of the other folds.

    Parameters
    ----------
    folder : Path
        The model folder, with `predictions`.

    Raises
    ------
    ReleaseError
        Where there are no predictions of fold 0.
    ResultsError
        Where there are none of any other fold either, nor of validation pictures.
    """
    place = folder / "predictions"
    test, validation = (
        results.read_tables(place, part).get(MODEL, {}).get("patient")
        for part in ("test", "validation")
    )
    if test is None or not (test["fold"] == FOLD).any():
        raise ReleaseError(
            f"{place} holds no test predictions of {MODEL} on fold {FOLD}: run "
            "notebooks/02_train.ipynb for every fold, or `make reproduce`"
        )
    if validation is not None and (validation["fold"] == FOLD).any():
        test = test[test["fold"] == FOLD]  # other folds need not have a validation table
    else:
        validation = None
    return results.calibrate(test, validation).temperatures[FOLD]


def write_model(folder: Path, temperature: float) -> keras.Model:
    """Write `brain_tumor.keras`, the model of fold 0 with its temperature inside, and return it.

    A file that holds just that is left as it is, so that its hash stays the same.
    """
    path = folder / f"{MODEL}.keras"
    wanted = models.with_temperature(models.load_model(fold_file(folder, MODEL)), temperature)
    if not _holds(path, wanted):
        models.save_model(wanted, path)
    return models.load_model(path)


def write_copies(folder: Path, released: keras.Model) -> None:
    """Write the model with maps, as ONNX and as LiteRT, where these are older than the model."""
    original = folder / f"{MODEL}.keras"
    if not _is_current(folder / MAPS_FILE, original):
        models.save_model(models.with_maps(released), folder / MAPS_FILE)
    for suffix, write, _ in ENGINES.values():
        path = original.with_suffix(suffix)
        if not _is_current(path, original):
            logger.info("writing %s", path.name)
            write(released, path)


def fold_file(folder: Path, model: str, fold: int = FOLD) -> Path:
    """Return where the model of a patient fold lies."""
    return folder / f"{runs.run_name(model, 'patient', fold)}.keras"


def tested_pictures(run: runs.Run) -> dict[int, pd.DataFrame]:
    """Return the image table of the test pictures of each patient fold, as `02_train` has them."""
    table = run.load_images(models.PICTURE_SIZE).table
    seed = run.settings.seed
    return {
        fold: splits.part(table, splits.make_split(table, "patient", fold, seed, 0.0), "test")
        for fold in range(splits.FOLDS)
    }


def stratified_sample(table: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Draw rows of an image table at random, each class with the share that it has in the table.

    Returns
    -------
    DataFrame
        `count` rows, or all where there are fewer.
    """
    shuffled = table.sample(frac=1, random_state=seed)
    by_label = shuffled.groupby("label")["path"]
    place = (by_label.cumcount() + 0.5) / by_label.transform("size")
    return shuffled.loc[place.sort_values(kind="stable").index[:count]].reset_index(drop=True)


def _holds(path: Path, wanted: keras.Model) -> bool:
    """Return whether a file holds a model of the same weights and temperature."""
    try:
        found = models.load_model(path)
        scales = [model.get_layer("temperature").scale for model in (found, wanted)]
    except ValueError:  # absent or damaged, or a model of another kind
        return False
    weights = found.get_weights(), wanted.get_weights()
    return (
        scales[0] == scales[1]
        and len(weights[0]) == len(weights[1])
        and all(np.array_equal(*pair) for pair in zip(*weights, strict=True))
    )


def _is_current(path: Path, original: Path) -> bool:
    """Return whether a file is there and no older than what it is made from.

    What it was made from may be gone: the models of the folds are too many to be kept in git.
    """
    if not path.is_file():
        return False
    return not original.is_file() or path.stat().st_mtime >= original.stat().st_mtime


# --- sameness, size and speed


def measure_files(
    run: runs.Run, released: keras.Model, table: pd.DataFrame, temperature: float
) -> dict[str, Any]:
    """Hold the released files against the Keras model, and measure their size and speed.

    Returns
    -------
    dict
        `temperature`, `checked_pictures`, `cores`, and `speed_ratio`: how many times as many
        pictures a second as the starting network. For `brain_tumor`, `maps`, `onnx`, `litert` and
        `seed_cnn` a dict of `bytes` and `megabytes`, of `largest_difference` from the Keras
        model's probabilities, of `pictures_a_second` and of `speed_ratio`, as far as they apply;
        `brain_tumor` has the `sha256` of its file and its `parameters` too.

    Raises
    ------
    ReleaseError
        Where a file differs by more than 0.0001.
    """
    sample = stratified_sample(table, CHECKED_PICTURES, run.settings.seed)
    stacks = _stacks([images.read_picture(run.collection.root / path) for path in sample["path"]])
    ways = {MODEL: released.predict_on_batch, **_opened(run.model)}
    differences = check_files(ways, stacks)
    del ways["maps"]
    ways[BASELINE] = models.build_model(BASELINE).predict_on_batch  # as fast as a trained one
    speeds = compare_speeds(ways, stacks)
    files = {name: size for name, path in _files(run.model).items() if (size := _size(path))}
    measured = {
        name: files.get(name, {}) | differences.get(name, {}) | speeds.get(name, {})
        for name in dict.fromkeys([*files, *speeds])
    }
    measured[MODEL] |= {
        "parameters": released.count_params(),
        "sha256": _hash(run.model / f"{MODEL}.keras"),
    }
    return {
        "temperature": temperature,
        "checked_pictures": len(sample),
        "cores": os.cpu_count(),
        "speed_ratio": speeds[MODEL]["speed_ratio"],
        **measured,
    }


def check_files(ways: dict[str, Answer], stacks: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Compare all ways of asking the model with the first, the Keras model itself.

    Parameters
    ----------
    ways : dict of name to Answer
    stacks : list of uint8 arrays of shape (n, height, width, 1)

    Returns
    -------
    dict of name to dict
        `largest_difference` between probabilities, of each way but the first.

    Raises
    ------
    ReleaseError
        Where it is more than `export.TOLERANCE`, or not a number.
    """
    answers = {
        name: np.concatenate([np.asarray(answer(stack)) for stack in stacks])
        for name, answer in ways.items()
    }
    expected = answers.pop(next(iter(ways)))
    found = {}
    for name, answered in answers.items():
        difference = float(np.abs(answered - expected).max())
        if not difference <= export.TOLERANCE:
            raise ReleaseError(
                f"the released file {name} differs by {difference:.2g} from the Keras model, and "
                f"{export.TOLERANCE} is allowed: delete it, so that it is written again"
            )
        found[name] = {"largest_difference": round(difference, 9)}
    return found


def compare_speeds(
    ways: dict[str, Answer], stacks: list[np.ndarray], rounds: int = ROUNDS
) -> dict[str, dict[str, float]]:
    """Measure all ways in turns, so that whatever else the machine does falls on all alike.

    Returns
    -------
    dict of name to dict
        `pictures_a_second`, the median over the rounds, and `speed_ratio`, that over the median of
        the last way.
    """
    for answer in ways.values():  # tracing and first allocations are not what is measured
        _rate(answer, stacks)
    rates = [{name: _rate(answer, stacks) for name, answer in ways.items()}
             for _ in tqdm(range(rounds), "speed", delay=2, leave=False)]  # fmt: skip
    medians = pd.DataFrame(rates).median()
    ratios = medians / medians.iloc[-1]
    return {
        name: {
            "pictures_a_second": round(float(medians[name]), 1),
            "speed_ratio": round(float(ratios[name]), 3),
        }
        for name in ways
    }


def _rate(answer: Answer, stacks: list[np.ndarray]) -> float:
    began = time.perf_counter()
    for stack in stacks:
        np.asarray(answer(stack))
    return sum(map(len, stacks)) / (time.perf_counter() - began)


def _stacks(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Put pictures of one size together, in arrays (n, height, width, 1)."""
    by_size = itertools.groupby(sorted(pictures, key=np.shape), key=np.shape)
    return [np.stack(list(alike))[..., np.newaxis] for _, alike in by_size]


def _opened(folder: Path) -> dict[str, Answer]:
    """Return how to ask each copy of the model, from its file."""
    maps = keras.models.load_model(folder / MAPS_FILE, compile=False)
    opened = {
        name: open_file(folder / f"{MODEL}{suffix}")
        for name, (suffix, _, open_file) in ENGINES.items()
    }
    return {"maps": lambda stack: maps.predict_on_batch(stack)["probabilities"], **opened}


def _files(folder: Path) -> dict[str, Path]:
    baselines = [fold_file(folder, BASELINE),
                 folder / f"{runs.run_name(BASELINE, 'official', 0)}.keras"]  # fmt: skip
    return {
        MODEL: folder / f"{MODEL}.keras",
        "maps": folder / MAPS_FILE,
        **{name: folder / f"{MODEL}{suffix}" for name, (suffix, *_) in ENGINES.items()},
        BASELINE: next((file for file in baselines if file.is_file()), baselines[0]),
    }


def _size(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    size = path.stat().st_size
    return {"bytes": size, "megabytes": round(size / 1e6, 3)}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- maps, robustness, another scanner


def measure_maps(run: runs.Run, tested: dict[int, pd.DataFrame]) -> dict[str, Any]:
    """Score the maps of every fold's model on its test pictures, and sum them up.

    Tables are written to `model/maps/<name>.csv`, and kept where they are newer than their model.
    A fold with neither table nor model is left out with a warning.

    Returns
    -------
    dict
        As `explain.summarise_maps` gives it, with the number of `folds`.
    """
    scored = []
    for fold, table in tested.items():
        model_file = fold_file(run.model, MODEL, fold)
        scores = run.model / "maps" / f"{model_file.stem}.csv"
        if _is_current(scores, model_file):
            scored.append(explain.read_scores(scores))
        elif model_file.is_file():
            model = models.load_model(model_file)
            scored.append(explain.score_maps(model, table, run.collection.root, fold))
            run.write_table(scored[-1], f"model/maps/{model_file.stem}")
        else:
            logger.warning("there is no %s: maps of fold %d are not scored", model_file, fold)
    joined = pd.concat(scored, ignore_index=True)
    summary = explain.summarise_maps(joined, run.settings.resamples, run.settings.seed)
    return {"folds": len(scored), **summary}


def measure_robustness(run: runs.Run, table: pd.DataFrame) -> dict[str, Any]:
    """Measure released and starting network on spoilt test pictures, and write the table.

    The table is `model/robustness.csv`; what it says of a model is kept where it is newer than the
    model and about as many pictures. Without a model of the starting network on the same fold, that
    is left out with a warning.

    Returns
    -------
    dict
        `pictures`, their number; and for each model, for `clean` and each corruption the accuracy
        by strength and its `mean`, and `accuracy_kept`, the mean share of the clean accuracy.
    """
    settings, path = run.settings, run.model / "robustness.csv"
    sample = stratified_sample(table, settings.pictures, settings.seed)
    files = {MODEL: run.model / f"{MODEL}.keras", BASELINE: fold_file(run.model, BASELINE)}
    tables = {}
    for name, file in files.items():
        if not file.is_file():
            logger.warning("there is no %s: its robustness is not measured", file)
            continue
        known = _known_robustness(path, name, file, len(sample), settings.seed)
        tables[name] = _spoil(run, file, sample) if known is None else known
    rows = [
        found.reset_index().assign(pictures=len(sample), seed=settings.seed, model=name)
        for name, found in tables.items()
    ]
    columns = ["model", "pictures", "seed"]
    joined = pd.concat(rows, ignore_index=True)
    run.write_table(joined[[*columns, *joined.columns.drop(columns)]], "model/robustness")
    return {"pictures": len(sample), **{name: _spoilt(found) for name, found in tables.items()}}


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
    answers = inference.classify(released, images.open_scans(place))
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
        "model_sha256": _hash(run.model / f"{MODEL}.keras"),
    }


def _known_robustness(
    path: Path, name: str, file: Path, pictures: int, seed: int
) -> pd.DataFrame | None:
    """Return what was measured of a model, where it is still right."""
    if not _is_current(path, file):
        return None
    table = pd.read_csv(path)
    chosen = (table["model"] == name) & (table["pictures"] == pictures) & (table["seed"] == seed)
    found = table[chosen].drop(columns=["model", "pictures", "seed"]).set_index("corruption")
    return None if found.empty else found


def _spoil(run: runs.Run, file: Path, sample: pd.DataFrame) -> pd.DataFrame:
    model = models.load_model(file)
    pictures = [images.read_picture(run.collection.root / path) for path in sample["path"]]
    truth = pd.Index(CLASS_NAMES).get_indexer(sample["label"])
    logger.info("measuring the robustness of %s", file.name)
    return corruptions.robustness(
        lambda spoilt: inference.predict_pictures(model, spoilt),
        pictures,
        truth,
        run.settings.seed,
    )


def _spoilt(table: pd.DataFrame) -> dict[str, Any]:
    kept = corruptions.accuracy_kept(table)
    known = {"accuracy_kept": round(kept, 6)} if np.isfinite(kept) else {}
    return results.rounded(table) | known


def _write_sections(run: runs.Run, sections: dict[str, Any]) -> dict[str, Any]:
    """Put sections into `metrics.json`; what was said of another model's file goes."""
    document = results.update_metrics(run, **sections)
    scanner = document.get("other_scanners")
    if scanner and scanner["model_sha256"] != document["release"][MODEL]["sha256"]:
        logger.warning("another scanner was measured with an older model: name --healthy-scan")
        del document["other_scanners"]
        run.write_json(document, "model/metrics")
    return document
