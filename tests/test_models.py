"""The starting network: its exact shape, and a file that needs nothing of ours."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from brainlib import inference, models
from brainlib.models import brain_tumor


@pytest.fixture(scope="module")
def network():
    return models.build_model("seed_cnn", seed=3)


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "seed_cnn.keras"
    models.save_model(network, path)
    return path


def test_the_starting_network_has_exactly_its_parameters(network):
    counts = [layer.count_params() for layer in network.layers if layer.count_params()]
    assert counts == [896, 18_496, 73_856, 5_308_544, 516]
    assert network.count_params() == 5_402_308


def test_every_layer_is_as_in_the_starting_project(network):
    convolutions = [network.get_layer(f"convolution_{n}") for n in (1, 2)]
    convolutions.append(network.get_layer("features"))
    assert [layer.filters for layer in convolutions] == [32, 64, 128]
    assert all(layer.kernel_size == (3, 3) for layer in convolutions)
    assert all(layer.padding == "same" for layer in convolutions)
    assert network.get_layer("grey_to_rgb").output.shape[1:] == (150, 150, 3)
    assert network.get_layer("dropout").rate == 0.5


@pytest.mark.parametrize("shape", [(150, 150, 1), (150, 150, 3), (37, 512, 1), (300, 200, 3)])
def test_it_takes_grey_or_rgb_of_any_size(network, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    probabilities = np.asarray(network.predict_on_batch(pixels))
    assert probabilities.shape == (2, 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_grey_and_the_same_grey_as_rgb_are_one_picture(network):
    grey = np.random.default_rng(1).integers(0, 256, (1, 90, 70, 1), dtype=np.uint8)
    rgb = np.repeat(grey, 3, axis=-1)
    np.testing.assert_allclose(
        network.predict_on_batch(grey), network.predict_on_batch(rgb), atol=1e-6
    )


def test_the_file_alone_gives_the_same_numbers_in_a_fresh_process(network, saved, tmp_path):
    picture = np.random.default_rng(2).integers(0, 256, (224, 180), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "slice.png")
    program = (
        "import sys, numpy, tensorflow, PIL.Image\n"
        f"model = tensorflow.keras.models.load_model({str(saved)!r})\n"
        f"pixels = numpy.asarray(PIL.Image.open({str(tmp_path / 'slice.png')!r}).convert('RGB'))\n"
        "print(*model.predict(pixels[None], verbose=0)[0])\n"
        "assert not any(name.startswith('brainlib') for name in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    expected = inference.predict_images(network, [picture])[0]
    np.testing.assert_allclose([float(x) for x in result.stdout.split()], expected, atol=1e-6)


def test_the_file_of_a_fitted_model_holds_no_optimizer(tmp_path):
    fitted = models.build_model("seed_cnn")
    fitted.compile("adam", "sparse_categorical_crossentropy")
    fitted.train_on_batch(np.zeros((2, 150, 150, 1), np.uint8), np.zeros(2))
    models.save_model(fitted, tmp_path / "fitted.keras")
    assert (tmp_path / "fitted.keras").stat().st_size < 4.1 * fitted.count_params()
    assert fitted.optimizer is not None


def test_a_damaged_file_is_named(tmp_path):
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(models.ModelError, match=r"broken\.keras"):
        models.load_model(broken)
    with pytest.raises(models.ModelError, match="make run"):
        models.load_model(tmp_path / "absent.keras")


@pytest.mark.parametrize("answers", [{"units": 5, "activation": "softmax"}, {"units": 4}])
def test_a_model_that_does_not_give_four_probabilities_is_refused(tmp_path, answers):
    pixels = keras.Input((None, None, None))
    features = keras.ops.mean(pixels, axis=(1, 2, 3), keepdims=False)[:, None]
    model = keras.Model(pixels, keras.layers.Dense(**answers)(features))
    model.save(tmp_path / "other.keras")
    with pytest.raises(models.ModelError, match=r"other\.keras does not give a probability"):
        models.load_model(tmp_path / "other.keras")


@pytest.fixture(scope="module")
def released():
    return models.build_model("brain_tumor", seed=3)


@pytest.mark.parametrize("shape", [(128, 128, 1), (150, 90, 3), (37, 512, 1), (16, 16, 1)])
def test_the_released_network_takes_grey_or_rgb_of_any_size(released, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    probabilities = np.asarray(released.predict_on_batch(pixels))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    grey = pixels.mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(released.predict_on_batch(grey), probabilities, atol=1e-5)


@pytest.mark.parametrize("shape", [(224, 224), (300, 180), (97, 201), (60, 60)])
def test_pictures_are_scaled_as_pillow_does_it_with_their_proportions(released, shape):
    smooth = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 9), dtype=np.uint8))
    picture = smooth.resize(shape[::-1], Image.Resampling.BICUBIC)
    scaling = keras.Model(released.inputs, released.get_layer("grey_square").output)
    found = np.asarray(scaling.predict_on_batch(np.asarray(picture)[None, ..., None]))[0, ..., 0]
    longest, size = max(shape), models.PICTURE_SIZE
    square = Image.new("L", (longest, longest))
    square.paste(picture, ((longest - shape[1]) // 2, (longest - shape[0]) // 2))
    wanted = np.asarray(square.resize((size, size), Image.Resampling.BILINEAR), float)
    inside = slice(2, -2)
    rows = np.flatnonzero(wanted.any(axis=1))[inside]
    columns = np.flatnonzero(wanted.any(axis=0))[inside]
    difference = np.abs(found - wanted)[np.ix_(rows, columns)]
    assert difference.mean() < 1.5 and np.percentile(difference, 99) < 6


def test_a_window_of_the_scanner_changes_little(released):
    picture = np.random.default_rng(2).integers(60, 120, (1, 128, 128, 1)).astype(np.uint8)
    wider = (picture.astype(float) * 2 - 60).astype(np.uint8)
    np.testing.assert_allclose(
        released.predict_on_batch(picture), released.predict_on_batch(wider), atol=0.01
    )


@pytest.fixture
def trained(released):
    """Return a model whose normalisation has seen something, each channel something else."""
    model = keras.models.clone_model(released)
    generator = np.random.default_rng(6)
    for layer in models.network_of(model).layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            weights = [generator.uniform(0.5, 1.5, each.shape) for each in layer.get_weights()]
            layer.set_weights(weights)
    return model


def test_a_released_model_is_softer_and_keeps_the_order(trained):
    pixels = np.random.default_rng(4).integers(0, 256, (3, 64, 64, 1), dtype=np.uint8)
    plain = np.asarray(trained.predict_on_batch(pixels))
    soft = np.asarray(models.for_release(trained, 2.0).predict_on_batch(pixels))
    expected = np.sqrt(plain) / np.sqrt(plain).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(soft, expected, atol=1e-5)
    assert np.ptp(plain) > 0.01


def test_a_released_model_draws_what_the_trained_one_draws(trained):
    pixels = np.random.default_rng(4).integers(0, 256, (3, 64, 64, 1), dtype=np.uint8)
    expected = models.with_maps(trained).predict_on_batch(pixels)
    found = models.with_maps(models.for_release(trained, 1.0)).predict_on_batch(pixels)
    for name, each in expected.items():
        np.testing.assert_allclose(found[name], each, atol=1e-3)
    assert np.ptp(expected["outline"]) > 0.1


def test_normalisation_is_left_out_where_a_convolution_can_take_it_over(trained):
    layers = models.network_of(models.for_release(trained, 1.0)).layers
    kinds = Counter(type(layer).__name__ for layer in layers)
    assert "BatchNormalization" not in kinds
    assert kinds["DepthwiseConv2D"] == 5  # of 16: two behind each sum of blocks, one at the last


def test_maps_come_out_by_name_of_a_file_that_needs_nothing_of_ours(released, tmp_path):
    models.save_model(models.with_maps(released), tmp_path / "maps.keras")
    pixels = np.random.default_rng(5).integers(0, 256, (2, 70, 90, 1), dtype=np.uint8)
    program = (
        "import sys, numpy, tensorflow\n"
        f"model = tensorflow.keras.models.load_model({str(tmp_path / 'maps.keras')!r})\n"
        f"pixels = numpy.load({str(tmp_path / 'pixels.npy')!r})\n"
        "answer = model.predict(pixels, verbose=0)\n"
        "print(*answer['probabilities'].ravel(), *answer['outline'].shape)\n"
        "assert not any(name.startswith('brainlib') for name in sys.modules)\n"
    )
    np.save(tmp_path / "pixels.npy", pixels)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    *found, count, height, width = map(float, result.stdout.split())
    assert (count, height, width) == (2, 64, 64)
    expected = np.asarray(released.predict_on_batch(pixels)).ravel()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_fitting_leaves_nothing_in_the_file_that_would_need_this_project(released, tmp_path):
    network = models.network_of(released)
    network.compile("adam", loss=lambda truth, answer: answer)
    models.save_model(released, tmp_path / "fitted.keras")
    models.load_model(tmp_path / "fitted.keras")


@pytest.fixture
def normalising():
    """Return a network that holds each kind of layer that is exchanged for training."""
    keras.utils.set_random_seed(0)  # with some weights a gradient nearly cancels, and rounds badly
    grey = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(grey)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-4)(x))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([x, x]))
    logits = keras.layers.Dense(4, name="logits")(pooled)
    return keras.Model(grey, {"logits": logits, "tissue": 1 - keras.layers.Softmax()(x)})


def step(network, pixels):
    """Return the answer while training, and each weight and gradient after it."""
    tensorflow = pytest.importorskip("tensorflow")
    with tensorflow.GradientTape() as tape:
        answer = network(pixels, training=True)["logits"]
        loss = keras.ops.mean(answer**2)
    gradients = tape.gradient(loss, [each.value for each in network.trainable_weights])
    return [np.asarray(each) for each in (answer, *gradients, *network.get_weights())]


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.1)])
def test_a_learner_computes_what_the_network_does(normalising, precision, tolerance):
    # so few places that a variance of the sample is not that of the batch
    pixels = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    learner = models.learner_of(normalising, precision)
    before = normalising.get_weights()
    for found, expected in zip(step(learner, pixels), step(normalising, pixels), strict=True):
        assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)
    moved = [not np.array_equal(*pair) for pair in zip(before, learner.get_weights(), strict=True)]
    assert sum(moved) == 2  # the two averages of the normalisation
    assert [each.dtype for each in learner.weights] == ["float32"] * len(learner.weights)
    assert [each.path for each in learner.weights] == [each.path for each in normalising.weights]
    kinds = {keras.backend.standardize_dtype(one.dtype) for one in learner(pixels).values()}
    assert kinds == {"float32"}
    computed = {type(layer).__name__: layer.compute_dtype for layer in learner.layers}
    assert computed["FusedBatchNormalization"] == computed["Conv2D"] == precision
    assert computed["Dense"] == computed["Softmax"] == "float32"


def test_a_frozen_learner_leaves_its_averages(normalising):
    learner = models.learner_of(normalising)
    learner.trainable = False
    before = learner.get_weights()
    learner(np.ones((2, 8, 8, 1), "float32"), training=True)
    assert all(np.array_equal(*pair) for pair in zip(before, learner.get_weights(), strict=True))


def test_local_contrast_normalises_each_place_by_what_lies_around_it():
    network = models.network_of(models.build_model("brain_tumor"))
    seen = keras.Model(network.inputs, network.get_layer("contrasts").output)
    grey = np.random.default_rng(0).uniform(0, 255, (48, 48)).astype("float32").cumsum(axis=1)
    picture, *local = np.moveaxis(
        seen.predict(grey[np.newaxis, ..., np.newaxis], verbose=0)[0], 2, 0
    )
    np.testing.assert_allclose(picture, (grey - grey.mean()) / grey.std(), atol=1e-3)
    for width, contrast in zip(brain_tumor.AROUND, local, strict=True):
        blur = {"sigma": width * 48, "mode": "constant", "truncate": 40.0}
        covered = ndimage.gaussian_filter(np.ones_like(picture), **blur)
        mean, power = (
            ndimage.gaussian_filter(part, **blur) / covered for part in (picture, picture**2)
        )
        expected = (picture - mean) / np.sqrt(power - mean**2 + 0.04)
        np.testing.assert_allclose(contrast, expected, atol=1e-3)


def test_the_readme_says_how_large_the_released_network_is():
    trained = models.build_model("brain_tumor")
    counts = [each.count_params() for each in (trained, models.for_release(trained, 1.0))]
    readme = Path(__file__).parents[1] / "README.md"
    said = "with {:,} parameters; its file has {:,}".format(*counts)
    assert said in readme.read_text(encoding="utf-8")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(models.ModelError, match="seed_cnn"):
        models.build_model("resnet")


def test_it_runs_under_jax(saved):
    pytest.importorskip("jax")
    program = (
        "import numpy, keras\n"
        f"model = keras.models.load_model({str(saved)!r}, compile=False)\n"
        "print(*model.predict(numpy.full((1, 60, 50, 1), 90, 'uint8'), verbose=0)[0])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    assert result.returncode == 0, result.stderr
    expected = models.load_model(saved).predict_on_batch(np.full((1, 60, 50, 1), 90, "uint8"))[0]
    np.testing.assert_allclose([float(x) for x in result.stdout.split()], expected, atol=1e-5)
