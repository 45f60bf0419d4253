"""Corruptions: ten ways to degrade an image, each worse with its strength, none beyond reading."""

import numpy as np
import pytest
from scipy import ndimage

from brainlib.data import phantom
from brainlib.evaluation import corruptions
from brainlib.evaluation.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from brainlib.paths import BrainlibError

SIZE = 128
RANDOM = ("motion", "ghosting", "bias_field", "noise", "contrast", "rotation")


@pytest.fixture(scope="module")
def image():
    return phantom.simulate_patient("glioma", 0, 1, SIZE)[0].pixels


def distance(pixels, others):
    return np.abs(pixels.astype(float) - others).mean()


def spot(row, column):
    """Draw a white disc on black."""
    rows, columns = np.ogrid[:SIZE, :SIZE]
    return np.where(np.hypot(rows - row, columns - column) < 5, 255, 0).astype(np.uint8)


def centre(pixels):
    """Return where the disc lies from the middle of the image."""
    return np.array(ndimage.center_of_mass(pixels.astype(float))) - (SIZE - 1) / 2


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_shape_and_type_are_kept_and_the_image_is_not_touched(image, name):
    for pixels in (image, image[:, 20:-30], image[40:56, 30:50], np.zeros((16, 40), np.uint8)):
        before = pixels.copy()
        for strength in STRENGTHS:
            corrupted = corrupt(pixels, name, strength, seed=0)
            assert corrupted.shape == pixels.shape and corrupted.dtype == np.uint8
            assert np.array_equal(pixels, before)
            assert pixels.any() or corrupted.max() <= 2  # JPEG rounds the mean of a block


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_corrupts_in_the_same_way_and_stronger_is_worse(image, name):
    first, second, *others = (corrupt(image, name, 3, seed) for seed in (0, 0, *range(1, 9)))
    assert np.array_equal(first, second)
    differs = any(not np.array_equal(first, other) for other in others)
    assert differs == (name in RANDOM)
    for seed in range(4) if name not in ("rotation", "crop") else ():
        corrupted = [corrupt(image, name, strength, seed) for strength in STRENGTHS]
        distances = [distance(image, pixels) for pixels in corrupted]
        assert (np.diff([0, *distances]) > 0).all()
        weak, *_, strong = (np.corrcoef(image.ravel(), c.ravel())[0, 1] for c in corrupted)
        assert weak > 0.95 and 0.7 < strong < 0.99


def test_rotation_turns_further_to_the_same_side_and_crop_spreads_from_the_middle():
    sides = set()
    for seed in range(9):
        turned = [centre(corrupt(spot(64, 100), "rotation", s, seed)) for s in STRENGTHS]
        angles = np.array([np.degrees(np.arctan2(row, column)) for row, column in turned])
        assert np.abs(angles) == pytest.approx([3, 6, 10, 15, 20], abs=1)
        sides |= set(np.sign(angles).tolist())
        assert len(set(np.sign(angles))) == 1
    assert sides == {-1, 1}
    reach = [centre(corrupt(spot(44, 84), "crop", strength, 0)) for strength in STRENGTHS]
    factors = np.array(reach) / centre(spot(44, 84))
    assert factors[:, 0] == pytest.approx(factors[:, 1], rel=0.02)
    assert (np.diff([1, *factors[:, 0]]) > 0).all() and factors.max() < 1 / (1 - 2 / 8)


def test_artefacts_look_like_their_physics(image):
    moved = corrupt(image, "motion", 5, 0)
    assert centre(moved) == pytest.approx(centre(image), abs=1.5)
    ghosts = corrupt(spot(64, 64), "ghosting", 5, seed=0) > 20
    assert ndimage.label(ghosts)[1] == 3
    field = corrupt(np.full((SIZE, SIZE), 100, np.uint8), "bias_field", 5, seed=0).astype(int)
    assert np.ptp(field) > 50 and np.abs(np.diff(field, axis=0)).max() < 20
    half = np.zeros((SIZE, SIZE), np.uint8)
    half[:, 64:] = 200
    air, spread = corrupt(half, "noise", 5, seed=0)[:, :64], 0.14 * 200
    assert air.mean() == pytest.approx(spread * np.sqrt(np.pi / 2), rel=0.03)  # Rayleigh
    edge = np.zeros((SIZE, SIZE), np.uint8)
    edge[:, 32:96] = 150
    assert corrupt(edge, "low_resolution", 5, 0).max() > 155  # it rings
    assert corrupt(edge, "blur", 5, 0).max() <= 150


def test_what_is_not_known_is_refused_with_what_is(image):
    with pytest.raises(BrainlibError, match=r"no corruption 'smudge': choose from motion, ghost"):
        corrupt(image, "smudge", 1, seed=0)
    with pytest.raises(BrainlibError, match=r"no strength 6: choose from 1, 2, 3, 4, 5"):
        corrupt(image, "blur", 6, seed=0)
    for pixels in (image[:15], image / 255, image[..., None]):
        with pytest.raises(BrainlibError, match="give a grey image, uint8 of shape"):
            corrupt(pixels, "blur", 1, seed=0)
    with pytest.raises(BrainlibError, match="2 labels for 1 images"):
        corruptions.robustness(lambda images: np.eye(4), [image], [0, 1])
    with pytest.raises(BrainlibError, match=r"shape \(1, 4\) for 2 images"):
        corruptions.robustness(lambda images: np.eye(4)[:1], [image] * 2, [0, 0])


def knows(clean, limit=0):
    """Give a predictor that is right about images at most so far from the clean ones."""
    return lambda images: np.eye(4)[
        [0 if distance(*pair) <= limit else 3 for pair in zip(images, clean, strict=True)]
    ]


def test_robustness_of_a_predictor_with_a_known_answer(image):
    images = [np.zeros((16, 30), np.uint8), np.full((60, 60), 255, np.uint8), image]
    names = ("blur", "contrast", "rotation")  # only the last can touch a white image
    table = corruptions.robustness(knows(images), images, [0, 0, 0], names=names)
    assert table.index.tolist() == ["clean", *names] and table.index.name == "corruption"
    assert table.columns.tolist() == [*(f"strength {number}" for number in STRENGTHS), "mean"]
    assert table["mean"].tolist() == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3])
    assert table.loc["clean"].isna().tolist() == [True] * 5 + [False]
    assert corruptions.accuracy_kept(table) == pytest.approx(5 / 9)
    limit = distance(image, corrupt(image, "blur", 2, seed=0))
    table = corruptions.robustness(knows([image], limit), [image], [0], names=["blur"])
    assert table.loc["blur"].tolist() == pytest.approx([1, 1, 0, 0, 0, 0.4])


def test_every_predictor_sees_the_same_images_and_each_is_corrupted_in_its_own_way(image):
    corrupted = []

    def predict(images):
        if not np.array_equal(images[0], image):
            corrupted.append(np.stack(images))
        return np.eye(4)[[0] * len(images)]

    for count, seed in ((2, 0), (3, 0), (2, 1)):
        corruptions.robustness(predict, [image] * count, [0] * count, seed, ["noise"], [2])
    assert np.array_equal(corrupted[0], corrupted[1][:2])
    assert not np.array_equal(corrupted[0], corrupted[2])
    assert not np.array_equal(corrupted[0][0], corrupted[0][1])
