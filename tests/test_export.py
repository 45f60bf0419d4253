"""Models as ONNX files: the same answers, without TensorFlow."""

import sys
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers, ops

from brainlib import CLASS_NAMES, models
from brainlib.models import engines, export
from brainlib.paths import BrainlibError

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def tiny():
    """Return the least model that can be exported; its answers depend on brightness."""
    pixels = keras.Input((None, None, None), name="pixels")
    grey = ops.mean(ops.cast(pixels, "float32") / 255, axis=(1, 2, 3))[:, None]
    dense = layers.Dense(4, "softmax")
    model = keras.Model(pixels, dense(grey), name="tiny")
    dense.set_weights([np.float32([[-4, -1, 2, 4]]), np.float32([2, 0.5, -1, -2])])
    return model


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    path = folder / "tiny.onnx"
    export.export_onnx(tiny, str(path))
    assert list(folder.iterdir()) == [path]
    return path


def images(count, height, width, seed=0):
    """Return noise of every brightness, with which the model's answers vary."""
    values = np.random.default_rng(seed).integers(0, 256, (count, height, width, 1))
    return (values * np.linspace(0.1, 1, count)[:, None, None, None]).astype(np.uint8)


def test_the_released_network_answers_and_draws_the_same_from_its_file(
    small_network, heads, tmp_path
):
    export.export_onnx(small_network, tmp_path / "lesion_net.onnx")
    model, draw = models.with_maps(small_network), engines.open_onnx(tmp_path / "lesion_net.onnx")
    assert draw.draws_maps
    slices = np.stack([head.pixels for head in heads])[..., None]
    for pixels in (slices, np.repeat(slices[:1, ::2], 3, axis=3), slices[1:2, 10:-10]):
        found, expected = draw(pixels), model.predict_on_batch(pixels)
        assert set(found) == {"probabilities", *engines.MAPS}
        for name, values in expected.items():
            scale = max(1.0, float(np.abs(values).max()))  # a field of view is in pixels
            np.testing.assert_allclose(found[name], values, rtol=0, atol=TOLERANCE * scale)
            assert found[name].dtype == np.float32
    assert draw(slices)["probabilities"].std(axis=0).max() > 0.1


def test_many_images_are_answered_as_each_alone_and_as_by_keras(tiny, exported):
    pixels = images(2 * engines.BATCH + 1, 48, 40)
    engine = engines.open_onnx(exported, threads=1)
    assert not engine.draws_maps
    alone = [engine(pixels[n : n + 1])["probabilities"] for n in range(len(pixels))]
    alone = np.concatenate(alone)
    np.testing.assert_allclose(engine(pixels)["probabilities"], alone, atol=TOLERANCE)
    np.testing.assert_allclose(np.asarray(tiny.predict_on_batch(pixels)), alone, atol=TOLERANCE)
    # every second column is no block of memory: an engine that read it as one would see another
    wide = np.repeat(pixels[:3], 2, axis=2)
    np.testing.assert_allclose(engine(wide[:, :, ::2])["probabilities"], alone[:3], atol=TOLERANCE)


def test_threads_may_share_an_engine(exported):
    engine = engines.open_onnx(exported, threads=1)
    several = [images(2, 40 + 9 * n, 64, seed=n) for n in range(12)]
    expected = [engine(pixels) for pixels in several]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(pool.map(engine, several), expected, strict=True):
            np.testing.assert_allclose(one["probabilities"], other["probabilities"], atol=TOLERANCE)


def test_an_onnx_file_says_what_it_takes_and_gives(exported):
    onnx.checker.check_model(exported, full_check=True)
    session = onnxruntime.InferenceSession(exported)
    (pixels,), (output,) = session.get_inputs(), session.get_outputs()
    assert (pixels.name, pixels.type) == ("pixels", "tensor(uint8)")
    assert pixels.shape == ["batch", "height", "width", "channels"]
    assert (output.name, output.shape) == ("probabilities", ["batch", 4])
    assert session.get_modelmeta().custom_metadata_map == {"classes": ",".join(CLASS_NAMES)}


def test_a_file_that_answers_otherwise_is_not_put_in_place(tiny, tmp_path, monkeypatch):
    path = tmp_path / "tiny.onnx"
    path.write_text("the older file")
    for wrong in (2e-4, np.nan):

        def answer(pixels, wrong=wrong):
            probabilities = np.asarray(tiny.predict_on_batch(pixels))
            return {"probabilities": probabilities + np.float32(wrong)}

        engine = engines.Engine(answer, ("probabilities",))
        monkeypatch.setattr(engines, "open_onnx", lambda path, engine=engine: engine)
        with pytest.raises(BrainlibError, match=r"differs from the Keras model|its answer has"):
            export.export_onnx(tiny, path)
    assert path.read_text() == "the older file" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_exported_is_named(tiny, tmp_path, monkeypatch):
    pixels = keras.Input((None, None, None))
    resized = layers.Resizing(8, 8, antialias=True)(ops.mean(pixels, axis=-1, keepdims=True))
    resizes = keras.Model(pixels, layers.Dense(4, "softmax")(layers.Flatten()(resized)))
    several = keras.Model(tiny.input, [tiny.output, tiny.layers[-2].output])
    five = keras.Model(tiny.input, layers.Dense(5)(tiny.output))

    def refused(model, message, name="other.onnx"):
        with pytest.raises(BrainlibError, match=message):
            export.export_onnx(model, tmp_path / name)
        assert not list(tmp_path.iterdir())

    refused(resizes, "cannot.*ScaleAndTranslate")
    refused(several, "probabilities of glioma")
    refused(five, "probabilities of glioma")
    refused(tiny, r"does not end in \.onnx", "tiny.keras")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    refused(tiny, r"tf2onnx: pip install .*\[export\]")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    refused(tiny, "KERAS_BACKEND=tensorflow")


def test_a_file_that_cannot_be_run_is_named(exported, tmp_path):
    broken = tmp_path / "broken.onnx"
    with pytest.raises(BrainlibError, match=r"there is no file .*broken"):
        engines.open_onnx(broken)
    whole = exported.read_bytes()
    for content in (b"", b"not a model", whole[: len(whole) // 2], whole[:-100]):
        broken.write_bytes(content)
        with pytest.raises(BrainlibError, match=r"broken.*cannot be loaded as"):
            engines.open_onnx(broken)
    model = onnx.load(exported)
    model.graph.output.append(model.graph.input[0])
    onnx.save(model, broken)
    with pytest.raises(BrainlibError, match="holds another kind of model"):
        engines.open_onnx(broken)
