"""The audit: planted copies, leaks and shortcuts are found, and nothing else."""

import numpy as np
import pandas as pd
import pytest
import threadpoolctl
from PIL import Image
from scipy import ndimage

from brainlib import CLASS_NAMES, audit
from brainlib.audit import baselines, duplicates, features
from brainlib.data import datasets, splits
from brainlib.data.datasets import Collection
from brainlib.imaging import LoadedImages
from brainlib.paths import BrainlibError

SIDE = 64


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with threadpoolctl.threadpool_limits(1):  # threads that wait for each other slow small fits
        yield


def make_heads(count, seed=0, scale=1):
    """Make smooth, asymmetric, individual blobs inside an ellipse on black."""
    scale = np.broadcast_to(scale, count)[:, None, None]
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.normal(size=(count, SIDE, SIDE)), (0, 4, 4))
    texture = 120 + 60 * texture / texture.std(axis=(1, 2), keepdims=True)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    head = (y / 0.85) ** 2 + (x / 0.7) ** 2 < scale**2
    return np.clip(texture * head, 0, 255).astype(np.uint8)[..., None]


def make_table(count, **columns):
    """Make an image table with four classes in turn and a patient for each pair of images."""
    rows = np.arange(count)
    table = pd.DataFrame({"path": [f"Training/{row}.jpg" for row in rows], "split": "Training"})
    table["label"] = np.array(CLASS_NAMES)[rows % 4]
    table["patient"] = [f"p{row // 8 * 4 + row % 4}" for row in rows]
    return datasets.complete_table(table.assign(**columns))


@pytest.fixture(scope="module")
def planted():
    """Twelve heads, then: a copy, a mirror image, a noisy one, a brighter mirror image, a blank."""
    heads = make_heads(12)
    noise = np.random.default_rng(1).normal(0, 3, heads[2].shape)
    noisy = np.clip(heads[2] + noise, 0, 255).astype(np.uint8)
    brighter = (heads[3][:, ::-1] * 0.7 + 40).astype(np.uint8)
    blank = np.full_like(heads[0], 7)
    pixels = np.stack([*heads, heads[0], heads[1][:, ::-1], noisy, brighter, blank, blank])
    return make_table(18, patient="", label="glioma"), pixels


def test_planted_copies_are_found_and_nothing_else(planted, monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", 5)
    pairs = audit.find_duplicates(*planted)
    assert pairs[["first", "second"]].to_numpy().tolist() == [[0, 12], [1, 13], [2, 14], [3, 15]]
    assert pairs["mirrored"].tolist() == [False, True, False, True]
    assert pairs["identical"].tolist() == [True, False, False, False]
    empty = audit.find_duplicates(make_table(3), make_heads(3))
    assert empty.empty and empty.dtypes.equals(pairs.dtypes)
    group = audit.group_from_audit(planted[0].set_axis(np.arange(100, 118)), planted[1])
    assert group.nunique() == 14 and group[100] == group[112] != group[101]


def test_the_control_compares_other_patients_only(planted):
    table, pixels = (part[:16] for part in planted)

    def control(patients):
        return duplicates.negative_control(table.assign(patient=patients), pixels)

    numbers = control([*"abcdefghijkl", *"abcd"])
    assert numbers["control_pairs"] == 16 * 15 // 2 - 4
    assert numbers["control_false_pairs"] == 0 and numbers["control_highest_correlation"] < 0.994
    assert control([*"abcdefghijkl", *"zbcd"])["control_false_pairs"] == 1
    assert control("") == {}


def test_the_report_counts_conflicts_and_ties_by_kind(planted):
    table, pixels = planted[0].copy(), planted[1]
    table["split"] = ["Training"] * 6 + ["Testing"] * 12
    table.loc[[4, 6, 7], "patient"] = ["x", "x", "y"]
    table.loc[8, "group"] = table.loc[5, "group"]
    table.loc[13, ["label", "mislabelled"]] = ["pituitary", True]
    report = audit.audit_collection(table, pixels)
    (conflict,) = report.conflicts[["first_path", "second_label"]].to_numpy().tolist()
    assert conflict == ["Training/1.jpg", "pituitary"]
    counts = {"test_images": 12, "test_twin": 4, "test_patient_known": 2, "test_patient": 1,
              "test_group": 1, "test_free": 6, "pairs": 4, "identical_pairs": 1,
              "pairs_with_two_labels": 1, "mislabelled_files_found": 1}  # fmt: skip
    assert counts.items() <= report.numbers.items()
    twins = audit.twins_across_splits(table, report.pairs, count=3)
    assert twins[["train", "test"]].to_numpy().tolist() == [[0, 12], [2, 14], [1, 13]]
    assert "test_twin" not in audit.audit_collection(table.assign(split=""), pixels).numbers


def test_false_alarms_are_counted_by_kind(monkeypatch):
    table = make_table(8, mirrored=[0, 1, 0, 0, 0, 0, 0, 0], source_image=[*"aabbcdef"])
    table["patient"] = ["p", "p", "q", "q", "q", "r", "", ""]
    table["group"] = ["p", "p", "q", "q", "q", "r", "w", "w"]
    pairs = pd.DataFrame({"first": [0, 3, 4, 6, 5], "second": [1, 4, 5, 7, 6],
                          "mirrored": [True] + [False] * 4, "identical": False})  # fmt: skip
    monkeypatch.setattr("brainlib.audit.duplicates.find_duplicates", lambda *_: pairs)
    numbers = audit.audit_collection(table, make_heads(8)).numbers
    expected = {"known_pairs": 2, "found_pairs": 1, "recall": 0.5, "different_patients": 1,
                "same_group_other_file": 1, "unexplained": 1}  # fmt: skip
    assert expected.items() <= numbers.items()


def test_heads_cropped_again_are_found_across_folds():
    """Six heads with a wide border, the first four again, smaller and moved, and a blank."""
    heads = make_heads(6, seed=3)
    pixels = np.zeros((11, 2 * SIDE, 2 * SIDE, 1), np.uint8)
    pixels[:6, 32:96, 32:96] = heads
    for row in range(4):
        small = Image.fromarray(heads[row, ..., 0]).resize((48, 48), Image.Resampling.BICUBIC)
        pixels[6 + row, 5:53, 60:108, 0] = np.asarray(small)
    table = make_table(11, patient=["", "", "a", "", "", "", "", "", "b", "c", ""])
    assert audit.find_duplicates(table, pixels, duplicates.LOOK_ALIKE_THRESHOLD).empty
    folds = np.array([0, 1, 0, 0, 0, 0, 1, 1, 1, 2, 0])
    pairs, numbers = audit.look_alikes_across_folds(table, pixels, folds)
    # 1 and 7 are in one fold, both patients of 2 and 8 are known
    ends = {frozenset(row) for row in pairs[["first", "second"]].to_numpy()}
    assert ends == {frozenset(f"Training/{row}.jpg" for row in pair) for pair in ((0, 6), (3, 9))}
    assert (numbers["look_alike_pairs"], numbers["look_alike_images"]) == (2, 4)
    assert numbers["look_alike_control"] > 0.97  # 2 and 8, which are one head
    pairs, numbers = audit.look_alikes_across_folds(table, pixels, np.where(folds == 2, -1, 0))
    assert list(pairs.columns) == ["first", "second", "correlation"] and pairs.empty


@pytest.fixture(scope="module")
def shortcuts(tmp_path_factory):
    """Save four classes that differ in brightness, head size, border, file size and mirroring."""
    root, rows = tmp_path_factory.mktemp("shortcuts"), np.arange(160)
    code = rows % 4
    heads = make_heads(160, seed=3, scale=np.array([0.7, 0.8, 0.9, 1.0])[code])
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = np.sin(np.stack([y, x, (y + x) / 1.4, (y - x) / 1.4])[code] / 2)[..., None]
    pixels = heads * np.array([0.5, 0.65, 1.0, 0.8])[code, None, None, None] + 20 * (waves + 1)
    frame = np.random.default_rng(0).integers(0, 4, pixels.shape) + 6 * code[:, None, None, None]
    pixels = np.maximum(np.clip(pixels, 0, 255), frame).astype(np.uint8)
    table = make_table(160, mirrored=code == 0, source=np.where(code == 2, "other", "hospital"))
    (root / "Training").mkdir()
    for path, image, number in zip(table["path"], pixels, code, strict=True):
        Image.fromarray(image[..., 0]).resize((80 + number, 64)).save(root / path)
    return Collection("made", "", root, table, "images.csv"), LoadedImages(pixels, table, {})


def test_every_baseline_learns_and_writes_probabilities_once(shortcuts, tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "FOLDS", 2)
    accuracies = audit.write_predictions(*shortcuts, tmp_path)
    assert accuracies.index.tolist() == list(audit.BASELINES)
    easy = {"nearest_neighbor": 0.5, "mirror_flag": 0.4}
    for name, accuracy in accuracies["patient"].items():
        assert accuracy > easy.get(name, 0.9), name
    stored = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    table = pd.read_csv(tmp_path / "hog_svm_patient.test.csv")
    assert sorted(table["path"]) == sorted(shortcuts[0].table["path"])
    np.testing.assert_allclose(table[list(CLASS_NAMES)].sum(axis=1), 1, atol=1e-5)
    (tmp_path / "border_pixels_patient.test.csv").unlink()
    (tmp_path / "hog_svm_patient.test.csv").write_text("path,label\na,glioma\n", encoding="utf-8")
    others = [file for file in tmp_path.iterdir() if not file.name.startswith(("border", "hog"))]
    before = [file.stat().st_mtime_ns for file in others]
    audit.write_predictions(*shortcuts, tmp_path)
    assert before == [file.stat().st_mtime_ns for file in others]  # these are reused
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == stored
    for name in [*audit.BASELINES][1:]:
        monkeypatch.delitem(audit.BASELINES, name)
    collection, loaded = shortcuts
    table = loaded.table.assign(split=np.where(np.arange(160) < 96, "Training", "Testing"))
    loaded = LoadedImages(loaded.pixels, table, {})
    accuracies = audit.write_predictions(collection, loaded, tmp_path / "published")
    assert accuracies.columns.tolist() == ["patient", "official"]
    assert len(pd.read_csv(tmp_path / "published/nearest_neighbor_official.test.csv")) == 64


def test_a_class_missing_in_training_gets_probability_zero(shortcuts):
    _, loaded = shortcuts
    rows = np.arange(160)
    split = splits.Split("patient", 0, rows[(rows < 96) & (rows % 4 != 1)], rows[:0], rows[96:])
    for name in ("nearest_neighbor", "intensity_statistics", "hog_svm"):
        baseline = audit.BASELINES[name]
        values = baseline.features(loaded.table, loaded.pixels, None)
        predicted = baselines._predict(baseline, loaded.table, values, [split], 0)
        assert (predicted["meningioma"] == 0).all()
        np.testing.assert_allclose(predicted[list(CLASS_NAMES)].sum(axis=1), 1)
    relabelled = loaded.table.copy()  # the labels of the test rows are never used
    relabelled.loc[rows[96:], ["label", "group"]] = ["glioma", ""]
    again = baselines._predict(baseline, relabelled, values, [split], 0)
    np.testing.assert_array_equal(again[list(CLASS_NAMES)], predicted[list(CLASS_NAMES)])
    with pytest.raises(BrainlibError, match="only one group"):
        baselines.tuned_svm(values, loaded.table["label"], loaded.table["label"].to_numpy(), 0)


def test_the_mask_hides_the_inside_of_the_head():
    heads = make_heads(6, seed=5)
    other = heads.copy()
    other[:, 24:40, 24:40] = 255 - other[:, 24:40, 24:40]
    masked = features.mask_heads(heads, SIDE)
    head = masked[..., 0] == 255
    assert head.mean() == pytest.approx(np.pi / 4 * 0.85 * 0.7, rel=0.15)
    assert masked[~head].mean() < 5 and head[:, 16:-16, 20:-20].mean() > 0.98
    assert (features.mask_heads(other, SIDE) != masked).mean() < 0.02
    assert not features.head_mask(np.zeros((50, 50))).any()


def test_the_source_predicts_the_tumour(shortcuts):
    _, loaded = shortcuts
    scores = audit.predict_sources(loaded.table, loaded.pixels)
    assert scores["tumour_accuracy_by_source"] == 1 and scores["source_accuracy"] > 0.9
    assert scores["largest_answer"] == 0.75 and scores["images"] == 160
    assert len(audit.describe(scores)) == 5
    assert audit.predict_sources(loaded.table.assign(source="one"), loaded.pixels) == {}
