"""Scripts: ablation, scans from elsewhere, a training repeated from its record."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import nibabel
import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES, imaging, inference, paths
from brainlib.data import datasets, phantom
from brainlib.inference import classifier
from brainlib.models import engines
from brainlib.notebook import pipeline
from brainlib.paths import BrainlibError
from brainlib.training import Examples
from scripts import ablation, external, release, repeat

CLASSES = list(CLASS_NAMES)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Write a small phantom."""
    return phantom.write_phantom(tmp_path_factory.mktemp("data") / "p", patients=40, slices=1)


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_each_variant_is_trained_with_one_part_changed(name, monkeypatch, tmp_path):
    monkeypatch.setitem(ablation.MODELS, ablation.RELEASED, lambda parts: parts)
    monkeypatch.setattr(ablation, "fit", fit := Mock())
    train = Examples(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4), outlined=np.ones(4, bool))
    recipe = ablation.RECIPES[ablation.RELEASED]
    ablation.train_variant(ablation.VARIANTS[name], recipe, train, tmp_path)
    parts, seen, _, schedule, _ = fit.call_args.args
    assert seen.outlined.any() == (name != "no_outlines")
    assert parts.pretrained == (schedule.frozen_blocks > 0) == (name != "no_pretraining")
    assert parts.find_head == fit.call_args.kwargs["finds_head"] == (name != "no_head")


def test_several_views_are_the_image_and_its_mirror_image(root, small_network):
    table = datasets.open_folder(root).table.assign(twin_in_training="").iloc[::4]
    scored = ablation.score(ablation.WHOLE, small_network, table, root)
    views = scored[scored["variant"] == ablation.SEVERAL_VIEWS].reset_index(drop=True)
    assert len(views) == len(table) == len(scored) / 2
    mirrored = [imaging.read_image(root / path)[:, ::-1] for path in table.path]
    plain = inference.predict_table(small_network, table, root, 0)[CLASSES].to_numpy()
    both = (plain + inference.predict_images(small_network, mirrored)) / 2
    expected = ablation.recalibrate(views.assign(**dict(zip(CLASSES, both.T, strict=True))))
    np.testing.assert_allclose(views[CLASSES], expected[CLASSES], atol=1e-3)
    drawn = scored["dice"].notna()
    assert drawn.any() and not drawn[scored["label"] == "notumor"].any()


def finished_runs(gained=0, seeds=3, groups=40):
    """Two variants, the second right for some more images of every group."""
    rows = []
    for name, seed in ((n, s) for n in (ablation.WHOLE, "no_head") for s in range(seeds)):
        easy = np.random.default_rng(0).integers(4, 9, groups)
        right = np.arange(20) < (easy + gained * (name == "no_head"))[:, None]
        answer = np.where(right.ravel(), 0.9, 0.0)
        rows.append(pd.DataFrame({
            "group": np.repeat([f"{group:02}" for group in range(groups)], 20), "label": "glioma",
            "glioma": answer, "meningioma": 0.9 - answer, "notumor": 0.05, "pituitary": 0.05,
            "source": "figshare", "dice": np.nan, "variant": name, "seed": seed,
        }))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_metrics_are_means_over_seeds_with_their_range():
    runs = finished_runs(gained=1)
    is_last = (runs["variant"] == "no_head") & (runs["seed"] == 2)
    runs.loc[is_last, ["glioma", "meningioma"]] = [0.9, 0.0]
    variants = ablation.summarise(runs)["variants"]
    whole, changed = (variants[name]["accuracy"] for name in (ablation.WHOLE, "no_head"))
    assert whole["low"] == whole["high"] == pytest.approx(whole["value"])
    assert changed["low"] == pytest.approx(whole["value"] + 0.05) and changed["high"] == 1
    assert changed["value"] == pytest.approx((2 * changed["low"] + 1) / 3)
    assert "dice" not in variants["no_head"]


def test_finished_runs_are_reused_those_of_another_recipe_are_not(root, monkeypatch, tmp_path):
    made = []

    def score(name, *others):
        made.append(name)
        table = finished_runs(seeds=1).drop(columns="seed")
        whole = table[table["variant"] == ablation.WHOLE]
        variants = [name, ablation.SEVERAL_VIEWS] if name == ablation.WHOLE else [name]
        return pd.concat([whole.assign(variant=variant) for variant in variants])

    monkeypatch.setattr(ablation, "train_variant", lambda *others: None)
    monkeypatch.setattr(ablation, "score", score)
    study = partial(ablation.study, str(root), str(tmp_path), images=20)
    first = study(seeds=1)
    assert made == list(ablation.VARIANTS)
    assert study(seeds=1) == first and len(made) == 4
    assert study(seeds=2) and len(made) == 8
    assert study(seeds=1, epochs=3) and len(made) == 12


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
    counts = {"slices": 2, "called_tumor": 2, "decided_tumor": 2, "accepted": 2,
              "called_glioma": 2, "called_in_study": 2}  # fmt: skip
    assert found["with_tumor"] == counts
    counts = {"slices": 7, "called_tumor": 0, "decided_tumor": 0, "accepted": 7,
              "called_in_study": 0}  # fmt: skip
    assert found["without_tumor"] == counts
    assert (found["patients"], found["volumes"], found["auroc"]) == (1, 1, 1.0)
    assert found["study"] == {"glioma": 1, "meningioma": 0, "notumor": 0, "pituitary": 0}
    # with a threshold of 1 each conformal set has all classes
    conformal = {"thresholds": dict.fromkeys(CLASS_NAMES, 1.0)}
    unsure = replace(network, rules={"conformal": conformal, "study": inference.studies.UNFITTED})
    found = external.measure_glioblastoma(unsure, scans / "external")["with_tumor"]
    assert (found["called_tumor"], found["decided_tumor"]) == (2, 0)
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
    measured = {"model_sha256": model, "gate_sha256": gate}
    document = {"gate": {"sha256": "same"}, "external": measured}
    is_kept = (model, gate) == (paths.file_hash(file), "same")
    assert release.is_measured_with(document, tmp_path) == is_kept


THREADS = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Train the small network on a small phantom, on one thread."""
    folder = tmp_path_factory.mktemp("repeated")
    source = phantom.write_phantom(folder / "p", patients=24, slices=2, size=64)
    step = pipeline.Step("02_train", {"model": "seed_cnn", "epochs": 2})
    with pytest.MonkeyPatch.context() as patch:
        for name in THREADS:
            patch.setenv(name, "1")
        pipeline.run([step], str(source), str(folder / "first"), 0)
    return folder / "first" / "model" / "seed_cnn_patient0.run.json"


@pytest.mark.parametrize(("threads", "apart"), [(None, 0.0), (2, 0.02)])
def test_a_repeated_run_gives_the_same_predictions(record, threads, apart, tmp_path, monkeypatch):
    for name in ("KERAS_BACKEND", *THREADS):  # set by `repeat`, and taken back afterwards
        monkeypatch.setenv(name, os.environ.get(name, ""))
    found = repeat.repeat(record, str(tmp_path), threads)
    assert found["largest"] <= apart and found["same_class"] == 1 and found["images"] > 0
    assert not any(line.startswith(("keras", "tensorflow")) for line in found["differing"])


def test_other_files_and_other_notebooks_are_refused(record, tmp_path):
    recorded, file = json.loads(record.read_text(encoding="utf-8")), tmp_path / "x.run.json"
    for changed, said in (
        ({"source": {**recorded["source"], "file_hash": "0" * 64}}, "other files"),
        ({"notebook": "03_evaluate"}, "give that of a training"),
    ):
        file.write_text(json.dumps(recorded | changed), encoding="utf-8")
        with pytest.raises(BrainlibError, match=said):
            repeat.repeat(file, str(tmp_path / "out"))
