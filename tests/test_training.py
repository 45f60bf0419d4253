"""Fitting: repeatable, and not undone by being killed."""

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES, evaluation, models, training
from brainlib.models import brain_tumor

# A fit of three epochs in a process of its own, so that it can be killed for real.
PROGRAM = """
import sys, numpy, keras
from pathlib import Path
from brainlib import training
from brainlib import evaluation
folder = Path(sys.argv[1])
keras.utils.set_random_seed(1)
model = keras.Sequential([
    keras.Input((16, 16, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3),
    keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(4, activation="softmax"),
])
random = numpy.random.default_rng(0)
pixels = random.integers(0, 256, (int(sys.argv[2]), 16, 16, 1), dtype=numpy.uint8)
classes = random.integers(0, 4, len(pixels)).astype("int32")
seen = training.Examples(pixels, classes)
few = training.Examples(pixels[:64], classes[:64])
history = training.fit(model, seen, few,
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
    state = folder / "checkpoint" / "from_epoch_1" / "training_metadata.json"
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


def small_fit(folder, seed=0, epochs=2, brightness=255, validated=True):
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
    seen = training.Examples(pixels, classes)
    history = training.fit(model, seen, seen if validated else None, schedule, folder)
    return model, history


def test_the_history_has_a_row_for_each_epoch(tmp_path):
    _, history = small_fit(tmp_path / "state", epochs=3)
    assert tuple(history.columns) == training.HISTORY_COLUMNS
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history.notna().all(axis=None)


def test_without_validation_pictures_their_columns_are_empty(tmp_path):
    _, history = small_fit(tmp_path / "state", validated=False)
    assert history[["validation_accuracy", "validation_loss"]].isna().all(axis=None)
    assert history[["accuracy", "loss"]].notna().all(axis=None)


@pytest.mark.parametrize("change", [{"seed": 1}, {"brightness": 200}])
def test_the_state_of_another_fit_is_not_taken_over(tmp_path, change):
    small_fit(tmp_path / "shared")
    after_other, _ = small_fit(tmp_path / "shared", **change)
    alone, _ = small_fit(tmp_path / "alone", **change)
    for first, second in zip(after_other.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_in_one_process_a_second_model_goes_on_where_the_first_stopped(tmp_path):
    small_fit(tmp_path / "state", epochs=2)
    times = [file.stat().st_mtime_ns for file in sorted((tmp_path / "state").rglob("*.h5"))]
    small_fit(tmp_path / "state", epochs=2)
    assert times
    assert times == [file.stat().st_mtime_ns for file in sorted((tmp_path / "state").rglob("*.h5"))]


def test_a_state_cut_short_is_given_up_and_the_fit_begins_anew(tmp_path, caplog):
    _, expected = small_fit(tmp_path / "whole")
    small_fit(tmp_path / "state")
    for file in (tmp_path / "state").rglob("*.h5"):
        file.write_bytes(file.read_bytes()[:1000])
    _, found = small_fit(tmp_path / "state")
    assert "damaged" in caplog.text
    pd.testing.assert_frame_equal(found, expected)


def test_every_epoch_sees_every_picture_once_in_an_order_of_its_own():
    pixels = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    seen = training.Examples(pixels, np.arange(10))
    batches = training.ShuffledBatches(seen, batch_size=4, seed=0)
    orders = []
    for first_epoch, first_batch in ((0, 0), (0, batches.steps), (1, 0)):
        batches.first_epoch = first_epoch
        epoch = [batches[first_batch + place] for place in range(batches.steps)]
        assert all((x.ravel() == y).all() for x, y in epoch)
        orders.append([y.tolist() for _, y in epoch])
        assert sorted(np.concatenate(orders[-1])) == list(range(10))
    assert orders[0] != orders[1] == orders[2]


def test_a_fit_takes_all_its_epochs_from_one_stream(monkeypatch, tmp_path):
    asked, give = [], training.ShuffledBatches.__getitem__
    monkeypatch.setattr(
        training.ShuffledBatches, "__getitem__",
        lambda self, index: asked.append(index) or give(self, index),
    )  # fmt: skip
    small_fit(tmp_path / "state", epochs=3)
    steps = -(-50 // 32)
    stream = asked[len(asked) - asked[::-1].index(0) - 1 :]
    assert stream[: 3 * steps] == list(range(3 * steps))


def test_forgetting_a_state_twice_is_no_error(tmp_path):
    small_fit(tmp_path / "state")
    training.forget(tmp_path / "state")
    training.forget(tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_histories_are_found_by_protocol(tmp_path):
    for name in ("seed_cnn_official", "seed_cnn_patient0", "seed_cnn_patient1"):
        pd.DataFrame({"epoch": [1]}).to_csv(tmp_path / f"{name}.history.csv", index=False)
    found = evaluation.read_histories(tmp_path)
    assert {protocol: list(runs) for protocol, runs in found.items()} == {
        "official": ["seed_cnn_official"],
        "patient": ["seed_cnn_patient0", "seed_cnn_patient1"],
    }


def lesion_examples(count=40, size=32):
    """Dark noise with a bright square, its place the outline and its brightness the class."""
    random = np.random.default_rng(0)
    pixels = random.integers(20, 60, (count, size, size, 1), dtype=np.uint8)
    outlines = np.zeros((count, size, size), np.uint8)
    classes = (np.arange(count) % 4).astype(np.int32)
    for row, (y, x) in enumerate(random.integers(6, size - 14, (count, 2))):
        if classes[row] != CLASS_NAMES.index("notumor"):
            pixels[row, y : y + 8, x : x + 8] = 120 + 40 * classes[row]
            outlines[row, y : y + 8, x : x + 8] = 255
    return training.Examples(pixels, classes, outlines, np.ones(count, bool))


SMALL = training.Schedule(
    epochs=4, batch_size=8, learning_rate=1e-3, weight_decay=0.05, warm_up=0.1,
    sizes=((16, 0.25), (32, 1.0)),
    cycles=(training.Cycle(until=0.5), training.Cycle(factor=0.5, mixup=0.3)),
)  # fmt: skip


def fit_network(folder, schedule=SMALL, validation=None, watchers=(), precision="float32"):
    """Fit a brain_tumor of a tenth of its width, which compiles in half the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brain_tumor, "_WIDTHS", (16, 16, 16))
        patch.setattr(brain_tumor, "_DEPTHS", (1, 1, 1))
        model = models.build_model("brain_tumor", seed=1)
    history = training.fit(
        model, lesion_examples(), validation, schedule, folder,
        watchers=watchers, precision=precision,
    )  # fmt: skip
    return model, history


class Watcher(keras.callbacks.Callback):
    """Note which epochs begin, and the layers of what is trained with what each computes in."""

    def __init__(self):
        super().__init__()
        self.begun, self.layers = [], set()

    def on_epoch_begin(self, epoch, logs=None):
        """Note both."""
        self.begun.append(epoch)
        self.layers |= {(type(one).__name__, one.compute_dtype) for one in self.model.layers}


class KeptState(Watcher):
    """Keep what a kill would leave in an epoch of the second cycle."""

    def __init__(self, state, kept):
        super().__init__()
        self.state, self.kept = state, kept

    def on_epoch_begin(self, epoch, logs=None):
        """Copy the state once."""
        super().on_epoch_begin(epoch)
        if epoch == 3:  # one epoch of the second cycle is done
            shutil.copytree(self.state, self.kept)


@pytest.fixture(scope="module")
def fitted_network(tmp_path_factory):
    """Return a fit, its validation pictures, and the state on disk when its last epoch began."""
    state, kept = (tmp_path_factory.mktemp("network") / name for name in ("state", "kept"))
    validation, watcher = lesion_examples(8), KeptState(state, kept)
    fitted = fit_network(state, validation=validation, watchers=[watcher])
    assert watcher.begun == [0, 1, 2, 3]  # each once, in whatever phase and cycle
    return *fitted, validation, kept


def test_the_released_network_learns_class_and_outline_together(fitted_network):
    _, history, *_ = fitted_network
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history[["validation_accuracy", "validation_loss"]].notna().all(axis=None)


def test_a_fit_stopped_in_a_later_cycle_ends_where_an_uninterrupted_one_ends(fitted_network):
    whole, expected, validation, kept = fitted_network
    watcher = Watcher()
    resumed, history = fit_network(kept, validation=validation, watchers=[watcher])
    assert watcher.begun == [3]  # the others were not done again
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    pd.testing.assert_frame_equal(history[:3], expected[:3])
    for found, wanted in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        # another seed or schedule moves weights by 0.3; sums of several threads hardly at all
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_what_a_fit_is_computed_in_leaves_nothing_in_the_model(tmp_path):
    watcher, schedule = Watcher(), dataclasses.replace(SMALL, epochs=1, sizes=((16, 1.0),))
    state = tmp_path / "state"
    model, _ = fit_network(state, schedule, watchers=[watcher], precision="bfloat16")
    assert {("FusedBatchNormalization", "bfloat16"), ("Conv2D", "bfloat16"),
            ("Conv2DTranspose", "float32"), ("Dense", "float32")} <= watcher.layers  # fmt: skip
    models.save_model(model, tmp_path / "fitted.keras")
    read = keras.models.load_model(tmp_path / "fitted.keras")  # knows the layers of Keras alone
    kinds = {type(layer).__module__.split(".")[0] for layer in models.network_of(read).layers}
    assert kinds == {"keras"}
    assert {layer.dtype_policy.name for layer in models.network_of(read).layers} == {"float32"}


@pytest.mark.parametrize(("flags", "expected"), [("avx512f amx_bf16 ", "bfloat16"),
                                                 ("avx512f avx512_bf16", "float32")])  # fmt: skip
def test_the_processor_decides_what_a_fit_is_computed_in(flags, expected, monkeypatch, tmp_path):
    processor = tmp_path / "cpuinfo"
    processor.write_text(f"flags\t\t: fpu {flags}\n")
    monkeypatch.setattr(training.machine, "_PROCESSOR", processor)
    monkeypatch.delenv(training.PRECISION_VARIABLE, raising=False)
    assert training.precision_for(training.recipe("brain_tumor")) == expected
    assert training.precision_for(training.recipe("seed_cnn")) == "float32"
    monkeypatch.setattr(training.machine, "_PROCESSOR", tmp_path / "absent")
    assert training.precision_for(training.recipe("brain_tumor")) == "float32"


def test_the_variable_decides_before_the_processor(monkeypatch):
    for asked in training.PRECISIONS:
        monkeypatch.setenv(training.PRECISION_VARIABLE, asked)
        assert training.precision_for(training.recipe("brain_tumor")) == asked
    monkeypatch.setenv(training.PRECISION_VARIABLE, "float16")
    with pytest.raises(training.PrecisionError, match=r"float16.*float32, bfloat16"):
        training.precision_for(training.recipe("brain_tumor"))
    assert training.precision_for(training.recipe("brain_tumor"), "float32") == "float32"


def test_a_precision_that_does_not_exist_is_refused_before_anything_is_deleted(tmp_path):
    small_fit(tmp_path / "state")
    before = sorted((tmp_path / "state").rglob("*"))
    with pytest.raises(training.PrecisionError, match="float16"):
        fit_network(tmp_path / "state", precision="float16")
    assert sorted((tmp_path / "state").rglob("*")) == before


def test_the_same_fit_runs_under_jax(tmp_path):
    pytest.importorskip("jax")
    program = (
        "import sys, pathlib\n"
        "from tests.test_training import SMALL, dataclasses, fit_network\n"
        "schedule = dataclasses.replace(SMALL, epochs=2, sizes=((16, 1.0),))\n"
        "_, history = fit_network(pathlib.Path(sys.argv[1]), schedule)\n"
        "print(*history['loss'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "state")], capture_output=True, text=True,
        cwd=Path(__file__).parents[1], env={**os.environ, "KERAS_BACKEND": "jax"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    first, second = map(float, result.stdout.split())
    assert second < first


def test_phases_cover_every_epoch_once():
    released = training.recipe("brain_tumor")
    assert released.phases() == [(96, 0, 24), (128, 24, 48)]
    assert released.phases(0, 32) == [(96, 0, 24), (128, 24, 32)]
    assert training.recipe("brain_tumor", epochs=1).phases() == [(128, 0, 1)]
    assert training.recipe("seed_cnn").phases() == [(0, 0, 5)]


def test_cycles_cover_every_epoch_once():
    first, second = training.RECIPES["brain_tumor"].cycles
    spans = training.recipe("brain_tumor").spans()
    assert spans == [(first, 0, 32), (second, 32, 48)]
    assert training.recipe("brain_tumor", epochs=1).spans() == [(first, 0, 1)]


def test_mixed_pictures_have_the_classes_and_the_tissue_of_both():
    seen = lesion_examples(16)
    batches = training.AugmentedBatches(seen, 16, 0, training.Augmentation(), mixup=1.0)
    plain = training.AugmentedBatches(seen, 16, 0, training.Augmentation())
    epochs_mixed = 0
    for epoch in range(10):
        (pixels, targets, _), (alone, _, _) = batches[epoch], plain[epoch]
        np.testing.assert_allclose(targets["logits"].sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(targets["tissue"].sum(axis=-1), 1, atol=1e-5)
        mixed = targets["logits"].max(axis=1).min() < 0.999
        epochs_mixed += mixed
        assert mixed != np.array_equal(pixels, alone)
        inside = 1 - targets["tissue"][..., 0].sum(axis=(1, 2)) / 256
        healthy = targets["logits"][:, CLASS_NAMES.index("notumor")] > 0.999
        assert inside[healthy].max(initial=0) < 1e-6
    assert 1 < epochs_mixed < 9


def test_a_cycle_says_how_much_the_outlines_count():
    network = models.network_of(models.build_brain_tumor())
    cycle = training.Cycle(outline_weight=3.0)
    training.fitting._compile(network, training.RECIPES["brain_tumor"], cycle, steps=1)
    pixels, targets, weights = training.batches.whole_examples(lesion_examples(4))
    found = network.evaluate(pixels, targets, sample_weight=weights, verbose=0, return_dict=True)
    expected = found["logits_loss"] + 3 * found["tissue_loss"]
    assert found["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("asked", [{"mixup": 0.3}, {"outline_weight": 4.0}])
def test_a_fit_that_cannot_mix_or_draw_says_so(tmp_path, asked):
    schedule = training.Schedule(cycles=(training.Cycle(**asked),))
    with pytest.raises(ValueError, match=f"{next(iter(asked))} is only for a schedule with sizes"):
        training.fit(models.build_model("seed_cnn"), lesion_examples(8), None, schedule, tmp_path)


def test_the_fused_optimizer_moves_weights_as_that_of_keras_does():
    random = np.random.default_rng(0)
    starts = [random.normal(size=shape).astype("float32") for shape in ((3, 4), (4,), (2, 2))]
    # some longer than the clip, some shorter
    steps = [[random.normal(size=one.shape).astype("float32") * size for one in starts]
             for size in (5.0, 0.01, 1.0, 0.3)]  # fmt: skip
    moved = []
    for kind in (keras.optimizers.AdamW, training.optimizers.FusedAdamW):
        rate = keras.optimizers.schedules.CosineDecay(1e-2, 4)
        optimizer = kind(rate, weight_decay=0.5, beta_2=0.99, clipnorm=1.0)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        variables = [
            keras.Variable(start, name=name)
            for start, name in zip(starts, ("kernel", "bias", "other"), strict=True)
        ]
        for gradients in steps:
            given = [keras.ops.convert_to_tensor(one) for one in gradients]
            optimizer.apply_gradients(zip(given, variables, strict=True))
        moved.append([keras.ops.convert_to_numpy(one) for one in variables])
        assert int(optimizer.iterations) == len(steps)
    for fused, plain, start in zip(moved[1], moved[0], starts, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-5, atol=1e-7)
        assert np.abs(plain - start).min() > 1e-3


def test_mixing_blends_pictures_and_targets_alike_and_drops_tissue_that_one_of_two_lacks():
    seen = lesion_examples(16)
    known = np.arange(16) < 8
    batch = training.batches.as_targets(
        seen.pixels.astype(np.float32), seen.classes, seen.outlines / 255.0, known
    )
    draws = np.random.default_rng(4)
    share, partner = draws.beta(1, 1), draws.permutation(16)
    pixels, targets, weights = training.batches.mix(*batch, np.random.default_rng(4), 1.0)
    for name, alone in batch[1].items():
        blended = share * alone + (1 - share) * alone[partner]
        np.testing.assert_allclose(targets[name], blended, atol=1e-6)
    for row in range(16):
        pair = np.stack([batch[0][row].ravel(), batch[0][partner[row]].ravel()])
        even = (pair - pair.mean(axis=1, keepdims=True)) / pair.std(axis=1, keepdims=True)
        blended = share * even[0] + (1 - share) * even[1]
        assert np.corrcoef(blended, pixels[row].ravel())[0, 1] > 0.999
    expected = known & known[partner]
    np.testing.assert_array_equal(weights["tissue"], expected)
    assert weights["logits"].all() and 0 < expected.sum() < 8


def test_an_outline_moves_with_its_picture():
    seen = lesion_examples(16, size=64)
    pixels, inside = training.augment(
        seen.pixels[..., 0], seen.outlines, np.random.default_rng(3),
        training.Augmentation(gamma=0, bias=0, noise=0, coarse=0),
    )  # fmt: skip
    for row in np.flatnonzero(seen.classes != CLASS_NAMES.index("notumor")):
        bright, marked = pixels[row] > 90, inside[row] > 0.5
        assert 2 * (bright & marked).sum() > 0.85 * (bright.sum() + marked.sum())


def test_augmentation_depends_on_its_generator_alone():
    seen = lesion_examples(8)
    first, again, other = (
        training.augment(seen.pixels[..., 0], seen.outlines, np.random.default_rng(seed))[0]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 1


def test_tissue_shares_put_each_tumour_into_its_own_channel():
    seen = lesion_examples(8)
    shares = training.tissue_shares(seen.outlines / 255.0, seen.classes)
    assert shares.shape == (8, 16, 16, 4)
    np.testing.assert_allclose(shares.sum(axis=-1), 1, atol=1e-6)
    area = shares[..., 1:].sum(axis=(1, 2))
    channel = {0: 0, 1: 1, 3: 2}
    for row, place in ((row, channel.get(seen.classes[row])) for row in range(8)):
        expected = np.zeros(3)
        if place is not None:
            expected[place] = 64 / 4
        np.testing.assert_allclose(area[row], expected, atol=1e-4)


def test_a_picture_without_outline_does_not_teach_the_drawing():
    seen = lesion_examples(8)
    unknown = dataclasses.replace(seen, outlined=np.zeros(8, bool))
    _, _, weights = training.AugmentedBatches(unknown, 8, 0)[0]
    assert not weights["tissue"].any() and weights["logits"].all()
