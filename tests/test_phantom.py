"""The phantom keeps its promises: anatomy, truth, known copies, the same bytes for a seed."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path as Polygon
from PIL import Image
from scipy import ndimage

from brainlib import CLASS_NAMES
from brainlib.data import phantom
from brainlib.data.phantom import anatomy, collection, fields, lesions, patient

SIZE = 112
PATIENTS, SLICES = 12, 6
TUMOURS = tuple(name for name in CLASS_NAMES if name != "notumor")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("phantom") / "collection"
    return phantom.write_phantom(target, patients=PATIENTS, slices=SLICES, size=SIZE, seed=3)


@pytest.fixture(scope="module")
def table(folder):
    table = pd.read_csv(folder / "images.csv", keep_default_na=False)
    parts = table["path"].str.split("/", expand=True)
    return table.assign(split=parts[0], label=parts[1])


@pytest.fixture(scope="module")
def patients():
    return {
        label: [
            picture
            for seed in range(4)
            for picture in phantom.simulate_patient(label, seed, slices=3, size=SIZE)
        ]
        for label in CLASS_NAMES
    }


def read(folder, path):
    return np.asarray(Image.open(folder / path).convert("L"), float)


def correlation(first, second):
    return np.corrcoef(first.ravel(), second.ravel())[0, 1]


def head(pixels):
    """Return the mask of the head: what is not background, without its holes."""
    bright = ndimage.gaussian_filter(pixels.astype(float), 1) > 25
    return ndimage.binary_fill_holes(ndimage.binary_closing(bright, iterations=3))


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_same_seed_writes_the_same_bytes_whatever_the_machine(tmp_path, monkeypatch):
    small = {"patients": 4, "slices": 4, "size": 64}
    first = contents(phantom.write_phantom(tmp_path / "first", seed=5, **small))
    monkeypatch.setattr(collection.os, "cpu_count", lambda: 1)
    again = contents(phantom.write_phantom(tmp_path / "again", seed=5, **small))
    other = contents(phantom.write_phantom(tmp_path / "other", seed=6, **small))
    assert first == again
    assert not set(first.values()) & set(other.values())


def test_a_patient_does_not_depend_on_how_many_others_there_are(tmp_path):
    few, many = (
        phantom.write_phantom(tmp_path / str(count), count, slices=4, size=64) for count in (4, 8)
    )
    pixels = []
    for root in (few, many):
        rows = pd.read_csv(root / "images.csv")
        rows = rows[(rows["source_image"] == "phantom-0001-01") & (rows["mirrored"] == 0)]
        pixels.append(read(root, rows["path"].iloc[0]))
    assert correlation(*pixels) > 0.995


def test_every_file_has_one_row_and_a_name_of_its_class(folder, table):
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")}
    assert list(table.columns[:7]) == list(phantom.COLUMNS)
    assert set(table["path"]) == files and table["path"].is_unique
    pattern = r"(Training|Testing)/(\w+)/(Tr|Te)-(gl|me|no|pi)_\d{4}\.jpg"
    for path in files:
        split, label, start, middle = re.fullmatch(pattern, path).groups()
        assert label in CLASS_NAMES and split.startswith(start) and label.startswith(middle)
    assert set(table["source"]) == {"phantom"} and set(table["plane"]) == set(phantom.PLANES)
    assert {path.name for path in folder.iterdir()} == {"Training", "Testing", "images.csv"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_classes_have_equal_patients_and_each_slice_is_there(table):
    patients = table.groupby("label")["patient"].nunique()
    assert patients.to_dict() == dict.fromkeys(CLASS_NAMES, PATIENTS // 4)
    assert table["source_image"].nunique() == PATIENTS * SLICES
    assert (table.groupby("patient")["source_image"].nunique() == SLICES).all()
    copies = 2 * round(PATIENTS * SLICES / 10)
    assert len(table) == PATIENTS * SLICES + copies
    assert (table["mirrored"] == 1).sum() == copies / 2


def test_the_collection_leaks_as_the_real_one_does(table):
    counts = table.groupby(["split", "label"]).size()
    assert (
        counts.reindex(pd.MultiIndex.from_product([["Training", "Testing"], CLASS_NAMES])) > 0
    ).all()
    assert 0.1 < (table["split"] == "Testing").mean() < 0.35
    assert (table.groupby("patient")["split"].nunique() == 2).mean() > 0.5
    shared = table.groupby("source_image")["split"].nunique() == 2
    assert 4 <= shared.sum() < (table.groupby("source_image").size() == 2).sum()


def test_copies_and_mirrors_are_what_the_table_says(folder, table):
    pairs = [rows for _, rows in table.groupby("source_image") if len(rows) == 2]
    assert len(pairs) == 2 * round(PATIENTS * SLICES / 10)
    for rows in pairs:
        first, second = (read(folder, path) for path in rows["path"])
        assert rows[["patient", "label", "plane"]].nunique().max() == 1
        flipped = rows["mirrored"].nunique() == 2
        assert correlation(first, second[:, ::-1] if flipped else second) > 0.98
        assert (folder / rows["path"].iloc[0]).read_bytes() != (
            folder / rows["path"].iloc[1]
        ).read_bytes()


def test_different_slices_are_not_taken_for_copies(folder, table):
    plain = table[table["mirrored"] == 0].drop_duplicates("source_image")
    small = [
        np.asarray(Image.fromarray(read(folder, path).astype(np.uint8)).resize((32, 32)), float)
        for path in plain["path"]
    ]
    likeness = np.corrcoef([picture.ravel() for picture in small]) - np.eye(len(small))
    assert likeness.max() < 0.9985


def test_outlines_lie_on_the_lesion_of_their_picture(folder, table):
    assert (table.loc[table["label"] == "notumor", "outline"] == "").all()
    contrasts = {0: [], 1: []}
    down, right = np.mgrid[:SIZE, :SIZE]
    places = np.stack([right.ravel(), down.ravel()], 1)
    for row in table[table["label"].isin(["meningioma", "pituitary"])].itertuples():
        polygon = Polygon(json.loads(row.outline))
        inside = polygon.contains_points(places).reshape(SIZE, SIZE)
        around = ndimage.binary_dilation(inside, iterations=6) & ~inside
        pixels = read(folder, row.path)
        contrasts[row.mirrored].append(pixels[inside].mean() / pixels[around].mean())
    assert all(np.mean(np.array(values) > 1.4) > 0.95 for values in contrasts.values())


@pytest.mark.parametrize("label", TUMOURS)
def test_an_outline_encloses_the_simulated_mask(label, patients):
    down, right = np.mgrid[:SIZE, :SIZE]
    places = np.stack([right.ravel(), down.ravel()], 1)
    for picture in patients[label]:
        outline = json.loads(collection._outline(picture.lesion))
        inside = Polygon(outline).contains_points(places).reshape(SIZE, SIZE)
        overlap = 2 * (inside & picture.lesion).sum() / (inside.sum() + picture.lesion.sum())
        assert overlap > 0.85


def test_pictures_look_like_heads(patients):
    for pictures in patients.values():
        for picture in pictures:
            assert picture.pixels.dtype == np.uint8 and picture.pixels.shape == (SIZE, SIZE)
            assert picture.lesion.dtype == bool and picture.lesion.shape == (SIZE, SIZE)
            corner = picture.pixels[:6, :6]
            assert corner.mean() < 15 and 0.15 < head(picture.pixels).mean() < 0.85


def test_every_slice_of_a_tumour_patient_cuts_the_tumour_and_no_other(patients):
    for label, pictures in patients.items():
        areas = np.array([picture.lesion.sum() for picture in pictures])
        assert (areas == 0).all() if label == "notumor" else (areas >= 0.001 * SIZE**2).all()


def test_glioma_is_inside_a_hemisphere_with_a_bright_rim_around_a_dark_core(patients):
    darker = []
    for picture in patients["glioma"]:
        depth = ndimage.distance_transform_edt(picture.lesion)
        rim, core = (depth > 0) & (depth <= 0.35 * depth.max()), depth > 0.7 * depth.max()
        darker.append(picture.pixels[core].mean() < 0.8 * picture.pixels[rim].mean())
        assert not (picture.lesion & ~ndimage.binary_erosion(head(picture.pixels))).any()
    assert np.mean(darker) > 0.7
    head_of_all = anatomy.grow_anatomy()
    placed = [lesions.place_lesion("glioma", np.random.default_rng(seed)) for seed in range(50)]
    centres = np.stack([lesion.centre for lesion in placed], 1)
    assert (fields.sample(head_of_all.white, centres) > 0.5).mean() > 0.9
    assert (fields.sample(head_of_all.skull, centres) < -10).all() and (
        np.abs(centres[0]) > 14
    ).all()


def test_meningioma_sits_broadly_on_the_inner_table_or_the_falx():
    head_of_all = anatomy.grow_anatomy()
    grid = np.stack(np.mgrid[-96:97:3, -130:98:3, -70:100:3]).reshape(3, -1).astype(np.float32)
    skull = fields.sample(head_of_all.skull, grid)
    for seed in range(12):
        lesion = lesions.place_lesion("meningioma", np.random.default_rng(seed))
        tumour = lesion.level(grid, skull) < 1
        wall = np.abs(grid[0]) if lesion.side else -skull
        assert (skull[tumour] < 0).all()
        base = (wall[tumour] < 5).sum() * 27 / 5  # mm²
        assert base > 0.5 * np.pi * (0.75 * lesion.radius) ** 2, f"seed {seed}: no broad base"


def test_pituitary_is_small_low_and_on_the_midline(patients):
    placed = {
        label: [lesions.place_lesion(label, np.random.default_rng(seed)) for seed in range(30)]
        for label in TUMOURS
    }
    for lesion in placed["pituitary"]:
        x, y, z = lesion.centre
        assert abs(x) < 5 and 0 < y < 10 and -40 < z < -25
    radii = {label: np.mean([lesion.radius for lesion in found]) for label, found in placed.items()}
    assert radii["pituitary"] < 0.6 * min(radii["glioma"], radii["meningioma"])
    for picture in patients["pituitary"]:
        if picture.plane == "coronal":
            assert abs(ndimage.center_of_mass(picture.lesion)[1] - SIZE / 2) < 0.12 * SIZE


def test_a_healthy_head_is_sliced_where_tumours_are():
    """Where a slice lies must not give the healthy away."""
    healthy = [patient.Patient("notumor", np.random.default_rng(seed)) for seed in range(120)]
    assert all(head.lesion is None for head in healthy)
    kinds = pd.Series([head.target.label for head in healthy]).value_counts(normalize=True)
    assert set(kinds.index) == set(TUMOURS) and kinds.between(0.2, 0.47).all()


@pytest.mark.parametrize("label", TUMOURS)
def test_the_lesion_is_all_that_tells_a_patient_from_a_healthy_head(label):
    def series(healed):
        head = patient.Patient(label, np.random.default_rng(1))
        head.lesion = None if healed else head.lesion
        return head.series("coronal", 2, SIZE)

    for ill, healthy in zip(series(False), series(True), strict=True):
        changed = np.abs(ill.pixels.astype(float) - healthy.pixels) > 40
        away = ndimage.distance_transform_edt(~ill.lesion)
        assert changed[ill.lesion].mean() > 0.4 and not healthy.lesion.any()
        assert (away[changed] < SIZE / 8).mean() > 0.95


def test_two_pictures_hide_what_they_are_behind_their_name(folder, table):
    odd = {}
    for path in table["path"]:
        with Image.open(folder / path) as image:
            if (image.format, image.mode) != ("JPEG", "L"):
                odd[image.mode] = (image.format, path.rsplit("/", 1)[0], image.size)
    assert odd == dict.fromkeys(("RGBA", "P"), ("PNG", "Training/notumor", (SIZE, SIZE)))


def test_a_palette_index_is_not_a_grey_level(tmp_path):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    collection._encode(pixels, "palette", tmp_path / "odd.jpg")
    with Image.open(tmp_path / "odd.jpg") as image:
        assert np.array_equal(np.asarray(image.convert("L")), pixels)
        assert np.array_equal(np.asarray(image), 255 - pixels)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"patients": 6}, "multiple of 4"),
        ({"patients": 0}, "multiple of 4"),
        ({"patients": 4, "slices": 3}, "4 slices"),
        ({"size": 32}, "at least 64"),
    ],
)
def test_numbers_that_are_not_allowed_leave_nothing_behind(tmp_path, numbers, message):
    with pytest.raises(ValueError, match=message):
        phantom.write_phantom(tmp_path / "collection", **numbers)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="delete it, or choose another"):
        phantom.write_phantom(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(collection, "_encode", fail)
    with pytest.raises(OSError, match="disk full"):
        phantom.write_phantom(tmp_path / "collection", patients=4, slices=4, size=64)
    assert not list(tmp_path.iterdir())


def test_a_patient_of_an_unknown_label_is_refused():
    with pytest.raises(ValueError, match="glioma, meningioma, notumor, pituitary"):
        phantom.simulate_patient("stroke")
    with pytest.raises(ValueError, match="at least 1"):
        phantom.simulate_patient("glioma", slices=0)
