"""Out-of-distribution gate: fitting, false refusals on held-out patients, detection rates."""

import logging
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from brainlib import evaluation, imaging, models, paths
from brainlib.data import phantom, splits
from brainlib.inference import gate
from brainlib.inference.gate.wrong_inputs import (
    REASONS,
    WrongInput,
    fitted_kinds,
    make_wrong_inputs,
    read_real_head,
    rows_by_reason,
)
from brainlib.notebook import runs
from scripts.release.files import FOLD, RELEASED, ReleaseError, file_hash
from scripts.release.scores import share

GATE_FILE = f"{RELEASED}.gate.npz"
METHOD = (
    "Plain rules for blank, tiny and long images; then Mahalanobis distance and reconstruction "
    "error on principal components of gradient histograms and grey statistics, the same for mirror "
    "images; then logistic regressions against wrong inputs. Limits are quantiles over held-out "
    "groups of the training side. Method and limits were chosen on training groups of fold 0. Test "
    "sides and the inputs tried were looked at three times: after the first two, CTs found in the "
    "collection were taken for wrong inputs, and drawn CTs of the head made more like real ones: "
    "the catches of CTs are somewhat too good."
)
PHANTOM_HEADS = 24
CT_REASON = REASONS["CT of the head, drawn"]
COLLECTION_CT = "CT of the head, in the collection"
_CT_NAMES = (
    "Te-me_0015", "Te-me_0032", "Te-me_0105", "Te-no_0011", "Te-no_0043", "Te-no_0055",
    "Te-no_0057", "Te-no_0086", "Te-no_0094", "Tr-no_0010", "Tr-no_0041", "Tr-no_0054",
    "Tr-no_0055", "Tr-no_0080", "Tr-no_0102", "Tr-no_0135", "Tr-no_0157", "Tr-no_0233",
    "Tr-no_0246", "Tr-no_0258", "Tr-no_0302", "Tr-no_0322", "Tr-no_0323", "Tr-no_0326",
    "Tr-no_0356", "Tr-no_0359",
)  # fmt: skip
"""Files of the Kaggle collection that are a CT, found by eye; so is all of their group."""

logger = logging.getLogger(__name__)


def measure_gate(run: runs.Run) -> dict[str, Any]:
    """Fit and write the released gate, and measure gates fitted the same way on every fold.

    Files of the collection that are a CT are no head MRI: they are fitted on as what to refuse, and
    counted, held out, as what is caught.

    The released gate is that of fold 0: fitted on all images of the patient folds but the test
    images of that fold, and on half of the wrong inputs. The other half, and the kinds of which
    none was fitted on, are what it is tried on.

    Parameters
    ----------
    run : runs.Run
        Its settings name `seed`, `resamples`, and `healthy_scan`, which may be empty.

    Returns
    -------
    dict
        `false_refusals` on held-out patients, also `by_class`, `by_source` and `by_reason`;
        `caught`, by kind of wrong input, with the share `left_out` that is caught where the kind
        was not fitted on; `accepted`, heads of other origin; `other_scanner`, where one is named;
        `method` in words; and the file's `sha256`.

    Raises
    ------
    ReleaseError
        Where no slice of the healthy scan can be read.
    """
    table = _patient_images(run)
    inputs = make_wrong_inputs(run.settings.seed)
    described = _describe_files(run, table)
    wrong = np.array([gate.describe(one.pixels) for one in inputs])
    rows = rows_by_reason(inputs)
    fitted = {fold: _fit_fold(fold, table, described, wrong, rows) for fold in range(splits.FOLDS)}
    released, path = fitted[FOLD], run.model / GATE_FILE
    gate.write_gate(released, path)
    table["reason"] = ""
    for fold, one in fitted.items():
        held_out = (table["judged_by"] == fold).to_numpy()
        table.loc[held_out, "reason"] = gate.refused_described(one, described[held_out])
    tested = table[~table["is_ct"]]
    caught = _measure_caught(run, inputs, wrong, released)
    for kind in fitted_kinds(inputs):
        logger.info("fitting without %s", kind)
        without = _fit_fold(FOLD, table, described, wrong, rows_by_reason(inputs, kind))
        tried = _measure_caught(run, inputs, wrong, without, kind)
        caught[kind]["left_out"] = tried[kind]["value"]
    digest = file_hash(path)
    if run.settings.healthy_scan:
        scans = _measure_healthy_scan(run, released)
    else:
        scans = _known_scanner(run, digest)
    return {
        **_false_refusals(run, tested),
        "caught": caught | _collection_ct(run, table),
        "accepted": _measure_heads(run, released),
        **scans,
        "method": METHOD,
        "sha256": digest,
    }


def _patient_images(run: runs.Run) -> pd.DataFrame:
    """Return the images of the patient folds, with `is_ct` and `judged_by`.

    `judged_by` is the fold that the image's group is tested in. Copies of a CT that the folds
    leave out are kept, with fold -1.
    """
    table = run.load_images(models.TRAINING_SIZES[RELEASED]).table.copy()
    table["fold"] = splits.assign_folds(table)
    table["is_ct"] = _is_ct(table)
    by_group = table[table["fold"] >= 0].groupby("group")["fold"].first()
    table["judged_by"] = table["group"].map(by_group).fillna(-1).astype(int)
    kept = (table["fold"] >= 0) | ((table["judged_by"] >= 0) & table["is_ct"])
    return table[kept].reset_index(drop=True)


def _is_ct(table: pd.DataFrame) -> pd.Series:
    named = table["path"].map(lambda path: PurePosixPath(path).stem).isin(_CT_NAMES)
    return named | (table["group"].isin(table["group"][named]) & (table["group"] != ""))


def _describe_files(run: runs.Run, table: pd.DataFrame) -> np.ndarray:
    progress = tqdm(table["path"], "describing", delay=2)
    images = (imaging.read_image(run.collection.root / path) for path in progress)
    return np.array([gate.describe(one) for one in images])


def _fit_fold(
    fold: int,
    table: pd.DataFrame,
    described: np.ndarray,
    wrong: np.ndarray,
    rows: dict[str, list[int]],
) -> gate.Gate:
    is_trained = (table["judged_by"] != fold).to_numpy()
    trained = is_trained & ~table["is_ct"].to_numpy()
    named = {reason: wrong[chosen] for reason, chosen in rows.items()}
    if CT_REASON in named:
        ct = described[is_trained & table["is_ct"].to_numpy()]
        named[CT_REASON] = np.concatenate([named[CT_REASON], ct])
    return gate.fit_gate_to(described[trained], table["group"][trained], named)


def _false_refusals(run: runs.Run, tested: pd.DataFrame) -> dict[str, Any]:
    parts = {
        f"by_{name}": {value: share(run, rows["reason"] != "", rows["group"])
                       for value, rows in tested.groupby(column)}
        for name, column in (("class", "label"), ("source", "source"))
    }  # fmt: skip
    refused = tested[tested["reason"] != ""]
    return {
        "false_refusals": share(run, tested["reason"] != "", tested["group"]),
        **parts,
        "by_reason": {str(key): int(n) for key, n in refused["reason"].value_counts().items()},
    }


def _collection_ct(run: runs.Run, table: pd.DataFrame) -> dict[str, Any]:
    found = table[table["is_ct"]]
    return {COLLECTION_CT: share(run, found["reason"] != "", found["group"])} if len(found) else {}


def _measure_caught(
    run: runs.Run, inputs: list[WrongInput], wrong: np.ndarray, one: gate.Gate, kind: str = ""
) -> dict[str, Any]:
    rows = [row for row, made in enumerate(inputs) if made.is_tried and kind in ("", made.kind)]
    reasons = gate.refused_described(one, wrong[rows])
    tried = pd.DataFrame({
        "kind": [inputs[row].kind for row in rows],
        "origin": [inputs[row].origin for row in rows],
        "reason": [gate.refuse_plainly(inputs[row].pixels) or reason
                   for row, reason in zip(rows, reasons, strict=True)],
    })  # fmt: skip
    return {name: share(run, found["reason"] != "", found["origin"])
            for name, found in tried.groupby("kind")}  # fmt: skip


def _measure_heads(run: runs.Run, one: gate.Gate) -> dict[str, Any]:
    """Return which share of heads from elsewhere is accepted."""
    heads = [
        (number, each.pixels)
        for number in range(PHANTOM_HEADS)
        for each in phantom.simulate_patient(
            ("glioma", "meningioma", "notumor", "pituitary")[number % 4], number, 3
        )
    ]
    accepted = [gate.refuse(one, pixels) == "" for _, pixels in heads]
    return {
        "phantom": share(run, accepted, [number for number, _ in heads]),
        "matplotlib's head MRI": share(run, [gate.refuse(one, read_real_head()) == ""], [0]),
    }


def _known_scanner(run: runs.Run, digest: str) -> dict[str, Any]:
    """Return what the very same gate made of another scanner before."""
    file = run.output / evaluation.METRICS_FILE
    before = evaluation.read_metrics(run.output).get("gate", {}) if file.is_file() else {}
    is_same = before.get("sha256") == digest and "other_scanner" in before
    return {"other_scanner": before["other_scanner"]} if is_same else {}


def _measure_healthy_scan(run: runs.Run, one: gate.Gate) -> dict[str, Any]:
    place = run.settings.healthy_scan
    read = [each for each in imaging.open_scans(place) if each.pixels is not None]
    if not read:
        raise ReleaseError(f"no slice of {place} can be read: name another with --healthy-scan")
    reasons = pd.Series([gate.refuse(one, each.pixels) for each in read])
    return {"other_scanner": {
        "accepted": round(float((reasons == "").mean()), 6),
        "slices": len(read),
        "scan": paths.resolve(place).name,
    }}  # fmt: skip
