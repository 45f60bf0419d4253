"""Scans from elsewhere, slice by slice: treated glioblastomas with masks, and healthy heads.

The scans are few, and treated tumours are outside the intended use: counts only indicate a
direction. `python -m scripts.external DIR` puts those of the released network into `metrics.json`.
It is never trained on these scans.
"""

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from brainlib import CLASS_NAMES, imaging, inference, paths
from brainlib.imaging import volumes
from brainlib.notebook import runs
from brainlib.paths import BrainlibError
from scripts import command

LEAST_PIXELS = 200
"""Mask pixels of a slice that counts as one with tumour; between 1 and these it counts nowhere."""

HEALTHY = {"7 T series": "t1_healthy_dicom", "7 T base of the skull": "external/healthy_base"}
HEAD_GREY, HEAD_SHARE = 25, 0.05
"""A slice has a head in it where this share of its pixels is brighter than this grey."""

STEP = 3
"""Of the template every third slice with a head is classified."""


def measure(classifier: inference.Classifier, scans: Path) -> dict[str, Any]:
    """Classify the scans and count.

    Parameters
    ----------
    classifier : Classifier
    scans : Path
        Folder with `external/glioblastoma`, `external/healthy_base` and `t1_healthy_dicom`.

    Returns
    -------
    dict
        `model_sha256`, `gate_sha256`, and the sections `glioblastoma` and `healthy`. Slices
        are counted without the gate; `accepted` is how many it accepts.

    Raises
    ------
    BrainlibError
        Where scans are absent, unreadable, or not on the grid of their masks.
    """
    gate = classifier.model.with_suffix(".gate.npz")
    return {
        "model_sha256": inference.model_sha256(classifier),
        "gate_sha256": paths.file_hash(gate) if gate.is_file() else "",
        "glioblastoma": measure_glioblastoma(classifier, scans / "external" / "glioblastoma"),
        "healthy": measure_healthy(classifier, scans),
    }


def measure_glioblastoma(classifier: inference.Classifier, folder: Path) -> dict[str, Any]:
    """Compare slices with and without mask pixels, and count the study answers.

    Returns
    -------
    dict
        `patients`, `volumes`; counts of the slices `with_tumor` and `without_tumor`
        (`called_tumor`: alone; `decided_tumor`: so called, and not undecided; `called_in_study`:
        with the evidence that a tumour study needs);
        `auroc` of P(tumour) = 1 - P(notumor) between the two; `study`, the number of volumes by
        answer.
    """
    scans = sorted(folder.rglob("*_Scan_T1.nii.gz"))
    if not scans:
        raise BrainlibError(f"{folder} holds no *_Scan_T1.nii.gz: name the folder above it")
    tables, studies = [], []
    for scan in scans:
        table, study = classify(classifier, imaging.open_scans(scan))
        rule = (classifier.rules or {}).get("study", inference.studies.UNFITTED)
        in_study = inference.studies.evidence_of(table) > rule["offset"]
        mask = count_mask_pixels(scan)[table["slice"] - 1]
        tables.append(table.assign(mask=mask, in_study=in_study))
        studies.append(study)
    slices = pd.concat(tables)
    ill, well = slices[slices["mask"] >= LEAST_PIXELS], slices[slices["mask"] == 0]
    compared = pd.concat([ill, well])
    area = roc_auc_score(compared["mask"] > 0, 1 - compared["notumor"])
    return {
        "patients": len({scan.parent for scan in scans}),
        "volumes": len(scans),
        "least_pixels": LEAST_PIXELS,
        "with_tumor": _count(ill, called_glioma=ill["class"] == "glioma",
                             called_in_study=ill["in_study"]),
        "without_tumor": _count(well, called_in_study=well["in_study"]),
        "auroc": round(float(area), 6),
        "study": {name: studies.count(name) for name in dict.fromkeys((*CLASS_NAMES, *studies))},
    }  # fmt: skip


def measure_healthy(classifier: inference.Classifier, scans: Path) -> dict[str, dict[str, Any]]:
    """Count the slices of healthy heads that are called a tumour, by head and plane."""
    heads = {name: imaging.open_scans(scans / place) for name, place in HEALTHY.items()}
    heads |= {f"MNI152 {plane}": template_slices(plane) for plane in imaging.PLANES}
    answers = {name: classify(classifier, slices) for name, slices in heads.items()}
    return {name: _count(table) | {"study": study} for name, (table, study) in answers.items()}


def classify(
    classifier: inference.Classifier, slices: Iterable[imaging.ScanSlice]
) -> tuple[pd.DataFrame, str]:
    """Classify the slices of one scan with and without the gate.

    Returns
    -------
    table : DataFrame
        As `inference.classify` gives it without the gate, with `accepted` by the gate, and
        `undecided`, whether a slice would be so if it were given alone.
    study : str
        The answer to the study: a class, `undecided`, `incomplete` or `refused`.
    """
    read = list(slices)
    gated_table = inference.classify(classifier, read)
    table = inference.classify(dataclasses.replace(classifier, gate=None), read)
    if table.empty or (table["class"] == "").any():
        raise BrainlibError("; ".join({*table["error"]} - {""}) or "there is nothing to classify")
    study = inference.summarise(classifier, gated_table).iloc[0]
    decision = study["decision"].partition(":")[0]
    is_undecided = decision == inference.classifier.UNDECIDED
    answer = decision if is_undecided else study["class"] or decision
    alone = table.assign(accepted=1).to_dict("records")
    undecided = [inference.rules.is_undecided(classifier.rules, one) for one in alone]
    return table.assign(accepted=gated_table["class"] != "", undecided=undecided), answer


def count_mask_pixels(scan: Path) -> np.ndarray:
    """Return the mask pixels of each slice, int array, in the order in which slices are read."""
    file = scan.with_name(scan.name.replace("_Scan_T1", "_Mask"))
    if not file.is_file():
        raise BrainlibError(f"there is no mask {file}: copy it beside its scan")
    image, mask = nibabel.load(scan), nibabel.load(file)
    if mask.shape != image.shape or not np.allclose(mask.affine, image.affine, atol=1e-3):
        raise BrainlibError(f"{file} is not on the grid of {scan.name}: resample it")
    # the reader itself refuses masks, as label maps
    volume = volumes.Volume(np.asarray(mask.dataobj) > 0, image.affine)
    turned, _ = volume.turned(volumes.acquired_plane(volume))
    return turned.sum(axis=(0, 1))


def template_slices(plane: str) -> Iterator[imaging.ScanSlice]:
    """Give every third slice with a head in it of nilearn's MNI152 template, cut in a plane."""
    from nilearn import datasets

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mni152.nii.gz"
        datasets.load_mni152_template(resolution=1).to_filename(file)
        slices = imaging.open_scans(file, plane)
        heads = (one for one in slices if (one.pixels > HEAD_GREY).mean() >= HEAD_SHARE)
        yield from islice(heads, 0, None, STEP)


def _count(slices: pd.DataFrame, **others: pd.Series) -> dict[str, int]:
    is_called = slices["class"] != "notumor"
    counted = {"called_tumor": is_called, "decided_tumor": is_called & ~slices["undecided"],
               "accepted": slices["accepted"]}  # fmt: skip
    counts = {name: int(is_so.sum()) for name, is_so in (counted | others).items()}
    return {"slices": len(slices), **counts}


def main(scans: Path, model: Path | None = None) -> None:
    """Classify the scans with a model, print the counts, and keep those of the released network."""
    classifier = inference.open_classifier(model)
    section = measure(classifier, paths.resolve(scans))
    print(pd.json_normalize(section, sep=": ").T.to_string(header=False))
    if classifier.model == paths.released_model():
        runs.Run("external", runs.Settings(), paths.project_root()).update_metrics(external=section)


if __name__ == "__main__":
    command.run(main)
