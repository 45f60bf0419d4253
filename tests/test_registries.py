"""A source, a model, a metric and a baseline from outside the package, each in a few lines."""

import logging
import sys

import pytest

from brainlib import audit, data, evaluation, models
from brainlib.data import phantom
from brainlib.imaging import load_images
from brainlib.notebook import pipeline, runs
from brainlib.paths import BrainlibError

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


def test_a_plugin_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv(runs.PLUGINS_VARIABLE, "no_such_module")
    with pytest.raises(BrainlibError, match="BRAINLIB_PLUGINS names 'no_such_module'"):
        runs.start("01_explore", {})
