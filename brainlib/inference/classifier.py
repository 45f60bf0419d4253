"""From slices to answers: the class, how sure it is, or why there is none."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES, imaging, paths
from brainlib.inference import gate, rules
from brainlib.inference.predicting import predict_pictures
from brainlib.models import engines

COLUMNS = ("path", "series", "slice", "plane", "class", *CLASS_NAMES, "set", "decision", "error")
"""The columns of `predictions.csv`, a row a slice."""

ACCEPTED, REFUSED = "accepted", "refused: "
UNJUDGED = "unjudged: no gate lies beside the model"
"""What stands in `decision`: the answer counts; there is none, and why; nobody looked."""

OTHER_MODALITIES = {
    name: f"its file says that it is {words}, not an MRI"
    for name, words in {
        "CT": "a CT", "CR": "a radiograph", "DX": "a radiograph", "MG": "a mammogram",
        "XA": "an angiogram", "RF": "a fluoroscopy", "US": "an ultrasound", "PT": "a PET",
        "NM": "a nuclear medicine image",
    }.items()
}  # fmt: skip
"""Why what a DICOM file says it was taken with is refused; `MR`, none and others are looked at."""

BATCH_SLICES = 64


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model with all that turns its probabilities into answers.

    Attributes
    ----------
    answer : Engine
        From uint8 `(n, height, width, 1)` to probabilities `(n, 4)`.
    model : Path
        The file that was named.
    engine : str
        A key of `engines.SUFFIXES`.
    gate : Gate or None
        Tells slices that the model knows from others; None for a model that was not released.
    rules : dict or None
        As `rules.read_rules` gives them; None for a model that was not released.
    """

    answer: engines.Engine
    model: Path
    engine: str
    gate: "gate.Gate | None" = None
    rules: "Mapping[str, Any] | None" = None


def open_classifier(model: Path | str, engine: str = "onnx") -> Classifier:
    """Load a model, its gate and its rules, which lie beside it.

    Parameters
    ----------
    model : path of a model file
        `model/brain_tumor.keras`, or a model of one's own. `<model>.gate.npz` and
        `<model>.rules.json` beside it are made by `python -m scripts.release`; without them every
        slice is answered, marked `unjudged`, and has no conformal set.
    engine : str
        `onnx`, which needs no TensorFlow, or `keras`.

    Raises
    ------
    EngineError
        Where the engine, its package or its file is missing, or the file is damaged.
    GateError, RulesError
        Where the gate or the rules are damaged.
    """
    path = paths.resolve(model)
    beside = path.with_suffix(".gate.npz"), path.with_suffix(".rules.json")
    return Classifier(
        engines.open_engine(path, engine),
        path,
        engine,
        gate.read_gate(beside[0]) if beside[0].is_file() else None,
        rules.read_rules(beside[1]) if beside[1].is_file() else None,
    )


def classify(classifier: Classifier, slices: Iterable[imaging.ScanSlice]) -> pd.DataFrame:
    """Classify slices of one's own.

    Parameters
    ----------
    classifier : Classifier
    slices : iterable of ScanSlice
        As `imaging.open_scans` reads them.

    Returns
    -------
    DataFrame
        `path`, `series`, `slice` (its place in the series, from 0), `plane`; `class`, the four
        probabilities and `set`, the classes in the conformal set with blanks between; `decision`;
        `error`. A slice that is refused has its reason in `decision`, one that cannot be read in
        `error`, and both have no class, no probabilities and no set.
    """
    tables = [answer_batch(classifier, batch) for batch in in_batches(slices)]
    return pd.concat([_table([], []), *tables], ignore_index=True) if tables else _table([], [])


def in_batches(
    slices: Iterable[imaging.ScanSlice], size: int = BATCH_SLICES
) -> Iterator[list[imaging.ScanSlice]]:
    """Give slices in lists of `size`, shorter where they are large, and at the end."""
    batch: list[imaging.ScanSlice] = []
    pixels = 0
    for one in slices:
        batch.append(one)
        pixels += 0 if one.pixels is None else one.pixels.size
        if len(batch) == size or pixels >= engines.BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def answer_batch(
    classifier: Classifier, slices: list[imaging.ScanSlice], reasons: list[str] | None = None
) -> pd.DataFrame:
    """Classify slices at once, as `classify` does.

    Parameters
    ----------
    classifier : Classifier
    slices : list of ScanSlice
    reasons : list of str, optional
        What `refusals` gave for them, where that was done before.
    """
    reasons = refusals(classifier, slices) if reasons is None else reasons
    answered = [
        number
        for number, (one, reason) in enumerate(zip(slices, reasons, strict=True))
        if one.pixels is not None and not reason
    ]
    answered.sort(key=lambda number: slices[number].pixels.shape)  # of one size at a time
    answers = predict_pictures(classifier.answer, (slices[number].pixels for number in answered))
    probabilities = np.full((len(slices), len(CLASS_NAMES)), np.nan)
    probabilities[answered] = answers
    table = _table(slices, probabilities)
    table["class"] = _named(probabilities)
    table["set"] = _sets(probabilities, classifier.rules)
    table["decision"] = [
        "" if one.error else REFUSED + reason if reason else
        ACCEPTED if classifier.gate is not None else UNJUDGED
        for one, reason in zip(slices, reasons, strict=True)
    ]  # fmt: skip
    return table


def refusals(classifier: Classifier, slices: Iterable[imaging.ScanSlice]) -> list[str]:
    """Return why each slice is refused by the gate, empty where it is not."""
    if classifier.gate is None:
        return ["" for _ in slices]
    return [
        "" if one.pixels is None else
        OTHER_MODALITIES.get(one.modality) or gate.refuse(classifier.gate, one.pixels)
        for one in slices
    ]  # fmt: skip


def _table(slices: list[imaging.ScanSlice], probabilities: np.ndarray | list) -> pd.DataFrame:
    rows = [(str(one.file), one.series, one.number, one.plane, one.error) for one in slices]
    table = pd.DataFrame(rows, columns=["path", "series", "slice", "plane", "error"])
    table[list(CLASS_NAMES)] = np.asarray(probabilities, float).reshape(-1, len(CLASS_NAMES))
    for name in ("class", "set", "decision"):
        table[name] = ""
    return table[list(COLUMNS)]


def _named(probabilities: np.ndarray) -> list[str]:
    known = np.isfinite(probabilities).all(axis=1)
    best = np.where(known, np.nan_to_num(probabilities, nan=-1).argmax(axis=1), -1)
    return [CLASS_NAMES[number] if number >= 0 else "" for number in best]


def _sets(probabilities: np.ndarray, found: Mapping[str, Any] | None) -> list[str]:
    """Return the conformal set of each row, as `evaluation.conformal_sets` would."""
    if found is None:
        return [""] * len(probabilities)
    limits = np.array([found["conformal"]["thresholds"][name] for name in CLASS_NAMES])
    members = 1 - probabilities <= limits  # not a number is in no set
    return [" ".join(np.compress(row, CLASS_NAMES)) for row in members]
