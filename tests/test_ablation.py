"""Ablation: variants that differ in one part, runs that are kept, intervals that hold."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES, models
from brainlib.data import datasets, phantom
from scripts import ablation


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Load a small phantom as the study does."""
    root = phantom.write_phantom(tmp_path_factory.mktemp("data") / "p", patients=40, slices=1)
    assert datasets.open_folder(root).root == root
    return ablation.load.__wrapped__(str(root), 0)


@pytest.mark.parametrize("name", ["whole", "no_outlines", "no_glioma"])
def test_a_variant_is_trained_on_what_it_may_see_and_scored_on_all(
    name, data, monkeypatch, tmp_path
):
    seen = []
    monkeypatch.setattr(ablation, "load", lambda *place: data)
    monkeypatch.setattr(ablation, "fit", lambda model, train, *others: seen.append(train))
    monkeypatch.setattr(
        ablation.explain, "score_maps",
        lambda _, table, *__: table[["path"]].assign(dice=0.5)[table["label"] != "notumor"],
    )  # fmt: skip
    schedule = ablation.RECIPES[ablation.RELEASED]
    rows = ablation.train_and_score(name, schedule, ("anywhere", 0), tmp_path)
    has_glioma = (seen[0].classes == CLASS_NAMES.index("glioma")).any()
    assert has_glioma == (name != "no_glioma") and seen[0].outlined.any() == (name != "no_outlines")
    per_variant = rows.groupby("variant").size()
    assert set(per_variant) == {len(data.table)}
    assert ("several_views" in per_variant) == (name == "whole")
    own = rows[rows["variant"] == name]
    assert set(own["label"]) == set(CLASS_NAMES)
    assert own["dice"].notna().any() == (name != "no_outlines")
    assert own.loc[own["label"] == "notumor", "type_right"].isna().all()


def test_scores_are_those_of_the_answers(data, monkeypatch):
    answers = np.tile([0.4, 0.1, 0.3, 0.2], (len(data.table), 1))
    monkeypatch.setattr(ablation.inference, "predict_images", lambda *_: answers)
    scored = ablation.score(None, data, draws=False)
    is_glioma = data.table["label"] == "glioma"
    assert scored["right"].eq(is_glioma).all() and set(scored["answer"]) == {"glioma"}
    truth = pd.Index(CLASS_NAMES).get_indexer(data.table["label"])
    np.testing.assert_allclose(scored["loss"], -np.log(answers[0][truth]), atol=1e-5)


def test_every_variant_differs_from_the_whole_and_from_itself_under_another_recipe():
    schedule = ablation.RECIPES[ablation.RELEASED]
    prints = {ablation.fingerprint(one, schedule, 0, "data") for one in ablation.VARIANTS.values()}
    assert len(prints) == len(ablation.VARIANTS)
    longer = dataclasses.replace(schedule, epochs=99)
    for changed in ((longer, 0, "data"), (schedule, 1, "data"), (schedule, 0, "other")):
        assert ablation.fingerprint(ablation.VARIANTS["whole"], *changed) not in prints


def finished_runs(shift=0.0, spread=0.0, seeds=3, groups=40):
    """Two variants, the second right `shift` more often, its seeds `spread` apart."""
    easy = np.random.default_rng(0).uniform(0.4, 0.9, groups)
    rows = [
        pd.DataFrame({
            "group": [f"{group:02}" for group in range(groups)], "label": "glioma",
            "answer": "glioma", "certainty": 0.9, "right": easy + add + spread * (seed - 1),
            "loss": 1.0, "type_right": easy, "dice": np.nan, "variant": variant, "seed": seed,
            "seconds": 60.0, "recipe": variant,
        })
        for variant, add in (("whole", 0.0), ("no_head", shift))
        for seed in range(seeds)
    ]  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_a_difference_that_every_patient_and_seed_shows_is_sure_and_the_value_is_not():
    found = ablation.summarise(finished_runs(shift=0.05))["variants"]["no_head"]
    gained = found["difference"]["accuracy"]
    assert gained["value"] == pytest.approx(0.05) and gained["high"] - gained["low"] < 1e-6
    assert found["accuracy"]["high"] - found["accuracy"]["low"] > 0.05
    assert "dice" not in found and "dice" not in found["difference"]


def test_one_seed_has_no_interval():
    found = ablation.summarise(finished_runs(seeds=1))["variants"]["no_head"]
    assert found["accuracy"].keys() == {"value"}


@pytest.mark.parametrize("spread", [0.1, 2.0])  # between patients; between seeds it is 1
def test_intervals_hold_the_truth_as_often_as_they_say(spread):
    random = np.random.default_rng(0)
    held_truth = []
    for _ in range(300):
        values = random.normal(0, 1, 3) + random.normal(0, spread)
        found = ablation.interval(values, values + random.normal(0, spread, (200, 1)))
        held_truth.append(found["low"] <= 0 <= found["high"])
    assert 0.92 < np.mean(held_truth) <= 0.99


@pytest.fixture
def project(monkeypatch, tmp_path):
    """Stand-ins for the collection and the training, and the runs that were made."""
    made = []

    def train_and_score(name, schedule, place, checkpoint):
        made.append((name, schedule.seed))
        table = finished_runs(seeds=1)
        return table[table["variant"] == "whole"].assign(variant=name).drop(columns="seed")

    collection = SimpleNamespace(
        file_hash="one", title="test", is_synthetic=True, name="test", version="1",
        groups_from="provenance", counts=lambda: pd.DataFrame(),
    )  # fmt: skip
    monkeypatch.setattr(ablation, "train_and_score", train_and_score)
    monkeypatch.setattr(ablation.runs, "open_collection", lambda *_: collection)
    settings = ablation.AblationSettings(
        source="phantom", output=str(tmp_path), seeds=2, variants="no_head", resamples=100
    )
    return SimpleNamespace(made=made, settings=settings, collection=collection)


def test_finished_runs_are_reused_and_what_is_missing_is_made(project):
    first = ablation.study(project.settings)
    assert sorted(project.made) == [("no_head", 0), ("no_head", 1), ("whole", 0), ("whole", 1)]
    assert ablation.study(project.settings) == first and len(project.made) == 4
    ablation.study(dataclasses.replace(project.settings, seeds=3))
    assert sorted(project.made[4:]) == [("no_head", 2), ("whole", 2)]


@pytest.mark.parametrize("change", ["epochs", "images"])
def test_runs_of_another_recipe_or_other_images_do_not_count(project, change):
    ablation.study(project.settings)
    if change == "images":
        project.collection.file_hash = "two"
        ablation.study(project.settings)
    else:
        ablation.study(dataclasses.replace(project.settings, epochs=3))
    assert len(project.made) == 8


@pytest.mark.parametrize(
    ("change", "said"), [({"variants": "brighter"}, "no_outlines"), ({"seeds": 0}, "at least 1")]
)
def test_a_study_that_cannot_be_made_says_why(project, change, said):
    with pytest.raises(ablation.AblationError, match=said):
        ablation.study(dataclasses.replace(project.settings, **change))


def test_certainty_about_the_unknown_is_compared_with_that_about_known_tumours():
    rows = [("a", "glioma", "glioma", 0.9), ("b", "pituitary", "pituitary", 0.8),
            ("c", "meningioma", "glioma", 0.6), ("d", "meningioma", "glioma", 0.85),
            ("e", "notumor", "notumor", 0.1)]  # fmt: skip
    answers = pd.DataFrame(rows, columns=["group", "label", "answer", "certainty"])
    found = ablation.summarise_unknown(answers.assign(variant="no_meningioma"), 100)["meningioma"]
    assert found["images"] == 2 and found["called"] == "glioma" and found["share"] == 1
    assert found["certainty_unknown"]["value"] == pytest.approx(0.725)
    assert found["certainty_known"]["value"] == pytest.approx(0.85)
    assert found["auroc"] == pytest.approx(0.75)


def test_parts_that_are_changed_are_those_of_the_network():
    fields = {one.name for one in dataclasses.fields(models.Parts)}
    changed = {name for variant in ablation.VARIANTS.values() for name in variant.parts}
    if "pretrained" not in fields:
        pytest.skip("the registered network is not the one that the study is of")
    assert changed <= fields
