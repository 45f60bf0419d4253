"""Promises of brainlib.audit, on small pictures with planted copies, leaks and shortcuts."""

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
import threadpoolctl
from PIL import Image

from brainlib import CLASS_NAMES, audit

SIDE = 64


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Keep threads that wait for each other on a busy machine from slowing down small fits."""
    with threadpoolctl.threadpool_limits(1):
        yield


def make_heads(count, seed=0, scale=1):
    """Smooth, asymmetric, individually different blobs inside an ellipse on black."""
    scale = np.broadcast_to(scale, count)[:, None, None]
    rng = np.random.default_rng(seed)
    texture = scipy.ndimage.gaussian_filter(rng.normal(size=(count, SIDE, SIDE)), (0, 4, 4))
    texture = 120 + 60 * texture / texture.std(axis=(1, 2), keepdims=True)
    down, right = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    head = (down / 0.85) ** 2 + (right / 0.7) ** 2 < scale**2
    return np.clip(texture * head, 0, 255).astype(np.uint8)[..., None]


def make_table(count, groups=None, labels=None):
    """Image table with four classes in turn and a patient for each pair of pictures."""
    rows = np.arange(count)
    group = [f"p{row // 8 * 4 + row % 4}" for row in rows] if groups is None else list(groups)
    return pd.DataFrame(
        {
            "path": [f"Training/{row}.jpg" for row in rows],
            "label": [CLASS_NAMES[row % 4] for row in rows] if labels is None else list(labels),
            "split": "Training",
            "source": "made",
            "patient": group,
            "group": group,
        }
    )


@pytest.fixture(scope="module")
def planted():
    """Twelve heads, then: a copy, a mirror image, a noisy one, a brighter mirror image, a blank."""
    heads = make_heads(12)
    noise = np.random.default_rng(1).normal(0, 3, heads[2].shape)
    noisy = np.clip(heads[2] + noise, 0, 255).astype(np.uint8)
    brighter = (heads[3][:, ::-1] * 0.7 + 40).astype(np.uint8)
    blank = np.full_like(heads[0], 7)
    pixels = np.stack([*heads, heads[0], heads[1][:, ::-1], noisy, brighter, blank, blank])
    return make_table(len(pixels), groups=[f"p{row}" for row in range(len(pixels))]), pixels


def test_every_planted_copy_is_found_and_nothing_else(planted):
    pairs = audit.find_duplicates(*planted)
    assert list(zip(pairs["first"], pairs["second"], strict=True)) == [
        (0, 12),
        (1, 13),
        (2, 14),
        (3, 15),
    ]
    assert pairs["mirrored"].tolist() == [False, True, False, True]
    assert pairs["identical"].tolist() == [True, False, False, False]
    assert pairs["correlation"].between(0.994, 1).all()


def test_correlation_is_that_of_the_thumbnails_in_the_better_orientation(planted):
    table, pixels = planted
    pairs = audit.find_duplicates(table, pixels, threshold=0.2)
    plain = audit.thumbnails(pixels)
    flipped = audit.thumbnails(pixels[:, :, ::-1])
    expected = np.maximum(plain @ plain.T, plain @ flipped.T)
    got = expected[pairs["first"], pairs["second"]]
    np.testing.assert_allclose(pairs["correlation"], got, atol=1e-5)
    assert len(pairs) == (np.triu(expected, 1) >= 0.2).sum()


def test_pairs_do_not_depend_on_the_size_of_a_block(planted, monkeypatch):
    whole = audit.find_duplicates(*planted, threshold=0.3)
    monkeypatch.setattr("brainlib.audit.duplicates.BLOCK", 5)
    parts = audit.find_duplicates(*planted, threshold=0.3)
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-5)


def test_thumbnails_ignore_brightness_and_a_blank_picture_is_zero(planted):
    small = audit.thumbnails(planted[1])
    assert small.dtype == np.float32
    assert small.shape == (18, 32 * 32)
    np.testing.assert_allclose(np.linalg.norm(small[:16], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(small[:16].mean(axis=1), 0, atol=1e-6)
    assert not small[16:].any()


def test_no_pair_gives_an_empty_table_of_the_same_columns():
    pairs = audit.find_duplicates(make_table(3), make_heads(3))
    assert pairs.empty
    assert audit.duplicate_groups(3, pairs).tolist() == [0, 1, 2]
    assert audit.find_duplicates(make_table(0), make_heads(1)[:0]).columns.equals(pairs.columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": np.zeros((18, 8, 8, 1))}, "uint8"),
        ({"pixels": np.zeros((3, 8, 8, 1), np.uint8)}, "18 rows"),
        ({"threshold": 0}, "threshold"),
        ({"size": 31}, "even"),
        ({"threshold": 0.01, "most_pairs": 10}, "raise the threshold"),
    ],
)
def test_what_cannot_be_compared_is_refused(planted, change, message):
    arguments = {"table": planted[0], "pixels": planted[1], **change}
    with pytest.raises(audit.AuditError, match=message):
        audit.find_duplicates(**arguments)


def test_groups_join_copies_of_copies():
    pairs = pd.DataFrame({"first": [0, 2], "second": [2, 4]})
    assert audit.duplicate_groups(5, pairs).tolist() == [0, 1, 0, 2, 0]
    with pytest.raises(audit.AuditError, match="row 4"):
        audit.duplicate_groups(4, pairs)


def test_a_table_without_patients_gets_groups_from_its_pixels(planted):
    table, pixels = planted
    group = audit.group_from_audit(table.set_axis(np.arange(100, 118)), pixels)
    assert group.index[0] == 100
    assert group.str.match(r"audit_\d+$").all()
    assert [group[100], group[101], group[102]] == [group[112], group[113], group[114]]
    assert group.nunique() == 14


def test_negative_control_compares_other_patients_only(planted):
    table, pixels = planted
    table = table[:16].assign(patient=[*"abcdefghijkl", *"abcd"])
    control = audit.negative_control(table, pixels[:16])
    assert control.pairs == 16 * 15 // 2 - 4
    assert control.nearest["other_patient"].max() < 0.994
    assert (control.nearest["same_patient"][:4] >= 0.994).all()
    assert (control.nearest["same_patient"][4:12] == -1).all()
    assert control.highest[0] == control.nearest["other_patient"].max()
    assert control.false_pairs(control.threshold(1e-6)) == 0
    assert control.false_pairs(control.threshold(3 / control.pairs)) <= 3
    with pytest.raises(audit.AuditError, match="two known patients"):
        audit.negative_control(table.assign(patient=""), pixels[:16])


def test_one_picture_under_two_labels_is_reported(planted):
    table, pixels = planted
    table = table.assign(label="glioma")
    table.loc[13, "label"] = "pituitary"
    conflicts = audit.conflicting_labels(table, audit.find_duplicates(table, pixels))
    assert conflicts["first_path"].tolist() == ["Training/1.jpg"]
    assert conflicts["second_label"].tolist() == ["pituitary"]
    groups = audit.conflicting_groups(table.assign(group=[*"abcdefghijkl", *"abcdef"]))
    assert groups.loc["b"].to_dict() == {"glioma": 1, "pituitary": 1}
    assert len(groups) == 1


def test_ties_between_test_and_training_are_counted_by_kind(planted):
    table, pixels = planted
    table = table.assign(label="glioma", patient="", group=[f"g{row}" for row in range(18)])
    table["split"] = ["Training"] * 6 + ["Testing"] * 12
    table.loc[[4, 6, 7], "patient"] = ["x", "x", "y"]
    table.loc[8, "group"] = "g5"
    ties = audit.split_ties(table, audit.find_duplicates(table, pixels))
    expected = {"test": 12, "twin": 4, "patient_known": 2, "patient": 1, "group": 1, "free": 6}
    assert ties.loc["all"].to_dict() == expected
    assert ties.loc["glioma"].to_dict() == expected
    assert audit.groups_across_splits(table).to_dict("index") == {
        "g5": {"Testing": 1, "Training": 1}
    }
    with pytest.raises(audit.AuditError, match="none in Testing"):
        audit.split_ties(table.assign(split="Training"), audit.find_duplicates(table, pixels))


@pytest.fixture
def cropped_anew():
    """Six heads on a wide border, then the first four again, smaller and moved; a blank at last."""
    heads = make_heads(6, seed=3)
    wide = np.zeros((11, 2 * SIDE, 2 * SIDE, 1), np.uint8)
    wide[:6, 32:96, 32:96] = heads
    for row in range(4):
        small = Image.fromarray(heads[row, ..., 0]).resize((48, 48), Image.Resampling.BICUBIC)
        wide[6 + row, 5:53, 60:108, 0] = np.asarray(small)
    table = make_table(len(wide), groups=[f"g{row}" for row in range(len(wide))])
    table["patient"] = ["", "", "a", "", "", "", "", "", "b", "c", ""]
    return table, wide


def test_heads_cropped_anew_are_found_across_folds(cropped_anew):
    table, pixels = cropped_anew
    assert audit.find_duplicates(table, pixels, audit.LOOK_ALIKE_THRESHOLD).empty
    folds = np.array([0, 1, 0, 0, 0, 0, 1, 1, 1, 2, 0])
    pairs, numbers = audit.look_alikes_across_folds(table, pixels, folds)
    # 1 and 7 are in one fold, both patients of 2 and 8 are known
    assert {frozenset(ends) for ends in zip(pairs["first"], pairs["second"], strict=True)} == {
        frozenset({"Training/0.jpg", "Training/6.jpg"}),
        frozenset({"Training/3.jpg", "Training/9.jpg"}),
    }
    assert (numbers["look_alike_pairs"], numbers["look_alike_pictures"]) == (2, 4)
    assert numbers["look_alike_control"] > 0.97  # 2 and 8, which are one head


def test_rows_without_a_fold_are_not_asked(cropped_anew):
    table, pixels = cropped_anew
    folds = np.array([-1, 1, 0, 0, 0, 0, 1, 1, 1, -1, 0])
    pairs, numbers = audit.look_alikes_across_folds(table, pixels, folds)
    assert list(pairs.columns) == ["first", "second", "correlation"] and pairs.empty
    assert numbers["look_alike_pictures"] == 0


def test_score_counts_false_alarms_by_kind():
    table = make_table(8).assign(mirrored=[0, 1, 0, 0, 0, 0, 0, 0])
    table["source_image"] = [*"aa", *"bbcdef"]
    table["patient"] = ["p", "p", "q", "q", "q", "r", "", ""]
    table["group"] = ["p", "p", "q", "q", "q", "r", "w", "w"]
    pairs = pd.DataFrame(
        {"first": [0, 3, 4, 6, 5], "second": [1, 4, 5, 7, 6], "mirrored": [True] + [False] * 4}
    )
    assert audit.score_against_provenance(table, pairs) == {
        "known_pairs": 2,
        "found_pairs": 1,
        "recall": 0.5,
        "mirrored_right": 1.0,
        "same_patient_other_slice": 1,
        "different_patients": 1,
        "same_group_other_file": 1,
        "unexplained": 1,
    }


@pytest.fixture(scope="module")
def shortcut_collection():
    """Four classes that differ in brightness and head size, in no-tumour above all its border."""
    heads = make_heads(160, seed=3, scale=np.array([0.7, 0.8, 0.9, 1.0])[np.arange(160) % 4])
    table = make_table(160).assign(mirrored=np.arange(160) % 4 == 0)
    code = np.arange(160) % 4
    gain = np.array([0.5, 0.65, 1.0, 0.8])[code]
    pixels = (heads * gain[:, None, None, None]).astype(np.uint8)
    rng = np.random.default_rng(0)
    for row in range(160):
        frame = rng.integers(0, 4, (SIDE, SIDE, 1)) + 6 * code[row]
        pixels[row] = np.maximum(pixels[row], frame)
    table["source"] = np.where(code == 2, "other hospital", "hospital")
    properties = pd.DataFrame(
        {
            "width": 200 + 10 * code,
            "height": 200,
            "mode": "L",
            "bytes": rng.integers(5000, 9000, 160),
        }
    )
    return table.join(properties), pixels, np.arange(96), np.arange(96, 160)


def predict(name, table, pixels, train, test, seed=0):
    features = audit.shortcut_features(name, table, pixels)
    return audit.predict_shortcut(name, table, features, train, test, seed)


@pytest.mark.parametrize("name", list(audit.SHORTCUTS))
def test_a_shortcut_gives_probabilities_and_the_same_ones_again(name, shortcut_collection):
    table, pixels, train, test = shortcut_collection
    before = pixels.copy()
    first = predict(name, table, pixels, train, test, seed=1)
    again = predict(name, table, pixels, train, test, seed=1)
    assert first.shape == (64, 4)
    assert (first >= 0).all()
    np.testing.assert_allclose(first.sum(axis=1), 1)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize(
    "name", ["intensity_statistics", "border_pixels", "masked_head", "file_properties"]
)
def test_a_planted_shortcut_is_learned(name, shortcut_collection):
    probabilities = predict(name, *shortcut_collection)
    right = probabilities.argmax(axis=1) == np.arange(96, 160) % 4
    assert right.mean() > 0.9


def test_nearest_neighbor_names_the_class_of_a_planted_copy(shortcut_collection):
    table, pixels, _, _ = shortcut_collection
    pixels = np.concatenate([pixels[:40], pixels[:4]])
    table = pd.concat([table[:40], table[:4]], ignore_index=True)
    rows = np.arange(44)
    probabilities = predict("nearest_neighbor", table, pixels, rows[:40], rows[40:])
    assert probabilities.argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_mirror_images_betray_a_class(shortcut_collection):
    table, pixels, train, test = shortcut_collection
    probabilities = predict("mirror_flag", table, pixels, train, test)
    assert (probabilities[test % 4 == 0, 0] > 0.9).all()
    assert (probabilities[test % 4 != 0, 0] < 0.1).all()


def test_a_class_that_training_lacks_gets_probability_zero(shortcut_collection):
    table, pixels, train, test = shortcut_collection
    train = train[train % 4 != 1]
    for name in audit.SHORTCUTS:
        probabilities = predict(name, table, pixels, train, test)
        assert not probabilities[:, 1].any()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_the_mask_hides_everything_inside_the_head():
    heads = make_heads(6, seed=5)
    other_inside = heads.copy()
    other_inside[:, 24:40, 24:40] = 255 - other_inside[:, 24:40, 24:40]
    masked = audit.mask_heads(heads, SIDE)
    head = masked[..., 0] == 255
    assert head.mean() == pytest.approx(np.pi / 4 * 0.85 * 0.7, rel=0.15)
    assert masked[~head].mean() < 5
    assert head[:, 16:-16, 20:-20].mean() > 0.98
    changed = audit.mask_heads(other_inside, SIDE) != masked
    assert changed.mean() < 0.02
    assert not audit.head_mask(np.zeros((50, 50))).any()


def test_the_source_says_whether_there_is_a_tumour(shortcut_collection):
    table, pixels, train, test = shortcut_collection
    scores = audit.source_classifier(table, pixels, [(train, test)])
    assert scores["tumour_accuracy_by_source"] == 1
    assert scores["source_accuracy"] > 0.9
    assert scores["largest_answer"] == 0.75
    assert audit.sources_by_class(table).loc["other hospital"].tolist() == [0, 0, 40, 0]
    with pytest.raises(audit.AuditError, match="two sources"):
        audit.source_classifier(table.assign(source="one"), pixels, [(train, test)])


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [([], [1], "at least one"), ([1, 2], [2], "train and in test"), ([1, 2], [160], "outside")],
)
def test_rows_that_make_no_sense_are_refused(train, test, message, shortcut_collection):
    table, pixels, _, _ = shortcut_collection
    features = audit.shortcut_features("intensity_statistics", table, pixels)
    rows = np.array(train, int), np.array(test, int)
    with pytest.raises(audit.AuditError, match=message):
        audit.predict_shortcut("intensity_statistics", table, features, *rows)


def test_an_unknown_label_or_shortcut_is_named(shortcut_collection):
    table, pixels, train, test = shortcut_collection
    with pytest.raises(audit.AuditError, match="cyst"):
        predict("nearest_neighbor", table.assign(label="cyst"), pixels, train, test)
    with pytest.raises(audit.AuditError, match="one class only"):
        predict("nearest_neighbor", table.assign(label="glioma"), pixels, train, test)
    with pytest.raises(audit.AuditError, match="border_pixels"):
        predict("horoscope", table, pixels, train, test)
    with pytest.raises(audit.AuditError, match="read_file_properties"):
        predict("file_properties", table.drop(columns="bytes"), pixels, train, test)


def test_file_properties_come_from_the_header(tmp_path):
    table = make_table(2).assign(path=["a/grey.jpg", "a/odd.jpg"])
    (tmp_path / "a").mkdir()
    Image.new("L", (30, 20)).save(tmp_path / "a" / "grey.jpg")
    Image.new("RGBA", (10, 40)).save(tmp_path / "a" / "odd.jpg", format="PNG")
    properties = audit.read_file_properties(tmp_path, table)
    assert properties[["width", "height"]].to_numpy().tolist() == [[30, 20], [10, 40]]
    assert properties["mode"].tolist() == ["L", "RGBA"]
    assert properties["bytes"][0] == (tmp_path / "a" / "grey.jpg").stat().st_size
    with pytest.raises(audit.AuditError, match=r"missing\.jpg"):
        audit.read_file_properties(tmp_path, table.assign(path="missing.jpg"))


def test_hog_does_not_change_with_brightness_and_contrast():
    heads = make_heads(5, seed=8)
    darker = (heads // 2 + 30).astype(np.uint8)
    first, second = audit.hog_features(heads), audit.hog_features(darker)
    assert first.shape == (5, 15 * 15 * 36)
    assert first.dtype == np.float32
    similarity = (first * second).sum(axis=1) / (first**2).sum(axis=1)
    assert (similarity > 0.9).all()
    assert not audit.hog_features(np.full((1, SIDE, SIDE, 1), 9, np.uint8)).any()


@pytest.fixture(scope="module")
def stripes():
    """Four classes of heads with stripes of four directions, two pictures for each patient."""
    heads = make_heads(96, seed=4).astype(float)
    down, right = np.mgrid[:SIDE, :SIDE]
    waves = [np.sin(wave / 2) for wave in (down, right, (down + right) / 1.4, (down - right) / 1.4)]
    pixels = heads + 25 * np.stack([waves[row % 4] for row in range(96)])[..., None]
    return make_table(96), np.clip(pixels, 0, 255).astype(np.uint8)


def test_the_classical_baseline_learns(stripes):
    table, pixels = stripes
    train, test = np.arange(64), np.arange(64, 96)
    probabilities = predict("hog_svm", table, pixels, train, test)
    assert (probabilities.argmax(axis=1) == test % 4).mean() > 0.9


def test_the_classical_baseline_never_looks_at_the_labels_of_the_test_rows(stripes):
    table, pixels = stripes
    train, test = np.arange(64), np.arange(64, 96)
    relabelled = table.copy()
    relabelled.loc[test, ["label", "group"]] = ["glioma", ""]
    first, second = (predict("hog_svm", t, pixels, train, test) for t in (table, relabelled))
    np.testing.assert_array_equal(first, second)


def test_two_classes_are_enough_for_the_classical_baseline_and_groups_are_needed(stripes):
    table, pixels = stripes
    rows = np.flatnonzero(table["label"].isin(["glioma", "pituitary"]))
    probabilities = predict("hog_svm", table, pixels, rows[:32], rows[32:])
    assert not probabilities[:, 1:3].any()
    assert (probabilities.argmax(axis=1) == rows[32:] % 4).mean() > 0.9
    with pytest.raises(audit.AuditError, match="no group"):
        predict("hog_svm", table.assign(group=""), pixels, rows[:32], rows[32:])
    with pytest.raises(audit.AuditError, match="one group only"):
        predict("hog_svm", table.assign(group=table["label"]), pixels, rows[:32], rows[32:])
