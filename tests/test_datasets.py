"""Image tables of folders, Kaggle and figshare, and their splits: right, or refused with advice."""

import hashlib
import json
import os
import shutil
import zipfile
from functools import partial
from importlib import resources
from unittest.mock import Mock

import h5py
import kagglehub
import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path as Polygon
from PIL import Image
from stand_ins import draw

from brainlib import CLASS_NAMES, paths
from brainlib.data import SOURCES, datasets, figshare, kaggle, open_collection, phantom, splits
from brainlib.paths import BrainlibError

TRAINING, TESTING = datasets.SPLIT_NAMES


@pytest.fixture
def folder(tmp_path):
    """Draw two images of each class, one in each split."""
    names = [f"{split}/{label}/1.png" for split in (TRAINING, TESTING) for label in CLASS_NAMES]
    return draw(tmp_path / "mine", names)


def write_details(folder, **columns):
    pd.DataFrame(columns).to_csv(folder / "images.csv", index=False)


@pytest.fixture(scope="module")
def kaggle_folder(tmp_path_factory):
    """Make empty files with the names of version 1."""
    root = tmp_path_factory.mktemp("kaggle")
    for path in kaggle.read_provenance()["path"]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


@pytest.fixture
def downloaded(kaggle_folder, monkeypatch):
    """Let Kaggle Hub answer from its cache."""
    download = Mock(return_value=str(kaggle_folder))
    monkeypatch.setattr(kagglehub, "dataset_download", download)
    return download


def test_kaggle_version_1_is_requested_and_described(downloaded, monkeypatch, tmp_path):
    monkeypatch.setenv("KAGGLEHUB_CACHE", "downloads")
    monkeypatch.chdir(tmp_path)
    collection = open_collection("kaggle")
    table = collection.table
    downloaded.assert_called_once_with("masoudnickparvar/brain-tumor-mri-dataset/versions/1")
    assert os.environ["KAGGLEHUB_CACHE"] == str(paths.project_root() / "downloads")
    assert collection.title == "kaggle version 1" and not collection.is_synthetic
    assert collection.counts().loc[TRAINING].tolist() == [1321, 1339, 1595, 1457]
    assert tuple(table.columns[:6]) == datasets.COLUMNS and (table["group"] != "").all()
    wrong = table.loc[table["mislabelled"] & (table["label"] == "pituitary"), "path"].str[-8:-4]
    assert set(wrong) == {"0002", "0043", "0515", "0520"} and table["mislabelled"].sum() == 4
    origins = datasets.count_origins(table)
    assert origins["files"].tolist() == [1621, 1645, 2000, 1757]
    assert origins.loc["notumor", "known patients"] == 0
    slices = datasets.patient_across_splits(table, count=8)
    assert slices["patient"].nunique() == 1 and slices["source_image"].is_unique
    assert slices["split"].tolist() == [TRAINING] * 4 + [TESTING] * 4
    published = kaggle.read_outlines()  # they follow mirrored images
    outlined = table[table["outline"] != ""]
    assert outlined["source_image"].nunique() == len(published) == 3064
    for row in outlined.itertuples():
        points = np.array(json.loads(published[row.source_image[9:-4]]))
        expected = [512, 0] + points * [-1, 1] if row.mirrored else points
        np.testing.assert_allclose(json.loads(row.outline), expected, atol=1e-6)


@pytest.mark.parametrize(("name", "lacking"), [("Te-gl_0010.jpg", ""), ("a.jpg", "version 1")])
def test_lost_and_added_kaggle_files_are_named(downloaded, kaggle_folder, name, lacking):
    file = kaggle_folder / "Testing" / "glioma" / name
    undo = file.unlink if lacking else file.touch
    file.touch() if lacking else file.unlink()
    message = rf"{lacking or kaggle_folder} .*lacks 1 images .Testing/glioma/{name}.: delete that"
    with pytest.raises(paths.BrainlibError, match=message):
        open_collection("kaggle")
    undo()


@pytest.mark.parametrize("has_marker", [True, False])
def test_offline_alternatives_and_a_missing_marker_are_named(monkeypatch, tmp_path, has_marker):
    offline = Mock(side_effect=ConnectionError("no route to host"))
    monkeypatch.setattr(kagglehub, "dataset_download", offline)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    dataset = tmp_path / "datasets" / "masoudnickparvar" / "brain-tumor-mri-dataset"
    (dataset / "versions" / "1").mkdir(parents=True)
    if has_marker:
        (dataset / "1.complete").touch()
    message = r"no route.*HUB_CACHE.*'phantom'.*path/to"
    with pytest.raises(BrainlibError, match=message) as error:
        open_collection("kaggle")
    assert (f"marker {dataset / '1.complete'} is missing" in str(error.value)) != has_marker


def test_a_folder_of_classes_in_splits_or_alone(folder, tmp_path, monkeypatch):
    collection = datasets.open_folder(folder)
    assert collection.title == "mine" and collection.groups_from == "nothing"
    assert collection.counts().to_numpy().tolist() == [[1] * 4] * 2
    first = collection.table.iloc[0]
    assert first["path"] == "Training/glioma/1.png" and first["source"] == "folder"
    assert first["group"] == first["source_image"] == first["path"] and first["patient"] == ""
    assert datasets.patient_across_splits(collection.table).empty
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    alone = draw(tmp_path / "alone", ["glioma/deeper/1.PNG", "notumor/deeper/1.PNG"])
    (alone / "glioma" / "notes.txt").write_text("no image", encoding="utf-8")
    table = open_collection("alone").table
    assert table["path"].tolist() == ["glioma/deeper/1.PNG", "notumor/deeper/1.PNG"]
    assert table["label"].tolist() == ["glioma", "notumor"] and set(table["split"]) == {""}


def test_images_csv_names_patients_and_groups_but_not_labels(folder):
    names = datasets.open_folder(folder).table["path"].tolist()
    write_details(
        folder, path=names[::-1], label="glioma", patient=[*[""] * 5, "9", "NA", "007"],
        group=[*[""] * 7, "family"], mirrored=[*[0] * 7, 1], mislabelled=[*["False"] * 7, "True"],
    )  # fmt: skip
    collection = datasets.open_folder(folder)
    table = collection.table
    assert collection.groups_from == "images.csv"
    assert collection.counts().to_numpy().tolist() == [[1] * 4] * 2
    assert table["patient"].tolist()[:4] == ["007", "NA", "9", ""]
    assert table["group"].tolist() == ["family", "NA", "9", *names[3:]]
    for column in ("mirrored", "mislabelled"):
        assert table[column].tolist() == [True] + [False] * 7
    write_details(folder, path=names, patient=" ")
    assert datasets.open_folder(folder).groups_from == "nothing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda names: {"path": names[1:]}, "images.csv lacks 1 images .Training/glioma/1.png"),
        (
            lambda names: {"path": [*names, "absent.png"]},
            "folders of .*mine lacks 1 .* .absent.png",
        ),
        (lambda names: {"path": [*names, names[0]]}, "names each image once"),
        (lambda names: {"file": names}, "must have a column `path`"),
        (lambda names: {"path": names, "Patient": "p"}, "unknown columns Patient"),
        (lambda names: {"path": names, "mirrored": "maybe"}, "mirrored .* for 8 images"),
        (b"", "cannot be read as UTF-8 CSV"),
        ("path\nä".encode("latin-1"), "cannot be read as UTF-8 CSV"),
    ],
)
def test_images_csv_that_does_not_match_is_refused(folder, change, message):
    if isinstance(change, bytes):
        (folder / "images.csv").write_bytes(change)
    else:
        write_details(folder, **change(datasets.open_folder(folder).table["path"].tolist()))
    with pytest.raises(paths.BrainlibError, match=message):
        datasets.open_folder(folder)


def test_a_misnamed_class_and_a_folder_without_classes_or_images_are_refused(folder, monkeypatch):
    monkeypatch.setitem(SOURCES, "clinic", None)
    draw(folder, ["Training/no_tumor/a.png"])
    (folder / "empty").mkdir()
    for name, message in (
        (folder, "no_tumor holds images but is not a class"),
        (folder / "empty", "absent or holds no images .* glioma, meningioma, notumor, pituitary"),
        ("no/such/folder", f"{', '.join(map(repr, SOURCES))}, or a folder"),
    ):
        with pytest.raises(paths.BrainlibError, match=message):
            open_collection(str(name))


def test_the_file_hash_changes_with_names_and_sizes(folder):
    first = folder / "Training" / "glioma" / "1.png"
    hashes = [datasets.open_folder(folder).file_hash for _ in range(2)]
    first.write_bytes(first.read_bytes() + b" ")
    hashes.append(datasets.open_folder(folder).file_hash)
    first.rename(first.with_name("2.png"))
    hashes.append(datasets.open_folder(folder).file_hash)
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


def test_a_phantom_is_written_once_per_seed(monkeypatch, tmp_path):
    monkeypatch.setenv("BRAINLIB_CACHE", str(tmp_path))
    write = Mock(side_effect=partial(phantom.write_phantom, patients=4, slices=4, size=64))
    monkeypatch.setattr(phantom.collection, "write_phantom", write)
    collections = [open_collection("phantom", seed) for seed in (0, 0, 1)]
    assert write.call_count == 2
    assert collections[0].title == f"phantom version {phantom.PHANTOM_VERSION}"
    assert collections[0].file_hash == collections[1].file_hash != collections[2].file_hash
    assert datasets.open_folder(collections[0].root).title.startswith("phantom (phantom-v")


NUMBERS = range(225, 233)
PATIENTS = {225: "101016", 226: "MR050001", 227: "MR050001B", 228: "MR050001C", 229: "101127"}
LABELS = {225: 2, 226: 2, 227: 2, 228: 1, 229: 1, 230: 1, 231: 3, 232: 3}


def make_slice(number):
    """Return an image and a mask as MATLAB would show them, without any symmetry."""
    size = 64 if number == 226 else 128
    y, x = np.mgrid[:size, :size] / size
    wave = np.sin((number - 220) * x * 3 + y) * np.cos((number - 215) * y)
    image = (900 * x + 500 * y + 400 * wave + 100).astype(np.int16)
    mask = ((x - 0.7) / 0.15) ** 2 + ((y - 0.3) / 0.08) ** 2 < 1
    image[mask] = 2500
    return image, mask


def write_mat(file, number, **changes):
    """Write a file as MATLAB 7.3 does: HDF5 after a block of 512 bytes, columns first."""
    image, mask = make_slice(number)
    characters = [[ord(letter)] for letter in PATIENTS.get(number, f"{number}000")]
    fields = {
        "label": np.array([[float(LABELS.get(number, 1))]]),
        "PID": np.array(characters, dtype=np.uint16),
        "image": image.T,
        "tumorBorder": np.zeros((1, 8)),
        "tumorMask": mask.T.astype(np.uint8),
    } | changes
    with h5py.File(file, "w", userblock_size=512) as opened:
        for name, value in fields.items():
            if value is not None:
                opened[f"cjdata/{name}"] = value
    return file


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Two archives as they are published, and their registry, whose addresses lead nowhere."""
    folder, loose = tmp_path_factory.mktemp("published"), tmp_path_factory.mktemp("loose")
    archives = {}
    for name, numbers in {"first.zip": NUMBERS[:4], "second.zip": NUMBERS[4:]}.items():
        with zipfile.ZipFile(folder / name, "w") as archive:
            for number in numbers:
                archive.write(write_mat(loose / f"{number}.mat", number), f"{number}.mat")
            archive.writestr("cvind.mat", "no slice")
        md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
        archives[name] = (f"http://127.0.0.1:9/{name}", md5)
    return folder, archives


@pytest.fixture
def requested(published, monkeypatch):
    """Give the archives in place of the internet, and list what was asked for."""
    requested = []

    def download(self, address, output_file, pooch, check_only=False):
        requested.append(address.rpartition("/")[2])
        shutil.copy(published[0] / requested[-1], output_file)

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", download)
    return requested


@pytest.fixture(scope="module")
def collection(published, tmp_path_factory):
    """Open archives that were put into the folder by hand."""
    folder = tmp_path_factory.mktemp("opened") / "figshare"
    shutil.copytree(published[0], folder)
    return figshare.open_figshare(folder, published[1])


def test_slices_have_class_patient_and_group(collection):
    table = collection.table.set_index("source_image")
    assert collection.title == "figshare version 8" and len(table) == 8
    assert set(table["source"]) == {"figshare"} and set(table["split"]) == {""}
    names = {1: "meningioma", 2: "glioma", 3: "pituitary"}
    for number in NUMBERS:
        path = table.loc[f"figshare:{number}.jpg", "path"]
        assert path == f"{names[LABELS[number]]}/{number}.png"
    merged = table.loc[[f"figshare:{number}.jpg" for number in (226, 227, 228)]]
    assert set(merged["patient"]) == {"MR050001"} and set(merged["group"]) == {"fig_MR050001"}
    provenance = kaggle.read_provenance()  # which names the same patients
    patients = provenance.loc[provenance["figshare_slice"] != "", "patient"]
    assert (patients.map(figshare.merge_patient) == patients).all()


def test_images_are_upright_and_outlines_lie_on_the_tumour(collection):
    for row in collection.table.itertuples():
        image, mask = make_slice(int(row.path.split("/")[1][:-4]))
        expected = (image - image.min()) / (image.max() - image.min()) * 255
        np.testing.assert_allclose(Image.open(collection.root / row.path), expected, atol=0.51)
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
        points = np.column_stack([x.ravel(), y.ravel()])
        inside = Polygon(json.loads(row.outline)).contains_points(points).reshape(mask.shape)
        assert (inside & mask).sum() / (inside | mask).sum() > 0.85


def test_missing_and_damaged_archives_are_downloaded_once(requested, published, tmp_path):
    (tmp_path / "first.zip").write_bytes((published[0] / "first.zip").read_bytes()[:-100])
    for _ in range(2):
        assert len(figshare.open_figshare(tmp_path, published[1]).table) == 8
    assert requested == ["first.zip", "second.zip"]


@pytest.mark.parametrize("fault", ["another checksum", "no network"])
def test_a_failed_download_names_the_archives_and_their_folder(
    request, published, tmp_path, monkeypatch, fault
):
    monkeypatch.setattr(figshare, "RETRIES", 0)
    archives = published[1]  # whose addresses lead nowhere
    if fault == "another checksum":
        request.getfixturevalue("requested")
        archives = {name: (address, "0" * 32) for name, (address, _) in archives.items()}
    with pytest.raises(BrainlibError, match="could not be downloaded") as error:
        figshare.open_figshare(tmp_path, archives)
    for text in ("10.6084/m9.figshare.1512427", "first.zip, second.zip", str(tmp_path), "phantom"):
        assert text in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label": np.array([[4.0]])}, "KeyError: 4.0"),
        ({"PID": None}, "KeyError: 'PID'"),
        ({"tumorMask": np.zeros((128, 128), np.uint8)}, "of 0 pixels"),
        ({"tumorMask": np.ones((64, 64), np.uint8)}, r"mask \(64, 64\)"),
        (0, ""), (300, ""), (2000, ""), (-200, ""),
    ],
)  # fmt: skip
def test_a_wrong_or_truncated_slice_is_named_with_its_reason(tmp_path, changes, reason):
    is_cut = isinstance(changes, int)
    content = write_mat(tmp_path / "7.mat", 7, **({} if is_cut else changes)).read_bytes()
    with pytest.raises(BrainlibError, match=rf"7\.mat is not a slice .*{reason}"):
        figshare.read_slice(content[:changes] if is_cut else content, "7.mat")


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
        (changed(make_table(), [0, 10], patient="007"), {}, "one patient .*2 .*glioma/.* mening"),
        (changed(make_table(), [0, 39], source_image="one"), {}, "one source image.* mislabelled"),
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
    message = r"5 groups.* glioma has 5 .* fold.* name their patients"
    with pytest.raises(BrainlibError, match=message):
        splits.make_split(hospitals)
    for seed in range(10):
        train, validation = splits._hold_out_groups(hospitals, seed, 0.2)
        for rows in (train, validation):
            assert set(hospitals["label"].iloc[rows]) == set(CLASS_NAMES)
        groups = [set(hospitals["group"].iloc[rows]) for rows in (train, validation)]
        assert not groups[0] & groups[1]
    with pytest.raises(BrainlibError, match="no validation set"):
        splits._hold_out_groups(table.assign(group=table["label"]), 0, 0.2)
