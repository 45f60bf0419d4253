"""Slices to answers: class, probabilities and conformal set, or the reason why there is none."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from brainlib import CLASS_NAMES, evaluation, imaging, paths
from brainlib.inference import gate, rules, studies
from brainlib.models import engines, manifest
from brainlib.paths import BrainlibError

if TYPE_CHECKING:
    import keras

COLUMNS = ("path", "series", "slice", "plane", "class", *CLASS_NAMES, "set", "lesion_x", "lesion_y",
           "decision", "error")  # fmt: skip
"""The columns of `predictions.csv`, a row a slice."""

STUDY_COLUMNS = (*studies.COLUMNS, "gaps", "decision")
"""The columns of `studies.csv`, a row a study."""

ACCEPTED, REFUSED = "accepted", "refused: "
UNJUDGED = "unjudged: the model lacks its gate or its rules"
"""Values of `decision`: the answer counts, there is none and why, nobody looked."""

UNDECIDED = "undecided"
"""Value of `decision` of a study whose classes cannot be told apart; `class` is the likeliest."""

INCOMPLETE, UNREADABLE, MISSING = "incomplete: ", "unreadable: ", "missing: "
"""How `decision` of a study may start, too, and that of a slice which its series lacks."""

COPY = REFUSED + "it is a second copy"
"""How `decision` of a file starts that is left out: it is no slice of its study."""

OTHER_MODALITIES = {
    "CT": "a CT", "CR": "a radiograph", "DX": "a radiograph", "MG": "a mammogram",
    "XA": "an angiogram", "RF": "a fluoroscopy", "US": "an ultrasound", "PT": "a PET",
    "NM": "a nuclear medicine image",
}  # fmt: skip
"""What a DICOM file of another modality is; it is refused."""

PLACE_CELL = 4
"""Pixels of the outline that are averaged before its strongest place is named."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model with everything that turns its probabilities into answers.

    Attributes
    ----------
    predict : Engine
    model : Path
        The model file that was named.
    engine : str
        What runs it, such as `onnx`.
    gate : Gate or None
        Out-of-distribution detection; None for a model without one.
    rules : dict or None
        As `rules.read_rules` gives them; None for a model without.
    stamp : bytes
        The `paths.stamp` of the engine's file when it was opened.
    """

    predict: engines.Engine
    model: Path
    engine: str
    gate: "gate.Gate | None" = None
    rules: "Mapping[str, Any] | None" = None
    stamp: bytes = b""


def open_classifier(
    model: Path | str | None = None, engine: str = "onnx", threads: int = 0
) -> Classifier:
    """Load a model with its gate and its rules, which lie beside it.

    Parameters
    ----------
    model : path of a model file
        The released model by default. `<model>.gate.npz` and `<model>.rules.json` beside it are
        made by `python -m scripts.release`. Without a gate every slice is classified and marked
        `unjudged`; without rules there are no conformal sets, and studies are `unjudged`.
    engine : str
        `onnx`, which needs no TensorFlow, or `keras`.
    threads : int
        Cores for ONNX Runtime; 0: all of them.

    Raises
    ------
    BrainlibError
        Where the engine, its package or its file is missing, or the file is damaged;
        where the gate or the rules are damaged, or the rules those of another model;
        where a file of a released model is absent or not the released one.
    """
    path = paths.resolve(paths.released_model() if model is None else model)
    if model is None:
        manifest.require_manifest(path)
    stamp = paths.stamp(path.with_suffix(f".{engine}"))
    classifier = Classifier(
        engines.open_engine(path, engine, threads), path, engine,
        gate.read_gate(path.with_suffix(".gate.npz")),
        rules.read_rules(path.with_suffix(".rules.json")), stamp,
    )  # fmt: skip
    keras = path.with_suffix(".keras")
    fitted_for = (classifier.rules or {}).get("model_sha256")  # empty for a model of one's own
    is_known = fitted_for and keras.is_file() and not manifest.beside(path)
    if is_known and fitted_for != paths.file_hash(keras):
        raise BrainlibError(
            f"{path.with_suffix('.rules.json')} belongs to another model than {keras}: make gate "
            "and rules anew, as docs/own_models.md shows, or take them away"
        )
    return classifier


def model_sha256(classifier: Classifier) -> str:
    """Return the hash of the file that computed the answers, empty where it is gone or changed."""
    file = classifier.model.with_suffix(f".{classifier.engine}")
    is_same = file.is_file() and paths.stamp(file) == classifier.stamp
    return paths.file_hash(file) if is_same else ""


def predict_images(
    model: "keras.Model | engines.Engine",
    images: Iterable[np.ndarray],
    output: str = "probabilities",
) -> np.ndarray:
    """Classify grey images at their own sizes; the model resizes them.

    Parameters
    ----------
    model : keras.Model or Engine
    images : iterable of uint8 arrays of shape (height, width)
        Read chunk by chunk.
    output : str
        One of `Engine.outputs`.

    Returns
    -------
    float32 array of shape (n, 4)
        Probabilities in `CLASS_NAMES` order; for another `output`, its n rows.
    """
    run = getattr(model, "predict_on_batch", model)
    parts = [engines.run_chunk(run, chunk)[output] for chunk in engines.chunks(images)]
    return np.concatenate(parts or [np.empty((0, len(CLASS_NAMES)), np.float32)])


def predict_table(model: "keras.Model", table: pd.DataFrame, root: Path, fold: int) -> pd.DataFrame:
    """Classify the images of an image table from their files, as any user of the model would.

    Returns
    -------
    DataFrame
        A prediction table: `path, patient, group, label, fold`, the four probabilities, and
        `source`, `plane` and `twin_in_training` for breakdowns.
    """
    progress = tqdm(table["path"], "predicting", delay=2)
    probabilities = predict_images(model, (imaging.read_image(root / path) for path in progress))
    predictions = table[["path", "patient", "group", "label"]].assign(fold=fold)
    predictions[list(CLASS_NAMES)] = probabilities.astype(float)
    extras = table[["source", "plane", "twin_in_training"]]
    return pd.concat([predictions, extras], axis="columns").reset_index(drop=True)


def classify(classifier: Classifier, slices: Iterable[imaging.ScanSlice]) -> pd.DataFrame:
    """Classify the slices of scans, chunk by chunk.

    Parameters
    ----------
    classifier : Classifier
    slices : iterable of ScanSlice
        As `imaging.open_scans` reads them.

    Returns
    -------
    DataFrame
        `path`, `series`, `slice` (its number in the series, from 1), `plane`; `class`, the four
        probabilities and `set`, the classes of the conformal set separated by blanks; `lesion_x`
        and `lesion_y`, where the evidence of a tumour is strongest, in shares of the image's width
        and height; `decision`; `error`. A slice that is refused has its reason in `decision`, one
        that cannot be read in `error`, and both have no class, no probabilities and no set.
    """
    tables = [_classify_chunk(classifier, chunk) for chunk in engines.chunks(slices)]
    if not tables:
        return _classify_chunk(classifier, [])
    table = pd.concat(tables, ignore_index=True)
    keys = studies.study_keys(table)
    is_in_mri = keys.isin(keys[table["decision"] == ACCEPTED])  # other slices of it are accepted
    is_called_ct = table["decision"].str.startswith(f"{REFUSED}it looks like a CT")
    table.loc[is_in_mri & is_called_ct, "decision"] = REFUSED + gate.STRANGE
    return table


def summarise(classifier: Classifier, slices: pd.DataFrame) -> pd.DataFrame:
    """Pool slices to studies.

    Parameters
    ----------
    classifier : Classifier
    slices : DataFrame
        As `classify` gives it.

    Returns
    -------
    DataFrame
        As `studies.summarise_studies`, with `gaps`, the number of slices inside the brain that
        were not classified, and the `decision` on the study. A study without tumour that has gaps
        is `incomplete`: it has neither class nor probabilities, for its tumour may lie in a gap.
        So is one that `studies.starts_in_pituitary`: it may show no cerebrum.
        One whose classes cannot be told apart is `undecided`: its class is the most probable.
    """
    judged = slices.assign(decision=slices["decision"].replace(UNJUDGED, ACCEPTED))
    judged = judged[~judged["decision"].str.startswith(COPY)]
    rule = (classifier.rules or {}).get("study", studies.UNFITTED)
    table = studies.summarise_studies(judged, rule)
    rows = [of_study for _, of_study in judged.groupby(studies.study_keys(judged), sort=False)]
    table["gaps"] = list(map(_count_gaps, rows))
    table["decision"] = [_decide(study, of_study, classifier) for study, of_study
                         in zip(table.to_dict("records"), rows, strict=True)]  # fmt: skip
    is_incomplete = table["decision"].str.startswith(INCOMPLETE)
    table.loc[is_incomplete, ["class", *CLASS_NAMES]] = ["", *[np.nan] * len(CLASS_NAMES)]
    return table[list(STUDY_COLUMNS)]


def rows_of_studies(slices: pd.DataFrame, table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Give the rows of `slices` that each row of `table` was pooled from, and second copies."""
    owners = pd.Series(np.nan, slices.index)
    is_slice = ~slices["decision"].str.startswith(COPY)
    owners[is_slice] = np.repeat(np.arange(len(table)), table["slices"])
    return (rows.reset_index(drop=True) for _, rows in slices.groupby(owners.ffill()))


def describe_gaps(gaps: int) -> str:
    """Return the gaps of a study in words."""
    subject, verb = ("slice", "was") if gaps == 1 else ("slices", "were")
    return f"{int(gaps)} {subject} inside the brain {verb} not classified"


def read_slices(scan: imaging.Scan, plane: str = "acquired") -> Iterator[imaging.ScanSlice]:
    """Give the slices of a scan, at least one: a reader that fails costs its scan and no more."""
    number, reason = 0, "it holds no slice"
    try:
        for one in imaging.read_scan(scan, plane):
            number, reason = one.number + 1, ""
            yield one
    except Exception as error:
        reason = f"it cannot be read ({type(error).__name__}: {error})"
    if reason:
        error = " ".join(f"{scan.file}: {reason}; copy it again or take it out".splitlines())
        yield imaging.ScanSlice(scan.file, scan.series, number, error=error)


def _classify_chunk(classifier: Classifier, slices: list[imaging.ScanSlice]) -> pd.DataFrame:
    reasons = [_refuse_unseen(classifier, scan_slice) for scan_slice in slices]
    rows = [row for row, scan_slice in enumerate(slices)
            if scan_slice.pixels is not None and not reasons[row]]  # fmt: skip
    values = np.full((len(slices), 6), np.nan)
    if rows:
        images = [slices[row].pixels for row in rows]
        outputs = engines.run_chunk(classifier.predict, images)
        values[rows, :4] = outputs["probabilities"]
        if classifier.predict.draws_maps:
            sizes = np.array([image.shape for image in images])
            values[rows, 4:] = _strongest_places(outputs, sizes)
        if classifier.gate is not None:
            refused = gate.refuse(classifier.gate, outputs.get("features"))
            for row, reason in zip(rows, refused, strict=True):
                reasons[row] = reason
    values[[bool(reason) for reason in reasons]] = np.nan
    accepted = UNJUDGED if classifier.gate is None else ACCEPTED
    lines = []
    for scan_slice, reason, numbers in zip(slices, reasons, values, strict=True):
        decision, error = accepted, scan_slice.error.removeprefix(f"{scan_slice.file}: ")
        if reason:
            decision, error = REFUSED + reason, ""
        elif scan_slice.missing:
            decision, error = MISSING + scan_slice.missing, ""
        elif error:
            decision = ""
        where = (str(scan_slice.file), scan_slice.series, scan_slice.number + 1, scan_slice.plane)
        lines.append((*where, "", *numbers[:4], "", *numbers[4:], decision, error))
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    table = table.astype(dict.fromkeys([*CLASS_NAMES, "lesion_x", "lesion_y"], float))
    answered = table[list(CLASS_NAMES)].dropna()
    best = answered.to_numpy().argmax(axis=1)
    table.loc[answered.index, "class"] = np.take(CLASS_NAMES, best)
    if classifier.rules is not None and len(answered):
        sets = evaluation.conformal_sets(answered, classifier.rules["conformal"]["thresholds"])
        table.loc[answered.index, "set"] = [" ".join(sets.columns[row]) for row in sets.to_numpy()]
    return table


def _refuse_unseen(classifier: Classifier, scan_slice: imaging.ScanSlice) -> str:
    """Return why a slice is refused before the network sees it; empty where it is not."""
    if scan_slice.pixels is None:
        return scan_slice.skipped
    if classifier.gate is None:
        return ""
    if scan_slice.modality in OTHER_MODALITIES:
        return f"its file says that it is {OTHER_MODALITIES[scan_slice.modality]}, not an MRI"
    reason = gate.refuse_plainly(scan_slice.pixels)
    if scan_slice.plane and reason not in ("", gate.BLANK):  # it may be cut from a slab
        reason += "; --plane acquired, the default, gives the slices as they were scanned"
    return reason


def _strongest_places(outputs: dict[str, np.ndarray], sizes: np.ndarray) -> np.ndarray:
    """Return where the outlines are strongest, x and y as shares of the images, (n, 2).

    `sizes` are height and width of each image, pixels, (n, 2).
    """
    outline, (row, column, side) = outputs["outline"], outputs["field_of_view"].T
    cells = outline.shape[1] // PLACE_CELL
    smooth = outline.reshape(-1, cells, PLACE_CELL, cells, PLACE_CELL).mean((2, 4))
    down, across = np.unravel_index(smooth.reshape(len(smooth), -1).argmax(axis=1), (cells, cells))
    x = (column + ((across + 0.5) / cells - 0.5) * side) / sizes[:, 1]
    y = (row + ((down + 0.5) / cells - 0.5) * side) / sizes[:, 0]
    return np.clip(np.column_stack([x, y]), 0, 1).round(3)


def _count_gaps(rows: pd.DataFrame) -> int:
    """Count what was not classified between the first and the last slice that was.

    A slice that is missing or cannot be read counts wherever it is, for its place is a guess.
    """
    is_accepted = rows["decision"] == ACCEPTED
    if not is_accepted.any():
        return 0
    numbers = rows.loc[is_accepted, "slice"]
    is_inside = rows["slice"].between(numbers.min(), numbers.max())
    is_absent = (rows["error"] != "") | rows["decision"].str.startswith(MISSING)
    return int(((is_inside & ~is_accepted) | is_absent).sum())


def _decide(study: Mapping[str, Any], rows: pd.DataFrame, classifier: Classifier) -> str:
    if not study["accepted"] and not study["refused"]:
        return UNREADABLE + rows["error"].iloc[0]
    if not study["accepted"]:
        return rows.loc[rows["decision"].str.startswith(REFUSED), "decision"].mode().iloc[0]
    if study["class"] == "notumor" and study["gaps"]:
        return INCOMPLETE + describe_gaps(study["gaps"])
    is_undecided = bool(classifier.rules) and rules.is_undecided(classifier.rules, study)
    if study["class"] == "pituitary" and not is_undecided and studies.starts_in_pituitary(rows):
        return INCOMPLETE + studies.BASE_ONLY
    if classifier.gate is None or classifier.rules is None:
        return UNJUDGED
    return UNDECIDED if is_undecided else ACCEPTED
