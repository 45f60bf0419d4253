"""The networks: what they accept, what their answers depend on, and files that stand alone."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from scipy import ndimage

from brainlib import CLASS_NAMES, models, paths
from brainlib.models import lesion_net
from scripts.release import margins

NONE = CLASS_NAMES.index("notumor")


@pytest.fixture(scope="module")
def seed_cnn():
    return models.build_model("seed_cnn", seed=3)


@pytest.fixture(scope="module")
def both(seed_cnn, small_network):
    return {"seed_cnn": seed_cnn, "lesion_net": small_network}


@pytest.mark.parametrize("name", ["seed_cnn", "lesion_net"])
@pytest.mark.parametrize("shape", [(150, 90, 3), (37, 512, 1), (16, 16, 1)])
def test_images_of_any_size_are_accepted_grey_or_rgb(both, name, shape):
    grey = np.random.default_rng(0).integers(0, 256, (2, *shape[:2], 1), np.uint8)
    found = np.asarray(both[name].predict_on_batch(np.repeat(grey, shape[2], axis=3)))
    assert found.shape == (2, 4)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found, both[name].predict_on_batch(grey), atol=1e-5)


def test_the_scale_of_grey_values_does_not_count(small_network, heads):
    pixels = np.stack([head.pixels for head in heads])[..., None]
    expected = np.asarray(small_network.predict_on_batch(pixels))
    assert expected.std(axis=0).max() > 0.1  # answers vary, so that agreement says something
    for factor in (1 / 255, 16.0):
        found = small_network.predict_on_batch(pixels * np.float32(factor))
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("count", [3, 4, 40, 64])
def test_each_image_of_a_batch_is_answered_as_alone_however_many_there_are(small_network, count):
    """Keras on TensorFlow once took the batch for the channels where it was as long as an axis."""
    images = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 1)).astype(np.float32)
    images[:, :, :12] = 0
    alone = np.concatenate([small_network(image[None]) for image in images])
    together = np.asarray(small_network(np.resize(images, (count, 40, 40, 1))))
    np.testing.assert_allclose(together[:8], alone[:count], atol=1e-5)


HEIGHT = 0.78 * 160


@pytest.fixture(scope="module")
def head():
    """Draw a bright skull around textured tissue, 125 pixels high, in the middle of 160."""
    random = np.random.default_rng(0)
    rows, columns = (np.mgrid[:160, :160] + 0.5 - 80) / 80
    radius = np.hypot(rows / 0.78, columns / 0.62)
    tissue = 90 + 25 * ndimage.gaussian_filter(random.normal(size=(160, 160)), 2) * 7
    skull = np.where(np.abs(radius - 0.96) < 0.04, 200, np.where(radius < 0.88, tissue, 30))
    skull[np.hypot(rows - 0.2, columns - 0.25) < 0.12] = 170
    image = np.where(radius < 1, skull, 0) + random.normal(0, 2, (160, 160))
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def look(small_network):
    outputs = [small_network.get_layer(name).output for name in ("field_of_view", "head")]
    model = keras.Model(small_network.input, outputs)
    return lambda image: [np.asarray(part)[0] for part in model(image[None, ..., None])]


def on_canvas(image, top, left, height, width):
    margins = (top, height - top - len(image)), (left, width - left - image.shape[1])
    return np.pad(image, margins)


def text(head):
    image = on_canvas(head, 24, 70, 208, 300)
    letters = np.kron(np.random.default_rng(1).random((7, 24)) < 0.5, np.ones((1, 2))) * 255
    for top, left in ((4, 4), (14, 4), (195, 240)):
        image[top : top + 7, left : left + 48] = letters
    return image


SETTINGS = {  # and where the middle of the head lies, and how large it is drawn
    "off centre": (lambda head: on_canvas(head, 150, 20, 360, 300), (230, 100), 1),
    "white frame": (lambda head: np.pad(head, 16, constant_values=255), (96, 96), 1),
    "text": (text, (104, 150), 1),
    "grey window with text": (margins.screenshot, (106, 265), 1),
    "fine": (lambda head: np.kron(head, np.ones((3, 3), np.uint8)), (240, 240), 3),
}  # fmt: skip


@pytest.mark.parametrize(("draw", "centre", "scale"), SETTINGS.values(), ids=SETTINGS.keys())
def test_the_head_is_found_and_cropped_alike_whatever_surrounds_it(head, look, draw, centre, scale):
    (_, _, expected), alone = look(head)
    assert HEIGHT < expected < 1.25 * HEIGHT
    (row, column, side), square = look(draw(head))
    expected *= scale
    assert side == pytest.approx(expected, rel=0.03)
    assert np.hypot(row - centre[0], column - centre[1]) < 0.02 * expected
    assert np.corrcoef(square.ravel(), alone.ravel())[0, 1] > 0.95


def test_text_inside_the_square_is_blackened_and_the_head_is_not(head, look):
    image = on_canvas(head, 24, 70, 208, 300)
    _, clean = look(image)
    image[44:51, 84:96] = 255  # beside the head, in the corner of its square
    _, square = look(image)
    assert square[:8, :8].max() < 20
    assert np.corrcoef(square.ravel(), clean.ravel())[0, 1] > 0.97


@pytest.fixture(scope="module")
def inner(small_network, heads):
    """Tissue map and features of the heads, and what follows from them: evidence and logits."""
    network = models.network_of(small_network)
    names = ("tissue", "drawn4", "features16", "features32", "imagenet_features8",
             "imagenet_features16")  # fmt: skip
    between = [network.get_layer(name).output for name in names]
    pixels = np.stack([head.pixels for head in heads])[..., None]
    squares = keras.Model(small_network.input, small_network.get_layer("head").output)(pixels)
    values = [np.array(part) for part in keras.Model(network.input, between)(squares)]
    answer = keras.Model(between, network.output["logits"])
    return values, lambda *parts: np.asarray(answer(list(parts)))


def kinds(logits):
    """Return the log probabilities of the kinds of tumour, given that there is one."""
    tumors = np.delete(logits, NONE, axis=1)
    return tumors - np.logaddexp.reduce(tumors, axis=1, keepdims=True)


def test_whether_there_is_a_tumor_is_read_from_the_strongest_region_of_both_readings(inner):
    (tissue, *features), answer = inner
    random = np.random.default_rng(0)
    fine_tuned, kept = features[:3], features[3:]
    others = [random.permutation(feature) for feature in fine_tuned]
    expected, found = (answer(tissue, *part, *kept)[:, NONE] for part in (fine_tuned, others))
    np.testing.assert_allclose(found, expected, atol=1e-5)

    marked = np.zeros_like(tissue)
    marked[:, 8:16, 4:12, 1] = 9.0
    strong = answer(marked, *features)[:, NONE]
    marked[:, 20:, :, 0] = random.normal(3, 1, marked[:, 20:, :, 0].shape)
    np.testing.assert_allclose(answer(marked, *features)[:, NONE], strong, atol=1e-5)
    marked[:, 8:16, 4:12, 1] = 4.0
    assert (answer(marked, *features)[:, NONE] > strong + 1).all()


def test_scattered_bright_pixels_are_no_evidence(inner):
    (tissue, *features), answer = inner
    nothing = np.zeros_like(tissue)
    nothing[..., 0] = 6.0
    pixel, region = nothing.copy(), nothing.copy()
    pixel[:, 2::10, 2::10, 1] = 40.0
    region[:, 8:16, 8:16, 1] = 9.0
    quiet, dot, lesion = (answer(part, *features)[:, NONE] for part in (nothing, pixel, region))
    assert (quiet - dot < 0.1).all() and (quiet - lesion > 1).all()


def test_the_kind_is_read_from_features_inside_the_lesion_alone(inner):
    (tissue, *features), answer = inner
    drawn = np.zeros_like(tissue)
    drawn[..., 0], drawn[:, :16, :16, 2] = 20.0, 40.0
    expected = kinds(answer(drawn, *features))
    outside, inside = ([part.copy() for part in features] for _ in range(2))
    for other, same in zip(outside, inside, strict=True):
        half = other.shape[1] // 2
        other[:, half:], other[:, :half, half:] = 5.0, -5.0
        same[:, :half, :half] += np.random.default_rng(0).normal(0, 1, same.shape[-1])
    np.testing.assert_allclose(kinds(answer(drawn, *outside)), expected, atol=1e-4)
    assert np.abs(kinds(answer(drawn, *inside)) - expected).max() > 0.1


def test_local_contrast_normalises_each_place_by_what_lies_around_it(small_network):
    network = models.network_of(small_network)
    seen = keras.Model(network.input, network.get_layer("contrasts").output)
    grey = np.random.default_rng(0).uniform(0, 255, (64, 64)).astype("float32").cumsum(axis=1)
    image, *local = np.moveaxis(np.asarray(seen(grey[None, ..., None]))[0], 2, 0)
    np.testing.assert_allclose(image, (grey - grey.mean()) / grey.std(), atol=1e-3)
    for width, contrast in zip(lesion_net.SURROUNDINGS, local, strict=True):
        blur = {"sigma": width * 64, "mode": "constant", "truncate": 40.0}
        covered = ndimage.gaussian_filter(np.ones_like(image), **blur)
        mean, power = (ndimage.gaussian_filter(x, **blur) / covered for x in (image, image**2))
        expected = (image - mean) / np.sqrt(power - mean**2 + 0.04)
        np.testing.assert_allclose(contrast, expected, atol=1e-3)


@pytest.fixture(scope="module")
def saved(both, tmp_path_factory):
    """Return a folder with the files of both networks, as they are after a training."""
    folder = tmp_path_factory.mktemp("models")
    network = models.network_of(both["lesion_net"])
    network.compile("adam", loss=lambda truth, answer: answer)
    for name, model in both.items():
        models.save_model(model, folder / f"{name}.keras")
    return folder


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_the_files_alone_give_the_same_answers_in_a_fresh_process(both, saved, heads, backend):
    pytest.importorskip(backend)
    pixels = heads[0].pixels[None, ..., None]
    np.save(saved / "pixels.npy", pixels)
    program = (
        "import sys, numpy, keras\n"
        "pixels = numpy.load('pixels.npy')\n"
        "for name in ('seed_cnn', 'lesion_net'):\n"
        "    model = keras.models.load_model(f'{name}.keras')\n"
        "    numpy.save(f'{name}.npy', model.predict(pixels, verbose=0))\n"
        "assert not any(name.startswith('brainlib') for name in sys.modules)\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=saved, env=environment)
    for name, model in both.items():
        found = np.load(saved / f"{name}.npy")
        np.testing.assert_allclose(found, model.predict_on_batch(pixels), atol=1e-4)


def test_the_file_of_a_fitted_model_holds_no_optimizer_and_takes_the_place_of_older_ones(tmp_path):
    fitted = models.build_model("seed_cnn")
    fitted.compile("adam", "sparse_categorical_crossentropy")
    fitted.train_on_batch(np.zeros((2, 150, 150, 1), np.uint8), np.zeros(2))
    (tmp_path / "fitted.onnx").write_bytes(b"of older weights")
    models.save_model(fitted, tmp_path / "fitted.keras")
    assert (tmp_path / "fitted.keras").stat().st_size < 4.1 * fitted.count_params()
    assert not (tmp_path / "fitted.onnx").exists()


def test_a_damaged_file_and_a_model_without_four_probabilities_are_refused(tmp_path):
    (tmp_path / "broken.keras").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(paths.BrainlibError, match=r"broken\.keras"):
        models.load_model(tmp_path / "broken.keras")
    with pytest.raises(paths.BrainlibError, match="make run"):
        models.load_model(tmp_path / "absent.keras")
    pixels = keras.Input((None, None, None))
    features = keras.ops.mean(pixels, axis=(1, 2, 3), keepdims=False)[:, None]
    for dense in (keras.layers.Dense(5, "softmax"), keras.layers.Dense(4)):
        keras.Model(pixels, dense(features)).save(tmp_path / "other.keras")
        with pytest.raises(paths.BrainlibError, match=r"other\.keras .* a probability for each of"):
            models.load_model(tmp_path / "other.keras")


def test_the_released_network_starts_from_imagenet():
    network = models.network_of(models.build_model("lesion_net"))
    assert network.input_shape[1:3] == (models.IMAGE_SIZE, models.IMAGE_SIZE)
    file = paths.project_root() / "brainlib/models/weights/efficientnet_lite0.npz"
    with np.load(file) as weights:
        for name in ("stem_conv", "block5_depthwise", "block15_project"):
            (kernel, *_) = network.get_layer(name).get_weights()
            np.testing.assert_array_equal(kernel, weights[f"{name}/0"].astype("float32"))


def test_the_starting_network_is_that_of_the_starting_project(seed_cnn):
    counts = [layer.count_params() for layer in seed_cnn.layers if layer.count_params()]
    assert counts == [896, 18_496, 73_856, 5_308_544, 516]
    assert seed_cnn.get_layer("grey_to_rgb").output.shape[1:] == (150, 150, 3)
    assert seed_cnn.get_layer("dropout").rate == 0.5
    convolutions = [layer for layer in seed_cnn.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {(layer.kernel_size, layer.padding) for layer in convolutions} == {((3, 3), "same")}
