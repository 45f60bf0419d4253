"""A training repeated from its record alone: the same predictions, or a reason why not."""

import json
import os

import pytest

from brainlib.data import phantom
from brainlib.notebook import pipeline
from brainlib.paths import BrainlibError
from scripts import repeat

THREADS = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Train the small network on a small phantom, on one thread."""
    folder = tmp_path_factory.mktemp("repeated")
    source = phantom.write_phantom(folder / "p", patients=24, slices=2, size=64)
    step = pipeline.Step("02_train", {"model": "seed_cnn", "epochs": 2})
    with pytest.MonkeyPatch.context() as patch:
        for name in THREADS:
            patch.setenv(name, "1")
        pipeline.run([step], str(source), str(folder / "first"), 0)
    return folder / "first" / "model" / "seed_cnn_patient0.run.json"


@pytest.mark.parametrize(("threads", "apart"), [(None, 0.0), (2, 0.02)])
def test_a_repeated_run_gives_the_same_predictions(record, threads, apart, tmp_path, monkeypatch):
    for name in ("KERAS_BACKEND", *THREADS):  # set by `repeat`, and taken back afterwards
        monkeypatch.setenv(name, os.environ.get(name, ""))
    found = repeat.repeat(record, str(tmp_path), threads)
    assert found["largest"] <= apart and found["same_class"] == 1 and found["images"] > 0
    assert not any(line.startswith(("keras", "tensorflow")) for line in found["differing"])


def test_other_files_and_other_notebooks_are_refused(record, tmp_path):
    recorded, file = json.loads(record.read_text(encoding="utf-8")), tmp_path / "x.run.json"
    for changed, said in (
        ({"source": {**recorded["source"], "file_hash": "0" * 64}}, "other files"),
        ({"notebook": "03_evaluate"}, "give that of a training"),
    ):
        file.write_text(json.dumps(recorded | changed), encoding="utf-8")
        with pytest.raises(BrainlibError, match=said):
            repeat.repeat(file, str(tmp_path / "out"))
