"""The phantom: plausible anatomy, true outlines, known copies, the same bytes for a seed."""

import json
from functools import partial
from itertools import chain

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage
from stand_ins import contents

from brainlib import CLASS_NAMES, imaging
from brainlib.data import phantom
from brainlib.data.phantom import anatomy, collection

SIZE = 112
PATIENTS, SLICES = 12, 6
TUMORS = tuple(name for name in CLASS_NAMES if name != "notumor")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("phantom") / "collection"
    return phantom.write_phantom(target, patients=PATIENTS, slices=SLICES, size=SIZE, seed=3)


@pytest.fixture(scope="module")
def table(folder):
    table = pd.read_csv(folder / "images.csv", keep_default_na=False)
    folders = table["path"].str.split("/", expand=True)
    return table.assign(split=folders[0], label=folders[1])


def head(pixels):
    bright = ndimage.gaussian_filter(pixels.astype(float), 1) > 25
    return ndimage.binary_fill_holes(ndimage.binary_closing(bright, iterations=3))


def test_a_seed_writes_the_same_bytes_on_any_machine(tmp_path, monkeypatch):
    def write(name, seed):
        target = tmp_path / name
        return contents(phantom.write_phantom(target, patients=4, slices=4, size=64, seed=seed))

    first = write("first", 5)
    monkeypatch.setattr(collection.os, "cpu_count", lambda: 1)
    again, other = write("again", 5), write("other", 6)
    assert first == again and not set(first.values()) & set(other.values())


def test_the_collection_is_named_balanced_and_leaks_as_the_real_one(folder, table):
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")}
    assert set(table["path"]) == files and table["path"].is_unique
    pattern = r"((Tr|Te)\w+)/((gl|me|no|pi)\w+)/\2-\4_\d{4}\.jpg"
    assert table["path"].str.fullmatch(pattern).all() and set(table["label"]) == set(CLASS_NAMES)
    assert set(table["plane"]) == set(phantom.PLANES)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert (table.groupby("label")["patient"].nunique() == PATIENTS // 4).all()
    assert (table.groupby("patient")["source_image"].nunique() == SLICES).all()
    copies = 2 * round(PATIENTS * SLICES / 10)
    assert len(table) == PATIENTS * SLICES + copies
    assert (table["mirrored"] == 1).sum() == copies / 2
    assert table.groupby(["split", "label"]).ngroups == 8
    assert 0.1 < (table["split"] == "Testing").mean() < 0.35
    assert (table.groupby("patient")["split"].nunique() == 2).mean() > 0.5
    assert 4 <= (table.groupby("source_image")["split"].nunique() == 2).sum() < copies
    odd = {}  # two files named .jpg are PNG with alpha and palette
    for path in table["path"]:
        with Image.open(folder / path) as image:
            if (image.format, image.mode) != ("JPEG", "L"):
                odd[image.mode] = (image.format, path.rsplit("/", 1)[0], image.size)
    assert odd == dict.fromkeys(("RGBA", "P"), ("PNG", "Training/notumor", (SIZE, SIZE)))


def test_copies_and_mirror_images_are_what_the_table_says(folder, table):
    for _, rows in table.groupby("source_image"):
        if len(rows) == 2:
            first, second = (imaging.read_image(folder / path) for path in rows["path"])
            turned = second[:, ::-1] if rows["mirrored"].nunique() == 2 else second
            assert np.corrcoef(first.ravel(), turned.ravel())[0, 1] > 0.98
            assert not np.array_equal(first, second)


def test_outlines_lie_on_the_lesion_of_their_image(folder, table):
    assert (table.loc[table["label"] == "notumor", "outline"] == "").all()
    contrasts = {0: [], 1: []}
    for row in table[table["label"].isin(["meningioma", "pituitary"])].itertuples():
        lesion = imaging.draw_polygon(np.array(json.loads(row.outline)), SIZE) > 127
        pixels = imaging.read_image(folder / row.path)
        around = ndimage.binary_dilation(lesion, iterations=6) & ~lesion
        contrasts[row.mirrored].append(pixels[lesion].mean() / pixels[around].mean())
    assert all(np.mean(np.array(values) > 1.4) > 0.95 for values in contrasts.values())


@pytest.mark.parametrize("label", CLASS_NAMES)
def test_images_show_a_head_with_a_tumour_in_tumour_patients_only(label):
    simulate = partial(phantom.simulate_patient, label, slices=3, size=SIZE)
    for image in chain.from_iterable(map(simulate, range(4))):
        assert image.pixels.dtype == np.uint8 and image.pixels.shape == (SIZE, SIZE)
        assert image.pixels[:6, :6].mean() < 15 and 0.15 < head(image.pixels).mean() < 0.85
        area = image.lesion.sum()
        assert area == 0 if label == "notumor" else area >= 0.001 * SIZE**2


def test_each_kind_of_tumour_lies_where_it_grows_and_healthy_heads_are_sliced_there_too():
    def placed(label, count):
        return [anatomy.place_lesion(label, np.random.default_rng(seed)) for seed in range(count)]

    volumes = anatomy.grow_anatomy()
    centres = np.stack([lesion.centre for lesion in placed("glioma", 50)], 1)
    assert (anatomy.sample(volumes.white, centres) > 0.5).mean() > 0.9  # in a hemisphere
    assert (anatomy.sample(volumes.skull, centres) < -10).all() and (np.abs(centres[0]) > 14).all()

    grid = np.stack(np.mgrid[-96:97:3, -130:98:3, -70:100:3]).reshape(3, -1).astype(np.float32)
    skull = anatomy.sample(volumes.skull, grid)
    for lesion in placed("meningioma", 6):  # with a broad base on the inner table or the falx
        tumor = lesion.level(grid, skull) < 1
        wall = np.abs(grid[0]) if lesion.side else -skull
        base = (wall[tumor] < 5).sum() * 27 / 5  # mm²
        assert (skull[tumor] < 0).all() and base > 0.5 * np.pi * (0.75 * lesion.radius) ** 2

    x, y, z = np.stack([lesion.centre for lesion in placed("pituitary", 30)], 1)  # at the sella
    assert (np.abs(x) < 5).all() and ((y > 0) & (y < 10)).all() and ((z > -40) & (z < -25)).all()

    healthy = [anatomy.Patient("notumor", np.random.default_rng(seed)) for seed in range(120)]
    assert all(head.lesion is None for head in healthy)
    kinds = pd.Series([head.target.label for head in healthy]).value_counts(normalize=True)
    assert set(kinds.index) == set(TUMORS) and kinds.between(0.2, 0.47).all()


@pytest.mark.parametrize("label", TUMORS)
def test_only_the_lesion_tells_a_patient_from_a_healthy_head(label):
    def series(healed):
        head = anatomy.Patient(label, np.random.default_rng(1))
        head.lesion = None if healed else head.lesion
        return head.series("coronal", 2, SIZE)

    for ill, healthy in zip(series(False), series(True), strict=True):
        changed = np.abs(ill.pixels.astype(float) - healthy.pixels) > 40
        away = ndimage.distance_transform_edt(~ill.lesion)
        assert changed[ill.lesion].mean() > 0.4 and not healthy.lesion.any()
        assert (away[changed] < SIZE / 8).mean() > 0.95


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="delete it, or choose another"):
        phantom.write_phantom(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
