"""The figshare source: MATLAB files become a collection, or an error with advice."""

import hashlib
import json
import shutil
import zipfile

import h5py
import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from PIL import Image

from brainlib.data import figshare, kaggle
from brainlib.paths import BrainlibError

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
