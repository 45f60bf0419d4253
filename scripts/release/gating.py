"""Out-of-distribution gate: fitting, false refusals on held-out patients, detection rates."""

from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from brainlib import CLASS_NAMES, imaging, inference, models, paths
from brainlib.data import phantom, splits
from brainlib.inference import gate
from brainlib.models import engines
from brainlib.notebook import runs
from scripts.release.files import FOLD, RELEASED, list_files
from scripts.release.scores import share
from scripts.release.wrong_inputs import BEYOND_BRAIN, WrongInput, make_wrong_inputs

PHANTOM_HEADS = 24
CT_REASON = "it looks like a CT of the head, not an MRI"
BEYOND_REASON = "it looks like a slice above or below the brain"
COLLECTION_CT = "CT of the head, in the collection"
_CT_NAMES = (
    "Te-me_0015", "Te-me_0032", "Te-me_0105", "Te-no_0011", "Te-no_0043", "Te-no_0055",
    "Te-no_0057", "Te-no_0086", "Te-no_0094", "Tr-no_0010", "Tr-no_0041", "Tr-no_0054",
    "Tr-no_0055", "Tr-no_0080", "Tr-no_0102", "Tr-no_0135", "Tr-no_0157", "Tr-no_0233",
    "Tr-no_0246", "Tr-no_0258", "Tr-no_0302", "Tr-no_0322", "Tr-no_0323", "Tr-no_0326",
    "Tr-no_0356", "Tr-no_0359",
)  # fmt: skip
"""Files of the Kaggle collection that are a CT, found by eye; so is all of their group."""


def measure_gate(run: runs.Run) -> dict[str, Any]:
    """Fit and write the released gate, and measure it on what it was not fitted on.

    It is fitted on the images of the patient folds that the released network was trained on, and on
    half of the wrong inputs. The test patients of fold 0, the other half, and the kinds of which
    none was fitted on, are what it is tried on. Files of the collection that are a CT are no head
    MRI: they are fitted on as what to refuse, and counted, held out, as what is caught.

    Returns
    -------
    dict
        `false_refusals` on held-out patients, also `by_class` and `by_source`;
        `caught`, by kind of wrong input, with the share `left_out` that is caught where the kind
        was not fitted on; `accepted`, heads of other origin; and the file's `sha256`.
    """
    engine = engines.open_onnx(list_files(run.model)["onnx"])
    table, inputs = _patient_images(run), make_wrong_inputs(run.settings.seed)
    progress = tqdm(table["path"], "features of images", delay=2)
    files = (imaging.read_image(run.collection.root / path) for path in progress)
    table["features"] = list(inference.predict_images(engine, files, "features"))
    pixels = (example.pixels for example in inputs)
    wrong = inference.predict_images(engine, pixels, "features")
    released, path = _fit(table, inputs, wrong), run.model / f"{RELEASED}.gate.npz"
    gate.write_gate(released, path)
    tested = table[table["judged_by"] == FOLD].copy()
    tested["reason"] = gate.refuse(released, np.stack(tested["features"]))
    caught = _measure_caught(inputs, wrong, released)
    for kind in sorted({example.kind for example in inputs if not example.is_tried}):
        without = _fit(table, inputs, wrong, left_out=kind)
        caught[kind]["left_out"] = _measure_caught(inputs, wrong, without)[kind]["value"]
    ct, heads = tested[tested["is_ct"]], tested[~tested["is_ct"]]
    if len(ct):
        caught[COLLECTION_CT] = share(ct["reason"] != "", ct["group"])
    return {
        **_false_refusals(heads),
        "caught": caught,
        "accepted": {"phantom": _accepted_phantoms(engine, released)},
        "sha256": paths.file_hash(path),
    }


def _patient_images(run: runs.Run) -> pd.DataFrame:
    """Return the images of the patient folds, with `is_ct` and `judged_by`.

    `judged_by` is the fold that the image's group is tested in. Copies of a CT that the folds leave
    out are kept, with fold -1.
    """
    table = run.load_images(models.TRAINING_SIZES[RELEASED]).table.copy()
    table["fold"] = splits.assign_folds(table)
    named = table["path"].map(lambda path: PurePosixPath(path).stem).isin(_CT_NAMES)
    table["is_ct"] = table["group"].isin(table["group"][named])
    by_group = table[table["fold"] >= 0].groupby("group")["fold"].first()
    table["judged_by"] = table["group"].map(by_group).fillna(-1).astype(int)
    kept = (table["fold"] >= 0) | ((table["judged_by"] >= 0) & table["is_ct"])
    return table[kept].reset_index(drop=True)


def _fit(
    table: pd.DataFrame, inputs: list[WrongInput], wrong: np.ndarray, left_out: str = ""
) -> gate.Gate:
    trained = table[table["judged_by"] != FOLD]
    heads, ct = trained[~trained["is_ct"]], trained[trained["is_ct"]]
    fitted = np.array([not part.is_tried and part.kind != left_out for part in inputs])
    beyond = np.array([part.kind == BEYOND_BRAIN for part in inputs])
    rows = {gate.STRANGE: wrong[fitted & ~beyond], BEYOND_REASON: wrong[fitted & beyond],
            CT_REASON: np.array(3 * list(ct["features"]))}  # fmt: skip
    refused = {reason: examples for reason, examples in rows.items() if len(examples)}
    return gate.fit_gate(np.stack(heads["features"]), heads["group"], refused, heads["source"])


def _false_refusals(tested: pd.DataFrame) -> dict[str, Any]:
    parts = {
        f"by_{name}": {value: share(rows["reason"] != "", rows["group"])
                       for value, rows in tested.groupby(column)}
        for name, column in (("class", "label"), ("source", "source"))
    }  # fmt: skip
    return {"false_refusals": share(tested["reason"] != "", tested["group"]), **parts}


def _measure_caught(
    inputs: list[WrongInput], wrong: np.ndarray, fitted: gate.Gate
) -> dict[str, Any]:
    reasons = gate.refuse(fitted, wrong)
    tried = pd.DataFrame(
        [(example.kind, example.origin, gate.refuse_plainly(example.pixels) or reason)
         for example, reason in zip(inputs, reasons, strict=True) if example.is_tried],
        columns=["kind", "origin", "reason"],
    )  # fmt: skip
    return {kind: share(rows["reason"] != "", rows["origin"])
            for kind, rows in tried.groupby("kind")}  # fmt: skip


def _accepted_phantoms(engine: engines.Engine, fitted: gate.Gate) -> dict[str, Any]:
    """Return the share of slices of phantom heads that is accepted."""
    heads = [(seed, drawn.pixels) for seed in range(PHANTOM_HEADS)
             for drawn in phantom.simulate_patient(CLASS_NAMES[seed % 4], seed, 3)]  # fmt: skip
    features = inference.predict_images(engine, (pixels for _, pixels in heads), "features")
    return share((reason == "" for reason in gate.refuse(fitted, features)),
                 (seed for seed, _ in heads))  # fmt: skip
