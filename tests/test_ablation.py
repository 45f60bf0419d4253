"""Ablation: variants that differ in one part, runs that are kept, intervals that hold."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES, imaging, inference
from brainlib.data import datasets, phantom
from brainlib.training import Examples
from scripts import ablation

CLASSES = list(CLASS_NAMES)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Write a small phantom."""
    return phantom.write_phantom(tmp_path_factory.mktemp("data") / "p", patients=40, slices=1)


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_each_variant_is_trained_with_one_part_changed(name, monkeypatch, tmp_path):
    seen, options = [], {}
    monkeypatch.setitem(ablation.MODELS, ablation.RELEASED, lambda parts: parts)

    def fit(parts, train, validation, schedule, checkpoint, finds_head):
        seen.append(train)
        options.update(parts=parts, frozen=schedule.frozen_blocks, finds_head=finds_head)

    monkeypatch.setattr(ablation, "fit", fit)
    train = Examples(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4), outlined=np.ones(4, bool))
    ablation.train_variant(
        ablation.VARIANTS[name], ablation.RECIPES[ablation.RELEASED], train, tmp_path
    )
    assert seen[0].outlined.any() == (name != "no_outlines")
    assert options["parts"].pretrained == (options["frozen"] > 0) == (name != "no_pretraining")
    assert options["parts"].find_head == options["finds_head"] == (name != "no_head")


def test_several_views_are_the_image_and_its_mirror_image(root, small_network):
    table = datasets.open_folder(root).table.assign(twin_in_training="").iloc[::4]
    scored = ablation.score(ablation.WHOLE, small_network, table, root)
    views = scored[scored["variant"] == ablation.SEVERAL_VIEWS].reset_index(drop=True)
    assert len(views) == len(table) == len(scored) / 2
    mirrored = [imaging.read_image(root / path)[:, ::-1] for path in table.path]
    both = (
        inference.predict_table(small_network, table, root, 0)[CLASSES].to_numpy()
        + inference.predict_images(small_network, mirrored)
    ) / 2
    expected = ablation.recalibrate(views.assign(**dict(zip(CLASSES, both.T, strict=True))))
    np.testing.assert_allclose(views[CLASSES], expected[CLASSES], atol=1e-3)
    drawn = scored["dice"].notna()
    assert drawn.any() and not drawn[scored["label"] == "notumor"].any()


def finished_runs(gained=0, seeds=3, groups=40):
    """Two variants, the second right for some more images of every group."""
    rows = []
    for name, seed in ((n, s) for n in (ablation.WHOLE, "no_head") for s in range(seeds)):
        easy = np.random.default_rng(0).integers(4, 9, groups)
        right = np.arange(20) < (easy + gained * (name == "no_head"))[:, None]
        answer = np.where(right.ravel(), 0.9, 0.0)
        rows.append(pd.DataFrame({
            "group": np.repeat([f"{group:02}" for group in range(groups)], 20), "label": "glioma",
            "glioma": answer, "meningioma": 0.9 - answer, "notumor": 0.05, "pituitary": 0.05,
            "source": "figshare", "dice": np.nan, "variant": name, "seed": seed,
        }))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_metrics_are_means_over_seeds_with_their_range():
    runs = finished_runs(gained=1)
    is_last = (runs["variant"] == "no_head") & (runs["seed"] == 2)
    runs.loc[is_last, ["glioma", "meningioma"]] = [0.9, 0.0]
    variants = ablation.summarise(runs)["variants"]
    whole, changed = (variants[name]["accuracy"] for name in (ablation.WHOLE, "no_head"))
    assert whole["low"] == whole["high"] == pytest.approx(whole["value"])
    assert changed["low"] == pytest.approx(whole["value"] + 0.05) and changed["high"] == 1
    assert changed["value"] == pytest.approx((2 * changed["low"] + 1) / 3)
    assert "dice" not in variants["no_head"]


def test_finished_runs_are_reused_those_of_another_recipe_are_not(root, monkeypatch, tmp_path):
    made = []

    def score(name, *others):
        made.append(name)
        table = finished_runs(seeds=1).drop(columns="seed")
        whole = table[table["variant"] == ablation.WHOLE]
        variants = [name, ablation.SEVERAL_VIEWS] if name == ablation.WHOLE else [name]
        return pd.concat([whole.assign(variant=variant) for variant in variants])

    monkeypatch.setattr(ablation, "train_variant", lambda *others: None)
    monkeypatch.setattr(ablation, "score", score)
    study = partial(ablation.study, str(root), str(tmp_path), images=20)
    first = study(seeds=1)
    assert made == list(ablation.VARIANTS)
    assert study(seeds=1) == first and len(made) == 4
    study(seeds=2)
    assert len(made) == 8
    study(seeds=1, epochs=3)
    assert len(made) == 12
