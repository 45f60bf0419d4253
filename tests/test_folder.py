"""A folder of scans becomes two tables: each slice once, in order, whatever happened in between."""

import os
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import onnx
import pandas as pd
import pytest
from PIL import Image
from stand_ins import draw, grey_of, write_model

from brainlib import CLASS_NAMES, imaging, inference, paths
from brainlib.inference import folder
from brainlib.models import engines

CLASSES = list(CLASS_NAMES)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(engines, "CHUNK", 8)


@pytest.fixture
def read(monkeypatch):
    """Note the names of the scans that are read."""
    names, read = [], imaging.read_scan
    noted = lambda scan, plane: names.append(scan.series) or read(scan, plane)  # noqa: E731
    monkeypatch.setattr(imaging, "read_scan", noted)
    return names


def classify(place, output, task):
    """Classify a folder and return its two tables as they were written."""
    files = inference.classify_scans(imaging.list_scans(place), output, task)
    return [file.read_bytes() for file in files]


def stopped(place, output, task, count):
    """Classify a folder until so many parts are written, and return the error that stopped it."""
    write, written = folder.write_part, []

    def fail(*part):
        if len(written) == count:
            raise RuntimeError("stopped")
        write(*part)
        written.append(part)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError) as said:
        patch.setattr(folder, "write_part", fail)
        classify(place, output, task)
    return said  # with its traceback, as a notebook keeps the last


def test_each_slice_of_a_mixed_folder_is_one_row_in_order(task, tmp_path):
    place = draw(tmp_path / "scans", 30)
    volume = np.stack([np.full((20, 20), 30 + 10 * number) for number in range(4)], axis=-1)
    nibabel.save(nibabel.Nifti1Image(volume.astype(np.uint8), np.eye(4)), place / "00010v.nii.gz")
    (place / "00004.png").write_bytes(b"\x89PNG cut short")
    (place / "00020.nii").write_bytes(b"no volume")
    (place / "notes.txt").write_text("no scan", encoding="utf-8")
    slices, series = inference.classify_scans(imaging.list_scans(place), tmp_path / "out", task)
    table, studies = inference.read_slice_table(slices), pd.read_csv(series, keep_default_na=False)
    names = [*(file.name for file in place.iterdir() if file.suffix != ".txt"),
             *["00010v.nii.gz"] * 3]  # fmt: skip
    assert [Path(path).name for path in table["path"]] == sorted(names)
    assert table.loc[table["series"] == "00010v.nii.gz", "slice"].tolist() == [1, 2, 3, 4]
    bad = table["error"] != ""
    assert table.loc[bad, "series"].tolist() == ["00004.png", "00020.nii"]
    assert (table.loc[bad, "class"] == "").all() and table.loc[bad, CLASSES].isna().all().all()
    images = table[~bad & table["path"].str.endswith(".png")]
    numbers = images["path"].map(lambda path: int(Path(path).stem))
    assert images["class"].tolist() == [CLASSES[number % 4] for number in numbers]
    assert studies["slices"].sum() == len(table) and len(studies) == len(table) - 3
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_what_was_stopped_goes_on_and_reads_no_finished_part_again(task, tmp_path, read):
    place, output, threads = (
        draw(tmp_path / "scans", 50),
        tmp_path / "out",
        threading.active_count(),
    )
    whole = classify(place, tmp_path / "whole", task)
    stops = [stopped(place, output, task, 2) for _ in range(3)]
    assert threading.active_count() == threads, stops
    assert not (output / "predictions.csv").exists()
    kept = sorted(output.glob("*.parts/*.predictions.csv"))
    finished = [row.split(",")[1] for part in kept for row in part.read_text().splitlines()]
    assert len(kept) == 2 * len(stops)
    read.clear()
    assert classify(place, output, task) == whole
    assert len(read) == len(set(read)) == 50 - len(finished) and not set(read) & set(finished)
    assert not list(output.glob("*.parts"))
    stopped(place, output, task, 3)  # and then power is lost before a part is on the disk
    next(output.glob("*.parts/0*.studies.csv")).write_bytes(b"")
    assert classify(place, output, task) == whole


@pytest.mark.parametrize("change", ["a file", "a file more", "the model", "the plane"])
def test_other_scans_and_another_model_start_anew(task, tmp_path, read, change):
    place = draw(tmp_path / "scans", 30)
    task = replace(task, model=write_model(tmp_path / "mine.onnx"))
    stopped(place, tmp_path / "out", task, 2)
    if change == "a file more":
        Image.new("L", (9, 9), 7).save(place / "99999.png")
    elif change == "a file":  # of the same size and time, as archives without times leave them
        file, status = place / "00000.png", (place / "00000.png").stat()
        Image.new("L", (9, 8), grey_of(1)).save(file)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert file.stat().st_size == status.st_size
    elif change == "the model":
        model = onnx.load(tmp_path / "mine.onnx")
        model.doc_string = "another"
        onnx.save(model, tmp_path / "mine.onnx")
    else:
        task = replace(task, plane="axial")
    read.clear()
    tables = classify(place, tmp_path / "out", task)
    assert len(read) == len(set(read)) == 30 + (change == "a file more")
    assert tables == classify(place, tmp_path / "anew", task)


def test_a_reader_that_fails_in_a_way_of_its_own_costs_its_scan_alone(task, tmp_path, monkeypatch):
    place, read_scan = draw(tmp_path / "scans", 12), imaging.read_scan

    def fail(scan, plane):
        if scan.series == "00003.png":
            raise MemoryError("too\nlarge")
        return iter([]) if scan.series == "00005.png" else read_scan(scan, plane)

    monkeypatch.setattr(imaging, "read_scan", fail)
    classify(place, tmp_path / "out", task)
    table = inference.read_slice_table(tmp_path / "out" / "predictions.csv").set_index("series")
    assert len(table) == 12 and (table["error"] != "").sum() == 2
    assert "MemoryError: too large" in table.loc["00003.png", "error"]
    assert "holds no slice" in table.loc["00005.png", "error"]


def test_memory_does_not_grow_with_the_number_of_images(task, tmp_path, monkeypatch):
    """Pixels of what is done are let go; the list of scans alone grows."""
    monkeypatch.setattr(folder, "_cores", lambda: 2)
    alive, most, read_scan = weakref.WeakSet(), [], imaging.read_scan

    def count(slice_):
        alive.add(slice_)
        most.append(len(alive))
        return slice_

    monkeypatch.setattr(imaging, "read_scan", lambda *scan: map(count, read_scan(*scan)))
    classify(draw(tmp_path / "scans", 400), tmp_path / "out", task)
    assert 0 < max(most) <= 2 * 8 * 2  # two parts of 8 at work


def test_the_engines_agree_on_the_released_files():
    images = [np.random.default_rng(0).integers(0, 256, (200, 150), np.uint8)]
    first, *others = (
        inference.predict_images(engines.open_engine(paths.released_model(), engine), images)
        for engine in engines.ENGINES
    )
    assert others
    for answer in others:
        np.testing.assert_allclose(answer, first, rtol=0, atol=1e-4)


def test_tables_of_scans_that_changed_meanwhile_are_not_joined(task, tmp_path, monkeypatch):
    place, write = draw(tmp_path / "scans", 20), folder.write_part

    def change(parts, number, rows):
        Image.new("L", (9, 9), 7).save(place / "00000.png")
        write(parts, number, rows)

    monkeypatch.setattr(folder, "write_part", change)
    with pytest.raises(paths.BrainlibError, match="changed while"):
        classify(place, tmp_path / "out", task)
    assert not (tmp_path / "out" / "predictions.csv").exists()
