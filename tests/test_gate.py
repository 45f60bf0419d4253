"""The gate: heads pass, what is no head is refused with a reason, and nothing heavy is loaded."""

import subprocess
import sys

import numpy as np
import pytest

from brainlib import CLASS_NAMES, inference, paths
from brainlib.data import phantom
from brainlib.inference import gate
from brainlib.models import engines
from scripts.release import wrong_inputs

RELEASED = paths.project_root() / "model" / "lesion_net.gate.npz"
RANDOM = np.random.default_rng(0)
HEADS = RANDOM.normal(size=(400, 12)).astype(np.float32)
PAGES, MAPS = HEADS[:60] + 4, HEADS[60:120] - 4
REASONS = ("it is a page", "it is a map")


@pytest.fixture(scope="module")
def fitted():
    return gate.fit_gate(HEADS[:300], range(300), dict(zip(REASONS, (PAGES, MAPS), strict=True)))


def noise(size=224):
    return RANDOM.integers(0, 256, (size, size)).astype(np.uint8)


def test_heads_pass_as_often_as_asked_for_and_kinds_that_were_fitted_are_named(fitted):
    assert gate.refuse(fitted, PAGES + 1) == ["it is a page"] * 60
    assert gate.refuse(fitted, MAPS - 1) == ["it is a map"] * 60
    refused = [reason != "" for reason in gate.refuse(fitted, HEADS)]
    assert np.mean(refused) <= 0.03


def test_a_rare_source_weighs_as_much_as_a_frequent_one():
    rare = HEADS[:12] + 2.5
    heads, sources = np.concatenate([HEADS[:300], rare]), ["a"] * 300 + ["b"] * 12
    accepted = [
        gate.refuse(gate.fit_gate(heads, range(312), {"x": PAGES}, strata), rare).count("")
        for strata in (None, sources)
    ]
    assert accepted[1] >= accepted[0]


def test_blank_slices_tiny_images_and_strips_are_refused_for_what_they_are():
    for level in (0, 7, 255):
        image = np.full((224, 224), level, np.uint8)
        image[3, 5] = 99  # a dead pixel is no content
        assert gate.refuse_plainly(image) == "it is blank"
    assert "24 by 30 pixels" in gate.refuse_plainly(noise()[:30, :24])
    assert "224 by 40 pixels" in gate.refuse_plainly(noise()[:40])
    assert gate.refuse_plainly(noise()) == ""


def test_a_gate_is_read_as_it_was_written_and_the_same_images_give_the_same_file(fitted, tmp_path):
    files = [tmp_path / name for name in ("a.gate.npz", "b.gate.npz")]
    again = gate.fit_gate(HEADS[:300], range(300), dict(zip(REASONS, (PAGES, MAPS), strict=True)))
    for one, file in zip((fitted, again), files, strict=True):
        gate.write_gate(one, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    read = gate.read_gate(files[0])
    assert gate.refuse(read, HEADS) == gate.refuse(fitted, HEADS)
    assert gate.read_gate(tmp_path / "none.gate.npz") is None


@pytest.mark.parametrize("content", [b"", b"no archive", "cut", "other", "limit", "spread"])
def test_what_is_no_gate_is_named(fitted, tmp_path, content):
    file = tmp_path / "lesion_net.gate.npz"
    gate.write_gate(fitted, file)
    if content == "other":
        np.savez(file, mean=np.zeros(3))
    elif isinstance(content, str) and content != "cut":
        np.savez(file, **vars(fitted) | {content: vars(fitted)[content] * np.float32(np.nan)})
    else:
        file.write_bytes(file.read_bytes()[:-300] if content == "cut" else content)
    with pytest.raises(paths.BrainlibError, match=r"lesion_net\.gate\.npz"):
        gate.read_gate(file)


def test_a_gate_of_another_network_is_named(fitted):
    for features in (None, HEADS[:, :5]):
        with pytest.raises(paths.BrainlibError, match="belongs to another"):
            gate.refuse(fitted, features)


def test_reading_and_asking_a_gate_loads_nothing_heavy(fitted, tmp_path):
    file = tmp_path / "lesion_net.gate.npz"
    gate.write_gate(fitted, file)
    program = (
        "import sys, numpy as np, pathlib\n"
        "from brainlib.inference import gate\n"
        "one = gate.read_gate(pathlib.Path(sys.argv[1]))\n"
        "assert gate.refuse(one, np.full((1, 12), 4.0)) == ['it is a page']\n"
        "heavy = {'sklearn', 'scipy', 'keras', 'tensorflow', 'skimage'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(file)], check=True)


def test_no_wrong_input_serves_to_fit_and_to_try(monkeypatch):
    # these take long, and are all drawn anew or only tried
    monkeypatch.setattr(wrong_inputs, "_beyond_brain", lambda random: iter(()))
    monkeypatch.setattr(wrong_inputs, "_template", lambda random: iter(()))
    monkeypatch.setattr(wrong_inputs, "_SCANS", {"CT": ("CT_small.dcm",)})
    inputs = wrong_inputs.make_wrong_inputs()
    to_fit, tried = ({(example.kind, example.origin) for example in inputs
                      if example.is_tried == is_tried} for is_tried in (False, True))  # fmt: skip
    assert to_fit and tried and not to_fit & tried
    pixels = [example.pixels for example in inputs]
    assert all(image.dtype == np.uint8 and image.ndim == 2 for image in pixels)


def test_the_released_gate_knows_heads_from_photographs():
    from skimage import data

    released = gate.read_gate(RELEASED)
    engine = engines.open_onnx(RELEASED.with_name("lesion_net.onnx"))
    patients = [(CLASS_NAMES[number % 4], number, 3, 96) for number in range(8)]
    heads = [drawn.pixels for patient in patients for drawn in phantom.simulate_patient(*patient)]
    features = inference.predict_images(
        engine, [*heads, data.camera(), data.cat()[..., 0]], "features"
    )
    reasons = gate.refuse(released, features)
    assert np.mean([reason == "" for reason in reasons[:-2]]) > 0.8
    assert reasons[-2:] == [gate.STRANGE] * 2
    mirrored = inference.predict_images(engine, [image[:, ::-1] for image in heads], "features")
    again = gate.refuse(released, mirrored)
    assert np.mean([one == other for one, other in zip(again, reasons, strict=False)]) > 0.9
