"""Release: the network of fold 0 in files that answer alike, each number measured and verified."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES, explain, inference, models, paths
from brainlib.data import phantom
from brainlib.evaluation import corruptions
from brainlib.models import engines
from brainlib.models.registry import MODELS
from brainlib.notebook import runs
from scripts import release, verify
from scripts.release import files, gating, margins, rules, scores

ROOT = paths.project_root()
RELEASED, BASELINE = list(MODELS)[:2]
FOLDS, IMAGES = (0, 1), 8


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Damage images in few ways, and leave the gate to its own tests."""
    measure = partial(corruptions.robustness, names=["blur"], strengths=[2, 5])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corruptions, "robustness", measure)
        patch.setattr(scores, "MARGINS", {"off centre": margins.off_centre})
        patch.setattr(gating, "measure_gate", lambda run: {"sha256": "of the gate"})
        patch.setattr(rules, "make_rules", lambda *given: given)
        patch.setattr(files, "JUDGED_BY", ())
        yield


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "small"
    return phantom.write_phantom(folder, patients=40, slices=2, size=64)


@pytest.fixture(scope="module")
def run(collection, build_small, tmp_path_factory):
    """Leave two folds as `02_train` leaves them: models, and their predictions of test images."""
    output = tmp_path_factory.mktemp("release")
    settings = release.ReleaseSettings(str(collection), str(output), images=IMAGES)
    run = runs.Run("release", settings, output)
    tested = scores.tested_images(run)
    for fold in FOLDS:
        file = files.fold_file(run.model, fold=fold)
        models.save_model(build_small(fold), file)
        model = models.load_model(file)
        table = inference.predict_table(model, tested[fold], run.collection.root, fold)
        run.write_table(table, f"model/predictions/{file.stem}.test")
    models.save_model(build_small(9), files.fold_file(run.model, BASELINE))
    return run


@pytest.fixture(scope="module")
def document(run):
    return release.make_release(run.settings)


def test_the_released_file_is_the_network_of_fold_0_and_all_files_answer_alike(run, document):
    listed, found = files.list_files(run.model), document["release"]
    trained = files.fold_file(run.model)
    assert listed[RELEASED].read_bytes() == trained.read_bytes()
    assert found[RELEASED]["sha256"] == paths.file_hash(trained)
    for name, file in listed.items():
        assert found[name]["megabytes"] == round(file.stat().st_size / 1e6, 3)
        assert name == RELEASED or 0 <= found[name]["largest_difference"] <= 1e-4


def test_a_file_that_answers_otherwise_is_refused():
    stacks, right = [np.zeros((3, 16, 16, 1), np.uint8)], np.full((3, 4), 0.25)
    for wrong in (np.add(right, [1e-3, -1e-3, 0, 0]), right * np.nan):
        engine = engines.Engine(lambda _, given=wrong: {"probabilities": given}, ("probabilities",))
        with pytest.raises(paths.BrainlibError, match=r"ONNX file differs|its answer has"):
            files.check_file(lambda _: right, engine, stacks)


def test_maps_are_scored_for_every_fold_and_damage_is_measured_of_both_networks(run, document):
    tables = [explain.read_scores(run.model / "maps" / f"{RELEASED}_patient{k}.csv") for k in FOLDS]
    dice = pd.concat(tables)["dice"].mean()
    assert document["maps"]["folds"] == 2
    assert document["maps"]["dice"]["value"] == pytest.approx(dice, abs=1e-6)
    table = pd.read_csv(run.model / "robustness.csv").set_index(["model", "corruption"])
    for name in (RELEASED, BASELINE):
        shown = document["robustness"][name]
        blurred = table.loc[(name, "blur"), "strength 5"]
        assert shown["blur"]["strength 5"] == pytest.approx(blurred, abs=1e-6)
        assert set(document["margins"][name]) == {"clean", *scores.MARGINS}
        assert document["margins"][name]["clean"]["accuracy"] == shown["clean"]["mean"]
    assert document["robustness"]["images"] == document["margins"]["images"] == IMAGES
    assert 0 <= document["sizes"]["same_class"]["value"] <= 1


@pytest.mark.parametrize("name", margins.MARGINS)
def test_margins_leave_the_head_as_it_is(name):
    image = np.random.default_rng(0).integers(100, 200, (70, 60), np.uint8)
    changed = margins.MARGINS[name](image)
    inner = image[12:-12, 12:-12]
    windows = np.lib.stride_tricks.sliding_window_view(changed, inner.shape)
    assert changed.dtype == np.uint8 and (windows == inner).all(axis=(2, 3)).any()
    assert changed.shape != image.shape or (changed[:12] == 255).all()
    assert margins.sides(np.zeros((100, 100), np.uint8)).shape == (100, 180)  # 16:9


def test_a_second_run_keeps_files_and_what_still_holds(run, document):
    kept = [*run.model.glob(f"{RELEASED}*"), *(run.model / "maps").iterdir()]
    stamps = {file: file.stat().st_mtime_ns for file in kept}
    again = release.make_release(run.settings)
    assert {file: file.stat().st_mtime_ns for file in kept} == stamps
    assert again["maps"] == document["maps"] and "studies" not in again
    written = json.loads((run.model / "metrics.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(again))
    record = runs.read_record(run.model / "release.run.json")
    assert record["fold"] == 0 and record["parameters"]["images"] == IMAGES


def test_verification_passes_and_a_changed_file_or_table_fails(run, document, tmp_path):
    run.open_collection()
    assert verify.check_hash(document, run.model)[1]
    assert all(is_same for _, is_same in verify.check_probabilities(run))
    changed = json.loads(json.dumps(document))
    changed["release"][RELEASED]["sha256"] = "0" * 64
    assert not verify.check_hash(changed, run.model)[1]
    table = run.model / "predictions" / f"{RELEASED}_patient0.test.csv"
    before = table.read_bytes()
    rows = pd.read_csv(table, keep_default_na=False)
    rows[list(CLASS_NAMES)] = rows[list(CLASS_NAMES)].to_numpy()[:, ::-1]
    rows.to_csv(table, index=False)
    assert not any(is_same for _, is_same in verify.check_probabilities(run))
    table.write_bytes(before)


def test_every_published_metric_is_that_of_its_prediction_table():
    document = json.loads((ROOT / "model" / "metrics.json").read_text(encoding="utf-8"))
    checked = verify.check_metrics(document, ROOT / "model")
    assert len(checked) > 5 and not [line for line, is_same in checked if not is_same]
    document["results"][next(iter(document["results"]))]["patient"]["accuracy"]["value"] += 1e-4
    assert not all(is_same for _, is_same in verify.check_metrics(document, ROOT / "model"))


def test_a_network_that_was_trained_again_is_released_again(build_small, run, document, tmp_path):
    for file in (files.fold_file(run.model), files.list_files(run.model)[RELEASED]):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    models.save_model(build_small(7), files.fold_file(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.export, "export_onnx", lambda model, path: path.write_bytes(b""))
        files.write_files(tmp_path)
    released = files.list_files(tmp_path)[RELEASED]
    assert released.read_bytes() == files.fold_file(tmp_path).read_bytes()
    (tmp_path / "model" / "predictions").mkdir(parents=True)  # without those of fold 0
    name = f"predictions/{RELEASED}_patient1.test.csv"
    (tmp_path / "model" / name).write_bytes((run.model / name).read_bytes())
    with pytest.raises(paths.BrainlibError, match="fold 0"):
        release.make_release(replace(run.settings, output=str(tmp_path)))


def test_a_sample_has_each_class_with_its_share():
    table = pd.DataFrame({"path": map(str, range(90)), "label": ["a"] * 60 + ["b"] * 30})
    sample = scores.stratified_sample(table, 30, seed=0)
    assert sample["label"].value_counts().to_dict() == {"a": 20, "b": 10}
    assert scores.stratified_sample(table, 500, seed=0)["path"].is_unique
