"""The gate: heads pass, what is no head is refused with a reason, and nothing heavy is loaded."""

import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from brainlib import CLASS_NAMES, imaging, paths
from brainlib.data import phantom
from brainlib.inference import gate
from brainlib.inference.gate import wrong_inputs

RELEASED = paths.project_root() / "model" / "lesion_net.gate.npz"


FITTED, HELD_OUT = range(26), range(26, 36)


@pytest.fixture(scope="module")
def simulated():
    """Three slices of each of a few patients, by patient."""
    return {number: [one.pixels for one in phantom.simulate_patient(name, number, 3, 96)]
            for number in (*FITTED, *HELD_OUT) for name in [CLASS_NAMES[number % 4]]}  # fmt: skip


def heads(simulated, patients):
    pairs = [(number, one) for number in patients for one in simulated[number]]
    return [number for number, _ in pairs], [one for _, one in pairs]


@pytest.fixture(scope="module")
def fitted(simulated):
    groups, images = heads(simulated, FITTED)
    return gate.fit_gate(images, groups, quantile=0.97)


@pytest.fixture(scope="module")
def photograph():
    from skimage import data

    return data.camera()


def noise(size=224):
    return np.random.default_rng(0).integers(0, 256, (size, size)).astype(np.uint8)


def test_heads_of_other_patients_pass(fitted, simulated):
    _, images = heads(simulated, HELD_OUT)
    refused = [gate.refuse(fitted, one) for one in images]
    assert np.mean([reason != "" for reason in refused]) <= 0.15, refused


def test_what_is_no_head_is_refused_though_nothing_like_it_was_fitted_on(fitted, photograph):
    ramp = np.tile(np.arange(224, dtype=np.uint8), (224, 1))
    for wrong in (photograph, noise(), ramp):
        assert gate.refuse(fitted, wrong) == "it does not look like a slice of a head MRI"


@pytest.mark.parametrize("level", [0, 7, 255])
def test_a_blank_slice_is_refused_as_blank(fitted, level):
    image = np.full((224, 224), level, np.uint8)
    image[3, 5] = 99  # a dead pixel is no content
    assert gate.refuse(fitted, image) == "it is blank"


def test_tiny_images_and_strips_are_refused_with_their_size(fitted):
    assert "24 by 30 pixels" in gate.refuse(fitted, noise()[:30, :24])
    assert "224 by 40 pixels" in gate.refuse(fitted, noise()[:40])


def test_a_kind_that_was_fitted_on_is_named(simulated, photograph):
    groups, images = heads(simulated, FITTED)
    inverted = [255 - one for one in images]
    one = gate.fit_gate(images, groups, {"it is inverted": inverted}, quantile=0.97)
    reasons = [gate.refuse(one, 255 - image) for image in heads(simulated, HELD_OUT)[1]]
    assert np.mean(np.array(reasons) == "it is inverted") > 0.8
    assert gate.refuse(one, photograph) != ""


def test_mirror_images_are_judged_alike(simulated):
    for image in [*heads(simulated, HELD_OUT)[1], noise()]:
        described = gate.describe(image), gate.describe(image[:, ::-1])
        np.testing.assert_allclose(*described, atol=0.02)


def test_a_wider_frame_around_the_same_head_hardly_matters(fitted, simulated):
    refused = [gate.refuse(fitted, np.pad(one, 10)) for one in heads(simulated, HELD_OUT)[1]]
    assert np.mean([reason != "" for reason in refused]) <= 0.15


def test_no_more_is_refused_than_was_asked_for():
    random = np.random.default_rng(0)
    described = random.normal(size=(2000, 30)).astype(np.float32)
    wrong = {"far": random.normal(1, 1, (50, 30)), "farther": random.normal(-1, 1, (50, 30))}
    one = gate.fit_gate_to(described[:1000], range(1000), wrong, quantile=0.95)
    refused = [reason != "" for reason in gate.refused_described(one, described[1000:])]
    assert 0.01 < np.mean(refused) < 0.07


def test_a_gate_is_read_as_it_was_written_and_is_small(fitted, simulated, tmp_path):
    file = tmp_path / "lesion_net.gate.npz"
    gate.write_gate(fitted, file)
    again = gate.read_gate(file)
    described = np.array([gate.describe(one) for one in [*heads(simulated, HELD_OUT)[1], noise()]])
    assert gate.refused_described(again, described) == gate.refused_described(fitted, described)
    assert file.stat().st_size < 3_000_000
    with np.load(file, allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)


def test_the_same_images_give_the_same_file(tmp_path):
    described = np.random.default_rng(1).normal(size=(200, 30)).astype(np.float32)
    files = [tmp_path / name for name in ("one.npz", "two.npz")]
    for file in files:
        gate.write_gate(gate.fit_gate_to(described, range(200), {}), file)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"no archive", "cut", "other"])
def test_what_is_no_gate_is_named(fitted, tmp_path, content):
    file = tmp_path / "lesion_net.gate.npz"
    if content == "other":
        np.savez(file, version="0", mean=np.zeros(3))
    elif content == "cut":
        gate.write_gate(fitted, file)
        file.write_bytes(file.read_bytes()[:-3000])
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(gate.GateError, match=r"lesion_net\.gate\.npz"):
        gate.read_gate(file)


def test_what_cannot_be_fitted_or_judged_is_said(fitted, simulated):
    with pytest.raises(gate.GateError, match="too few"):
        gate.fit_gate(heads(simulated, range(2))[1])
    with pytest.raises(gate.GateError, match="quantile"):
        gate.fit_gate_to(np.zeros((50, 3)), range(50), {}, quantile=1.0)
    with pytest.raises(gate.GateError, match="8 bits"):
        gate.refuse(fitted, np.zeros((64, 64, 3), np.uint8))


def test_reading_and_asking_a_gate_loads_nothing_heavy(fitted, tmp_path):
    file = tmp_path / "lesion_net.gate.npz"
    gate.write_gate(fitted, file)
    program = (
        "import sys, numpy as np\n"
        "from brainlib.inference import gate\n"
        f"one = gate.read_gate({str(file)!r})\n"
        "assert gate.refuse(one, np.eye(64, dtype=np.uint8) * 255)\n"
        "heavy = {'sklearn', 'scipy', 'keras', 'tensorflow', 'skimage'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_image_is_judged_in_milliseconds(fitted, simulated):
    image = np.asarray(Image.fromarray(heads(simulated, [0])[1][0]).resize((512, 512)))
    started = time.process_time()
    for _ in range(50):
        gate.refuse(fitted, image)
    assert (time.process_time() - started) / 50 < 0.01  # about 2 ms where nothing else runs


def test_no_wrong_input_serves_to_fit_and_to_try(monkeypatch):
    # these take long, and are all drawn anew or only tried
    monkeypatch.setattr(wrong_inputs, "_heads", lambda random: iter(()))
    monkeypatch.setattr(wrong_inputs, "_SCANS", {"CT": ("CT_small.dcm",)})
    inputs = wrong_inputs.make_wrong_inputs()
    fitted, tried = ({(one.kind, one.origin) for one in inputs if one.is_tried == is_tried}
                     for is_tried in (False, True))  # fmt: skip
    assert fitted and tried and not fitted & tried
    assert all(one.pixels.dtype == np.uint8 and one.pixels.ndim == 2 for one in inputs)
    rows = wrong_inputs.rows_by_reason(inputs, left_out="noise")
    chosen = [inputs[row] for each in rows.values() for row in each]
    assert chosen and not any(one.is_tried or one.kind == "noise" for one in chosen)


@pytest.mark.skipif(not RELEASED.is_file(), reason="no gate has been released here")
def test_the_released_gate_knows_heads_from_photographs(simulated, photograph):
    released = gate.read_gate(RELEASED)
    assert gate.refuse(released, wrong_inputs.read_real_head()) == ""
    accepted = [gate.refuse(released, one) == "" for one in heads(simulated, HELD_OUT)[1]]
    assert np.mean(accepted) > 0.8
    for wrong in (photograph, imaging.resize(noise(), 300)):
        assert gate.refuse(released, wrong) == "it does not look like a slice of a head MRI"
