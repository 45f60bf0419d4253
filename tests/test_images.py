"""Images: grey pixels from any file, decoded once, nothing left out unsaid; their outlines."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainlib import CLASS_NAMES, imaging
from brainlib.data import datasets, phantom

SIZE = 32


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "small"
    return phantom.write_phantom(folder, patients=4, slices=4, size=64)


@pytest.fixture
def folder(original, tmp_path, monkeypatch):
    """Give a phantom to spoil, and an empty cache."""
    monkeypatch.setenv("BRAINLIB_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(original, tmp_path / "pictures")


@pytest.fixture
def decoded(monkeypatch):
    read, decoded = imaging.read_image, []
    monkeypatch.setattr(
        imaging.images, "read_image", lambda file: decoded.append(file) or read(file)
    )
    return decoded


def load(folder):
    return imaging.load_images(datasets.open_folder(folder), SIZE)


def cache_files(folder):
    return sorted((folder.parent / "cache").rglob("*"))


def read_saved(image, folder, name="image.png", **options):
    image.save(folder / name, **options)
    return imaging.read_image(folder / name)


def gradient(low, high, dtype, shape=(16, 16)):
    return np.linspace(low, high, shape[0] * shape[1]).reshape(shape).astype(dtype)


def test_what_is_transparent_is_black(tmp_path):
    grey = gradient(10, 250, np.uint8)
    alpha = np.full_like(grey, 255)
    alpha[:8], alpha[8] = 0, 128
    for channels in ([grey, grey, grey, alpha], [grey, alpha]):
        pixels = read_saved(Image.fromarray(np.stack(channels, axis=-1)), tmp_path)
        assert not pixels[:8].any()
        np.testing.assert_allclose(pixels[8], grey[8] / 2, atol=2)
        np.testing.assert_array_equal(pixels[9:], grey[9:])
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([200, 200, 200, 50, 50, 50, 90, 90, 90])
    assert read_saved(image, tmp_path)[0].tolist() == [200, 50, 90]
    assert read_saved(image, tmp_path, transparency=2)[0].tolist() == [200, 50, 0]


def test_8_bits_in_16_orientation_and_progressive_scans_are_read(tmp_path):
    values = gradient(20, 200, np.uint16)
    np.testing.assert_array_equal(read_saved(Image.fromarray(values), tmp_path), values)
    grey = gradient(0, 255, np.uint8, (4, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    pixels = read_saved(Image.fromarray(grey), tmp_path, exif=exif)
    np.testing.assert_array_equal(pixels, np.rot90(grey, -1))
    large = Image.new("L", (2100, 2000), 90)
    assert (read_saved(large, tmp_path, "image.jpg", progressive=True) == 90).all()


def test_resizing_is_antialiased():
    fine = np.indices((256, 256)).sum(axis=0) % 2 * 255
    small = imaging.resize(fine.astype(np.uint8), 32)
    assert small.shape == (32, 32) and np.abs(small.astype(int) - 127).max() <= 2


def test_the_odd_files_of_the_phantom_are_counted(folder):
    collection = datasets.open_folder(folder)
    formats = imaging.file_formats(collection)
    odd = formats[formats["format"] == "PNG"]
    assert set(odd["mode"]) == {"RGBA", "P"} and (odd["ending"] == ".jpg").all()
    assert formats["files"].sum() == len(collection.table)


def test_row_i_shows_image_i_and_a_second_load_decodes_nothing(folder, decoded):
    first = load(folder)
    assert len(decoded) == len(first.table)
    again = load(folder)
    assert len(decoded) == len(first.table)
    pd.testing.assert_frame_equal(first.table, again.table)
    for loaded in (first, again):
        assert loaded.pixels.dtype == np.uint8 and not loaded.unreadable
        assert loaded.pixels.shape == (len(loaded.table), SIZE, SIZE, 1)
        for path, pixels in zip(loaded.table["path"], loaded.pixels, strict=True):
            expected = imaging.resize(imaging.read_image(folder / path), SIZE)
            assert expected.std() > 10
            np.testing.assert_array_equal(pixels[..., 0], expected)
    other = imaging.load_images(datasets.open_folder(folder), SIZE // 2)
    assert other.pixels.shape[1] == SIZE // 2


def test_a_changed_image_is_noticed(folder, decoded):
    table = load(folder).table
    file = folder / table["path"].iloc[3]
    content = bytearray(file.read_bytes())
    Image.new("L", (64, 64), 77).save(file, format="PNG")
    assert (load(folder).pixels[3] == 77).all()
    decoded.clear()
    file.write_bytes(content)
    load(folder)
    assert not decoded  # the old images are still in the cache


def test_a_damaged_cache_is_noticed_and_made_again(folder, decoded):
    expected = load(folder).pixels
    (cache,) = cache_files(folder)
    content = cache.read_bytes()
    flipped = content[:5000] + bytes([content[5000] ^ 255]) + content[5001:]
    for damaged in (content[: len(content) // 2], flipped, b""):
        cache.write_bytes(damaged)
        np.testing.assert_array_equal(load(folder).pixels, expected)
    load(folder)
    assert len(decoded) == 4 * len(expected)


def test_a_load_that_cannot_write_or_is_stopped_meanwhile_leaves_no_half_cache(folder, monkeypatch):
    def stop(file, **arrays):
        file.write_bytes(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", stop)
        with pytest.raises(KeyboardInterrupt):
            load(folder)
    assert not cache_files(folder)
    assert len(load(folder).pixels) and len(cache_files(folder)) == 1
    (folder.parent / "file").touch()
    monkeypatch.setenv("BRAINLIB_CACHE", str(folder.parent / "file"))
    assert len(load(folder).pixels)


def test_two_loads_at_once_give_the_same(folder):
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(load, [folder, folder])
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert len(cache_files(folder)) == 1


@pytest.fixture
def many(tmp_path, monkeypatch):
    """Draw a hundred images, each of a grey of its own."""
    monkeypatch.setenv("BRAINLIB_CACHE", str(tmp_path / "cache"))
    for number in range(100):
        file = tmp_path / "many" / CLASS_NAMES[number % 4] / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 100 + number).save(file)
    return tmp_path / "many"


def test_one_unreadable_in_a_hundred_is_left_out_and_named_and_two_are_too_many(many, caplog):
    (many / "glioma" / "004.png").write_text("not an image")
    for _ in range(2):  # the second time from the cache
        loaded = load(many)
        assert list(loaded.unreadable) == ["glioma/004.png"]
        assert "it is no JPEG" in loaded.unreadable["glioma/004.png"]
        assert len(loaded.pixels) == len(loaded.table) == 99
        greys = loaded.table["path"].str[-7:-4].astype(int) + 100
        np.testing.assert_array_equal(loaded.pixels[:, 0, 0, 0], greys)
    assert caplog.text.count("left out glioma/004.png") == 2
    (many / "notumor" / "002.png").write_bytes(b"\x89PNG")
    with pytest.raises(imaging.ImageError, match=r"2 of 100 .* more than 1%.*glioma/004\.png"):
        load(many)


def test_samples_and_histograms_are_of_their_class(many):
    loaded = load(many)
    samples = imaging.sample_images(loaded, 3, seed=1)
    for number, label in enumerate(CLASS_NAMES):
        assert len(samples[label]) == 3
        assert all(int(image[0, 0]) % 4 == number for image in samples[label])
    histograms = imaging.grey_histograms(loaded, bins=256)
    np.testing.assert_allclose(histograms.sum(), 1)
    assert histograms["glioma"].iloc[[100, 104]].tolist() == [0.04] * 2
    assert histograms["glioma"].iloc[101] == 0


def outlined(**columns):
    square = json.dumps([[8, 16], [24, 16], [24, 32], [8, 32]])
    row = {"path": "a.png", "label": "glioma", "outline": square, "outline_frame": ""}
    return pd.DataFrame([row | columns])


def test_an_outline_is_in_the_pixels_of_its_image_or_in_a_frame_that_needs_no_file(tmp_path):
    masks, _ = imaging.draw_outlines(outlined(outline_frame=64), tmp_path, 32)
    assert (masks[0] > 127).sum() == pytest.approx(8 * 8, abs=10)
    Image.new("L", (64, 32)).save(tmp_path / "a.png")
    masks, known = imaging.draw_outlines(outlined(), tmp_path, 64)
    assert known.all() and masks.dtype == np.uint8 and masks.shape == (1, 64, 64)
    rows, columns = np.nonzero(masks[0] > 127)
    assert (columns.min(), columns.max()) == (8, 23)
    assert 31 <= rows.min() <= 33 and rows.max() >= 62  # the image is half as high as wide
    # a border pixel has the share that lies inside
    half = imaging.draw_polygon(np.array([[0, 0], [2.5, 0], [2.5, 4], [0, 4]]), 4)
    assert half[1, 0] == 255 and half[1, 3] == 0 and 90 < half[1, 2] < 200


def test_an_image_without_outline_is_known_only_without_tumour(tmp_path):
    table = pd.concat([outlined(outline="", label=label) for label in ("glioma", "notumor")])
    masks, known = imaging.draw_outlines(table, tmp_path, 16)
    assert known.tolist() == [False, True] and not masks.any()
