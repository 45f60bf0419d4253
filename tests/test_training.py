"""Fitting: repeatable, and not undone by being killed."""

import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import pytest

from brainlib import results, training

# A fit of three epochs in a process of its own, so that it can be killed for real.
PROGRAM = """
import sys, numpy, keras
from pathlib import Path
from brainlib import results, training
folder = Path(sys.argv[1])
keras.utils.set_random_seed(1)
model = keras.Sequential([
    keras.Input((16, 16, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3),
    keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(4, activation="softmax"),
])
random = numpy.random.default_rng(0)
pixels = random.integers(0, 256, (int(sys.argv[2]), 16, 16, 1), dtype=numpy.uint8)
classes = random.integers(0, 4, len(pixels)).astype("int32")
pair = (pixels, classes)
history = training.fit(model, pair, (pixels[:64], classes[:64]),
                       training.Schedule(epochs=3, seed=5), folder / "checkpoint")
history.to_csv(folder / "history.csv", index=False)
numpy.save(folder / "weights.npy", numpy.concatenate([w.ravel() for w in model.get_weights()]))
"""
PICTURES = "16000"


def run_fit(folder, kill_after_epoch=None):
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), PICTURES],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    state = folder / "checkpoint" / "training_metadata.json"
    while kill_after_epoch is not None and process.poll() is None:
        if state.is_file() and f'"epoch": {kill_after_epoch}' in state.read_text():
            time.sleep(0.3)  # somewhere in the middle of the next epoch
            process.kill()
        time.sleep(0.02)
    error = process.communicate()[1].decode()
    assert kill_after_epoch is not None or process.returncode == 0, error
    return process.returncode


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run_fit(folder)
    return folder


def test_a_killed_fit_ends_where_an_uninterrupted_one_ends(uninterrupted, tmp_path):
    assert run_fit(tmp_path, kill_after_epoch=1) == -9
    assert not (tmp_path / "weights.npy").exists()
    run_fit(tmp_path)
    expected, resumed = (np.load(f / "weights.npy") for f in (uninterrupted, tmp_path))
    np.testing.assert_allclose(resumed, expected, atol=1e-6)
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "history.csv"), pd.read_csv(uninterrupted / "history.csv")
    )


def test_the_same_seed_gives_the_same_numbers(uninterrupted, tmp_path):
    run_fit(tmp_path)
    expected, repeated = (np.load(f / "weights.npy") for f in (uninterrupted, tmp_path))
    np.testing.assert_allclose(repeated, expected, atol=1e-6)


def small_fit(folder, seed=0, epochs=2, brightness=255):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    random = np.random.default_rng(0)
    pixels = random.integers(0, brightness, (50, 8, 8, 1), dtype=np.uint8)
    classes = random.integers(0, 4, 50).astype(np.int32)
    schedule = training.Schedule(epochs=epochs, seed=seed)
    history = training.fit(model, (pixels, classes), (pixels, classes), schedule, folder)
    return model, history


def test_the_history_has_a_row_for_each_epoch(tmp_path):
    _, history = small_fit(tmp_path / "state", epochs=3)
    assert tuple(history.columns) == training.HISTORY_COLUMNS
    assert history["epoch"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("change", [{"seed": 1}, {"brightness": 200}])
def test_the_state_of_another_fit_is_not_taken_over(tmp_path, change):
    small_fit(tmp_path / "shared")
    after_other, _ = small_fit(tmp_path / "shared", **change)
    alone, _ = small_fit(tmp_path / "alone", **change)
    for first, second in zip(after_other.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_in_one_process_a_second_model_goes_on_where_the_first_stopped(tmp_path):
    small_fit(tmp_path / "state", epochs=2)
    times = [file.stat().st_mtime_ns for file in sorted((tmp_path / "state").glob("*.h5"))]
    small_fit(tmp_path / "state", epochs=2)
    assert times == [file.stat().st_mtime_ns for file in sorted((tmp_path / "state").glob("*.h5"))]


def test_a_state_cut_short_is_given_up_and_the_fit_begins_anew(tmp_path, caplog):
    _, expected = small_fit(tmp_path / "whole")
    small_fit(tmp_path / "state")
    for file in (tmp_path / "state").glob("*.h5"):
        file.write_bytes(file.read_bytes()[:1000])
    _, found = small_fit(tmp_path / "state")
    assert "damaged" in caplog.text
    pd.testing.assert_frame_equal(found, expected)


def test_every_epoch_sees_every_picture_once_in_an_order_of_its_own():
    pixels = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    batches = training.ShuffledBatches(pixels, np.arange(10), batch_size=4, seed=0)
    orders = []
    for epoch in (0, 1, 0):
        batches.start_epoch(epoch)
        seen = [batches[index] for index in range(len(batches))]
        assert all((x.ravel() == y).all() for x, y in seen)
        orders.append([y.tolist() for _, y in seen])
        assert sorted(np.concatenate(orders[-1])) == list(range(10))
    assert orders[0] == orders[2] != orders[1]


def test_forgetting_a_state_twice_is_no_error(tmp_path):
    small_fit(tmp_path / "state")
    training.forget(tmp_path / "state")
    training.forget(tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_histories_are_found_by_protocol(tmp_path):
    for name in ("seed_cnn", "seed_cnn_patient0", "seed_cnn_patient1"):
        pd.DataFrame({"epoch": [1]}).to_csv(tmp_path / f"{name}.history.csv", index=False)
    found = results.read_histories(tmp_path)
    assert {protocol: list(runs) for protocol, runs in found.items()} == {
        "official": ["seed_cnn"],
        "patient": ["seed_cnn_patient0", "seed_cnn_patient1"],
    }
