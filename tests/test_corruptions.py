"""Corruptions: ten ways to spoil a picture, each worse with its strength, none beyond reading."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from brainlib import imaging, plots
from brainlib.data import phantom
from brainlib.evaluation import corruptions
from brainlib.evaluation.corruptions import CORRUPTIONS, STRENGTHS, CorruptionError, corrupt

SIZE = 128
SEEDS = range(4)
DISPLACING = ("rotation", "crop")  # these move what they show, so pixels say little
IN_PLACE = [name for name in CORRUPTIONS if name not in DISPLACING]
RANDOM = ("motion", "ghosting", "bias_field", "noise", "contrast", "rotation")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "one"
    phantom.write_phantom(folder, patients=4, slices=4, size=SIZE)
    return imaging.read_picture(min(folder.rglob("glioma/*.jpg")))


def far(pixels, others):
    return np.abs(pixels.astype(float) - others).mean()


def correlation(pixels, others):
    return np.corrcoef(pixels.ravel(), others.ravel())[0, 1]


def spot(row, column):
    """Give a black picture with a white disc."""
    rows, columns = np.ogrid[:SIZE, :SIZE]
    return np.where(np.hypot(rows - row, columns - column) < 5, 255, 0).astype(np.uint8)


def place(pixels):
    """Return where the disc lies from the middle of the picture."""
    return np.array(ndimage.center_of_mass(pixels.astype(float))) - (SIZE - 1) / 2


def test_there_are_ten_corruptions_in_five_strengths():
    assert len(CORRUPTIONS) == 10 and STRENGTHS == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_shape_and_type_are_kept_and_the_picture_is_not_touched(picture, name, strength):
    tall, tiny = picture[:, 20:-30], picture[40:56, 30:50]
    for pixels in (picture, tall, tall.T, tiny):
        before = pixels.copy()
        spoilt = corrupt(pixels, name, strength, seed=0)
        assert spoilt.shape == pixels.shape and spoilt.dtype == np.uint8
        assert np.array_equal(pixels, before)


@pytest.mark.parametrize("grey", [0, 255])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_empty_picture_is_no_trouble(name, grey):
    pixels = np.full((16, 40), grey, np.uint8)
    for strength in STRENGTHS:
        spoilt = corrupt(pixels, name, strength, seed=1)
        assert grey or spoilt.max() <= 2  # JPEG rounds the mean of a block


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_spoils_in_the_same_way(picture, name):
    first, second, *others = (corrupt(picture, name, 3, seed) for seed in (0, 0, *range(1, 9)))
    assert np.array_equal(first, second)
    differs = any(not np.array_equal(first, other) for other in others)
    assert differs == (name in RANDOM)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", IN_PLACE)
def test_the_stronger_the_further_from_the_clean_picture(picture, name, seed):
    distances = [far(picture, corrupt(picture, name, strength, seed)) for strength in STRENGTHS]
    assert (np.diff([0, *distances]) > 0).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", IN_PLACE)
def test_the_weakest_hardly_shows_and_the_strongest_can_be_read(picture, name, seed):
    weakest, strongest = (corrupt(picture, name, strength, seed) for strength in (1, 5))
    assert correlation(picture, weakest) > 0.95
    assert 0.75 < correlation(picture, strongest) < 0.99


@pytest.mark.parametrize("seed", SEEDS)
def test_rotation_turns_further_to_the_same_side_and_never_beyond_20_degrees(seed):
    pixels = spot(64, 100)
    turned = [place(corrupt(pixels, "rotation", strength, seed)) for strength in STRENGTHS]
    angles = np.array([np.degrees(np.arctan2(row, column)) for row, column in turned])
    assert np.abs(angles) == pytest.approx([3, 6, 10, 15, 20], abs=1)
    assert len(set(np.sign(angles))) == 1


def test_rotation_goes_to_either_side():
    sides = [place(corrupt(spot(64, 100), "rotation", 5, seed))[0] > 0 for seed in range(9)]
    assert 0 < sum(sides) < 9


def test_crop_spreads_from_the_middle_and_cuts_at_most_an_eighth():
    reach = [place(corrupt(spot(44, 84), "crop", strength, 0)) for strength in STRENGTHS]
    factors = np.array(reach) / place(spot(44, 84))
    assert factors[:, 0] == pytest.approx(factors[:, 1], rel=0.02)
    assert (np.diff([1, *factors[:, 0]]) > 0).all() and factors.max() < 1 / (1 - 2 / 8)


def test_crop_loses_the_border():
    frame = np.pad(np.full((SIZE - 4, SIZE - 4), 99, np.uint8), 2, constant_values=255)
    assert frame.max() == 255 and corrupt(frame, "crop", 5, 0).max() < 110


def test_motion_leaves_the_head_where_it_was(picture):
    for seed in SEEDS:
        assert place(corrupt(picture, "motion", 5, seed)) == pytest.approx(place(picture), abs=1.5)


def test_ghosts_appear_along_one_axis():
    ghosts = corrupt(spot(64, 64), "ghosting", 5, seed=0) > 20
    rows, columns = ghosts.any(axis=1).sum(), ghosts.any(axis=0).sum()
    assert min(rows, columns) < 12 and max(rows, columns) > 24
    assert ndimage.label(ghosts)[1] == 3


def test_a_bias_field_is_smooth():
    field = corrupt(np.full((SIZE, SIZE), 100, np.uint8), "bias_field", 5, seed=0).astype(int)
    assert np.ptp(field) > 50 and np.abs(np.diff(field, axis=0)).max() < 20
    assert field.mean() == pytest.approx(100, rel=0.15)


def test_noise_in_air_is_that_of_a_magnitude():
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    pixels[:, 64:] = 200
    air = corrupt(pixels, "noise", 5, seed=0)[:, :64]
    spread = 0.14 * 200
    assert air.mean() == pytest.approx(spread * np.sqrt(np.pi / 2), rel=0.03)  # Rayleigh
    assert air.std() == pytest.approx(spread * np.sqrt(2 - np.pi / 2), rel=0.03)


def test_low_resolution_rings_and_blur_does_not():
    edge = np.zeros((SIZE, SIZE), np.uint8)
    edge[:, 32:96] = 150
    assert corrupt(edge, "low_resolution", 5, 0).max() > 155
    assert corrupt(edge, "blur", 5, 0).max() <= 150


def test_what_is_a_share_of_the_size_is_the_same_at_any_size(picture):
    large = np.kron(picture, np.ones((2, 2), np.uint8))
    for name in ("bias_field", "blur", "rotation", "crop"):
        spoilt = imaging.resize(corrupt(large, name, 4, seed=0), SIZE)
        assert correlation(spoilt, corrupt(picture, name, 4, seed=0)) > 0.98


def test_what_is_not_known_is_refused_with_what_is(picture):
    with pytest.raises(CorruptionError, match=r"no corruption 'smudge': choose from motion, ghost"):
        corrupt(picture, "smudge", 1, seed=0)
    for strength in (0, 6, -1, "3"):
        with pytest.raises(CorruptionError, match=r"no strength .*: choose from 1, 2, 3, 4, 5"):
            corrupt(picture, "blur", strength, seed=0)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((15, 40), np.uint8), np.zeros((40, 40)), np.zeros((40, 40, 1), np.uint8)],
    ids=["small", "float", "channels"],
)
def test_what_is_no_grey_picture_is_refused(pixels):
    with pytest.raises(CorruptionError, match=r"give a grey picture, uint8 of shape"):
        corrupt(pixels, "blur", 1, seed=0)


def knows(clean, limit=0):
    """Give a predictor that is right about pictures at most so far from the clean ones."""

    def predict(pictures):
        is_known = [far(one, other) <= limit for one, other in zip(pictures, clean, strict=True)]
        return np.eye(4)[[0 if known else 3 for known in is_known]]

    return predict


def test_robustness_of_a_predictor_with_a_known_answer(picture):
    pictures = [np.zeros((16, 30), np.uint8), np.full((60, 60), 255, np.uint8), picture]
    names = ("blur", "contrast", "rotation")  # only the last can touch a white picture
    table = corruptions.robustness(knows(pictures), pictures, [0, 0, 0], names=names)
    assert table.index.tolist() == ["clean", *names] and table.index.name == "corruption"
    assert table.columns.tolist() == [*(f"strength {number}" for number in STRENGTHS), "mean"]
    assert table["mean"].tolist() == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3])
    assert table.loc["blur"].tolist() == pytest.approx([2 / 3] * 6)
    assert table.loc["clean"].isna().tolist() == [True] * 5 + [False]
    assert corruptions.accuracy_kept(table) == pytest.approx(5 / 9)


def test_robustness_falls_where_the_predictor_gives_up(picture):
    limit = far(picture, corrupt(picture, "blur", 2, seed=0))
    table = corruptions.robustness(knows([picture], limit), [picture], [0], names=["blur"])
    assert table.loc["blur"].tolist() == pytest.approx([1, 1, 0, 0, 0, 0.4])


def test_robustness_of_a_predictor_that_looks_at_nothing(picture):
    table = corruptions.robustness(
        lambda pictures: np.tile([0.1, 0.2, 0.3, 0.4], (len(pictures), 1)),
        [picture[:32, :32]] * 4, np.array([3, 3, 3, 1]),
    )  # fmt: skip
    assert table.index.tolist() == ["clean", *CORRUPTIONS]
    assert (table.drop(index="clean") == 0.75).all(axis=None)
    assert corruptions.accuracy_kept(table) == 1


def test_every_predictor_sees_the_same_pictures_and_each_is_spoilt_in_its_own_way(picture):
    seen = []

    def predict(pictures):
        seen.append(np.stack(pictures))
        return np.eye(4)[[0] * len(pictures)]

    for count, seed in ((2, 0), (3, 0), (2, 1)):
        corruptions.robustness(predict, [picture] * count, [0] * count, seed, ["noise"], [2])
    spoilt = [one for one in seen if not np.array_equal(one[0], picture)]
    assert np.array_equal(spoilt[0], spoilt[1][:2])
    assert not np.array_equal(spoilt[0], spoilt[2])
    assert not np.array_equal(spoilt[0][0], spoilt[0][1])


def test_robustness_refuses_before_it_predicts(picture):
    def never(pictures):
        raise AssertionError("it predicted")

    for wrong, message in (
        ({"names": ["blur", "smudge"]}, "no corruption 'smudge'"),
        ({"strengths": [1, 9]}, "no strength 9"),
        ({"truth": [0, 1]}, r"shape \(2,\) for 1 pictures"),
        ({"truth": ["glioma"]}, "the number of its class for each"),
        ({"pictures": [], "truth": []}, "at least one picture"),
    ):
        with pytest.raises(CorruptionError, match=message):
            corruptions.robustness(never, **({"pictures": [picture], "truth": [0]} | wrong))


def test_a_predictor_that_answers_for_other_pictures_is_refused(picture):
    with pytest.raises(CorruptionError, match=r"shape \(1, 4\) for 2 pictures"):
        corruptions.robustness(lambda pictures: np.eye(4)[:1], [picture] * 2, [0, 0])


def table_of(clean, rows):
    columns = [f"strength {number}" for number in STRENGTHS]
    table = pd.DataFrame.from_dict(rows, "index", columns=columns)
    table["mean"] = table.mean(axis="columns")
    return pd.concat([pd.DataFrame({"mean": clean}, index=["clean"]), table])[list(table)]


def test_accuracy_kept_by_hand():
    rows = {"blur": [0.8, 0.8, 0.7, 0.6, 0.6], "noise": [0.4, 0.3, 0.3, 0.3, 0.2]}
    assert corruptions.accuracy_kept(table_of(0.8, rows)) == pytest.approx((0.7 + 0.3) / 2 / 0.8)
    assert np.isnan(corruptions.accuracy_kept(table_of(0, rows)))


def test_the_figure_has_a_panel_for_each_corruption_and_a_line_for_each_model():
    rows = {name: [0.9, 0.8, 0.7, 0.6, 0.5] for name in CORRUPTIONS}
    tables = {"seed_cnn": table_of(0.95, rows), "other": table_of(0.9, rows)}
    figure = plots.robustness(tables, "Robustness")
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [name.replace("_", " ") for name in CORRUPTIONS]
    for axes in panels:
        first, second = axes.get_lines()
        assert first.get_xdata().tolist() == [0, 1, 2, 3, 4, 5]
        assert first.get_ydata().tolist() == [0.95, 0.9, 0.8, 0.7, 0.6, 0.5]
        assert first.get_color() != second.get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["seed cnn", "other"]


def test_the_figure_of_a_few_corruptions_leaves_no_empty_panel():
    rows = {name: [0.9, 0.8, 0.7, 0.6, 0.5] for name in list(CORRUPTIONS)[:7]}
    figure = plots.robustness({"model": table_of(0.95, rows)}, "Robustness")
    assert sum(axes.axison for axes in figure.axes) == 7
