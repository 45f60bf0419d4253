"""Sources: what is found and named, and what is refused with a way on."""

import os
import shutil

import kagglehub
import pandas as pd
import pytest
from PIL import Image

from brainlib import CLASS_NAMES, paths
from brainlib.data import datasets, open_collection

TRAINING, TESTING = datasets.SPLIT_NAMES


def draw(path, size=(2, 2), level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path, format="PNG")


def write_details(folder, **columns):
    pd.DataFrame(columns).to_csv(folder / "images.csv", index=False)


@pytest.fixture
def folder(tmp_path):
    """Draw two pictures of each class, one in each split."""
    for label in CLASS_NAMES:
        for split in datasets.SPLIT_NAMES:
            draw(tmp_path / "mine" / split / label / "1.png")
    return tmp_path / "mine"


@pytest.fixture(scope="module")
def provenance():
    return datasets.read_provenance()


@pytest.fixture(scope="module")
def kaggle_folder(provenance, tmp_path_factory):
    """Make files with the names of version 1, and nothing in them."""
    root = tmp_path_factory.mktemp("kaggle")
    for split in datasets.SPLIT_NAMES:
        for label in CLASS_NAMES:
            (root / split / label).mkdir(parents=True)
    for path in provenance["path"]:
        (root / path).touch()
    return root


@pytest.fixture
def downloaded(kaggle_folder, monkeypatch):
    """Let Kaggle Hub answer from its cache, and list the handles that it was asked for."""
    asked = []
    monkeypatch.setattr(
        kagglehub, "dataset_download", lambda handle: asked.append(handle) or str(kaggle_folder)
    )
    return asked


def test_version_1_is_asked_for_by_name_and_complete(downloaded):
    collection = open_collection("kaggle")
    assert downloaded == ["masoudnickparvar/brain-tumor-mri-dataset/versions/1"]
    assert collection.title == "kaggle version 1" and not collection.is_synthetic
    assert collection.counts().loc[TRAINING].tolist() == [1321, 1339, 1595, 1457]
    assert collection.counts().loc[TESTING].tolist() == [300, 306, 405, 300]
    assert tuple(collection.table.columns[:6]) == datasets.COLUMNS
    assert collection.table["path"].is_unique and (collection.table["group"] != "").all()


def test_the_four_mislabelled_files_are_marked(downloaded):
    table = open_collection("kaggle").table
    assert set(table.loc[table["mislabelled"], "path"]) == {
        "Training/pituitary/Tr-pi_0043.jpg",
        "Training/pituitary/Tr-pi_0515.jpg",
        "Training/pituitary/Tr-pi_0520.jpg",
        "Testing/pituitary/Te-piTr_0002.jpg",
    }


def test_a_lost_and_a_foreign_picture_are_counted(downloaded, kaggle_folder):
    lost = kaggle_folder / "Training" / "glioma" / "Tr-gl_0010.jpg"
    extra = kaggle_folder / "pituitary" / "mine.jpg"
    lost.unlink()
    extra.parent.mkdir()
    extra.touch()
    try:
        with pytest.raises(datasets.DatasetError, match="not version 1") as refused:
            open_collection("kaggle")
    finally:
        lost.touch()
        shutil.rmtree(extra.parent)
    message = str(refused.value)
    assert "'Training/glioma': (1320, 1321)" in message and "(1, 0)" in message
    assert str(kaggle_folder) in message and "Delete that folder" in message
    assert "meningioma" not in message


def test_without_network_one_error_names_the_three_ways_on(monkeypatch):
    def fail(handle):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(kagglehub, "dataset_download", fail)
    with pytest.raises(datasets.DatasetError) as refused:
        open_collection("kaggle")
    for way in ("KAGGLEHUB_CACHE", "source='phantom'", "source='path/to/a/folder'", "no route"):
        assert way in str(refused.value)


def test_a_relative_cache_means_the_same_in_every_folder(downloaded, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLEHUB_CACHE", "downloads")
    monkeypatch.chdir(tmp_path)
    seen = []
    ask = kagglehub.dataset_download
    monkeypatch.setattr(
        kagglehub,
        "dataset_download",
        lambda handle: seen.append(os.environ["KAGGLEHUB_CACHE"]) or ask(handle),
    )
    open_collection("kaggle")
    assert seen == [str(paths.project_root() / "downloads")]


def test_the_provenance_of_every_file_is_known(provenance):
    assert len(provenance) == 7023 and provenance["path"].is_unique
    assert provenance["source"].value_counts().to_dict() == {
        "figshare": 4750, "br35h_no": 1751, "sartaj": 522,
    }  # fmt: skip
    assert provenance["source_image"].nunique() == 4855
    assert (provenance["mirrored"] == "1").sum() == 3064
    assert not (provenance[["source_image", "group"]] == "").any().any()


def test_every_figshare_slice_has_its_patient_and_one_label(provenance):
    figshare = provenance[provenance["source"] == "figshare"]
    slices = figshare[figshare["figshare_slice"] != ""].drop_duplicates("figshare_slice")
    # 233 ids are published; ids that differ in a trailing letter only are one patient
    assert len(slices) == 3064 and slices["patient"].nunique() == 209
    assert not slices["patient"].str.contains("[A-Za-z]$").any()
    assert (slices.groupby("patient")["figshare_label"].nunique() == 1).all()
    assert (figshare["group"] == "fig_" + figshare["patient"]).all()
    assert (provenance.loc[provenance["source"] != "figshare", "patient"] == "").all()


def test_origins_count_files_pictures_and_patients(downloaded):
    origins = datasets.count_origins(open_collection("kaggle").table)
    assert origins["files"].tolist() == [1621, 1645, 2000, 1757]
    assert origins["mislabelled files"].tolist() == [0, 0, 0, 4]
    assert origins.loc["notumor", "known patients"] == 0


def test_a_patient_is_shown_on_both_sides_of_the_official_split(downloaded):
    slices = datasets.patient_across_splits(open_collection("kaggle").table, count=8)
    assert slices["patient"].nunique() == 1 and slices["source_image"].is_unique
    assert slices["split"].tolist() == [TRAINING] * 4 + [TESTING] * 4


def test_a_folder_of_classes_in_splits(folder):
    collection = datasets.open_folder(folder)
    assert collection.title == "mine" and collection.groups_from == "nothing"
    assert collection.counts().to_numpy().tolist() == [[1] * 4] * 2
    first = collection.table.iloc[0]
    assert first["path"] == "Training/glioma/1.png" and first["source"] == "folder"
    assert first["group"] == first["source_image"] == first["path"] and first["patient"] == ""
    assert datasets.patient_across_splits(collection.table).empty


def test_a_folder_of_classes_alone_counts_only_pictures(tmp_path):
    for label in ("glioma", "notumor"):
        draw(tmp_path / label / "deeper" / "1.PNG")
        (tmp_path / label / "notes.txt").write_text("no picture", encoding="utf-8")
    table = datasets.open_folder(tmp_path).table
    assert table["path"].tolist() == ["glioma/deeper/1.PNG", "notumor/deeper/1.PNG"]
    assert table["label"].tolist() == ["glioma", "notumor"] and set(table["split"]) == {""}


def test_a_relative_folder_starts_at_the_project(monkeypatch, tmp_path, folder):
    monkeypatch.setattr(paths, "project_root", lambda: folder.parent)
    assert open_collection("mine").root == folder.resolve()


def test_details_name_patients_and_groups(folder):
    names = datasets.open_folder(folder).table["path"].tolist()
    write_details(
        folder, path=names, patient=["007", "NA", *[""] * 6], mirrored=[1, *[0] * 7],
        mislabelled=["True", *["False"] * 7],
    )  # fmt: skip
    collection = datasets.open_folder(folder)
    assert collection.groups_from == "images.csv"
    table = collection.table.set_index("path").loc[names]
    assert table["patient"].tolist()[:3] == ["007", "NA", ""]
    assert table["group"].tolist() == ["007", "NA", *names[2:]]
    for column in ("mirrored", "mislabelled"):
        assert table[column].tolist() == [True] + [False] * 7


def test_numbers_of_patients_are_names(folder):
    names = datasets.open_folder(folder).table["path"].tolist()
    write_details(folder, path=names, patient=[f"{number:03d}" for number in range(8)])
    found = datasets.open_folder(folder).table.set_index("path")["patient"]
    assert found[names].tolist() == [f"{number:03d}" for number in range(8)]


def test_details_do_not_change_labels(folder):
    names = datasets.open_folder(folder).table["path"].tolist()
    write_details(folder, path=names, label="glioma", split="Training", patient="p")
    assert datasets.open_folder(folder).counts().to_numpy().tolist() == [[1] * 4] * 2


def drop_one(names):
    return {"path": names[1:]}


def repeat_one(names):
    return {"path": [*names, names[0]]}


def name_none(names):
    return {"file": names}


def flag_oddly(names):
    return {"path": names, "mirrored": ["maybe", *[0] * 7]}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_one, "no row for 1 pictures, for instance Training/glioma/1.png"),
        (repeat_one, "names each picture once"),
        (name_none, "must have a column `path`"),
        (flag_oddly, "'maybe' for Training/glioma/1.png: write 1 or 0"),
    ],
)
def test_details_that_do_not_match_are_refused(folder, spoil, message):
    names = datasets.open_folder(folder).table["path"].tolist()
    write_details(folder, **spoil(names))
    with pytest.raises(datasets.DatasetError, match=message):
        datasets.open_folder(folder)


@pytest.mark.parametrize("content", [b"", b'path,patient\n"a', "path\nä".encode("latin-1")])
def test_details_that_are_no_table_are_named(folder, content):
    (folder / "images.csv").write_bytes(content)
    with pytest.raises(datasets.DatasetError, match=r"images\.csv cannot be read as UTF-8 CSV"):
        datasets.open_folder(folder)


def test_a_missing_folder_names_the_other_sources(tmp_path):
    with pytest.raises(datasets.DatasetError, match=r"'kaggle', .*'phantom', or a"):
        open_collection(str(tmp_path / "absent"))


def test_a_misnamed_class_is_not_left_out_in_silence(folder):
    draw(folder / "Training" / "no_tumor" / "a.png")
    with pytest.raises(datasets.DatasetError, match="no_tumor holds pictures and is no class"):
        datasets.open_folder(folder)


def test_a_misspelt_column_of_details_is_refused(folder):
    write_details(folder, path=["a.png"], Patient=["p"])
    with pytest.raises(datasets.DatasetError, match="columns Patient, which mean nothing"):
        datasets.open_folder(folder)


def test_details_that_name_no_patient_leave_the_groups_to_the_audit(folder):
    paths = datasets.open_folder(folder).table["path"]
    write_details(folder, path=paths, patient=" ")
    assert datasets.open_folder(folder).groups_from == "nothing"


def test_a_folder_without_classes_names_them(tmp_path):
    draw(tmp_path / "Glioblastoma" / "1.png")
    with pytest.raises(datasets.DatasetError, match="glioma, meningioma, notumor, pituitary"):
        datasets.open_folder(tmp_path)


def test_the_file_hash_changes_with_names_sizes_and_number(folder):
    first = datasets.open_folder(folder).file_hash
    assert first == datasets.open_folder(folder).file_hash and len(first) == 64
    hashes = {first}
    draw(folder / "Training" / "glioma" / "1.png", size=(90, 90), level=3)
    hashes.add(datasets.open_folder(folder).file_hash)
    (folder / "Training" / "glioma" / "1.png").rename(folder / "Training" / "glioma" / "2.png")
    hashes.add(datasets.open_folder(folder).file_hash)
    draw(folder / "Training" / "pituitary" / "3.png")
    hashes.add(datasets.open_folder(folder).file_hash)
    assert len(hashes) == 4


def test_the_phantom_is_made_once_for_each_seed(tmp_path, monkeypatch):
    from brainlib.data import phantom

    monkeypatch.setenv("BRAINLIB_CACHE", str(tmp_path))
    write, made = phantom.write_phantom, []

    def write_little(folder, seed):
        made.append(seed)
        return write(folder, patients=4, slices=4, size=64, seed=seed)

    monkeypatch.setattr(phantom, "write_phantom", write_little)
    collections = [open_collection("phantom", seed) for seed in (0, 0, 1)]
    assert made == [0, 1]
    assert all(found.is_synthetic and found.groups_from == "images.csv" for found in collections)
    assert collections[0].title == f"phantom version {phantom.PHANTOM_VERSION}"
    assert collections[0].file_hash == collections[1].file_hash != collections[2].file_hash


def test_a_phantom_in_a_folder_of_ones_own_still_says_so(tmp_path):
    from brainlib.data import phantom

    folder = phantom.write_phantom(tmp_path / "scans", patients=4, slices=4, size=64)
    assert datasets.open_folder(folder).title == "phantom (scans)"
