"""Run of a notebook: parameters checked, writes whole, a folder owned, all recorded; plugins."""

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import brainlib
from brainlib import audit, data, evaluation, models, paths
from brainlib.data import phantom
from brainlib.imaging import load_images
from brainlib.notebook import pipeline, runs


@pytest.fixture
def run(phantom_folder, tmp_path):
    variables = {"source": str(phantom_folder), "output": str(tmp_path / "out"), "seed": 3}
    return runs.start("02_train", variables)


def injected(cell):
    """Return what a notebook's globals hold after papermill's injected cell."""
    variables = {"In": ["", "source = 'kaggle'", f"# Parameters\n{cell}", "import keras"]}
    exec(cell, {}, variables)
    return variables


def test_parameters_are_taken_other_variables_left_and_absent_plugins_named(monkeypatch):
    assert runs.start("02_train", {}).settings == runs.TrainSettings()
    variables = {"source": "scans", "fold": 4, "learning_rate": 1, "epochs": 7, "sauce": 1}
    settings = runs.start("02_train", variables).settings
    assert (settings.source, settings.fold, settings.epochs) == ("scans", 4, 7)
    assert isinstance(settings.learning_rate, float) and not hasattr(settings, "sauce")
    assert runs.start("01_explore", injected("seed = 1")).settings.seed == 1
    monkeypatch.setenv(runs.PLUGINS_VARIABLE, "no_such_module")
    with pytest.raises(paths.BrainlibError, match="BRAINLIB_PLUGINS names 'no_such_module'"):
        runs.start("01_explore", {})


@pytest.mark.parametrize("name", runs.SETTINGS)
def test_an_unknown_parameter_from_papermill_names_the_known_ones(name):
    with pytest.raises(paths.BrainlibError, match="no parameter 'sauce'") as refused:
        runs.start(name, injected("seed = 1\nsauce = 'phantom'"))
    for parameter in runs.SETTINGS[name].__dataclass_fields__:
        assert parameter in str(refused.value)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("seed", "three", "'three' is str; it must be int"),
        ("learning_rate", "0.1", "'0.1' is str; it must be float"),
        ("fold", 5, "it can be 0 to 4"),
        ("epochs", -1, "it can be 0 to 1000"),
        ("learning_rate", float("nan"), "it can be 0.0 to 1.0"),
        ("protocol", "random", "choose one of patient, official, deduplicated"),
        ("model", "resnet", f"choose one of {', '.join(models.MODELS)}"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(parameter, value, message):
    with pytest.raises(paths.BrainlibError) as refused:
        runs.start("02_train", {parameter: value})
    assert str(refused.value).startswith(f"{parameter} = {value!r}")
    assert message in str(refused.value)
    assert ("-r" in str(refused.value)) == (value == "0.1")  # where it may be the cause


def test_the_record_says_what_was_run_on_what_and_where(run, phantom_folder, monkeypatch):
    collection = run.open_collection()
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    path = run.write_record("model/test", unreadable={"a.jpg": "cut short"})
    assert path == run.output / "model" / "test.run.json"
    record = runs.read_record(path)
    assert record["notebook"] == "02_train"
    assert {"source": str(phantom_folder), "seed": 3}.items() <= record["parameters"].items()
    assert record["unreadable"] == {"a.jpg": "cut short"}
    source = record["source"]
    assert source["name"] == "small" and source["synthetic"]
    assert source["file_hash"] == collection.file_hash
    assert pd.DataFrame(source["images"]).to_numpy().sum() == len(collection.table)
    versions = {"keras": keras.__version__, "brainlib": brainlib.__version__}
    assert versions.items() <= record["versions"].items() and record["backend"] == "jax"
    assert record["git_commit"] and record["machine"].endswith("cores")
    started = datetime.fromisoformat(record["started"])
    assert started.utcoffset().total_seconds() == 0 and record["duration_seconds"] >= 0


def test_a_folder_has_one_run_at_a_time_until_its_process_is_gone(tmp_path):
    program = ("import sys; from brainlib.notebook import runs; run = runs.start('04_infer', "
               "{'output': sys.argv[1]}); print('started', flush=True); input()")  # fmt: skip
    command = [sys.executable, "-c", program, tmp_path]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"started\n"
    with pytest.raises(paths.BrainlibError, match=f"process {other.pid} on .* since 20"):
        runs.start("04_infer", {"output": str(tmp_path)})
    runs.start("03_evaluate", {"output": str(tmp_path)})  # it writes other files
    other.kill()  # which leaves the file of the lock, and no lock
    other.communicate()
    assert runs.start("04_infer", {"output": str(tmp_path)}).output == tmp_path


def test_a_figure_of_synthetic_images_is_stamped(run):
    collection = run.open_collection()
    for source, stamps in (("phantom", ["phantom"]), ("clinic", [])):
        run.collection = replace(collection, table=collection.table.assign(source=source))
        figure = plt.figure(figsize=(2, 2))
        run.save_figure(figure, "heads")
        plt.close(figure)
        assert [text.get_text() for text in figure.texts] == stamps
    assert (run.output / "figures/heads.png").stat().st_size > 100


def test_a_network_is_called_the_released_one_only_where_it_is(tmp_path):
    names = {"": "LesionNet", "lesion_net.csv": "LesionNet", "theirs.csv": "released network"}
    for number, (file, name) in enumerate(names.items()):
        predictions = tmp_path / file
        predictions.is_dir() or predictions.touch()
        given = {"output": str(tmp_path / f"out{number}"), "predictions": str(predictions)}
        assert runs.start("03_evaluate", given).titled({"lesion_net": 1}) == {name: 1}
    train, evaluate = (runs.start(name, {"output": str(tmp_path)})
                       for name in ("02_train", "03_evaluate"))  # fmt: skip
    assert train.readable("lesion_net") == "LesionNet"
    assert evaluate.readable("lesion_net") == "released network"


def test_groups_come_from_the_pixels_where_no_patient_is_named(phantom_folder, tmp_path):
    table = runs.open_collection(str(phantom_folder)).table
    bare = shutil.copytree(phantom_folder, tmp_path / "bare")
    (bare / "images.csv").unlink()
    run = runs.start("01_explore", {"source": str(bare), "output": str(tmp_path / "out")})
    loaded = run.load_images(64)
    assert run.collection.groups_from == "audit"
    group = loaded.table.set_index("path")["group"]
    groups = group[table["path"]].groupby(table["source_image"].to_numpy()).nunique()
    assert table["source_image"].duplicated().any() and (groups == 1).all() and group.nunique() > 4


def test_results_are_listed_and_written_whole_or_not_at_all(run, monkeypatch):
    old = run.output / "old.csv"
    old.touch()
    os.utime(old, (0, 0))
    run.write_table(pd.DataFrame({"ä": [1]}), "table")
    run.write_json({"name": "ä"}, "model/metrics")
    assert run.written()["file"].tolist() == ["model/metrics.json", "table.csv"]
    assert (run.output / "table.csv").read_bytes() == "ä\n1\n".encode()
    kept = {path: path.read_bytes() for path in run.output.rglob("*.*")}

    def fail(table, path, **options):
        path.write_text("half", encoding="utf-8")
        raise OSError("no space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    with pytest.raises(OSError, match="no space"):
        run.write_table(pd.DataFrame({"ä": [2]}), "table")
    for wrong, error in ((np.zeros(2), TypeError), (float("nan"), ValueError)):
        with pytest.raises(error):
            run.write_json({"accuracy": wrong}, "model/metrics")
    assert {path: path.read_bytes() for path in run.output.rglob("*.*")} == kept


def test_paths_start_at_the_project_and_the_home(run, monkeypatch, tmp_path):
    assert run.model_file == run.output / "model" / f"{next(iter(models.MODELS))}_patient0.keras"
    monkeypatch.chdir(tmp_path)
    assert paths.resolve("runs/lab") == paths.project_root() / "runs" / "lab"
    assert paths.resolve(tmp_path) == tmp_path.resolve()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.resolve("~/scans") == (tmp_path / "scans").resolve()
    monkeypatch.setenv("BRAINLIB_CACHE", "cache")
    assert paths.cache_folder() == paths.project_root() / "cache"


PLUGIN = """
import os
from pathlib import Path

import keras

from brainlib import audit, data, evaluation, models
from brainlib.audit.baselines import boosted_trees


def build_tiny():
    images = keras.Input((None, None, None))  # grey or RGB, 0 to 255
    grey = keras.ops.mean(keras.ops.cast(images, "float32") / 255, axis=-1, keepdims=True)
    x = keras.layers.Flatten()(keras.layers.Resizing(16, 16)(grey))
    return keras.Model(images, keras.layers.Dense(4, activation="softmax")(x))


data.SOURCES["my_heads"] = lambda seed: data.open_folder(Path(os.environ["MY_HEADS"]))
models.MODELS["tiny"] = build_tiny
evaluation.METRICS["share_confident"] = lambda labels, p: float((p.max(axis=1) > 0.5).mean())
audit.BASELINES["mean_grey"] = audit.Baseline(
    lambda table, pixels, root: pixels.mean(axis=(1, 2)), boosted_trees
)
"""

REGISTRIES = (data.SOURCES, models.MODELS, evaluation.METRICS, audit.BASELINES)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Put a plugin where the kernels of notebooks find it, and its entries into the registries."""
    (tmp_path / "my_plugin.py").write_text(PLUGIN, encoding="utf-8")
    heads = phantom.write_phantom(tmp_path / "heads", patients=60, slices=3, size=64)
    monkeypatch.setenv("MY_HEADS", str(heads))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv(runs.PLUGINS_VARIABLE, "my_plugin")
    monkeypatch.syspath_prepend(tmp_path)
    before = [dict(registry) for registry in REGISTRIES]
    runs.load_plugins()
    yield
    sys.modules.pop("my_plugin")
    for registry, entries in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(entries)


def test_everything_from_outside_is_trained_and_evaluated(plugin, tmp_path, monkeypatch):
    output = tmp_path / "out"
    collection = data.open_collection("my_heads")
    for name in [name for name in audit.BASELINES if name != "mean_grey"]:
        monkeypatch.delitem(audit.BASELINES, name)
    audit.write_predictions(
        collection, load_images(collection, 64), output / "model" / "predictions"
    )
    steps = [
        pipeline.Step("02_train", {"model": "tiny", "epochs": 1}),
        pipeline.Step("03_evaluate", {"predictions": f"{output}/model/predictions"}),
    ]
    pipeline.run(steps, "my_heads", str(output), seed=0)
    assert logging.getLogger("brainlib").propagate  # whoever runs it keeps their own logging
    metrics = evaluation.read_metrics(output)
    assert list(metrics["results"]) == ["tiny", "mean_grey"]  # networks come first
    share = metrics["results"]["tiny"]["patient"]["share_confident"]
    assert 0 <= share["low"] <= share["value"] <= share["high"] <= 1
    assert "share_confident" not in metrics["results"]["mean_grey"]["patient"]
    assert metrics["results"]["mean_grey"]["patient"]["accuracy"]["value"] > 0.25
    assert list(metrics["comparisons"]) == ["mean_grey"]
