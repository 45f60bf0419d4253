"""From prediction tables to metrics.json and the pages: nothing lost, nothing looked at twice."""

import re

import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES, evaluation, explain
from brainlib.data import datasets, splits
from brainlib.evaluation import results
from brainlib.notebook import runs

CLASSES = list(CLASS_NAMES)


def make_table(fold=0, pictures=80, seed=0, skill=2.0, prefix="", twins=False):
    """Make a prediction table of groups of two pictures, right more often than not."""
    random = np.random.default_rng([seed, fold])
    labels = np.arange(pictures) // 2 % 4
    logits = random.normal(size=(pictures, 4))
    logits[np.arange(pictures), labels] += skill
    values = np.exp(3 * logits) / np.exp(3 * logits).sum(axis=1, keepdims=True)  # too sure
    names = [f"{prefix}{fold}-{number // 2}" for number in range(pictures)]
    table = pd.DataFrame(
        {
            "path": [f"{name}-{number % 2}.jpg" for number, name in enumerate(names)],
            "patient": names,
            "group": names,
            "label": np.take(CLASSES, labels),
            "fold": fold,
        }
    )
    table[CLASSES] = values
    return table.assign(twin_in_training=np.arange(pictures) % 4 == 0) if twins else table


def write(table, folder, name, **options):
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / name, index=False, **options)
    return folder / name


@pytest.fixture
def folder(tmp_path):
    """Write the tables of two models: one with its folds apart, one with all folds in one."""
    place = tmp_path / "predictions"
    for fold in range(5):
        write(make_table(fold), place, f"seed_cnn_patient{fold}.test.csv")
        write(make_table(fold, prefix="v"), place, f"seed_cnn_patient{fold}.validation.csv")
    write(make_table(twins=True), place, "seed_cnn_official.test.csv")
    together = pd.concat([make_table(fold, skill=1.0) for fold in range(5)])
    write(together, place, "a_shortcut_patient.test.csv")
    write(make_table(twins=True, skill=1.0), place, "a_shortcut_official.test.csv")
    write(make_table(), place, "seed_cnn_official.history.csv")
    return place


def test_the_folds_of_a_model_become_one_table_beside_the_other_protocols(folder):
    tables = results.read_tables(folder, first=("brain_tumor", "seed_cnn"))
    assert list(tables) == ["seed_cnn", "a_shortcut"]
    for by_protocol in tables.values():
        assert tuple(by_protocol) == splits.PROTOCOLS
        assert by_protocol["patient"]["fold"].value_counts().to_dict() == dict.fromkeys(
            range(5), 80
        )
        assert by_protocol["patient"]["path"].is_unique
    assert results.main_model(tables) == "seed_cnn"
    assert results.main_model({"other": {}}) == "other"


def test_deduplicated_is_official_without_twins(folder):
    by_protocol = results.read_tables(folder)["seed_cnn"]
    official, free = by_protocol["official"], by_protocol["deduplicated"]
    assert set(free["path"]) == set(official.loc[~official["twin_in_training"], "path"])
    assert len(free) == 60 and len(official) == 80


def test_validation_is_read_apart(folder):
    validation = results.read_tables(folder, "validation")
    assert list(validation) == ["seed_cnn"] and list(validation["seed_cnn"]) == ["patient"]
    assert validation["seed_cnn"]["patient"]["path"].str.startswith("v").all()


def test_a_folder_without_tables_names_the_notebook_that_writes_them(tmp_path):
    with pytest.raises(results.ResultsError, match="02_train") as refused:
        results.read_tables(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert results.read_tables(tmp_path, "validation") == {}


@pytest.fixture(scope="module")
def foreign():
    """Make what another framework would give for the published folds: path and probabilities."""
    known = splits.benchmark()
    random = np.random.default_rng(0)
    values = random.dirichlet(np.ones(4), len(known))
    right = known["label"].map(CLASSES.index)
    values[np.arange(len(known)), right] += 0.3
    table = pd.DataFrame(values / values.sum(axis=1, keepdims=True), columns=CLASSES)
    return table.assign(path=known["path"]).sample(frac=1, random_state=0)


def test_a_table_of_another_framework_is_scored_on_the_published_folds(foreign, tmp_path):
    file = write(foreign, tmp_path, "theirs.test.csv", float_format="%.5f")
    tables = results.read_tables(file)
    assert {name: list(found) for name, found in tables.items()} == {"theirs": ["patient"]}
    table = tables["theirs"]["patient"]
    assert table["path"].tolist() == foreign["path"].tolist()
    assert table["fold"].value_counts().to_dict() == dict.fromkeys(range(5), 971)
    assert (table["label"] == table["path"].str.split("/").str[1]).all()
    assert {"patient", "group", "source"} <= set(table)
    right = foreign[CLASSES].idxmax(axis="columns") == foreign["path"].str.split("/").str[1]
    scored = results.measure(tables, resamples=100)["theirs"]["patient"]
    assert scored["pictures"] == 4855 and scored["groups"] == table["group"].nunique()
    assert scored["accuracy"]["value"] == pytest.approx(right.mean(), abs=1e-6)
    assert scored["accuracy"]["low"] < right.mean() < scored["accuracy"]["high"]
    assert results.read_tables(file, "validation") == {}
    assert list(results.tumor_type_tables(tables)) == ["theirs"]


def drop_two(table):
    return table.iloc[2:], f"lacks 2 pictures of the published reference ({table['path'].iloc[0]}"


def add_another(table):
    added = pd.concat([table, table.head(1).assign(path="mine/1.jpg")])
    return added, "lacks 1 pictures of"


def repeat_one(table):
    repeated = pd.concat([table, table.head(1)])
    return repeated, f"more than one row for 1 pictures ({table['path'].iloc[0]})"


def spoil_a_sum(table):
    spoiled = table.copy()
    spoiled.iloc[5, 0] += 0.1
    return spoiled, f"do not sum to 1 for 1 pictures ({table['path'].iloc[5]})"


def lose_a_class(table):
    return table.drop(columns="notumor"), "has no column notumor"


@pytest.mark.parametrize("spoil", [drop_two, add_another, repeat_one, spoil_a_sum, lose_a_class])
def test_a_table_of_another_framework_that_does_not_fit_is_refused(foreign, tmp_path, spoil):
    table, message = spoil(foreign.reset_index(drop=True))
    file = write(table, tmp_path, "theirs.csv")
    with pytest.raises(evaluation.EvaluationError) as refused:
        results.read_tables(file)
    text = str(refused.value)
    assert message in text and "theirs.csv" in text
    if spoil is drop_two:
        assert all(path in text for path in foreign["path"].head(2))
    if spoil is add_another:
        assert "mine/1.jpg" in text


def test_a_spoiled_table_in_a_folder_is_named(folder):
    spoiled = make_table(2)
    spoiled.loc[3, "glioma"] += 0.2
    write(spoiled, folder, "seed_cnn_patient2.test.csv")
    with pytest.raises(evaluation.EvaluationError, match=r"seed_cnn_patient2\.test\.csv .*2-1-1"):
        results.read_tables(folder)


def test_a_single_table_with_its_own_labels_needs_no_reference(tmp_path):
    file = write(make_table(), tmp_path, "mine.test.csv")
    table = results.read_tables(file)["mine"]["patient"]
    pd.testing.assert_frame_equal(table[["path", "label"]], make_table()[["path", "label"]])


@pytest.fixture(scope="module")
def tested():
    return pd.concat([make_table(fold, pictures=240) for fold in range(5)], ignore_index=True)


@pytest.fixture(scope="module")
def validation():
    return pd.concat(
        [make_table(fold, pictures=240, seed=1, prefix="v") for fold in range(5)],
        ignore_index=True,
    )


def shuffle_answers(table, fold):
    """Turn the predictions of one fold into nonsense."""
    table = table.copy()
    rows = table.index[table["fold"] == fold]
    table.loc[rows, CLASSES] = np.roll(table.loc[rows, CLASSES].to_numpy(), 1, axis=1)
    return table


@pytest.mark.parametrize("with_validation", [True, False])
def test_a_fold_is_never_calibrated_on_its_own_test_pictures(tested, validation, with_validation):
    held_out = validation if with_validation else None
    plain = results.calibrate(tested, held_out)
    spoiled = results.calibrate(shuffle_answers(tested, 2), held_out)
    assert set(plain.temperatures) == set(range(5))
    assert spoiled.temperatures[2] == plain.temperatures[2]
    others_changed = any(
        spoiled.temperatures[fold] != plain.temperatures[fold] for fold in (0, 1, 3, 4)
    )
    assert others_changed != with_validation
    # rolling the answers of a fold only rolls what calibration makes of them
    rows = plain.table["fold"] == 2
    answers = [np.sort(found.table.loc[rows, CLASSES]) for found in (plain, spoiled)]
    np.testing.assert_allclose(*answers)


def test_conformal_thresholds_of_a_fold_ignore_its_labels(tested, validation):
    relabelled = tested.copy()
    rows = relabelled["fold"] == 2
    relabelled.loc[rows, "label"] = "glioma"
    for held_out in (validation, None):
        plain, other = (results.calibrate(table, held_out) for table in (tested, relabelled))
        pd.testing.assert_frame_equal(plain.sets[rows], other.sets[rows])
        pd.testing.assert_frame_equal(
            plain.table.loc[rows, CLASSES], other.table.loc[rows, CLASSES]
        )


def test_a_fold_is_calibrated_on_its_own_validation_rows(tested, validation):
    plain = results.calibrate(tested, validation)
    spoiled = results.calibrate(tested, shuffle_answers(validation, 2))
    changed = {fold for fold in range(5) if plain.temperatures[fold] != spoiled.temperatures[fold]}
    assert changed == {2}


def test_calibration_softens_what_is_too_sure_and_changes_no_answer(tested, validation):
    calibrated = results.calibrate(tested, validation)
    assert all(temperature > 1 for temperature in calibrated.temperatures.values())
    before = tested.set_index("path")[CLASSES].idxmax(axis="columns")
    after = calibrated.table.set_index("path")[CLASSES].idxmax(axis="columns")
    pd.testing.assert_series_equal(before.sort_index(), after.sort_index())
    metrics = results.calibration_metrics(tested, calibrated, resamples=100)
    assert metrics.loc["log_loss", "after"] < metrics.loc["log_loss", "before"]
    row = metrics.loc["log_loss"]
    assert row["low"] < row["after"] < row["high"]
    held = calibrated.sets.to_numpy()[
        np.arange(len(calibrated.table)), evaluation.true_classes(calibrated.table)
    ]
    assert held.mean() == pytest.approx(1 - results.CONFORMAL_ALPHA, abs=0.04)


def test_a_fold_without_anything_to_calibrate_on_is_named(tested, validation):
    with pytest.raises(results.ResultsError, match="fold 3 on: give its validation table"):
        results.calibrate(tested, validation[validation["fold"] != 3])
    with pytest.raises(results.ResultsError, match="fold 0 on"):
        results.calibrate(make_table(0), None)


def test_patients_and_comparisons_are_of_protocol_patient(folder):
    tables = results.read_tables(folder)
    by_patient = results.patient_tables(tables)["seed_cnn"]
    assert list(by_patient) == ["patient"]
    assert len(by_patient["patient"]) == 5 * 40 and by_patient["patient"]["group"].is_unique
    compared = results.compare_with(tables, "seed_cnn")
    assert compared.index.tolist() == ["a_shortcut"]
    assert compared.index.name == "seed_cnn against"
    assert results.tumor_type_tables(tables) == {}


def test_the_headline_shows_value_and_interval(folder):
    measured = results.measure(results.read_tables(folder, first=["seed_cnn"]), resamples=100)
    shown = results.headline(measured)
    assert shown.index.tolist()[:3] == [("seed_cnn", name) for name in splits.PROTOCOLS]
    cell = shown.loc[("seed_cnn", "patient"), "accuracy"]
    accuracy = measured["seed_cnn"]["patient"]["accuracy"]
    numbers = [float(number) for number in re.findall(r"\d\.\d+", cell)]
    assert numbers == [round(accuracy[name], 3) for name in ("value", "low", "high")]
    assert shown.loc[("seed_cnn", "deduplicated"), "test pictures"] == 60


def test_sections_of_metrics_are_replaced_one_by_one(tmp_path):
    run = runs.start("03_evaluate", {"output": str(tmp_path)})
    run.update_metrics(results={"a": 1}, audit={"pairs": 3})
    document = run.update_metrics(results={"b": 2}, calibration={})
    assert document == {"results": {"b": 2}, "audit": {"pairs": 3}, "calibration": {}}
    assert results.read_metrics(tmp_path) == document


def test_metrics_of_another_source_do_not_stay(tmp_path):
    run = runs.start("03_evaluate", {"output": str(tmp_path)})
    for name in ("ours", "theirs"):
        table = pd.DataFrame({"source": [name]})
        run.collection = datasets.Collection(name, "", tmp_path, table, "nothing")
        document = run.update_metrics(**{name: {"a": 1}})
    assert document == {"source": "theirs", "synthetic": False, "theirs": {"a": 1}}


def test_predictions_about_pictures_of_another_source_are_refused(folder):
    pictures = results.read_tables(folder)["seed_cnn"]["patient"]["path"]
    assert results.read_tables(folder, pictures=pictures)
    with pytest.raises(results.ResultsError, match="1 pictures that the source does not hold"):
        results.read_tables(folder, pictures=pictures.iloc[1:])


def test_a_table_cannot_bring_labels_of_its_own_for_pictures_of_the_benchmark(tmp_path):
    table = splits.benchmark().assign(**dict.fromkeys(CLASSES, 0.25))
    relabelled = table.assign(label="glioma")
    few = table.head(100)
    for wrong, message in ((relabelled, "disagree on the label"), (few, "lacks 4755 pictures")):
        with pytest.raises(evaluation.EvaluationError, match=message):
            results.read_tables(write(wrong, tmp_path, "theirs.csv"))
    assert results.read_tables(write(table, tmp_path, "theirs.csv"))


def test_a_picture_that_is_in_two_tables_of_a_model_is_refused(folder):
    write(make_table(0), folder, "seed_cnn_patient.test.csv")
    with pytest.raises(evaluation.EvaluationError, match="more than one row"):
        results.read_tables(folder)


def test_without_patient_the_next_best_protocol_is_looked_at(folder):
    by_protocol = results.read_tables(folder)["seed_cnn"]
    assert results.most_honest(by_protocol) == "patient"
    del by_protocol["patient"]
    assert results.most_honest(by_protocol) == "official"


def test_look_alikes_beside_the_predictions_are_left_out(folder):
    table = results.read_tables(folder)["seed_cnn"]["patient"]
    assert results.without_look_alikes(table, folder) is table
    first, second, *others = table["path"]
    write(pd.DataFrame({"first": [first], "second": [second]}), folder.parent, "look_alikes.csv")
    assert results.without_look_alikes(table, folder)["path"].tolist() == others


def test_what_is_missing_is_left_out_of_metrics():
    table = pd.DataFrame({"value": [0.123456789, np.nan], "low": [0.1, 0.2]}, index=["a", "b"])
    assert results.rounded(table) == {"a": {"value": 0.123457, "low": 0.1}, "b": {"low": 0.2}}


def test_maps_and_spoilt_pictures_lie_beside_the_predictions(folder):
    assert explain.read_maps(folder, "brain_tumor").empty
    assert results.read_robustness(folder) == {}
    scores = {"path": "a.jpg", "patient": "p", "group": "g", "label": "glioma", "fold": 0,
              "answer": "glioma", "dice": 0.7, "outline_peak_inside": True,
              "heat_peak_inside": False, "peak_x": 0.5, "peak_y": 0.5, "outline": "[]"}  # fmt: skip
    for fold in (0, 1):
        write(pd.DataFrame([scores | {"fold": fold}]), folder.parent / "maps",
              f"brain_tumor_patient{fold}.csv")  # fmt: skip
    found = explain.read_maps(folder, "brain_tumor")
    assert found["fold"].tolist() == [0, 1] and found["heat_peak_inside"].tolist() == [False] * 2
    spoilt = {"corruption": ["clean", "blur"], "strength 1": [np.nan, 0.8], "mean": [0.9, 0.8]}
    table = pd.DataFrame(spoilt).assign(model="brain_tumor", pictures=5, seed=0)
    write(table, folder.parent, "robustness.csv")
    found = results.read_robustness(folder)
    assert found["brain_tumor"].loc["blur", "strength 1"] == 0.8


def test_a_history_without_validation_leaves_its_numbers_out():
    history = pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.4], "validation_loss": [np.nan] * 2})
    last = results.last_epochs({"patient": {"one": history}})
    assert last == {"one": {"epoch": 2.0, "loss": 0.4}}
