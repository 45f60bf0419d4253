"""The figshare source: MATLAB files become a collection, or an error that says what to do."""

import functools
import hashlib
import http.server
import json
import shutil
import threading
import zipfile

import h5py
import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path as Polygon
from PIL import Image

from brainlib.data import datasets, figshare

NUMBERS = range(225, 233)  # real slices, 229 of which stands mislabelled in the Kaggle collection
PATIENTS = {225: "101016", 226: "MR050001", 227: "MR050001B", 228: "MR050001C", 229: "101127"}
LABELS = {225: 2, 226: 2, 227: 2, 228: 1, 229: 1, 230: 1, 231: 3, 232: 3}


def make_slice(number):
    """Return an image and a mask as MATLAB would show them: nothing in them is symmetric."""
    size = 64 if number == 226 else 128
    y, x = np.mgrid[:size, :size] / size
    wave = np.sin((number - 220) * x * 3 + y) * np.cos((number - 215) * y)
    image = (900 * x + 500 * y + 400 * wave + 100).astype(np.int16)
    mask = ((x - 0.7) / 0.15) ** 2 + ((y - 0.3) / 0.08) ** 2 < 1
    image[mask] = 2500
    return image, mask


def write_mat(file, number, **changes):
    """Write what MATLAB 7.3 writes: HDF5 after a block of 512 bytes, columns first."""
    image, mask = make_slice(number)
    characters = [[ord(letter)] for letter in PATIENTS.get(number, f"{number}000")]
    fields = {
        "label": np.array([[float(LABELS.get(number, 1))]]),
        "PID": np.array(characters, dtype=np.uint16),
        "image": image.T,
        "tumorBorder": np.zeros((1, 8)),
        "tumorMask": mask.T.astype(np.uint8),
    } | changes
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w", userblock_size=512) as opened:
        for name, value in fields.items():
            if value is not None:
                opened[f"cjdata/{name}"] = value
    return file


def write_archive(file, numbers, folder):
    with zipfile.ZipFile(file, "w") as archive:
        for number in numbers:
            archive.write(write_mat(folder / f"{number}.mat", number), f"{number}.mat")
    return figshare.Archive("", hashlib.md5(file.read_bytes()).hexdigest(), numbers)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Two archives as they are published, and what is known of them."""
    folder, loose = tmp_path_factory.mktemp("published"), tmp_path_factory.mktemp("loose")
    names = {"first.zip": NUMBERS[:4], "second.zip": NUMBERS[4:]}
    archives = {name: write_archive(folder / name, part, loose) for name, part in names.items()}
    (folder / "cvind.mat").write_bytes(b"no slice")
    return folder, archives


@pytest.fixture(scope="module")
def collection(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("opened") / "figshare"
    shutil.copytree(published[0], folder)
    return figshare.open_figshare(folder, published[1])


@pytest.fixture
def loose(tmp_path):
    """Give a folder of `.mat` files put there by hand, and the archives they make up."""
    for number in NUMBERS:
        write_mat(tmp_path / f"{number}.mat", number)
    return tmp_path, {"all.zip": figshare.Archive("http://127.0.0.1:9/all.zip", "0" * 32, NUMBERS)}


@pytest.fixture
def serve(published, monkeypatch):
    """Serve the archives on this machine; `failures` requests are refused first."""
    servers = []

    def start(failures=0):
        left = [failures]

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                if left[0]:
                    left[0] -= 1
                    self.send_error(503)
                else:
                    requested.append(self.path)
                    super().do_GET()

            def log_message(self, *_):
                pass

        requested = []
        handler = functools.partial(Handler, directory=str(published[0]))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        archives = {
            name: figshare.Archive(f"{address}/{name}", archive.md5, archive.slices)
            for name, archive in published[1].items()
        }
        return archives, requested

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def picture(collection, path):
    return np.asarray(Image.open(collection.root / path))


def test_the_image_table_has_what_every_source_has(collection):
    table = collection.table.set_index("source_image")
    assert tuple(collection.table.columns[:6]) == datasets.COLUMNS
    assert collection.title == "figshare version 8" and not collection.is_synthetic
    assert len(table) == 8 and set(table["source"]) == {"figshare"} and set(table["split"]) == {""}
    names = {1: "meningioma", 2: "glioma", 3: "pituitary"}
    for number in NUMBERS:
        row = table.loc[f"figshare:{number}.jpg"]
        assert row["label"] == names[LABELS[number]]
        assert row["path"] == f"{row['label']}/{number}.png"


def test_scans_of_one_patient_are_one_patient(collection):
    table = collection.table.set_index("source_image")
    merged = table.loc[[f"figshare:{number}.jpg" for number in (226, 227, 228)]]
    assert set(merged["patient"]) == {"MR050001"} and set(merged["group"]) == {"fig_MR050001"}
    assert table.loc["figshare:225.jpg", "patient"] == "101016"


def test_pictures_are_upright_and_span_the_grey_range(collection):
    for path in collection.table["path"]:
        image, _ = make_slice(int(path.split("/")[1][:-4]))
        shown = picture(collection, path)
        expected = (image - image.min()) / (image.max() - image.min()) * 255
        assert shown.dtype == np.uint8 and shown.min() == 0 and shown.max() == 255
        np.testing.assert_allclose(shown, expected, atol=0.51)


def test_outlines_lie_on_the_tumour(collection):
    for row in collection.table.itertuples():
        _, mask = make_slice(int(row.path.split("/")[1][:-4]))
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
        points = np.column_stack([x.ravel(), y.ravel()])
        inside = Polygon(json.loads(row.outline)).contains_points(points).reshape(mask.shape)
        assert (inside & mask).sum() / (inside | mask).sum() > 0.85


def test_loose_files_do_as_well_as_archives(collection, loose):
    folder, archives = loose
    opened = figshare.open_figshare(folder, archives)
    pd.testing.assert_frame_equal(opened.table, collection.table)


def test_a_stopped_conversion_goes_on(loose, monkeypatch):
    folder, archives = loose
    broken = write_mat(folder / "230.mat", 230, label=None)
    with pytest.raises(datasets.DatasetError):
        figshare.open_figshare(folder, archives)
    assert not (folder / "pictures" / "images.csv").exists()
    assert not list((folder / "pictures").glob(".*"))
    write_mat(broken, 230)
    read, read_slice = [], figshare.read_slice
    monkeypatch.setattr(
        figshare.collection, "read_slice", lambda *file: read.append(file) or read_slice(*file)
    )
    assert len(figshare.open_figshare(folder, archives).table) == 8
    assert [file.name for file, _ in read] == ["230.mat", "231.mat", "232.mat"]


def test_a_converted_collection_needs_its_files_no_more(loose):
    folder, archives = loose
    first = figshare.open_figshare(folder, archives)
    for file in folder.glob("*.mat"):
        file.unlink()
    second = figshare.open_figshare(folder, archives)
    assert second.file_hash == first.file_hash


def test_a_picture_lost_from_the_converted_collection_is_noticed(loose):
    folder, archives = loose
    opened = figshare.open_figshare(folder, archives)
    (opened.root / opened.table["path"][0]).unlink()
    with pytest.raises(datasets.DatasetError, match=r"7 slices, not the 8 .*Delete that folder"):
        figshare.open_figshare(folder, archives)


def test_archives_are_downloaded_once(serve, tmp_path):
    archives, requested = serve()
    assert len(figshare.open_figshare(tmp_path, archives).table) == 8
    figshare.download_figshare(tmp_path, archives)
    assert requested == ["/first.zip", "/second.zip"]


def test_only_the_missing_archive_is_downloaded(serve, published, tmp_path):
    archives, requested = serve()
    shutil.copy(published[0] / "first.zip", tmp_path)
    figshare.download_figshare(tmp_path, archives)
    assert requested == ["/second.zip"]


def test_a_download_that_fails_is_tried_again(serve, tmp_path):
    archives, requested = serve(failures=1)
    figshare.download_figshare(tmp_path, archives)
    assert len(requested) == 2


def test_a_download_with_another_checksum_is_refused(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(figshare.collection, "RETRIES", 0)
    archives, _ = serve()
    archives["first.zip"] = figshare.Archive(archives["first.zip"].url, "0" * 32, NUMBERS[:4])
    with pytest.raises(datasets.DatasetError, match=r"first\.zip could not be downloaded.*hash"):
        figshare.open_figshare(tmp_path, archives)
    assert not list(tmp_path.iterdir())


def test_without_a_network_the_error_says_what_to_fetch_and_where_to_put_it(loose, monkeypatch):
    monkeypatch.setattr(figshare.collection, "RETRIES", 0)
    folder, archives = loose
    (folder / "230.mat").unlink()
    with pytest.raises(datasets.DatasetError) as caught:
        figshare.open_figshare(folder, archives)
    for part in ("7 of the 8", "10.6084/m9.figshare.1512427", "all.zip", str(folder), "phantom"):
        assert part in str(caught.value)


def test_the_whole_collection_is_four_archives_of_3064_slices():
    numbers = [number for archive in figshare.ARCHIVES.values() for number in archive.slices]
    assert sorted(numbers) == list(range(1, 3065)) and len(figshare.ARCHIVES) == 4
    for name, archive in figshare.ARCHIVES.items():
        first, last = archive.slices[0], archive.slices[-1]
        assert name == f"brainTumorDataPublic_{first}-{last}.zip" and len(archive.md5) == 32


def test_the_merged_patients_are_those_of_the_provenance_table():
    provenance = datasets.read_provenance()
    patients = provenance.loc[provenance["figshare_slice"] != "", "patient"]
    assert (patients.map(figshare.merge_patient) == patients).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label": np.array([[4.0]])}, "label 4 is unknown"),
        ({"label": None}, "no field label"),
        ({"tumorMask": None, "PID": None}, "no field PID, tumorMask"),
        ({"tumorMask": np.zeros((128, 128), np.uint8)}, "mask is empty"),
        ({"tumorMask": np.ones((64, 64), np.uint8)}, r"shape \(128, 128\) with a mask"),
    ],
)
def test_a_wrong_slice_is_named_with_its_reason(tmp_path, changes, reason):
    file = write_mat(tmp_path / "7.mat", 7, **changes)
    with pytest.raises(datasets.DatasetError, match=rf"7\.mat .*{reason}.*Delete .*7\.mat"):
        figshare.read_slice(file)


@pytest.mark.parametrize("kept", [0, 300, 2000, -200])
def test_a_truncated_file_is_named(tmp_path, kept):
    file = write_mat(tmp_path / "7.mat", 7)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(datasets.DatasetError, match=r"7\.mat is not a slice .*whole copy"):
        figshare.read_slice(file)


def test_a_file_without_cjdata_is_named(tmp_path):
    with h5py.File(tmp_path / "7.mat", "w") as opened:
        opened["cvind"] = np.zeros(3)
    with pytest.raises(datasets.DatasetError, match=r"7\.mat is not a slice .*cjdata"):
        figshare.read_slice(tmp_path / "7.mat")


def test_a_truncated_archive_is_named(published, tmp_path):
    whole = (published[0] / "first.zip").read_bytes()
    (tmp_path / "first.zip").write_bytes(whole[:-100])
    with pytest.raises(datasets.DatasetError, match=r"first\.zip cannot be read.*Delete it"):
        figshare.open_figshare(tmp_path, published[1])


def test_a_slice_too_many_is_named(loose):
    folder, archives = loose
    write_mat(folder / "9999.mat", 9999)
    with pytest.raises(datasets.DatasetError, match=r"9 slices, not the 8 .*too many: 9999"):
        figshare.open_figshare(folder, archives)


@pytest.fixture(scope="module")
def kaggle(collection):
    """Give the Kaggle pictures of the eight slices, mirrored as they are there, and one other."""
    table = datasets.read_provenance()
    chosen = table["figshare_slice"].isin([str(number) for number in NUMBERS])
    table = pd.concat([table[chosen], table[table["source"] == "br35h_no"].head(1)])
    table = table.reset_index(drop=True)
    assert set(table["mirrored"]) == {"0", "1"}
    pixels = np.zeros((len(table), 96, 96, 1), dtype=np.uint8)
    for row, origin in table[table["figshare_slice"] != ""].iterrows():
        image, _ = make_slice(int(origin["figshare_slice"]))
        darker = (image - image.min()) / np.ptp(image) * 230  # another conversion than ours
        scaled = Image.fromarray(darker.astype(np.uint8)).resize((96, 96))
        pixels[row, :, :, 0] = np.asarray(scaled)[:, :: -1 if origin["mirrored"] == "1" else 1]
    return table, pixels


def test_masks_follow_the_kaggle_pictures(collection, kaggle):
    table, pixels = kaggle
    masks, known = figshare.masks_for(table, pixels, collection)
    assert masks.shape == pixels.shape[:3] and masks.dtype == bool
    np.testing.assert_array_equal(known, table["figshare_slice"] != "")
    assert not masks[~known].any()
    tumour = pixels[..., 0] > 200  # the tumour is the brightest part of every test slice
    for mask, bright in zip(masks[known], tumour[known], strict=True):
        assert (mask & bright).sum() / (mask | bright).sum() > 0.85


def test_masks_can_have_another_size(collection, kaggle):
    masks, _ = figshare.masks_for(*kaggle, collection, size=32)
    full, _ = figshare.masks_for(*kaggle, collection)
    assert masks.shape == (len(kaggle[0]), 32, 32)
    assert masks.mean() == pytest.approx(full.mean(), rel=0.15)


@pytest.mark.parametrize("turned", ["mirrored", "transposed", "shifted", "black"])
def test_masks_that_would_miss_the_tumour_are_refused(collection, kaggle, turned):
    table, pixels = kaggle
    wrong = {
        "mirrored": pixels[:, :, ::-1],
        "transposed": pixels.swapaxes(1, 2),
        "shifted": np.roll(pixels, 1, axis=0),
        "black": np.zeros_like(pixels),
    }[turned]
    rows = np.flatnonzero(table["figshare_slice"] != "")
    with pytest.raises(datasets.DatasetError, match="do not look like the Kaggle pictures"):
        figshare.masks_for(table.iloc[rows], wrong[rows], collection)


def test_masks_of_another_collection_are_refused(collection):
    with pytest.raises(datasets.DatasetError, match="not of version 1 of the Kaggle"):
        figshare.masks_for(collection.table, np.zeros((8, 9, 9, 1), np.uint8), collection)
