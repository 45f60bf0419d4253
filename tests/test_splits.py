"""Splits: nothing on two sides, everything tested once, and unsuitable tables refused."""

import hashlib
from importlib import resources

import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES
from brainlib.data import datasets, kaggle, phantom, splits
from brainlib.paths import BrainlibError

PUBLISHED_FOLDS = "bae456571da3365f607157d4712fbf16ca8a428eabcf5d17956a1f52005eebaf"


@pytest.fixture(scope="module")
def phantom_table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "small"
    return datasets.open_folder(phantom.write_phantom(folder, 24, slices=3, size=64)).table


@pytest.fixture(scope="module")
def kaggle_table():
    """Make the image table of version 1 without its images."""
    provenance = kaggle.read_provenance()
    folders = provenance["path"].str.split("/")
    table = provenance.assign(split=folders.str[0], label=folders.str[1])
    published = table["figshare_label"]
    table["mislabelled"] = (published != "") & (published != table["label"])
    return datasets.complete_table(table)


@pytest.fixture(scope="module", params=["phantom", "kaggle"])
def table(request):
    return request.getfixturevalue(f"{request.param}_table")


def make_table(groups=5, images=2, classes=CLASS_NAMES):
    """Make an image table with as many groups of each class, and as many images in each."""
    rows = [(f"{label}/{group}-{image}.png", label, f"{label}{group}")
            for label in classes for group in range(groups) for image in range(images)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["path", "label", "group"]).assign(patient="")
    table["split"] = np.where(np.arange(len(table)) % 2, "Testing", "Training")
    return datasets.complete_table(table)


def changed(table, rows, **values):
    table = table.copy()
    for column, value in values.items():
        table.loc[rows, column] = value
    return table


def test_nothing_is_on_two_sides_everything_is_tested_once_and_every_class_is_everywhere(table):
    folds = splits.make_splits(table)
    tested = np.concatenate([split.test for split in folds])
    used = table[~table["mislabelled"]]
    assert sorted(table["source_image"].iloc[tested]) == sorted(used["source_image"].unique())
    for split in folds:
        assert sorted(np.concatenate([*split.subsets.values()])) == sorted(tested)
        assert split.counts(table)[list(CLASS_NAMES)].gt(0).all(axis=None)
        for column in ("patient", "group", "source_image"):
            values = [set(table[column].iloc[rows]) - {""} for rows in split.subsets.values()]
            assert len(set.union(*values)) == sum(map(len, values))


def test_of_a_repeated_image_the_unmirrored_and_correctly_labelled_file_is_kept():
    table = changed(make_table(), [0, 1], source_image="one")
    for row, column, kept in ((3, "mislabelled", [0]), (0, "mirrored", [1]),
                              (0, "mislabelled", [1])):  # fmt: skip
        folds = splits.assign_folds(changed(table, row, **{column: True}))
        assert np.flatnonzero(folds[:2] >= 0).tolist() == kept
        assert folds[3] == -1 or row != 3


def test_folds_never_change(kaggle_table, phantom_table):
    """Those that are drawn are the same under all versions of scikit-learn."""
    drawn = splits.assign_folds(phantom_table).astype(np.int8)
    assert hashlib.sha256(drawn.tobytes()).hexdigest().startswith("351b185f8f21")
    file = resources.files("brainlib") / "data" / "kaggle_v1_patient_folds.csv"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == PUBLISHED_FOLDS
    folds = pd.Series(splits.assign_folds(kaggle_table), kaggle_table["path"])
    assert np.bincount(folds[folds >= 0]).tolist() == [971] * 5
    sample = kaggle_table.sample(500, random_state=0)
    np.testing.assert_array_equal(splits.assign_folds(sample), folds.loc[sample["path"]])
    benchmark = splits.benchmark().set_index("path")
    pd.testing.assert_series_equal(benchmark["fold"], folds[folds >= 0], check_names=False)


def test_official_and_deduplicated_are_as_published(kaggle_table):
    official = splits.make_split(kaggle_table, "official")
    free = splits.make_split(kaggle_table, "deduplicated")
    assert set(kaggle_table["split"].iloc[official.test]) == {"Testing"}
    assert (len(official.train), len(official.validation), len(official.test)) == (4569, 1143, 1311)
    assert splits.prove_disjoint(kaggle_table, official).loc["train and test"].min() > 100
    np.testing.assert_array_equal(official.train, free.train)
    twins = splits.subset(kaggle_table, official, "test").set_index("path")["twin_in_training"]
    assert twins.any() and set(kaggle_table["path"].iloc[free.test]) == set(twins.index[~twins])
    compared = splits.compare_protocols(kaggle_table)
    assert compared.index.tolist() == list(splits.PROTOCOLS)
    assert compared.loc["patient"].tolist() == [4855, 0, 0, 4855]
    assert compared.loc["official", "with their patient or group in training"] >= 788
    assert compared.loc["deduplicated", "with a twin in training"] == 0
    assert splits.compare_protocols(make_table().assign(split="")).index.tolist() == ["patient"]


@pytest.mark.parametrize("protocol", splits.PROTOCOLS)
def test_the_validation_rows_depend_on_the_seed_and_may_be_trained_on(phantom_table, protocol):
    usual, other = (splits.make_split(phantom_table, protocol, seed=seed) for seed in (0, 1))
    assert usual.test.tolist() == other.test.tolist()
    assert set(usual.validation) != set(other.validation)
    whole = splits.make_split(phantom_table, protocol, hold_out=0.0)
    assert set(whole.train) == {*usual.train, *usual.validation} and not len(whole.validation)
    assert whole.test.tolist() == usual.test.tolist()
    assert (usual.held_out, whole.held_out) == (("validation", "test"), ("test",))
    counts = usual.counts(phantom_table)
    assert counts["images"].tolist() == [len(rows) for rows in usual.subsets.values()]
    assert (counts[list(CLASS_NAMES)].sum(axis="columns") == counts["images"]).all()


@pytest.mark.parametrize("column", ["patient", "group", "source_image"])
def test_a_split_that_leaks_is_refused(phantom_table, column):
    split = splits.make_split(phantom_table)
    value = phantom_table[column].iloc[split.test[0]]
    leaking = changed(phantom_table, split.validation[0], **{column: value})
    message = rf"(?s)leaks.*shared {column.split('_')[0]}.*same group"
    with pytest.raises(BrainlibError, match=message):
        splits.prove_disjoint(leaking, split)


@pytest.mark.parametrize(
    ("table", "arguments", "message"),
    [
        (make_table(), {"fold": 5}, r"no fold 5: choose one of 0 to 4"),
        (make_table(), {"protocol": "random"}, "patient, official, deduplicated"),
        (make_table(classes=[]), {}, r"at least two classes, .* none: add"),
        (make_table().assign(split="Training"), {"protocol": "official"}, "use protocol 'patient'"),
        (changed(make_table(), range(30, 40), group="one"), {}, r"pituitary has 1 \(10 images\)"),
        (changed(make_table(), 7, group=""), {}, r"glioma/3-1\.png.*images\.csv.*group_from_audit"),
        (changed(make_table(), [0, 10], patient="007"), {}, "patient '007' .* glioma and mening"),
        (changed(make_table(), [0, 39], source_image="one"), {}, "'one' has .*mislabelled"),
    ],
)
def test_what_cannot_be_split_is_refused(table, arguments, message):
    with pytest.raises(BrainlibError, match=message):
        splits.make_split(table, **arguments)


def test_groups_of_several_classes_stay_whole_and_sides_without_a_class_are_refused():
    table = make_table(groups=6)
    for rows, values in (([0, 24], {"patient": "007", "group": "007"}),
                         ([0, 12], {"group": "audit_0"})):  # fmt: skip
        tied = changed(table, rows, **values)
        folds = splits.assign_folds(tied)
        assert folds[rows[0]] == folds[rows[1]] >= 0
        splits.make_splits(tied)

    hospital = table["group"].str[-1]  # of six, four have never seen one class
    known = hospital.astype(int) != table["label"].map(CLASS_NAMES.index)
    hospitals = table.assign(group="hospital " + hospital)[known].reset_index(drop=True)
    with pytest.raises(
        BrainlibError, match=r"5 groups.* glioma has 5 .* fold.* name their patients"
    ):
        splits.make_split(hospitals)
    for seed in range(10):
        train, validation = splits._hold_out_groups(hospitals, seed, 0.2)
        for rows in (train, validation):
            assert set(hospitals["label"].iloc[rows]) == set(CLASS_NAMES)
        groups = [set(hospitals["group"].iloc[rows]) for rows in (train, validation)]
        assert not groups[0] & groups[1]
    with pytest.raises(BrainlibError, match="no validation set"):
        splits._hold_out_groups(table.assign(group=table["label"]), 0, 0.2)
