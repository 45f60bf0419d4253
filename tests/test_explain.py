"""Maps: they lie where the model looks, add up to what it answers, and are scored rightly."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from brainlib import CLASS_NAMES, evaluation, explain, imaging, models
from brainlib.data import datasets
from brainlib.models import lesion_net
from brainlib.paths import BrainlibError

SIZE = 112
GLIOMA, MENINGIOMA = CLASS_NAMES[:2]


@pytest.fixture(scope="module")
def collection(phantom_folder):
    return datasets.open_folder(phantom_folder)


@pytest.fixture(scope="module")
def images(heads):
    first, second, third = (head.pixels for head in heads[:3])
    return [first, second, np.pad(third, ((10, 60), (90, 0)))]


@pytest.fixture(scope="module")
def maps(small_network, images):
    return list(explain.draw_maps(small_network, images))


def test_maps_have_a_row_for_each_image_and_are_0_outside_of_the_field_of_view(
    small_network, images, maps
):
    for (probabilities, outline, heat_map), image in zip(maps, images, strict=True):
        assert outline.shape == heat_map.shape == image.shape
        expected = small_network.predict_on_batch(image[None, ..., None])[0]
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        assert outline.min() >= 0 and outline.max() <= 1
        assert heat_map.min() >= 0 and heat_map.any()
    view = keras.Model(small_network.input, small_network.get_layer("field_of_view").output)
    row, column, side = np.asarray(view(images[-1][None, ..., None]))[0]
    rows, columns = np.ogrid[: len(outline), : outline.shape[1]]
    far = (np.abs(rows - row) > side / 2 + 2) | (np.abs(columns - column) > side / 2 + 2)
    assert far.any() and not outline[far].any() and not heat_map[far].any()
    assert outline.any() and heat_map.any()


def test_the_heat_map_is_the_kinds_logit_piece_by_piece(small_network, images, monkeypatch):
    """Its sum, places against it too, is the calibrated logit, less biases and the kinds' mean."""
    network = models.network_of(small_network)
    squares = keras.Model(small_network.input, small_network.get_layer("head").output)(
        np.stack(images[:2])[..., None]
    )
    readings = [network.get_layer(name) for name in ("kinds", models.SECOND_READING)]
    outputs = keras.Model(network.input, [layer.output for layer in readings])(squares)
    kinds = sum(np.asarray(output) for output in outputs)
    bias = sum(np.asarray(layer.bias) for layer in readings)
    shown = np.asarray(lesion_net._build_maps(network)(squares)["heat_map"])
    monkeypatch.setattr(lesion_net.ops, "relu", lambda x: x)
    signed = np.asarray(lesion_net._build_maps(network)(squares)["heat_map"])
    np.testing.assert_allclose(shown, signed.clip(min=0), atol=1e-6)
    centred = (kinds - bias) - (kinds - bias).mean(axis=1, keepdims=True)
    likeliest = kinds.argmax(axis=1)[:, np.newaxis]
    expected = np.take_along_axis(centred, likeliest, 1)[:, 0] / lesion_net.CALIBRATION[2]
    np.testing.assert_allclose(signed.sum(axis=(1, 2)), expected, atol=1e-4)
    assert np.abs(expected).min() > 0.05 and (signed < 0).any()
    monkeypatch.setattr(lesion_net, "_BLUR", 1e-3)
    sharp = np.asarray(lesion_net._build_maps(network)(squares)["heat_map"])
    assert (sharp.max(axis=(1, 2)) > signed.max(axis=(1, 2))).all()


@pytest.mark.parametrize("setting", [(100, 256), (300, 150)])
def test_a_map_lies_over_its_image_where_the_model_looked(small_network, heads, setting):
    """What the model sees, drawn back, lies on the head."""
    height, width = setting
    image = np.zeros(setting, np.uint8)
    part = heads[0].pixels[: min(height, 128)]
    image[-len(part) :, -128:] = part
    outputs = [small_network.get_layer(name).output for name in ("field_of_view", "head")]
    looking = keras.Model(small_network.input, outputs)
    (view,), (square,) = map(np.asarray, looking(image[None, ..., None]))
    back = explain.map_in_image(square[..., 0], height, width, view)
    assert back.shape == setting
    head = np.s_[-len(part) + 8 : -8, -110:-18]
    blurred = ndimage.gaussian_filter(image.astype(float), 1.5)
    aligned = np.corrcoef(back[head].ravel(), blurred[head].ravel())[0, 1]
    moved = np.corrcoef(back[head].ravel(), np.roll(blurred, 4, 1)[head].ravel())[0, 1]
    assert aligned > 0.95 and aligned > moved + 0.05


def block(rows, columns):
    """Return a map in the frame of an image that is 0 but for a block."""
    drawn = np.zeros((SIZE, SIZE))
    drawn[rows, columns] = 1
    return drawn


def square_outline(left, top, right, bottom):
    """Return an outline along the borders of pixels."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) / SIZE


TRUTH = square_outline(10, 20, 20, 30)  # ten pixels wide and high
HALF, INSIDE, OUTSIDE = block(slice(20, 30), slice(15, 25)), block(25, 12), block(25, 40)
FULL = imaging.draw_polygon(TRUTH * SIZE, SIZE) / 255
NOTHING = np.zeros((SIZE, SIZE))
TINY = square_outline(12.6, 40.6, 12.9, 40.9)  # it counts as the pixel that holds it


@pytest.mark.parametrize(
    ("outline", "heat_map", "truth", "dice", "outline_inside", "heat_inside"),
    [
        (HALF, HALF, TRUTH, 0.5, True, True),
        (FULL, FULL, TRUTH, 1, True, True),
        (block(slice(50, 55), slice(50, 55)), NOTHING, TRUTH, 0, False, False),
        (INSIDE, OUTSIDE, TRUTH, 0.02, True, False),
        (OUTSIDE, INSIDE, TRUTH, 0, False, True),
        (block(40, 12), block(40, 12), TINY, 1, True, True),
        (block(40, 13), block(40, 13), TINY, 0, False, False),
    ],
)
def test_overlap_and_peaks_are_scored(outline, heat_map, truth, dice, outline_inside, heat_inside):
    scores = explain.score_map(outline, heat_map, truth)
    assert scores["dice"] == pytest.approx(dice, abs=0.06)
    assert scores["outline_peak_inside"] == outline_inside
    assert scores["heat_peak_inside"] == heat_inside
    if heat_map is OUTSIDE:
        expected = round(40.5 / SIZE, 4), round(25.5 / SIZE, 4)
        assert (scores["peak_x"], scores["peak_y"]) == expected
    assert np.isnan(scores["peak_x"]) == (heat_map is NOTHING)
    assert (scores["outline"] == "") == (outline is NOTHING)


def test_the_longest_outline_is_kept_closed_and_within_the_image():
    drawn = block(slice(0, 20), slice(90, SIZE)) + block(slice(40, 43), slice(5, 8))
    found = np.array(json.loads(explain.score_map(drawn, drawn, TRUTH)["outline"]))
    assert found.min() >= 0 and found.max() <= 1
    np.testing.assert_array_equal(found[0], found[-1])
    np.testing.assert_allclose(found.min(axis=0), [90 / SIZE, 0], atol=0.01)
    np.testing.assert_allclose(found.max(axis=0), [1, 20 / SIZE], atol=0.01)


def test_outlines_are_read_in_the_frame_that_they_count_in():
    cases = [("[[10, 40], [20, 0]]", "", [[0.25, 0.5], [0.5, 0]]),
             ("[[128, 256]]", 512, [[0.25, 0.5]]), ("", 512, [])]  # fmt: skip
    for outline, frame, expected in cases:
        row = {"outline": outline, "outline_frame": frame}
        assert explain.read_outline(row, 80, 40).tolist() == expected


@pytest.fixture(scope="module")
def scored(small_network, collection):
    return explain.score_maps(small_network, collection.table, collection.root, fold=3)


def test_every_outlined_tumour_has_a_row_of_scores(small_network, collection, scored):
    table = collection.table
    tumors = table[(table["label"] != "notumor") & (table["outline"] != "")]
    assert list(scored.columns) == list(explain.COLUMNS)
    assert scored["path"].tolist() == tumors["path"].tolist() and (scored["fold"] == 3).all()
    image = imaging.read_image(collection.root / scored["path"].iloc[-1])
    answer = np.asarray(small_network.predict_on_batch(image[None, ..., None]))[0]
    assert scored["answer"].iloc[-1] == CLASS_NAMES[answer.argmax()]
    assert scored["dice"].between(0, 1).all() and scored["heat_peak_inside"].dtype == bool


def test_scores_survive_their_file(scored, tmp_path):
    scored.loc[0, ["peak_x", "peak_y"]] = np.nan
    scored.loc[0, "outline"] = ""
    (tmp_path / "maps").mkdir()
    for rows, name in ((scored, "mine_patient3"), (scored[:1], "mine_patient_net_patient3")):
        rows.to_csv(tmp_path / "maps" / f"{name}.csv", index=False)
    again = explain.read_maps(tmp_path / "predictions", "mine")
    pd.testing.assert_frame_equal(again, scored, check_dtype=False)
    assert again["heat_peak_inside"].dtype == bool and again["outline"].iloc[0] == ""
    (tmp_path / "other.csv").write_text("path,dice\na,1\n", encoding="utf-8")
    with pytest.raises(BrainlibError, match=r"other\.csv cannot be read .*patient"):
        explain.read_scores(tmp_path / "other.csv")
    with pytest.raises(BrainlibError, match=r"absent\.csv"):
        explain.read_scores(tmp_path / "absent.csv")


@pytest.fixture
def made_up():
    """Ten groups of two slices, one of them wrong; wrong ones have their peak outside."""
    rows = np.arange(20)
    wrong, label = rows % 10 == 9, np.where(rows < 10, GLIOMA, MENINGIOMA)
    return pd.DataFrame({
        "path": [f"{row}.jpg" for row in rows],
        "group": [f"g{row // 2}" for row in rows],
        "label": label,
        "answer": np.where(wrong, CLASS_NAMES[3], label),
        "dice": np.where(rows < 10, 0.9, 0.7) - 0.1 * wrong,
        "heat_peak_inside": ~wrong,
        "outline_peak_inside": rows % 5 != 0,
        "outline": np.where(wrong, "", "[]"),
    })  # fmt: skip


def test_the_summary_counts_and_averages_and_leaves_out_what_is_not_there(made_up):
    summary = evaluation.summarize_maps(made_up, resamples=200)
    counts = {"images": 20, "groups": 10, "correct": 18, "without_outline": 2}
    assert {name: summary[name] for name in counts} == counts
    means = {"dice": 0.79, f"dice_{GLIOMA}": 0.89, "heat_peak_inside": 1}
    assert {name: summary[name]["value"] for name in means} == pytest.approx(means)
    assert summary["dice"]["low"] < 0.79 < summary["dice"]["high"]
    assert 0 < summary["heat_peak_inside"]["low"] < 1  # ten groups prove no certainty
    assert "dice_pituitary" not in summary
    json.dumps(summary, allow_nan=False)
    many = evaluation.summarize_maps(pd.concat([made_up] * 20, ignore_index=True), 200)
    assert many["dice"]["low"] == pytest.approx(summary["dice"]["low"], abs=1e-6)  # groups count
    wrong = evaluation.summarize_maps(made_up.assign(answer="notumor"), 100)
    assert wrong["correct"] == 0 and "heat_peak_inside" not in wrong
    nothing = evaluation.summarize_maps(made_up.head(0), 100)
    assert nothing == {"images": 0, "groups": 0, "correct": 0, "without_outline": 0}


@pytest.mark.parametrize(("count", "failures"), [(4, 2), (2, 1), (30, 2)])
def test_examples_are_failures_as_much_as_successes(made_up, count, failures):
    chosen = explain.choose_examples(made_up, count)
    assert len(chosen) == min(count, 20) and chosen["path"].is_unique
    wrong = (chosen["answer"] != chosen["label"]).to_numpy()
    assert wrong.sum() == failures and wrong[:failures].all()
