"""Maps: they lie where the model looks, add up to what it answers, and are scored rightly."""

import json

import keras
import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES, evaluation, explain, imaging, models
from brainlib.data import datasets, phantom
from brainlib.models import brain_tumor

SIZE = explain.MAP_SIZE
GLIOMA, MENINGIOMA = CLASS_NAMES[:2]


@pytest.fixture(scope="module")
def build():
    """Return a function that builds a brain_tumor of a tenth of its width, with biases."""

    def build_small(seed):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(brain_tumor, "_WIDTHS", (16, 24, 32))
            patch.setattr(brain_tumor, "_DEPTHS", (1, 1, 1))
            model = models.build_model("brain_tumor", seed)
        bias = models.network_of(model).get_layer("logits").bias
        bias.assign([0.3, -0.2, 0.5, -0.4])
        return model

    return build_small


@pytest.fixture(scope="module")
def network(build):
    return build(seed=1)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "small"
    return datasets.open_folder(phantom.write_phantom(folder, patients=4, slices=4, size=64))


def disc(x, y, radius=0.08, height=64, width=64, level=255):
    """Draw a disc on noise, its place and radius in fractions of width and height."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    inside = np.hypot(columns / width - x, rows / height - y) < radius
    noise = np.random.default_rng(0).integers(0, 60, (height, width))
    return np.where(inside, level, noise).astype(np.uint8)


def circle(x, y, radius=0.08, points=60):
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


def correlation(one, other):
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


# --- what is drawn


@pytest.fixture(scope="module")
def pictures():
    return [
        disc(0.3, 0.6), disc(0.7, 0.2), disc(0.5, 0.5, height=40, width=100),
        disc(0.2, 0.8, height=150, width=70),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def maps(network, pictures):
    return explain.draw_maps(network, pictures)


def test_maps_have_a_row_for_each_picture_in_order(network, pictures, maps):
    assert maps.probabilities.shape == (4, 4)
    assert maps.outlines.shape == maps.heat_maps.shape == (4, SIZE, SIZE)
    assert maps.sizes.tolist() == [list(picture.shape) for picture in pictures]
    for row, picture in enumerate(pictures):
        expected = network.predict_on_batch(picture[None, ..., None])[0]
        np.testing.assert_allclose(maps.probabilities[row], expected, atol=1e-5)
    assert (maps.outlines >= 0).all() and (maps.outlines <= 1).all()
    assert (maps.heat_maps >= 0).all()


def test_no_picture_gives_no_map(network):
    maps = explain.draw_maps(network, [])
    assert maps.heat_maps.shape == (0, SIZE, SIZE) and maps.sizes.shape == (0, 2)


def test_a_model_without_maps_is_refused():
    with pytest.raises(explain.ExplainError, match="seed_cnn draws no maps"):
        explain.draw_maps(models.build_model("seed_cnn"), [disc(0.5, 0.5)])


def test_a_saved_model_with_maps_draws_the_same(network, pictures, maps, tmp_path):
    models.save_model(models.with_maps(network), tmp_path / "maps.keras")
    loaded = keras.models.load_model(tmp_path / "maps.keras")
    again = explain.draw_maps(loaded, pictures[:2])
    np.testing.assert_allclose(again.heat_maps, maps.heat_maps[:2], atol=1e-5)
    np.testing.assert_allclose(again.outlines, maps.outlines[:2], atol=1e-5)


def test_a_model_loaded_in_a_fresh_process_draws_the_same(build, pictures, maps, tmp_path):
    models.save_model(build(seed=1), tmp_path / "plain.keras")
    keras.utils.clear_session()  # the names of operations are counted from 0 again
    again = explain.draw_maps(models.load_model(tmp_path / "plain.keras"), pictures[:1])
    np.testing.assert_allclose(again.heat_maps, maps.heat_maps[:1], atol=1e-5)


def test_the_heat_map_is_the_logit_piece_by_piece(network, pictures, maps):
    """Sums over all places give logit minus bias, and the drawn map is what speaks for it."""
    grey = keras.Model(network.inputs, network.get_layer("grey_square").output)
    inner = models.network_of(network)
    evidence_of = keras.Model(
        entry := keras.Input((None, None, 1)), brain_tumor._evidence(inner, entry)
    )
    bias = np.asarray(inner.get_layer("logits").bias)
    assert np.abs(bias).min() > 0.1
    for row, picture in enumerate(pictures):
        square = grey.predict_on_batch(picture[None, ..., None])
        logits, _, evidence = evidence_of.predict_on_batch(square)
        assert evidence.shape == (1, SIZE, SIZE, 4)
        np.testing.assert_allclose(evidence.sum(axis=(1, 2)), logits - bias, atol=2e-5)
        answered = evidence[0, :, :, maps.probabilities[row].argmax()]
        np.testing.assert_allclose(maps.heat_maps[row], answered.clip(min=0), atol=1e-6)


def test_maps_find_what_was_learnt_and_random_weights_do_not(build):
    """The sanity check of Adebayo et al. (2018): maps must come from the weights."""
    network = build(seed=0)
    places = [(0.25, 0.3), (0.7, 0.25), (0.4, 0.55), (0.3, 0.75), (0.75, 0.7), (0.55, 0.25)]
    learn_discs(network, places)
    unseen = [(0.4, 0.35), (0.6, 0.7), (0.25, 0.55), (0.7, 0.45)]
    found, lost = (hits(model, unseen) for model in (network, build(seed=5)))
    assert min(found.values()) >= 3
    assert max(lost.values()) <= 1


def two_discs(x, y):
    """Draw a grey disc, and a bright one opposite that means nothing."""
    return np.maximum(
        disc(x, y, height=128, width=128, level=110), disc(1 - x, 1 - y, height=128, width=128)
    )


def learn_discs(network, places, steps=45):
    """Teach a network to draw grey discs as gliomas, and to answer accordingly."""
    trained = models.network_of(network)
    grey = np.stack([two_discs(*place) for place in places])[..., None].astype("float32")
    inside = [imaging.draw_polygon(circle(*place) * SIZE, SIZE) / 255 for place in places]
    tissue = np.zeros((len(places), SIZE, SIZE, 4), "float32")
    tissue[..., 1] = inside
    tissue[..., 0] = 1 - tissue[..., 1]
    truth = {"logits": np.eye(4)[np.zeros(len(places), int)], "tissue": tissue}
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(5e-3), {"logits": loss, "tissue": loss})
    for _ in range(steps):
        trained.train_on_batch(grey, truth)


def hits(model, places):
    maps = explain.draw_maps(model, [two_discs(*place) for place in places])
    scores = [
        explain.score_map(outline, heat_map, circle(*place), 128, 128)
        for outline, heat_map, place in zip(maps.outlines, maps.heat_maps, places, strict=True)
    ]
    return {
        name: sum(score[f"{name}_peak_inside"] for score in scores) for name in ("outline", "heat")
    }


# --- where a map lies in its picture


@pytest.mark.parametrize(("height", "width"), [(80, 80), (40, 100), (150, 70)])
def test_a_map_lies_over_its_picture_whatever_its_proportions(network, height, width):
    """The model's own scaling says where a spot of the picture lies in the map."""
    spot = disc(0.3, 0.8, radius=0.1, height=height, width=width) // 255 * 255
    square = keras.Model(network.inputs, network.get_layer("grey_square").output)
    shown = square.predict_on_batch(spot[None, ..., None])[0, :, :, 0]
    drawn = shown.reshape(SIZE, 2, SIZE, 2).mean(axis=(1, 3)) / 255
    back = explain.map_in_picture(drawn, height, width)
    assert back.shape == (height, width)
    assert correlation(back, spot) > 0.9
    score = explain.score_map(drawn, drawn, circle(0.3, 0.8, 0.1), height, width)
    assert score["dice"] > 0.8 and score["outline_peak_inside"]
    assert score["peak_x"] == pytest.approx(0.3, abs=0.03)
    assert score["peak_y"] == pytest.approx(0.8, abs=0.03)
    found = np.array(json.loads(score["outline"]))
    np.testing.assert_allclose(found.mean(axis=0), [0.3, 0.8], atol=0.03)
    np.testing.assert_allclose(np.ptp(found, axis=0), [0.2, 0.2], atol=0.05)


# --- what is scored


def block(rows, columns, value=1.0):
    """Return a map that is 0 but for a block."""
    drawn = np.zeros((SIZE, SIZE))
    drawn[rows, columns] = value
    return drawn


def square_outline(left, top, right, bottom):
    """Return an outline along the borders of the map's pixels."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) / SIZE


TRUTH = square_outline(10, 20, 20, 30)
"""Ten pixels of the map wide and high."""


def score(outline, heat_map, truth=TRUTH):
    return explain.score_map(outline, heat_map, truth, 128, 128)


def test_dice_of_a_known_overlap():
    half = block(slice(20, 30), slice(15, 25))
    assert score(half, half)["dice"] == pytest.approx(0.5, abs=0.06)
    full = imaging.draw_polygon(TRUTH * SIZE, SIZE) / 255
    assert score(full, full)["dice"] == 1
    apart = block(slice(50, 55), slice(50, 55))
    assert score(apart, apart)["dice"] == 0


def test_a_peak_counts_where_it_lies():
    inside, outside = block(25, 12), block(25, 40)
    found = score(inside, outside)
    assert found["outline_peak_inside"] and not found["heat_peak_inside"]
    assert (found["peak_x"], found["peak_y"]) == (round(40.5 / SIZE, 4), round(25.5 / SIZE, 4))
    found = score(outside, inside)
    assert found["heat_peak_inside"] and not found["outline_peak_inside"]


def test_a_map_of_nothing_has_no_peak_and_no_outline():
    nothing = np.zeros((SIZE, SIZE))
    found = score(nothing, nothing)
    assert found["dice"] == 0 and found["outline"] == "" and np.isnan(found["peak_x"])
    assert not found["outline_peak_inside"] and not found["heat_peak_inside"]


def test_a_tumour_tinier_than_a_pixel_is_the_pixel_that_holds_it():
    tiny = square_outline(12.6, 40.6, 12.9, 40.9)
    found = score(block(40, 12), block(40, 12), tiny)
    assert found["dice"] == 1 and found["heat_peak_inside"]
    assert not score(block(40, 13), block(40, 13), tiny)["heat_peak_inside"]


def test_the_longest_outline_is_kept_closed_and_within_the_picture():
    drawn = block(slice(0, 20), slice(50, 64)) + block(slice(40, 43), slice(5, 8))
    found = np.array(json.loads(score(drawn, drawn)["outline"]))
    assert found.min() >= 0 and found.max() <= 1
    np.testing.assert_array_equal(found[0], found[-1])
    np.testing.assert_allclose(found.min(axis=0), [50 / SIZE, 0], atol=0.01)
    np.testing.assert_allclose(found.max(axis=0), [1, 20 / SIZE], atol=0.01)


def test_outlines_are_read_in_the_frame_that_they_count_in():
    in_picture = pd.Series({"outline": "[[10, 40], [20, 0]]", "outline_frame": ""})
    assert explain.read_outline(in_picture, 80, 40).tolist() == [[0.25, 0.5], [0.5, 0]]
    framed = pd.Series({"outline": "[[128, 256]]", "outline_frame": 512})
    assert explain.read_outline(framed, 80, 40).tolist() == [[0.25, 0.5]]
    none = pd.Series({"outline": "", "outline_frame": 512})
    assert explain.read_outline(none, 80, 40).shape == (0, 2)


@pytest.fixture(scope="module")
def scored(network, collection):
    return explain.score_maps(network, collection.table, collection.root, fold=3)


def test_every_outlined_tumour_has_a_row_of_scores(network, collection, scored):
    table = collection.table
    tumors = table[(table["label"] != "notumor") & (table["outline"] != "")]
    assert list(scored.columns) == list(explain.COLUMNS)
    assert scored["path"].tolist() == tumors["path"].tolist() and (scored["fold"] == 3).all()
    picture = imaging.read_picture(collection.root / scored["path"].iloc[-1])
    answer = np.asarray(network.predict_on_batch(picture[None, ..., None]))[0]
    assert scored["answer"].iloc[-1] == CLASS_NAMES[answer.argmax()]
    assert scored["dice"].between(0, 1).all() and scored["heat_peak_inside"].dtype == bool


def test_scores_survive_their_file(scored, tmp_path):
    scored.loc[0, ["peak_x", "peak_y"]] = np.nan
    scored.loc[0, "outline"] = ""
    scored.to_csv(tmp_path / "maps.csv", index=False)
    again = explain.read_scores(tmp_path / "maps.csv")
    pd.testing.assert_frame_equal(again, scored, check_dtype=False)
    assert again["heat_peak_inside"].dtype == bool and again["outline"].iloc[0] == ""


def test_a_file_of_something_else_is_named(tmp_path):
    (tmp_path / "other.csv").write_text("path,dice\na,1\n", encoding="utf-8")
    with pytest.raises(explain.ExplainError, match=r"other\.csv has no column patient"):
        explain.read_scores(tmp_path / "other.csv")
    with pytest.raises(explain.ExplainError, match=r"absent\.csv"):
        explain.read_scores(tmp_path / "absent.csv")


def test_a_table_without_outlines_is_refused(network, collection):
    with pytest.raises(explain.ExplainError, match="open_collection"):
        explain.score_maps(network, collection.table[["path", "label"]], collection.root, 0)


# --- what is summed up


@pytest.fixture
def made_up():
    """Ten groups of two slices, one of them wrong; wrong ones have their peak outside."""
    wrong = np.arange(20) % 10 == 9
    return pd.DataFrame(
        {
            "path": [f"{number}.jpg" for number in range(20)],
            "group": [f"g{number // 2}" for number in range(20)],
            "label": [GLIOMA] * 10 + [MENINGIOMA] * 10,
            "answer": np.where(wrong, CLASS_NAMES[3], [GLIOMA] * 10 + [MENINGIOMA] * 10),
            "dice": np.where(np.arange(20) < 10, 0.9, 0.7) - 0.1 * wrong,
            "heat_peak_inside": ~wrong,
            "outline_peak_inside": np.arange(20) % 5 != 0,
            "outline": np.where(wrong, "", "[]"),
        }
    )


def test_the_summary_counts_and_averages(made_up):
    found = evaluation.score_maps(made_up, resamples=200)
    assert (found["images"], found["groups"], found["correct"]) == (20, 10, 18)
    assert found["without_outline"] == 2
    assert found["dice"]["value"] == pytest.approx(0.79)
    assert found[f"dice_{GLIOMA}"]["value"] == pytest.approx(0.89)
    assert found["dice_correct"]["value"] == pytest.approx(0.8)
    assert found["heat_peak_inside"]["value"] == 1
    assert found["heat_peak_inside_all"]["value"] == pytest.approx(0.9)
    assert found["outline_peak_inside_all"]["value"] == pytest.approx(0.8)
    assert found["dice"]["low"] < 0.79 < found["dice"]["high"]
    assert 0 < found["heat_peak_inside"]["low"] < 1  # ten groups prove no certainty
    assert "dice_pituitary" not in found
    json.dumps(found, allow_nan=False)


def test_intervals_count_groups_and_not_pictures(made_up):
    many = pd.concat([made_up] * 20, ignore_index=True)
    one, other = (evaluation.score_maps(table, 200)["dice"] for table in (made_up, many))
    assert other["low"] == pytest.approx(one["low"], abs=1e-6)


def test_nothing_correct_or_nothing_at_all_is_left_out(made_up):
    wrong = evaluation.score_maps(made_up.assign(answer="notumor"), 100)
    assert wrong["correct"] == 0 and "heat_peak_inside" not in wrong
    assert "heat_peak_inside_all" in wrong
    nothing = evaluation.score_maps(made_up.head(0), 100)
    assert nothing == {"images": 0, "groups": 0, "correct": 0, "without_outline": 0}


@pytest.mark.parametrize(("count", "failures"), [(4, 2), (8, 2), (2, 1), (30, 2)])
def test_examples_are_failures_as_much_as_successes(made_up, count, failures):
    chosen = explain.choose_examples(made_up, count)
    assert len(chosen) == min(count, 20) and chosen["path"].is_unique
    wrong = (chosen["answer"] != chosen["label"]).to_numpy()
    assert wrong.sum() == failures and wrong[:failures].all()
