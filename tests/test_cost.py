"""The cost of training: counted right, measured in turns, held against the same network."""

import dataclasses
import sys

import keras
import numpy as np
import pandas as pd
import pytest

from brainlib import cost, models, training
from brainlib.cost import quality, rates
from tests.test_training import lesion_examples

PLAIN = training.Schedule(epochs=3, batch_size=8)


def tiny():
    return keras.Sequential(
        [keras.Input((32, 32, 1)), keras.layers.Rescaling(1 / 255),
         keras.layers.AveragePooling2D(8), keras.layers.Flatten(),
         keras.layers.Dense(4, activation="softmax")]
    )  # fmt: skip


@pytest.fixture
def tiny_models(monkeypatch):
    monkeypatch.setattr(models, "MODELS", {"brain_tumor": tiny, "seed_cnn": tiny})


def test_operations_are_counted_as_by_hand():
    picture = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(6, 3, strides=2, padding="same")(picture)  # 5 by 5 places
    x = keras.layers.Conv2DTranspose(3, 2, strides=2)(x)  # each of them makes 2 by 2
    x = keras.layers.Dense(7)(keras.layers.GlobalAveragePooling2D()(x))
    by_hand = 2 * (25 * 9 * 6 + 25 * 4 * 6 * 3 + 3 * 7)
    assert cost.forward_operations(keras.Model(picture, x), 10) == by_hand


def test_operations_of_the_released_network_grow_with_the_area_of_its_pictures():
    network = models.network_of(models.build_model("brain_tumor"))
    small, large = (cost.forward_operations(network, size) for size in (64, 128))
    assert large / small == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("precision", training.PRECISIONS)
def test_the_limit_is_a_rate_of_matrix_products(precision, monkeypatch):
    products = []
    multiply = keras.ops.matmul
    monkeypatch.setattr(
        keras.ops, "matmul", lambda *pair: products.append(pair[0].dtype) or multiply(*pair)
    )
    assert 0.01 < cost.matrix_rate(64, precision) < 1e5
    assert {keras.backend.standardize_dtype(one) for one in products} == {precision}


def test_batches_are_timed_without_training(monkeypatch):
    ticks = iter([10.0, 12.0])
    monkeypatch.setattr(rates.time, "perf_counter", lambda: next(ticks))
    batches = training.ShuffledBatches(lesion_examples(12), batch_size=8, seed=0)
    assert cost.loading_rate(batches, steps=5) == 12 / 2  # no more than there are


def test_steps_are_those_of_the_fit(tiny_models):
    seen = lesion_examples(8)
    rate = cost.step_rate("seed_cnn", seen, PLAIN, (seen.pixels, seen.classes), steps=3)
    assert rate() > 0 and rate() > 0


def test_all_is_measured_once_an_epoch_and_the_median_counts(tiny_models, tmp_path):
    found = iter([1.0, 5.0, 3.0])
    measured = cost.measure_in_turns(
        "seed_cnn", lesion_examples(24), PLAIN, {"other": lambda: next(found)}, tmp_path / "state"
    )
    assert measured["other"] == 3.0 and measured["fit"] > 0
    assert next(found, None) is None


def test_a_fit_is_timed_from_its_first_step_to_its_last(monkeypatch):
    ticks = iter([100.0, 101.0, 102.0])
    monkeypatch.setattr(rates.time, "perf_counter", lambda: next(ticks))
    turns = rates.Turns({}, pictures=40, batch_size=16)
    for batch in range(3):
        turns.on_train_batch_end(batch)
    turns.on_epoch_end(0)
    assert turns.rates == [{"fit": 24 / 2}]


@pytest.fixture
def known_rates(monkeypatch):
    """Stand-ins: pictures a second, and GFLOP a second for the limit."""
    found = {"limit": 200.0, "batches": 900.0, "steps": 60.0, "starting": 40.0, "fit": 50.0}
    monkeypatch.setattr(cost, "step_rate", lambda *_: None)
    monkeypatch.setattr(cost, "measure_in_turns", lambda *_: pd.Series(found))
    monkeypatch.setattr(cost, "forward_operations", lambda *_: 1e9)
    monkeypatch.setattr(cost.util, "find_spec", lambda name: None)
    monkeypatch.setenv(training.PRECISION_VARIABLE, "float32")


def compare(count=24):
    seen = lesion_examples(count)
    return cost.compare_rates(
        {"brain_tumor": seen, "seed_cnn": seen}, size=16, pictures=16, rounds=1
    )


def test_shares_of_the_limit_count_three_times_the_answer(known_rates):
    table = compare()
    assert table.loc["steps, of the matrix product rate", "ratio"] == 60 * 3 / 200
    assert table.loc["fit, of the matrix product rate", "ratio"] == 50 * 3 / 200
    assert table.loc["batches alone, against fit", "ratio"] == 900 / 50


def test_where_the_machine_trains_in_bfloat16_like_is_held_against_like(known_rates, monkeypatch):
    float32 = compare()
    monkeypatch.setenv(training.PRECISION_VARIABLE, "bfloat16")
    found = {"float32": {**cost.measure_in_turns(), "torch": 80.0},
             "bfloat16": {"limit": 1000.0, "batches": 800.0, "steps": 100.0, "fit": 90.0,
                          "torch": 120.0}}  # fmt: skip
    monkeypatch.setattr(cost, "measure_in_turns", lambda *given: pd.Series(found[given[5]]))
    table = compare()
    assert float32.index.isin(table.index).all()
    ratios = table.loc[~table.index.isin(float32.index), "ratio"]
    assert ratios.to_dict() == {
        "fit in bfloat16, of the matrix product rate in bfloat16": 90 * 3 / 1000,
        "fit in bfloat16, of the matrix product rate in float32": 90 * 3 / 200,
        "fit in bfloat16, against plain PyTorch in bfloat16": 90 / 120,
        "fit in bfloat16, against steps in bfloat16": 90 / 100,
        "fit in bfloat16, against fit in float32": 90 / 50,
        "batches alone, against fit in bfloat16": round(800 / 90, 3),
    }
    assert table.loc["fit, against plain PyTorch", "ratio"] == round(50 / 80, 3)


def test_where_pytorch_is_absent_the_rest_is_measured_and_it_is_said(known_rates, caplog):
    table = compare()
    assert "PyTorch cannot be imported" in caplog.text
    assert table["ratio"].isna().sum() == 3
    assert table.loc[table["ratio"].isna()].index.str.contains("PyTorch").all()


def test_the_table_is_written_as_it_is_measured(monkeypatch, tmp_path):
    rows = {"one": ("seconds", 1.0, 4.0), "two": ("seconds", 2.0, float("nan"))}
    table = cost.as_table(rows)
    monkeypatch.setattr(cost, "measure", lambda settings: table)
    cost.write_table(cost.CostSettings(output=str(tmp_path)))
    written = pd.read_csv(tmp_path / "figures" / "bench_training.csv", index_col="comparison")
    pd.testing.assert_frame_equal(written, table)
    assert written.loc["one", "ratio"] == 0.25


def histories(monkeypatch, starting, ours):
    """Stand in for two fits: rows of seconds and validation loss."""
    found = {"seed_cnn": np.array(starting), "brain_tumor": np.array(ours)}
    monkeypatch.setattr(quality, "_fit", lambda name, *_: found[name])
    empty = dict.fromkeys(found, None)
    return cost.time_to_quality(empty, empty)


def test_the_time_is_that_of_the_first_epoch_that_is_as_good(monkeypatch):
    starting = [(60.0, 0.5), (120.0, 0.3), (200.0, 0.4)]  # what it ends with is what counts
    table = histories(monkeypatch, starting, [(20.0, 0.6), (40.0, 0.39), (60.0, 0.2)])
    assert table["ratio"].tolist() == [40 / 200, round(0.39 / 0.4, 3)]


def test_a_quality_that_is_not_reached_has_no_time(monkeypatch):
    table = histories(monkeypatch, [(200.0, 0.4)], [(20.0, 0.6), (40.0, 0.5)])
    assert np.isnan(table["ours"].iloc[0]) and table["ours"].iloc[1] == 0.5


def test_both_networks_are_fitted_and_timed_epoch_by_epoch(tiny_models):
    seen = (lesion_examples(16), lesion_examples(8))
    found = quality._fit("brain_tumor", seen, PLAIN)
    assert found.shape == (3, 2) and (np.diff(found[:, 0]) > 0).all() and (found > 0).all()


def test_without_an_epoch_the_quality_is_left_out(monkeypatch):
    monkeypatch.setattr(cost, "_examples", lambda run, name: (None, None))
    monkeypatch.setattr(cost, "compare_rates", lambda *_: cost.as_table({"a": ("x", 1.0, 2.0)}))
    assert cost.measure(cost.CostSettings(epochs=0)).index.tolist() == ["a"]


def test_the_quick_schedule_is_the_released_recipe_but_for_length_and_size(monkeypatch):
    asked = {}
    monkeypatch.setattr(cost, "_examples", lambda run, name: (None, None))
    monkeypatch.setattr(cost, "compare_rates", lambda *_: cost.as_table({}))
    monkeypatch.setattr(
        cost, "time_to_quality", lambda seen, found: asked.update(found) or cost.as_table({})
    )
    cost.measure(cost.CostSettings(epochs=3, quality_size=48))
    released = training.recipe("brain_tumor")
    length = {"epochs": released.epochs, "sizes": released.sizes, "cycles": released.cycles}
    quick = dataclasses.replace(asked["brain_tumor"], **length)
    assert quick == released and asked["seed_cnn"] == training.recipe("seed_cnn")
    assert asked["brain_tumor"].phases() == [(48, 0, 3)]
    first = dataclasses.replace(released.cycles[0], until=1.0)
    assert asked["brain_tumor"].spans() == [(first, 0, 3)]


def copy_weights(network, rival):
    """Give the rival the weights of the Keras network, its kernels turned by half a turn."""
    torch = pytest.importorskip("torch")
    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)
    theirs = [layer for layer in rival.modules() if isinstance(layer, kinds)]
    norms = [layer for layer in rival.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    ours = [x for x in network.layers if hasattr(x, "kernel")]
    ours.sort(key=lambda layer: (layer.name == "logits", layer.name == "tissue", number(layer)))
    theirs = in_order_of_use(rival, theirs)
    for layer, other in zip(ours, theirs, strict=True):
        kernel = np.asarray(layer.kernel)
        turned = kernel.T if kernel.ndim == 2 else kernel[::-1, ::-1].transpose(3, 2, 0, 1)
        other.weight.data = torch.tensor(np.ascontiguousarray(turned))
        if layer.use_bias:
            other.bias.data = torch.tensor(np.asarray(layer.bias))
    mine = [x for x in network.layers if isinstance(x, keras.layers.BatchNormalization)]
    for layer, other in zip(sorted(mine, key=number), in_order_of_use(rival, norms), strict=True):
        values = [torch.tensor(np.asarray(each)) for each in layer.weights]
        other.weight.data, other.bias.data, other.running_mean, other.running_var = values


def number(layer):
    """Return how many layers of its kind were made before."""
    end = layer.name.rsplit("_", 1)[-1]
    return int(end) if end.isdigit() else 0


def in_order_of_use(rival, layers):
    """Sort layers of the rival by when they are called."""
    called = []
    hooks = [layer.register_forward_hook(lambda one, *_: called.append(one)) for layer in layers]
    rival(sys.modules["torch"].zeros(2, 1, 32, 32))
    for hook in hooks:
        hook.remove()
    return called


def test_the_rival_in_pytorch_is_the_very_same_network():
    torch = pytest.importorskip("torch")
    from brainlib.cost import plain_torch

    network = models.network_of(models.build_model("brain_tumor", seed=3))
    random = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    rival = plain_torch.Network().eval()
    copy_weights(network, rival)
    assert sum(each.numel() for each in rival.parameters()) == sum(
        int(np.prod(each.shape)) for each in network.trainable_weights
    )
    pictures = lesion_examples(3, size=64).pixels.astype(np.float32)
    ours = network.predict_on_batch(pictures)
    with torch.no_grad():
        logits, tissue = rival(torch.tensor(pictures[:, ::-1, ::-1].copy()).permute(0, 3, 1, 2))
    turned = tissue.permute(0, 2, 3, 1).numpy()[:, ::-1, ::-1]
    np.testing.assert_allclose(logits.numpy(), ours["logits"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(turned, ours["tissue"], rtol=1e-3, atol=1e-3)


def test_the_rival_learns_by_the_same_loss():
    torch = pytest.importorskip("torch")
    from brainlib.cost import plain_torch

    _, targets, weights = training.AugmentedBatches(lesion_examples(6), 6, 0)[0]
    random = np.random.default_rng(0)
    logits, tissue = random.normal(size=(6, 4)), random.normal(size=(6, 16, 16, 4))
    weights["tissue"][2] = 0
    entropy = keras.losses.CategoricalCrossentropy(from_logits=True)
    drawing = np.asarray(training.fitting.tissue_loss(targets["tissue"], tissue.astype("float32")))
    ours = float(entropy(targets["logits"], logits)) + (drawing * weights["tissue"]).mean()
    found = plain_torch.loss_of(
        (torch.tensor(logits).float(), plain_torch._channels_first(tissue.astype("float32"))),
        torch.tensor(targets["logits"]),
        plain_torch._channels_first(targets["tissue"]),
        torch.tensor(weights["tissue"]),
    )
    assert float(found) == pytest.approx(ours, rel=1e-4)


@pytest.mark.parametrize("precision", training.PRECISIONS)
def test_steps_in_pytorch_are_timed(precision):
    pytest.importorskip("torch")
    from brainlib.cost import plain_torch

    batch = training.AugmentedBatches(lesion_examples(4), 4, 0)[0]
    assert plain_torch.step_rate(batch, training.recipe("brain_tumor"), 1, precision)() > 0
