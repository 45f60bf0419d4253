"""Splits: nothing on both sides, everything tested once, and what cannot be split is said."""

import hashlib
from importlib import resources

import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES
from brainlib.data import datasets, phantom, splits

PARTS = ("train", "validation", "test")
PUBLISHED_FOLDS = "bae456571da3365f607157d4712fbf16ca8a428eabcf5d17956a1f52005eebaf"


@pytest.fixture(scope="module")
def phantom_table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "small"
    return datasets.open_folder(phantom.write_phantom(folder, 24, slices=3, size=64)).table


@pytest.fixture(scope="module")
def kaggle_table():
    """Make the image table of version 1 without its pictures."""
    provenance = datasets.read_provenance()
    folders = provenance["path"].str.split("/")
    table = provenance.assign(
        split=folders.str[0], label=folders.str[1], mirrored=provenance["mirrored"] == "1"
    )
    published = table["figshare_label"]
    return table.assign(mislabelled=(published != "") & (published != table["label"]))


@pytest.fixture(scope="module", params=["phantom", "kaggle"])
def table(request):
    return request.getfixturevalue(f"{request.param}_table")


@pytest.fixture(scope="module")
def five(table):
    """Make all five splits of protocol `patient`."""
    return all_folds(table)


def make_table(groups=5, pictures=2, classes=CLASS_NAMES):
    """Make an image table with as many groups of each class, and as many pictures in each."""
    rows = [
        {"path": f"{label}/{group}-{picture}.png", "label": label, "group": f"{label}{group}"}
        for label in classes
        for group in range(groups)
        for picture in range(pictures)
    ]
    table = pd.DataFrame(rows, columns=["path", "label", "group"])
    return table.assign(
        split=np.where(np.arange(len(table)) % 2, "Testing", "Training"), source="folder",
        patient="", source_image=table["path"], mirrored=False, mislabelled=False,
    )  # fmt: skip


def changed(table, rows, **values):
    table = table.copy()
    for column, value in values.items():
        table.loc[rows, column] = value
    return table


def values_of(table, rows, column):
    return set(table[column].iloc[rows]) - {""}


def all_folds(table, seed=0):
    return [splits.make_split(table, "patient", fold, seed) for fold in range(splits.FOLDS)]


def test_no_patient_group_or_source_picture_is_on_two_sides(table, five):
    for split in five:
        for column in ("patient", "group", "source_image"):
            train, validation, test = (
                values_of(table, getattr(split, part), column) for part in PARTS
            )
            assert not (train & validation or train & test or validation & test)
        assert not splits.prove_disjoint(table, split).to_numpy().any()


def test_every_source_picture_is_tested_exactly_once(table, five):
    tested = np.concatenate([split.test for split in five])
    used = table[~table["mislabelled"]]
    assert len(np.unique(tested)) == len(tested)
    assert set(table["source_image"].iloc[tested]) == set(used["source_image"])
    assert table["source_image"].iloc[tested].is_unique
    for split in five:
        rows = np.concatenate([getattr(split, part) for part in PARTS])
        assert sorted(rows) == sorted(tested)


def test_every_part_of_every_fold_holds_every_class(table, five):
    for split in five:
        for part in PARTS:
            assert values_of(table, getattr(split, part), "label") == set(CLASS_NAMES)


def test_few_patients_are_enough_for_a_validation_of_every_class(phantom_table):
    for seed in range(4):
        for split in all_folds(phantom_table, seed):
            labels = values_of(phantom_table, split.validation, "label")
            assert labels == set(CLASS_NAMES)


def test_mislabelled_files_are_left_out(kaggle_table):
    folds = splits.assign_folds(kaggle_table)
    assert kaggle_table["mislabelled"].sum() == 4
    assert (folds[kaggle_table["mislabelled"]] == -1).all()
    assert np.bincount(folds[folds >= 0]).tolist() == [971] * 5


def test_what_is_marked_as_mislabelled_is_in_no_fold():
    folds = splits.assign_folds(changed(make_table(), 3, mislabelled=True))
    assert np.flatnonzero(folds < 0).tolist() == [3]


def test_of_a_repeated_picture_the_unmirrored_file_is_kept(phantom_table):
    kept = phantom_table[splits.assign_folds(phantom_table) >= 0]
    assert phantom_table["mirrored"].any() and not kept["mirrored"].any()
    assert len(kept) < len(phantom_table)
    table = make_table()
    table = changed(table, [0, 1], source_image="one")
    assert (splits.assign_folds(table) >= 0)[:2].tolist() == [True, False]
    swapped = changed(table, 0, mirrored=True)
    assert (splits.assign_folds(swapped) >= 0)[:2].tolist() == [False, True]
    wrong = changed(table, 0, mislabelled=True)
    assert (splits.assign_folds(wrong) >= 0)[:2].tolist() == [False, True]


def test_the_published_folds_never_change():
    file = resources.files("brainlib") / "data" / "kaggle_v1_patient_folds.csv"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == PUBLISHED_FOLDS


def test_the_published_folds_hold_in_any_order_and_for_a_part(kaggle_table):
    folds = pd.Series(splits.assign_folds(kaggle_table), kaggle_table["path"])
    part = kaggle_table.sample(500, random_state=0)
    np.testing.assert_array_equal(splits.assign_folds(part), folds.loc[part["path"]])


def test_the_benchmark_is_what_the_five_folds_test(kaggle_table):
    benchmark = splits.benchmark().set_index("path")
    assert len(benchmark) == 4855
    for split in all_folds(kaggle_table):
        tested = kaggle_table.iloc[split.test].set_index("path")
        known = benchmark[benchmark["fold"] == split.fold].loc[tested.index]
        pd.testing.assert_frame_equal(known[["label", "group"]], tested[["label", "group"]])


def test_folds_do_not_depend_on_the_seed_and_validation_does(phantom_table):
    first, again, other = (splits.make_split(phantom_table, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.test, other.test)
    np.testing.assert_array_equal(first.validation, again.validation)
    assert set(first.validation) != set(other.validation)


def test_the_published_split_is_as_published(kaggle_table):
    split = splits.make_split(kaggle_table, "official")
    assert values_of(kaggle_table, split.test, "split") == {"Testing"}
    assert len(split.test) == 1311 and len(split.train) + len(split.validation) == 5712
    assert len(split.validation) == pytest.approx(0.2 * 5712, abs=1)
    assert not set(split.train) & set(split.validation)
    assert splits.prove_disjoint(kaggle_table, split).loc["train and test"].min() > 100


def test_deduplicated_is_official_without_twins(kaggle_table):
    official = splits.make_split(kaggle_table, "official")
    free = splits.make_split(kaggle_table, "deduplicated")
    np.testing.assert_array_equal(official.train, free.train)
    twins = splits.part(kaggle_table, official, "test").set_index("path")["twin_in_training"]
    assert twins.any()
    assert set(kaggle_table["path"].iloc[free.test]) == set(twins.index[~twins])
    assert not splits.part(kaggle_table, free, "test")["twin_in_training"].any()


def test_protocols_are_compared_by_what_ties_test_to_training(kaggle_table):
    compared = splits.compare_protocols(kaggle_table)
    assert compared.index.tolist() == list(splits.PROTOCOLS)
    assert compared.loc["patient", "test pictures"] == compared.loc["patient", "free of any tie"]
    assert compared.loc["official", "with their patient or group in training"] >= 788
    assert compared.loc["deduplicated", "with a twin in training"] == 0
    folder = make_table().assign(split="")
    assert splits.compare_protocols(folder).index.tolist() == ["patient"]


def test_counts_show_each_part(phantom_table):
    split = splits.make_split(phantom_table)
    counts = split.counts(phantom_table)
    assert counts.index.tolist() == list(PARTS)
    assert counts.loc["test", "pictures"] == len(split.test)
    assert (counts[list(CLASS_NAMES)].sum(axis="columns") == counts["pictures"]).all()


@pytest.mark.parametrize("column", ["patient", "group", "source_image"])
def test_a_split_that_leaks_is_refused(phantom_table, column):
    split = splits.make_split(phantom_table)
    leaking = phantom_table.copy()
    places = [leaking.columns.get_loc(column)]
    leaking.iloc[split.validation[0], places] = leaking.iloc[split.test[0], places]
    with pytest.raises(splits.SplitError, match=rf"leaks(.|\n)*shared {column.split('_')[0]}"):
        splits.prove_disjoint(leaking, split)


def test_unknown_patients_are_not_one_patient():
    table = make_table()
    assert not splits.prove_disjoint(table, splits.make_split(table)).to_numpy().any()


@pytest.mark.parametrize("fold", [-1, 5, "0"])
def test_a_fold_out_of_range_names_the_range(fold):
    with pytest.raises(splits.SplitError, match=r"no fold .*choose one of 0 to 4"):
        splits.make_split(make_table(), "patient", fold)


def test_an_unknown_protocol_names_the_known_ones():
    with pytest.raises(splits.SplitError, match="patient, official, deduplicated"):
        splits.make_split(make_table(), "random")


@pytest.mark.parametrize("protocol", splits.PROTOCOLS)
@pytest.mark.parametrize("classes", [["glioma"], []])
def test_one_class_is_nothing_to_tell_apart(protocol, classes):
    with pytest.raises(splits.SplitError, match=r"at least two classes.*(glioma|none) only: add"):
        splits.make_split(make_table(classes=classes), protocol)


@pytest.mark.parametrize("protocol", ["official", "deduplicated"])
@pytest.mark.parametrize("name", ["", "Training"])
def test_without_a_published_split_the_other_protocol_is_named(protocol, name):
    with pytest.raises(splits.SplitError, match="Training and Testing: use protocol 'patient'"):
        splits.make_split(make_table().assign(split=name), protocol)


def test_five_groups_of_each_class_are_enough_and_four_are_not():
    for pictures in (1, 2):
        table = make_table(groups=5, pictures=pictures)
        for split in all_folds(table):
            assert values_of(table, split.validation, "label") == set(CLASS_NAMES)
    with pytest.raises(splits.SplitError, match=r"at least 5 groups .* has 4: add pictures"):
        splits.make_split(make_table(groups=4))


@pytest.fixture
def hospitals():
    """Make a table of six hospitals, of which four have never seen one class."""
    table = make_table(groups=6)
    hospital = table["group"].str[-1]
    known = hospital.astype(int) != table["label"].map(CLASS_NAMES.index)
    return table.assign(group="hospital " + hospital)[known].reset_index(drop=True)


def test_a_class_that_a_fold_would_lack_is_named(hospitals):
    with pytest.raises(splits.SplitError, match=r"fold \d .* no picture of \w+, .* more patients"):
        splits.make_split(hospitals)


def test_validation_takes_groups_that_hold_every_class(hospitals):
    for seed in range(10):
        train, validation = splits._hold_out_groups(hospitals, seed, 0.2)
        for rows in (train, validation):
            assert values_of(hospitals, rows, "label") == set(CLASS_NAMES)
        assert not values_of(hospitals, train, "group") & values_of(hospitals, validation, "group")


def test_without_such_groups_it_is_said():
    table = make_table().assign(group=lambda table: table["label"])
    with pytest.raises(splits.SplitError, match="held out for validation"):
        splits._hold_out_groups(table, 0, 0.2)


@pytest.mark.parametrize("missing", ["", None])
def test_a_picture_without_group_is_named(missing):
    table = changed(make_table(), 7, group=missing)
    with pytest.raises(splits.SplitError, match=r"glioma/3-1\.png.*images\.csv.*group_from_audit"):
        splits.make_split(table)


def test_a_table_without_the_column_is_refused():
    with pytest.raises(splits.SplitError, match="no column group, source_image: make it with"):
        splits.make_split(make_table().drop(columns=["group", "source_image"]))


def test_one_picture_under_two_labels_is_refused_until_one_is_marked():
    table = make_table()
    last = len(table) - 1
    table = changed(table, [0, last], source_image="one", group="both")
    with pytest.raises(splits.SplitError, match=r"'one' has the labels glioma and pituitary") as e:
        splits.make_split(table)
    assert "mislabelled" in str(e.value) and "images.csv" in str(e.value)
    folds = splits.assign_folds(changed(table, last, mislabelled=True))
    assert folds[last] == -1 and folds[0] >= 0
    all_folds(changed(table, last, mislabelled=True))


def test_a_patient_with_two_kinds_of_tumour_is_refused():
    table = changed(make_table(), [0, 10], patient="007", group="007")
    with pytest.raises(splits.SplitError, match=r"patient '007' .* glioma and meningioma"):
        splits.make_split(table)


def test_a_patient_with_and_without_tumour_is_kept_whole():
    table = make_table(groups=6)
    rows = table.index[table["label"].eq("glioma")][:1].append(
        table.index[table["label"].eq("notumor")][:1]
    )
    table = changed(table, rows, patient="007", group="007")
    folds = splits.assign_folds(table)
    assert folds[rows[0]] == folds[rows[1]] >= 0
    all_folds(table)


def test_a_group_of_look_alikes_with_two_labels_is_kept_whole():
    table = changed(make_table(groups=6), [0, 12], group="audit_0")
    folds = splits.assign_folds(table)
    assert folds[0] == folds[12] >= 0
    all_folds(table)


@pytest.mark.parametrize("protocol", splits.PROTOCOLS)
def test_with_nothing_held_out_all_but_the_test_pictures_are_trained_on(phantom_table, protocol):
    usual = splits.make_split(phantom_table, protocol)
    whole = splits.make_split(phantom_table, protocol, hold_out=0.0)
    assert set(whole.train) == {*usual.train, *usual.validation} and not len(whole.validation)
    assert whole.test.tolist() == usual.test.tolist()
    assert (usual.held_out, whole.held_out) == (("validation", "test"), ("test",))
