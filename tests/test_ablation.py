"""The study of the parts: variants that differ in one thing, runs kept, honest intervals."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES, models, paths, training
from scripts import ablation, card
from tests.test_training import lesion_examples

TINY = training.Schedule(epochs=1, batch_size=8, weight_decay=0.05, warm_up=0.1, sizes=((16, 1.0),))
TINY_WHOLE = dataclasses.replace(ablation.VARIANTS["whole"], schedule=TINY)


def held(count=12):
    seen = lesion_examples(count)
    table = pd.DataFrame(
        {
            "group": [f"patient {row % 5}" for row in range(count)],
            "label": np.array(CLASS_NAMES)[seen.classes],
            "source": "figshare",
        }
    )
    return ablation.Held(seen, seen, table)


def difference(variant, whole):
    """Return the attributes in which two variants differ, those of the schedule by their name."""
    flat = [
        {**dataclasses.asdict(one), **dataclasses.asdict(one.schedule), "schedule": 0}
        for one in (variant, whole)
    ]
    return {name for name, value in flat[0].items() if value != flat[1][name]} - {"title"}


def test_each_variant_leaves_out_what_its_name_says_and_nothing_else():
    whole = ablation.VARIANTS["whole"]
    changed = {name: difference(one, whole) for name, one in ablation.VARIANTS.items()}
    assert changed == {
        "whole": set(), "no_outlines": {"outlines"}, "no_lesion_pooling": {"parts"},
        "plain": {"outlines", "parts"}, "no_augmentation": {"augmentation"},
        "no_photometric": {"augmentation"}, "no_normalisation": {"parts"},
        "no_local_contrast": {"parts"},
        "constant_rate": {"warm_up"}, "no_weight_decay": {"weight_decay"}, "mixup": {"cycles"},
        "light_outlines": {"cycles"}, "larger": {"sizes"},
    }  # fmt: skip


def test_the_whole_recipe_is_the_released_one_but_for_its_length():
    released, short = training.RECIPES["brain_tumor"], ablation.SHORT
    length = {"epochs": released.epochs, "sizes": released.sizes, "cycles": released.cycles}
    assert dataclasses.replace(short, **length) == released
    assert short.cycles == (dataclasses.replace(released.cycles[0], until=1.0),)


def test_without_augmentation_pictures_stay_as_they_are():
    seen = lesion_examples(16)
    batches = training.AugmentedBatches(
        seen, 16, seed=0, how=ablation.VARIANTS["no_augmentation"].augmentation
    )
    rows = batches.rows(0)
    pixels, targets, _ = batches[0]
    np.testing.assert_allclose(pixels, seen.pixels[rows], atol=0.01)
    shares = training.tissue_shares(seen.outlines[rows] / 255.0, seen.classes[rows])
    np.testing.assert_allclose(targets["tissue"], shares, atol=1e-4)


def test_without_lesion_pooling_the_class_does_not_depend_on_the_drawing():
    whole = models.network_of(models.build_brain_tumor())
    parts = ablation.VARIANTS["no_lesion_pooling"].parts
    plain = models.network_of(models.build_brain_tumor(parts))
    pictures = lesion_examples(2, size=32).pixels.astype("float32")
    for network, depends in ((whole, True), (plain, False)):
        before = network.predict_on_batch(pictures)
        tissue = network.get_layer("tissue")
        tissue.set_weights([-3 * weight + 1 for weight in tissue.get_weights()])
        after = network.predict_on_batch(pictures)
        assert np.abs(after["tissue"] - before["tissue"]).max() > 0.01
        assert (np.abs(after["logits"] - before["logits"]).max() > 1e-4) == depends


def test_without_normalisation_the_brightness_of_a_picture_matters():
    pictures = lesion_examples(2, size=32).pixels.astype("float32")
    for name, matters in (("whole", False), ("no_normalisation", True)):
        network = models.network_of(models.build_brain_tumor(ablation.VARIANTS[name].parts))
        plain, bright = (
            network.predict_on_batch(each)["logits"] for each in (pictures, 2 * pictures + 10)
        )
        assert (np.abs(plain - bright).max() > 0.01 * np.abs(plain).max()) == matters


def test_without_outlines_the_drawing_is_neither_taught_nor_scored(monkeypatch, tmp_path):
    taught = []
    monkeypatch.setattr(
        ablation.training, "fit", lambda model, seen, *others: taught.append(seen.outlined.any())
    )
    for outlines in (True, False):
        variant = dataclasses.replace(TINY_WHOLE, outlines=outlines)
        network = ablation.train(variant, 0, lesion_examples(8), tmp_path)
        scored = ablation.score(network, variant, held())
        assert taught[-1] == outlines
        assert (scored["outlined"].sum() == 9) == outlines
    assert scored["dice"].sum() == 0


def test_a_run_is_scored_group_by_group_and_its_state_is_deleted(monkeypatch, tmp_path):
    def fit(model, seen, validation, schedule, checkpoint, augmentation):
        asked.append((validation, schedule, augmentation))
        checkpoint.mkdir()

    data, asked = held(), []
    monkeypatch.setattr(ablation.training, "load", lambda *place: data)
    monkeypatch.setattr(ablation.training, "fit", fit)
    variant = dataclasses.replace(TINY_WHOLE, augmentation=training.Augmentation(gamma=0.1))
    scored = ablation.make_run(variant, 3, ("anywhere", 0), tmp_path / "state")
    assert asked == [(None, dataclasses.replace(TINY, seed=3), variant.augmentation)]
    assert scored["group"].tolist() == sorted(data.table["group"].unique())
    assert scored[["pictures", "typed", "outlined"]].sum().tolist() == [12, 9, 9]
    assert (scored["loss"] > 0).all() and (scored["seed"] == 3).all()
    assert not (tmp_path / "state").exists()


def test_a_fit_changes_its_pictures_as_it_is_told(monkeypatch, tmp_path):
    class Stop(Exception):
        pass

    def batches(seen, batch_size, seed, how, mixup):
        raise Stop(how, mixup)

    how = training.Augmentation(noise=0.01)
    tiny = dataclasses.replace(TINY, cycles=(training.Cycle(mixup=0.2),))
    monkeypatch.setattr(training.fitting, "AugmentedBatches", batches)
    with pytest.raises(Stop) as told:
        training.fit(models.build_brain_tumor(), lesion_examples(8), None, tiny, tmp_path, how)
    assert told.value.args == (how, 0.2)


def test_scores_are_those_of_the_answers():
    """A stand-in for the network answers every picture with glioma, and draws what is outlined."""
    data = held()
    tissue = np.log(training.tissue_shares(data.validation.outlines / 255.0,
                                           data.validation.classes) + 1e-9)  # fmt: skip
    tissue[..., 0] -= 0.1  # a place that is half tumour is drawn
    logits = np.log(np.tile([0.4, 0.1, 0.3, 0.2], (12, 1)))
    network = SimpleNamespace(predict=lambda *_, **__: {"logits": logits, "tissue": tissue})
    variant = dataclasses.replace(TINY_WHOLE, schedule=training.Schedule(sizes=((32, 1.0),)))
    total = ablation.score(network, variant, data).drop(columns="group").sum()
    assert total[["right", "type_right", "typed"]].tolist() == [3, 3, 9]
    assert total["loss"] == pytest.approx(-3 * np.log([0.4, 0.1, 0.3, 0.2]).sum(), abs=1e-4)
    assert total["dice"] == pytest.approx(total["outlined"], abs=0.01)


def test_dice_is_the_overlap_of_two_areas():
    outlines = np.zeros((3, 8, 8), np.uint8)
    outlines[:2, :4, :4] = 255
    background = np.ones((3, 4, 4))
    background[0, :2, :2] = 0  # the same area
    background[1, :2, 1:3] = 0  # half of it
    assert ablation.dice(background, outlines).tolist() == [1.0, 0.5, 1.0]


def finished_runs(shift=0.0, spread=0.0, seeds=3, groups=40):
    """Two variants, the second right `shift` more often, its seeds `spread` apart."""
    random = np.random.default_rng(0)
    easy = random.uniform(4, 10, groups)
    rows = []
    for variant, add in (("whole", 0.0), ("plain", shift)):
        for seed in range(seeds):
            right = easy + 10 * (add + spread * (seed - 1))
            table = pd.DataFrame({"group": [f"{group:02}" for group in range(groups)],
                                  "pictures": 10, "right": right, "loss": 1.0, "typed": 10,
                                  "type_right": right, "outlined": 0, "dice": 0.0})  # fmt: skip
            rows.append(table.assign(variant=variant, seed=seed, recipe="x", seconds=60.0))
    return pd.concat(rows, ignore_index=True)[ablation.COLUMNS]


def test_a_difference_that_every_patient_and_seed_shows_is_sure_and_the_value_is_not():
    found = ablation.summarise(finished_runs(shift=0.05))["variants"]["plain"]
    gained = found["difference"]["accuracy"]
    assert gained["value"] == pytest.approx(0.05) and gained["high"] - gained["low"] < 1e-6
    assert found["accuracy"]["high"] - found["accuracy"]["low"] > 0.05
    assert "dice" not in found and "dice" not in found["difference"]


def test_seeds_that_disagree_widen_the_interval():
    calm, wild = (
        ablation.summarise(finished_runs(spread=spread))["variants"]["whole"]["accuracy"]
        for spread in (0.0, 0.1)
    )
    assert wild["value"] == pytest.approx(calm["value"])
    assert wild["high"] - wild["low"] > 2 * (calm["high"] - calm["low"])


@pytest.mark.parametrize("spread", [0.1, 2.0])  # between patients; between seeds it is 1
def test_intervals_hold_the_truth_as_often_as_they_say(spread):
    random = np.random.default_rng(0)
    held_truth, widths = [], []
    for _ in range(300):
        values = random.normal(0, 1, 3) + random.normal(0, spread)
        found = ablation.interval(values, values + random.normal(0, spread, (200, 1)))
        held_truth.append(found["low"] <= 0 <= found["high"])
        widths.append(found["high"] - found["low"])
    assert 0.92 < np.mean(held_truth) <= 0.99
    assert np.median(widths) < 5 * (spread**2 + 1 / 3) ** 0.5 + 2


def test_one_seed_has_no_interval():
    found = ablation.summarise(finished_runs(seeds=1))["variants"]["plain"]
    assert found["accuracy"].keys() == {"value"}


@pytest.fixture
def project(monkeypatch, tmp_path):
    """Stand-ins for the collection and the training, and the runs that were made."""
    made = []

    def make_run(variant, seed, place, checkpoint):
        made.append((variant.title, seed))
        table = finished_runs(seeds=1)
        return table[table["variant"] == "whole"].assign(seed=seed)

    collection = SimpleNamespace(
        file_hash="one", title="test", is_synthetic=True, name="test", version="1",
        groups_from="provenance", counts=lambda: pd.DataFrame(),
    )  # fmt: skip
    monkeypatch.setattr(ablation, "make_run", make_run)
    monkeypatch.setattr(ablation.runs, "open_collection", lambda *_: collection)
    settings = ablation.AblationSettings(
        source="phantom", output=str(tmp_path), seeds=2, variants="plain, larger", resamples=100
    )
    return SimpleNamespace(made=made, settings=settings, collection=collection, folder=tmp_path)


def test_a_finished_run_is_not_made_again(project):
    first = ablation.study(project.settings)
    assert len(project.made) == 6 and [seed for _, seed in project.made] == [0, 0, 0, 1, 1, 1]
    assert ablation.study(project.settings) == first and len(project.made) == 6
    ablation.study(dataclasses.replace(project.settings, seeds=3))
    assert len(project.made) == 9


def test_a_study_of_fewer_variants_keeps_the_runs_of_the_others(project):
    ablation.study(project.settings)
    ablation.study(dataclasses.replace(project.settings, variants="plain", seeds=3))
    assert len(project.made) == 8
    kept = pd.read_csv(project.folder / "model" / "ablation.csv").groupby("variant")["seed"]
    assert kept.nunique().to_dict() == {"whole": 3, "plain": 3, "larger": 2}


def test_a_study_of_fewer_variants_shows_the_others_that_have_all_their_seeds(project):
    ablation.study(project.settings)
    fewer = dataclasses.replace(project.settings, variants="plain")
    assert list(ablation.study(fewer)["variants"]) == ["whole", "plain", "larger"]
    more_seeds = ablation.study(dataclasses.replace(fewer, seeds=3))
    assert list(more_seeds["variants"]) == ["whole", "plain"]


def test_a_trial_of_fewer_epochs_keeps_the_runs_of_the_whole_recipe(project):
    ablation.study(project.settings)
    ablation.study(dataclasses.replace(project.settings, epochs=3))
    assert len(project.made) == 12
    ablation.study(project.settings)
    assert len(project.made) == 12


def test_a_stopped_study_goes_on_with_what_is_missing(project, monkeypatch):
    whole = ablation.make_run

    def stopped(variant, seed, *others):
        if seed == 1:
            raise KeyboardInterrupt
        return whole(variant, seed, *others)

    monkeypatch.setattr(ablation, "make_run", stopped)
    with pytest.raises(KeyboardInterrupt):
        ablation.study(project.settings)
    monkeypatch.setattr(ablation, "make_run", whole)
    ablation.study(project.settings)
    assert len(project.made) == 6


@pytest.mark.parametrize("change", ["epochs", "pictures"])
def test_runs_of_another_recipe_or_other_pictures_do_not_count(project, change):
    ablation.study(project.settings)
    project.made.clear()
    if change == "pictures":
        project.collection.file_hash = "two"
        ablation.study(project.settings)
    else:
        ablation.study(dataclasses.replace(project.settings, epochs=3))
    assert len(project.made) == 6


def test_the_card_shows_the_study_with_its_intervals(project):
    ablation.study(project.settings)
    document = json.loads((project.folder / "model/metrics.json").read_text("utf-8"))
    section = document["ablation"]
    section["variants"]["plain"]["difference"]["accuracy"] = {
        "value": -0.0321, "low": -0.05, "high": -0.01
    }  # fmt: skip
    text = card.describe({"ablation": section})
    shown = text.split("### What each part brings")[1].split("###")[0]
    assert "2 seeds" in shown and "40 validation groups" in shown and "no test picture" in shown
    for one in section["variants"].values():
        assert f"| {one['title']} | {one['accuracy']['value']:.3f} (" in shown
    assert "-0.032 (-0.050 to -0.010)" in shown


@pytest.mark.parametrize(
    ("change", "said"), [({"variants": "brighter"}, "no_outlines"), ({"seeds": 0}, "at least 1")]
)
def test_a_study_that_cannot_be_made_says_why(project, change, said):
    with pytest.raises(ablation.AblationError, match=said):
        ablation.study(dataclasses.replace(project.settings, **change))


def test_processes_get_their_share_of_the_cores_and_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with ablation._shared_cores(jobs=10_000):
        assert ablation.os.environ["TF_NUM_INTRAOP_THREADS"] == "1"
    assert "TF_NUM_INTRAOP_THREADS" not in ablation.os.environ
    assert ablation.os.environ["OMP_NUM_THREADS"] == "7"


def test_the_released_results_of_the_study_are_those_of_its_runs():
    file = paths.project_root() / "model" / "ablation.csv"
    if not file.is_file():
        pytest.skip("the study was not made")
    document = json.loads((file.parent / "metrics.json").read_text("utf-8"))["ablation"]
    table = pd.read_csv(file, dtype={"group": str})
    whole = table[table["variant"] == "whole"].groupby("seed")[["right", "pictures"]].sum()
    accuracy = (whole["right"] / whole["pictures"]).mean()
    assert document["variants"]["whole"]["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-5)


def test_a_class_that_is_unknown_is_not_trained_on_and_is_asked_about(monkeypatch, tmp_path):
    seen = []
    network = SimpleNamespace(
        predict=lambda pixels, **_: {"logits": np.tile([3.0, 1, 0, 0], (len(pixels), 1))}
    )
    monkeypatch.setattr(
        ablation.unknown, "train", lambda *given: seen.append(given[2].classes) or network
    )
    answers = ablation.answer_unknown("meningioma", TINY_WHOLE, held(), tmp_path / "state")
    assert CLASS_NAMES.index("meningioma") not in seen[0] and len(set(seen[0])) == 3
    assert "meningioma" in set(answers["label"]) and set(answers["answer"]) == {"glioma"}
    expected = np.exp(3) / (np.exp(3) + np.exp(1) + 2)
    np.testing.assert_allclose(answers["certainty"], expected, atol=1e-6)


def test_certainty_about_the_unknown_is_held_against_that_about_known_tumours():
    rows = [("a", "glioma", "glioma", 0.9), ("b", "pituitary", "pituitary", 0.8),
            ("c", "meningioma", "glioma", 0.6), ("d", "meningioma", "glioma", 0.85),
            ("e", "notumor", "notumor", 0.1)]  # fmt: skip
    answers = pd.DataFrame(rows, columns=["group", "label", "answer", "certainty"])
    found = ablation.summarise_unknown(answers.assign(unknown="meningioma"), 100)["meningioma"]
    assert found["pictures"] == 2 and found["called"] == "glioma" and found["share"] == 1
    assert found["certainty_unknown"]["value"] == pytest.approx(0.725)
    assert found["certainty_known"]["value"] == pytest.approx(0.85)
    assert found["auroc"] == pytest.approx(0.75)
