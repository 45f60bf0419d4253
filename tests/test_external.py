"""Scans from elsewhere: slices meet their masks, counts, what is kept of an earlier measurement."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from brainlib import imaging, inference, paths
from brainlib.inference import classifier
from brainlib.models import engines
from scripts import external, release

BRIGHT = slice(8, 23)  # 15 by 15 pixels: 225


@pytest.fixture
def network():
    """Call a slice a glioma where much of it is bright; nothing is trained."""

    def predict(images):
        is_bright = (images > 230).mean(axis=(1, 2, 3)) > 0.05
        answers = np.where(is_bright[:, None], [0.9, 0.0, 0.1, 0.0], [0.1, 0.0, 0.9, 0.0])
        return {"probabilities": answers, "features": is_bright}

    engine = engines.Engine(predict, ("probabilities", "features"))
    return inference.Classifier(engine, Path("net.onnx"), "onnx")


@pytest.fixture
def scans(tmp_path):
    """Write a head of ten slices, numbered from above, with a tumour in three, and two healthy."""
    rng = np.random.default_rng(0)
    head = rng.normal(100, 10, (48, 48, 10))
    mask = np.zeros(head.shape)
    mask[BRIGHT, BRIGHT, 1:3] = 1
    mask[BRIGHT, 8, 3] = 1  # too few pixels to count as a tumour
    folder = tmp_path / "external" / "glioblastoma" / "01"
    save(folder / "Pre_Scan_T1.nii.gz", head + 200 * mask)
    save(folder / "Pre_Mask.nii.gz", mask)
    for place in external.HEALTHY.values():
        save(tmp_path / place / "head.nii", head)
    return tmp_path


def save(file, values, spacing=5):
    """Write a volume whose first slice is the uppermost."""
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(values.astype(np.float32), np.diag([-1, 1, -spacing, 1])).to_filename(file)


def test_slices_are_compared_with_their_own_masks(network, scans):
    found = external.measure_glioblastoma(network, scans / "external" / "glioblastoma")
    counts = {"slices": 2, "called_tumor": 2, "accepted": 2, "called_glioma": 2,
              "called_in_study": 2}  # fmt: skip
    assert found["with_tumor"] == counts
    assert found["without_tumor"] == {
        "slices": 7, "called_tumor": 0, "accepted": 7, "called_in_study": 0,
    }  # fmt: skip
    assert (found["patients"], found["volumes"], found["auroc"]) == (1, 1, 1.0)
    assert found["study"] == {"glioma": 1, "meningioma": 0, "notumor": 0, "pituitary": 0}
    # mask pixels are those of the file, in the order of the reader
    scan = next(scans.rglob("*_Scan_T1.nii.gz"))
    pixels = external.count_mask_pixels(scan)
    assert pixels.tolist() == [0, 0, 0, 0, 0, 0, 15, 225, 225, 0]
    brightness = [one.pixels.mean() for one in imaging.open_scans(scan)]
    assert set(np.argsort(brightness)[-2:]) == {7, 8}


def test_what_the_gate_refuses_is_counted_and_missing_in_the_study(network, scans, monkeypatch):
    monkeypatch.setattr(classifier.gate, "refuse_plainly", lambda pixels: "")
    monkeypatch.setattr(classifier.gate, "refuse", lambda gate, features: [
        "too bright" if is_bright else "" for is_bright in features])  # fmt: skip
    gated = replace(network, gate=object())
    found = external.measure_glioblastoma(gated, scans / "external" / "glioblastoma")
    assert found["with_tumor"]["called_tumor"] == 2 and found["with_tumor"]["accepted"] == 0
    assert found["study"]["incomplete"] == 1


def test_healthy_heads_have_a_count_and_an_answer_each(network, scans, monkeypatch):
    found = list(external.template_slices("coronal"))  # every third slice with a head in it
    assert np.unique(np.diff([one.number for one in found])).tolist() == [external.STEP]
    assert min((one.pixels > external.HEAD_GREY).mean() for one in found) >= external.HEAD_SHARE
    assert {one.plane for one in found} == {"coronal"} and len(found) > 40
    healthy = scans / external.HEALTHY["7 T series"]
    monkeypatch.setattr(external, "template_slices", lambda plane: imaging.open_scans(healthy))
    found = external.measure(network, scans)["healthy"]
    assert len(found) == 5
    for head in found.values():
        assert (head["slices"], head["called_tumor"], head["study"]) == (10, 0, "notumor")


@pytest.mark.parametrize("wrong", ["no mask", "other grid", "no scan"])
def test_scans_that_do_not_fit_together_are_refused(network, scans, wrong):
    mask = next(scans.rglob("*_Mask.nii.gz"))
    if wrong == "other grid":
        save(mask, np.zeros((48, 48, 10)), spacing=4)
    else:
        mask.unlink()
    if wrong == "no scan":
        next(scans.rglob("*_Scan_T1.nii.gz")).unlink()
    with pytest.raises(paths.BrainlibError):
        external.measure_glioblastoma(network, scans / "external")


@pytest.mark.parametrize(("model", "gate"), [("same", "same"), ("other", "same"), ("same", "")])
def test_a_release_drops_what_other_files_answered(tmp_path, model, gate):
    file = release.files.list_files(tmp_path)["onnx"]
    file.write_bytes(b"network")
    model = paths.file_hash(file) if model == "same" else model
    document = {
        "gate": {"sha256": "same"},
        "external": {"model_sha256": model, "gate_sha256": gate},
    }
    is_kept = (model, gate) == (paths.file_hash(file), "same")
    assert release.is_measured_with(document, tmp_path) == is_kept
