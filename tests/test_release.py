"""The release: the model of one fold in four files that answer alike, each number from a run."""

import json
import logging
import os
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES, evaluation, explain, imaging, inference, models, paths
from brainlib.data import phantom
from brainlib.evaluation import corruptions
from brainlib.models import brain_tumor, engines
from brainlib.notebook import runs
from scripts import release

FOLDS = (0, 1)
PICTURES = 8
CORRUPTIONS, STRENGTHS = ["blur", "rotation"], [2, 5]
CLASSES = list(CLASS_NAMES)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Spoil pictures in two ways, not ten, time one round, and leave the gate to its own tests."""
    measure = partial(corruptions.robustness, names=CORRUPTIONS, strengths=STRENGTHS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corruptions, "robustness", measure)
        patch.setattr(release.speed, "ROUNDS", 1)
        patch.setattr(release, "measure_gate", lambda run: {"source": run.settings.source})
        yield


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "small"
    return phantom.write_phantom(folder, patients=40, slices=2, size=64)


def build(seed):
    """Build a brain_tumor of a tenth of its width that is untrained, and answers all alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brain_tumor, "_WIDTHS", (16, 16, 16))
        patch.setattr(brain_tumor, "_DEPTHS", (1, 1, 1))
        return models.build_model("brain_tumor", seed)


@pytest.fixture(scope="module")
def settings(collection, tmp_path_factory):
    """Leave two folds as `02_train` leaves them: models, and their predictions of test pictures."""
    output = tmp_path_factory.mktemp("release")
    settings = release.ReleaseSettings(
        source=str(collection), output=str(output), pictures=PICTURES, resamples=100
    )
    run = runs.Run("release", settings, output, smoke=False)
    tested = release.tested_pictures(run)
    for fold in FOLDS:
        file = release.fold_file(run.model, "brain_tumor", fold)
        models.save_model(build(fold), file)
        table = inference.predict_table(
            models.load_model(file), tested[fold], run.collection.root, fold
        )
        run.write_table(table, f"model/predictions/{file.stem}.test")
    models.save_model(
        models.build_model("seed_cnn"), release.fold_file(run.model, "seed_cnn", FOLDS[0])
    )
    return settings


@pytest.fixture(scope="module")
def model_folder(settings):
    return paths.resolve(settings.output) / "model"


@pytest.fixture(scope="module")
def messages():
    return []


@pytest.fixture(scope="module")
def document(settings, collection, messages):
    """Make the release once, with some pictures without tumour for another scanner."""
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("scripts").addHandler(handler)
    scan = collection / "Testing" / "notumor"
    yield release.make_release(replace(settings, healthy_scan=str(scan)))
    logging.getLogger("scripts").removeHandler(handler)


@pytest.fixture(scope="module")
def released(document, model_folder):
    return models.load_model(model_folder / "brain_tumor.keras")


@pytest.fixture(scope="module")
def pictures(collection):
    return [imaging.read_picture(file) for file in sorted(collection.rglob("glioma/*.jpg"))[:6]]


def test_the_released_model_is_that_of_fold_0_softened(document, released, model_folder, pictures):
    trained = models.load_model(model_folder / "brain_tumor_patient0.keras")
    plain, softened = (
        pd.DataFrame(inference.predict_images(model, pictures), columns=CLASSES).astype(float)
        for model in (trained, released)
    )
    temperature = document["release"]["temperature"]
    assert temperature > 1.5  # the network is surer than it is right
    expected = evaluation.apply_temperature(plain, temperature)
    np.testing.assert_allclose(softened, expected, atol=1e-5)
    assert softened.max().max() < plain.max().max()


def test_the_temperature_comes_from_other_pictures_than_those_tested(settings, document):
    folder = paths.resolve(settings.output) / "model"
    tables = evaluation.read_tables(folder / "predictions")["brain_tumor"]["patient"]
    others = tables[tables["fold"] == 1]
    expected = evaluation.fit_temperature(others)
    assert document["release"]["temperature"] == pytest.approx(expected, abs=1e-4)


def test_a_validation_table_is_taken_where_there_is_one(settings, model_folder, tmp_path):
    place = tmp_path / "predictions"
    place.mkdir()
    for fold in FOLDS:
        name = f"brain_tumor_patient{fold}.test.csv"
        (place / name).write_bytes((model_folder / "predictions" / name).read_bytes())
    before = release.fit_temperature(tmp_path)
    validation = pd.read_csv(place / "brain_tumor_patient1.test.csv").assign(fold=0)
    right = np.eye(4)[pd.Index(CLASSES).get_indexer(validation["label"])]
    validation[CLASSES] = 0.85 * right + 0.0375
    validation.to_csv(place / "brain_tumor_patient0.validation.csv", index=False)
    assert release.fit_temperature(tmp_path) < 1 < before


def test_missing_predictions_are_named(tmp_path, model_folder):
    place = tmp_path / "predictions"
    place.mkdir()
    name = "brain_tumor_patient1.test.csv"
    (place / name).write_bytes((model_folder / "predictions" / name).read_bytes())
    with pytest.raises(release.ReleaseError, match="brain_tumor on fold 0"):
        release.fit_temperature(tmp_path)


def test_all_files_answer_alike(document, released, model_folder, pictures):
    found = document["release"]
    assert found["checked_pictures"] > 5
    for name in ("maps", "maps_onnx", "onnx"):
        assert 0 <= found[name]["largest_difference"] <= 1e-4
    maps = keras.models.load_model(model_folder / "brain_tumor_maps.keras")
    drawn = explain.draw_maps(maps, pictures)
    expected = inference.predict_images(released, pictures)
    np.testing.assert_allclose(drawn.probabilities, expected, atol=1e-5)
    again = explain.draw_maps(engines.open_maps(model_folder / "brain_tumor_maps.onnx"), pictures)
    for name in ("probabilities", "outlines", "heat_maps"):
        np.testing.assert_allclose(getattr(again, name), getattr(drawn, name), atol=1e-4)
    assert drawn.heat_maps.max() > 1e-3


def test_a_file_that_answers_otherwise_is_refused():
    stacks = [np.zeros((3, 16, 16, 1), np.uint8)]
    right = np.full((3, 4), 0.25)
    answers = {"model": lambda _: right, "onnx": lambda _: right + 1e-3}
    with pytest.raises(release.ReleaseError, match=r"onnx differs by 0\.001"):
        release.check_files(answers, stacks)
    with pytest.raises(release.ReleaseError, match="nan"):
        release.check_files(answers | {"onnx": lambda _: right * np.nan}, stacks)
    near = release.check_files(answers | {"onnx": lambda _: right + 1e-6}, stacks)
    assert near == {"onnx": {"largest_difference": pytest.approx(1e-6)}}


def test_sizes_are_those_of_the_files(document, model_folder):
    for name, file in release.list_files(model_folder).items():
        assert document["release"][name]["bytes"] == file.stat().st_size
        assert document["release"][name]["megabytes"] == round(file.stat().st_size / 1e6, 3)
    assert len(document["release"]["brain_tumor"]["sha256"]) == 64


def test_speed_is_measured_for_each_way_against_the_starting_network(document):
    found = document["release"]
    for name in ("brain_tumor", "onnx", "seed_cnn"):
        speed, ratio = found[name]["pictures_a_second"], found[name]["speed_ratio"]
        assert ratio == pytest.approx(speed / found["seed_cnn"]["pictures_a_second"], rel=0.02)
    assert found["speed_ratio"] == found["brain_tumor"]["speed_ratio"]
    assert found["seed_cnn"]["speed_ratio"] == 1


def test_a_slower_way_has_the_smaller_ratio():
    def slow(stack):
        return [np.sort(np.random.default_rng(0).random(300_000)) for _ in range(3)]

    speeds = release.compare_speeds({"slow": slow, "quick": np.shape}, [np.zeros((2, 8, 8, 1))], 3)
    assert speeds["slow"]["speed_ratio"] < 0.1 and speeds["quick"]["speed_ratio"] == 1


def test_maps_are_scored_for_every_fold_and_summed_up(document, settings, messages):
    folder = paths.resolve(settings.output) / "model"
    tables = [explain.read_scores(folder / "maps" / f"brain_tumor_patient{k}.csv") for k in FOLDS]
    for fold, table in zip(FOLDS, tables, strict=True):
        predicted = pd.read_csv(folder / "predictions" / f"brain_tumor_patient{fold}.test.csv")
        predicted = predicted.set_index("path").loc[table["path"], CLASSES]
        assert (predicted.idxmax(axis="columns").to_numpy() == table["answer"]).all()
    maps = document["maps"]
    assert maps["folds"] == 2 and maps["pictures"] == sum(map(len, tables))
    assert maps["dice"]["value"] == pytest.approx(pd.concat(tables)["dice"].mean(), abs=1e-6)
    assert any("brain_tumor_patient3.keras" in message for message in messages)


def test_robustness_of_both_networks_is_written_and_summed_up(document, model_folder):
    table = pd.read_csv(model_folder / "robustness.csv")
    assert table["model"].unique().tolist() == ["brain_tumor", "seed_cnn"]
    for name, part in table.groupby("model"):
        assert part["corruption"].tolist() == ["clean", *CORRUPTIONS]
        found = document["robustness"][name]
        assert found["blur"]["strength 5"] == pytest.approx(
            part.set_index("corruption").loc["blur", "strength 5"], abs=1e-6
        )
        assert set(found["clean"]) == {"mean"}
        clean, *spoilt = part["mean"]
        if clean:
            assert found["accuracy_kept"] == pytest.approx(np.mean(spoilt) / clean, abs=1e-5)
    assert document["robustness"]["pictures"] == PICTURES


def test_another_scanner_is_counted(document, released, collection):
    found = document["other_scanners"]
    files = list((collection / "Testing" / "notumor").iterdir())
    answers = inference.predict_images(released, map(imaging.read_picture, files))
    share = (answers.argmax(axis=1) == CLASS_NAMES.index("notumor")).mean()
    assert found["slices"] == len(files) and found["unreadable"] == 0
    assert found["called_notumor"] == pytest.approx(share, abs=1e-6)
    assert found["model_sha256"] == document["release"]["brain_tumor"]["sha256"]


def test_a_scan_that_cannot_be_read_is_named(settings, released, tmp_path):
    (tmp_path / "slice.png").write_bytes(b"\x89PNG cut")
    run = runs.Run("release", replace(settings, healthy_scan=str(tmp_path)), tmp_path, smoke=False)
    with pytest.raises(release.ReleaseError, match=r"slice\.png"):
        release.measure_other_scanner(run, released)


def test_all_of_it_is_in_metrics_json_with_its_record(document, model_folder):
    text = (model_folder / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(document))
    assert document["synthetic"] and "phantom" in document["source"]
    record = runs.read_record(model_folder / "release.run.json")
    assert record["notebook"] == "release" and record["fold"] == 0
    assert record["parameters"]["pictures"] == PICTURES
    assert (
        record["release"]["brain_tumor"]["sha256"] == (document["release"]["brain_tumor"]["sha256"])
    )


def test_the_gate_is_measured_and_the_rules_are_written(document, settings, released, model_folder):
    assert document["gate"] == {"source": settings.source}
    rules = inference.open_classifier(model_folder / "brain_tumor.keras").rules
    assert rules["model_sha256"] == document["release"]["brain_tumor"]["sha256"]
    assert rules["fold"] == FOLDS[0] and rules["synthetic"]


def test_too_few_folds_leave_studies_unmeasured(document, messages):
    assert "studies" not in document
    assert any("rule for studies is not measured" in message for message in messages)


def test_a_second_run_keeps_what_is_right(document, settings, model_folder, monkeypatch):
    files = [*model_folder.rglob("brain_tumor*"), model_folder / "robustness.csv"]
    stamps = {file: file.stat().st_mtime_ns for file in files}
    seed_cnn = release.fold_file(model_folder, "seed_cnn")
    seed_cnn.rename(seed_cnn.with_suffix(".away"))
    for room, name in ((corruptions, "robustness"), (explain, "score_maps")):
        monkeypatch.setattr(room, name, None)  # what is known is not measured again
    again = release.make_release(settings)
    seed_cnn.with_suffix(".away").rename(seed_cnn)
    assert {file: file.stat().st_mtime_ns for file in files} == stamps
    for section in ("maps", "robustness", "other_scanners"):
        assert again[section] == document[section]


def test_another_temperature_or_model_is_written(model_folder, document, tmp_path):
    trained = model_folder / "brain_tumor_patient0.keras"
    (tmp_path / trained.name).write_bytes(trained.read_bytes())
    released = model_folder / "brain_tumor.keras"
    (tmp_path / released.name).write_bytes(released.read_bytes())
    softer = release.write_model(tmp_path, 2 * document["release"]["temperature"])
    assert softer.get_layer("temperature").scale == pytest.approx(
        0.5 / document["release"]["temperature"]
    )
    models.save_model(build(5), tmp_path / trained.name)
    other = release.write_model(tmp_path, 2 * document["release"]["temperature"])
    assert not np.array_equal(other.get_weights()[0], softer.get_weights()[0])


@pytest.fixture
def fresh(settings, tmp_path, document):
    """Return a run into an empty folder, and its test pictures."""
    run = runs.Run("release", settings, tmp_path, smoke=False)
    return run, release.tested_pictures(run)


def make_newer(file):
    """Write a file that is two seconds newer than all beside it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    stamps = [other.stat().st_mtime for other in file.parent.rglob("*")]
    file.write_bytes(b"a model")
    os.utime(file, (max(stamps, default=0) + 2,) * 2)


def test_maps_are_drawn_anew_for_a_newer_model_only(fresh, model_folder, monkeypatch):
    run, tested = fresh
    scores = explain.read_scores(model_folder / "maps" / "brain_tumor_patient0.csv")
    drawn = []
    monkeypatch.setattr(models, "load_model", lambda file: file.stem)
    monkeypatch.setattr(
        explain, "score_maps", lambda model, *_: drawn.append(model) or scores.assign(dice=0.5)
    )
    for fold in FOLDS:
        make_newer(release.fold_file(run.model, "brain_tumor", fold))
        os.utime(release.fold_file(run.model, "brain_tumor", fold), (1, 1))
    release.measure_maps(run, tested)
    release.measure_maps(run, tested)
    assert drawn == ["brain_tumor_patient0", "brain_tumor_patient1"]
    make_newer(release.fold_file(run.model, "brain_tumor", 1))
    assert release.measure_maps(run, tested)["folds"] == 2 and len(drawn) == 3
    for fold in FOLDS:  # as in a fresh checkout
        release.fold_file(run.model, "brain_tumor", fold).unlink()
    assert release.measure_maps(run, tested)["folds"] == 2 and len(drawn) == 3


def test_robustness_is_measured_anew_for_a_newer_model_or_other_pictures(
    fresh, document, model_folder, monkeypatch, caplog
):
    run, tested = fresh
    table = pd.read_csv(model_folder / "robustness.csv").query("model == 'seed_cnn'")
    table = table.set_index("corruption").drop(columns=["model", "pictures", "seed"])
    measured = []
    monkeypatch.setattr(
        corruptions, "robustness", lambda *arguments: measured.append(len(arguments[1])) or table
    )
    file = run.model / "brain_tumor.keras"
    make_newer(file)
    os.utime(file, (1, 1))
    with caplog.at_level(logging.WARNING, "scripts"):
        found = release.measure_robustness(run, None, tested[0])
    assert found["brain_tumor"] == document["robustness"]["seed_cnn"] and "seed_cnn" not in found
    assert "seed_cnn_patient0.keras: its robustness is not measured" in caplog.text
    release.measure_robustness(run, None, tested[0])
    assert measured == [PICTURES]
    make_newer(file)
    release.measure_robustness(run, None, tested[0])
    run.settings = replace(run.settings, pictures=5)
    release.measure_robustness(run, None, tested[0])
    assert measured == [PICTURES, PICTURES, 5]


def test_another_scanner_is_forgotten_with_the_model_that_saw_it(fresh, document, model_folder):
    run, _ = fresh
    run.write_json(document, "model/metrics")
    same = release.write_sections(run, {"release": document["release"]})
    assert same["other_scanners"] == document["other_scanners"]
    other = {"brain_tumor": {"sha256": "0" * 64}}
    assert "other_scanners" not in release.write_sections(run, {"release": other})
    assert "other_scanners" not in evaluation.read_metrics(run.output)


# --- samples


def test_a_sample_has_the_classes_shares_and_the_seeds_rows():
    labels = ["glioma"] * 60 + ["meningioma"] * 30 + ["notumor"] * 10
    table = pd.DataFrame({"label": labels, "path": [f"{row}.jpg" for row in range(100)]})
    sample = release.stratified_sample(table, 20, seed=0)
    assert sample["label"].value_counts().to_dict() == {
        "glioma": 12, "meningioma": 6, "notumor": 2,
    }  # fmt: skip
    assert sample["path"].is_unique
    assert sample.equals(release.stratified_sample(table, 20, seed=0))
    assert not sample.equals(release.stratified_sample(table, 20, seed=1))
    assert len(release.stratified_sample(table, 500, seed=0)) == 100


def test_counts_that_make_no_sense_are_refused(settings):
    with pytest.raises(release.ReleaseError, match="at least 1"):
        release.make_release(replace(settings, pictures=0))
