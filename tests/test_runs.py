"""The frame of a notebook: parameters checked, writes whole, every result with its record."""

import os
from dataclasses import replace
from datetime import datetime

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import brainlib
from brainlib import paths
from brainlib.data import phantom
from brainlib.notebook import runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("phantom") / "small"
    return phantom.write_phantom(target, patients=4, slices=4, size=64)


@pytest.fixture
def run(folder, tmp_path):
    variables = {"source": str(folder), "output": str(tmp_path / "out"), "seed": 3}
    return runs.start("02_train", variables)


def injected(cell):
    """Return what a notebook's globals hold after papermill's injected cell."""
    variables = {"In": ["", "source = 'kaggle'", f"# Parameters\n{cell}", "import keras"]}
    exec(cell, {}, variables)
    return variables


def test_defaults_hold_where_a_notebook_says_nothing():
    started = runs.start("02_train", {})
    assert started.settings == runs.TrainSettings()
    assert started.output == paths.project_root() / "runs" / "lab" and not started.smoke


def test_parameters_of_the_notebook_are_taken_and_other_variables_left():
    variables = {"source": "scans", "fold": 2, "learning_rate": 1, "epochs": 7, "sauce": 1, "x": 2}
    settings = runs.start("02_train", variables).settings
    assert (settings.source, settings.fold, settings.epochs) == ("scans", 2, 7)
    assert isinstance(settings.learning_rate, float) and settings.learning_rate == 1.0
    assert not hasattr(settings, "sauce")


@pytest.mark.parametrize("name", runs.SETTINGS)
def test_an_unknown_parameter_from_papermill_names_the_known_ones(name):
    with pytest.raises(runs.NotebookError, match="no parameter 'sauce'") as refused:
        runs.start(name, injected("seed = 1\nsauce = 'phantom'"))
    for parameter in runs.SETTINGS[name].__dataclass_fields__:
        assert parameter in str(refused.value)


def test_known_parameters_from_papermill_are_taken():
    assert runs.start("01_explore", injected("seed = 1")).settings.seed == 1


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("seed", "three", "'three' is str; it must be int"),
        ("seed", 1.0, "1.0 is float; it must be int"),
        ("seed", True, "True is bool; it must be int"),
        ("seed", None, "None is NoneType; it must be int"),
        ("learning_rate", False, "False is bool; it must be float"),
        ("learning_rate", "0.1", "'0.1' is str; it must be float"),
        ("source", 3, "3 is int; it must be str"),
        ("seed", -1, "it can be 0 to 2147483647"),
        ("fold", 5, "it can be 0 to 4"),
        ("epochs", -1, "it can be 0 to 1000"),
        ("batch_size", 1025, "it can be 0 to 1024"),
        ("learning_rate", -0.1, "it can be 0.0 to 1.0"),
        ("learning_rate", float("nan"), "it can be 0.0 to 1.0"),
        ("learning_rate", float("inf"), "it can be 0.0 to 1.0"),
        ("protocol", "random", "choose one of patient, official, deduplicated"),
        ("model", "resnet", "choose one of brain_tumor, seed_cnn"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(parameter, value, message):
    with pytest.raises(runs.NotebookError) as refused:
        runs.start("02_train", {parameter: value})
    assert str(refused.value).startswith(f"{parameter} = {value!r}")
    assert message in str(refused.value)


@pytest.mark.parametrize(("parameter", "value"), [("fold", 4), ("epochs", 1000), ("seed", 0)])
def test_the_ends_of_a_range_are_allowed(parameter, value):
    assert getattr(runs.start("02_train", {parameter: value}).settings, parameter) == value


def test_the_smoke_profile_is_chosen_by_the_environment_alone(monkeypatch):
    assert not runs.start("01_explore", {"smoke": True, "profile": "smoke"}).smoke
    monkeypatch.setenv("BRAINLIB_PROFILE", "full")
    assert not runs.start("01_explore", {}).smoke


def test_the_smoke_profile_is_a_small_phantom_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("BRAINLIB_PROFILE", "smoke")
    monkeypatch.setenv("BRAINLIB_CACHE", str(tmp_path))
    write, made = phantom.write_phantom, []

    def write_little(folder, patients, slices):
        made.append((patients, slices))
        return write(folder, patients=4, slices=4, size=64)

    monkeypatch.setattr(phantom, "write_phantom", write_little)
    for name in runs.SETTINGS:
        run = runs.start(name, {"source": "kaggle", "output": "."})
        assert run.smoke and run.output == paths.project_root() / "runs" / "smoke"
        assert run.open_collection().is_synthetic
        assert run.versions().loc["profile", "version"].startswith("smoke: a small phantom")
        record = replace(run, output=tmp_path / "out").write_record(name)
        assert runs.read_record(record)["profile"] == "smoke"
    assert len(made) == 1
    assert runs.start("02_train", {"epochs": 50}).settings.epochs == 1
    predictions = runs.start("03_evaluate", {}).settings.predictions
    assert predictions.startswith("runs/smoke/")


def test_parameters_are_checked_under_the_smoke_profile_too(monkeypatch):
    monkeypatch.setenv("BRAINLIB_PROFILE", "smoke")
    with pytest.raises(runs.NotebookError, match="it can be 0 to 1000"):
        runs.start("02_train", {"epochs": -1})


@pytest.mark.parametrize("profile", ["", "quick", "Smoke"])
def test_an_unknown_profile_is_refused(monkeypatch, profile):
    monkeypatch.setenv("BRAINLIB_PROFILE", profile)
    with pytest.raises(runs.NotebookError, match="it can be 'full' or 'smoke'"):
        runs.start("01_explore", {})


def test_the_record_says_what_was_run_on_what_and_where(run, folder):
    collection = run.open_collection()
    path = run.write_record("model/test", unreadable={"a.jpg": "cut short"})
    assert path == run.output / "model" / "test.run.json"
    record = runs.read_record(path)
    assert record["notebook"] == "02_train" and record["profile"] == "full"
    assert record["parameters"]["source"] == str(folder)
    assert record["parameters"]["seed"] == 3 and record["parameters"]["protocol"] == "patient"
    assert record["unreadable"] == {"a.jpg": "cut short"}
    source = record["source"]
    assert source["name"] == "small" and source["synthetic"]
    assert source["groups_from"] == "images.csv"
    assert source["file_hash"] == collection.file_hash
    counted = sum(count for split in source["images"].values() for count in split.values())
    assert counted == len(collection.table)
    assert record["versions"]["keras"] == keras.__version__
    assert record["versions"]["brainlib"] == brainlib.__version__
    assert {"python", "tensorflow", "numpy"} <= set(record["versions"])
    assert record["backend"] == keras.backend.backend()
    assert record["git_commit"] and record["machine"].endswith("cores")
    started = datetime.fromisoformat(record["started"])
    assert started.utcoffset().total_seconds() == 0 and record["duration_seconds"] >= 0


def test_a_record_without_source_says_so(tmp_path):
    run = runs.start("04_infer", {"output": str(tmp_path)})
    assert runs.read_record(run.write_record("answer"))["source"] == {}


def test_the_backend_of_a_record_is_the_one_that_is_asked_for(run, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert runs.read_record(run.write_record("model/test"))["backend"] == "jax"


def test_a_result_that_is_no_number_is_not_written(run):
    with pytest.raises(ValueError, match="JSON"):
        run.write_json({"accuracy": float("nan")}, "metrics")
    assert not list(run.output.glob("*.json"))


def test_names_of_a_run_lie_below_its_output(run):
    assert run.model_file == run.output / "model" / "brain_tumor_patient0.keras"
    assert run.checkpoint.parent == run.output / "model" / "checkpoints"
    assert runs.run_name("seed_cnn", "official", 0) == "seed_cnn_official"
    assert runs.run_name("seed_cnn", "patient", 3) == "seed_cnn_patient3"


def test_what_was_written_is_listed_and_what_was_there_is_not(run):
    old = run.output / "old.csv"
    old.touch()
    os.utime(old, (0, 0))
    run.write_table(pd.DataFrame({"ä": [1]}), "tables/new")
    run.write_table(pd.DataFrame({"ä": [1]}), "new")
    run.write_json({"name": "ä"}, "model/metrics")
    assert run.written()["file"].tolist() == ["model/metrics.json", "new.csv"]
    assert (run.output / "new.csv").read_bytes() == "ä\n1\n".encode()


@pytest.mark.parametrize("synthetic", [True, False])
def test_a_figure_of_synthetic_pictures_is_stamped(run, tmp_path, synthetic):
    if synthetic:
        run.open_collection()
    else:
        for label in ("glioma", "notumor"):
            (tmp_path / "real" / label).mkdir(parents=True)
            Image.new("L", (4, 4)).save(tmp_path / "real" / label / "1.png")
        run.collection = runs.open_collection(str(tmp_path / "real"))
    figure = plt.figure(figsize=(2, 2))
    run.save_figure(figure, "heads")
    plt.close(figure)
    assert (run.figures / "heads.png").stat().st_size > 100
    assert [text.get_text() for text in figure.texts] == ["phantom"] * synthetic


def test_groups_come_from_the_pixels_where_no_patient_is_named(folder, tmp_path):
    bare = tmp_path / "bare"
    table = runs.open_collection(str(folder)).table
    for row in table.itertuples():
        target = bare / row.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((folder / row.path).read_bytes())
    run = runs.start("01_explore", {"source": str(bare), "output": str(tmp_path / "out")})
    loaded = run.load_images(64)
    assert run.collection.groups_from == "audit"
    group = loaded.table.set_index("path")["group"]
    copies = table[table["source_image"].duplicated(keep=False)]
    assert len(copies)
    for _, files in copies.groupby("source_image"):
        assert group[files["path"]].nunique() == 1
    assert group.nunique() > 4


def test_named_groups_are_kept(run):
    table = run.load_images(32).table
    assert run.collection.groups_from == "images.csv"
    pd.testing.assert_series_equal(table["group"], run.collection.table["group"])


def fail(path):
    path.write_text("half", encoding="utf-8")
    raise OSError("no space left on device")


@pytest.mark.parametrize("before", [None, "old"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, before):
    target = tmp_path / "folder" / "result.csv"
    if before:
        target.parent.mkdir()
        target.write_text(before, encoding="utf-8")
    with pytest.raises(OSError, match="no space"), paths.atomic_write(target) as temporary:
        fail(temporary)
    left = [path.read_text(encoding="utf-8") for path in target.parent.iterdir()]
    assert left == ([before] if before else [])


def test_a_whole_write_replaces_the_old_file_and_can_be_read_by_others(tmp_path):
    target = tmp_path / "result.csv"
    target.write_text("old", encoding="utf-8")
    with paths.atomic_write(target) as temporary:
        assert temporary.suffix == ".csv" and temporary.parent == target.parent
        temporary.write_text("new", encoding="utf-8")
        assert target.read_text(encoding="utf-8") == "old"
    assert target.read_text(encoding="utf-8") == "new"
    assert target.stat().st_mode & 0o777 == 0o644 and len(list(tmp_path.iterdir())) == 1


def test_results_are_written_whole_or_not_at_all(run, monkeypatch):
    run.write_json({"accuracy": 0.5}, "model/metrics")
    run.write_table(pd.DataFrame({"a": [1]}), "table")
    kept = {path: path.read_bytes() for path in run.output.rglob("*.*")}
    monkeypatch.setattr(pd.DataFrame, "to_csv", lambda table, path, **options: fail(path))
    with pytest.raises(OSError, match="no space"):
        run.write_table(pd.DataFrame({"a": [2]}), "table")
    with pytest.raises(TypeError):
        run.write_json({"accuracy": np.zeros(2)}, "model/metrics")
    assert {path: path.read_bytes() for path in run.output.rglob("*.*")} == kept


def test_paths_start_at_the_project_and_the_home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert paths.resolve("runs/lab") == paths.project_root() / "runs" / "lab"
    assert paths.resolve(tmp_path) == tmp_path.resolve()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.resolve("~/scans") == (tmp_path / "scans").resolve()
    monkeypatch.setenv("BRAINLIB_CACHE", "cache")
    assert paths.cache_folder() == paths.project_root() / "cache"
    monkeypatch.delenv("BRAINLIB_CACHE")
    assert paths.cache_folder() == tmp_path / ".cache" / "brainlib"
