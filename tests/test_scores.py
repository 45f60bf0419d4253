"""Scores of all models: tables read once and in order, nothing lost on the way to metrics.json."""

import re

import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES, evaluation, paths
from brainlib.data import datasets, splits
from brainlib.notebook import runs

CLASSES = list(CLASS_NAMES)


def make_table(fold=0, images=80, seed=0, skill=2.0, prefix="", twins=False):
    """Make a prediction table of groups of two images, right more often than not."""
    random = np.random.default_rng([seed, fold])
    labels = np.arange(images) // 2 % 4
    logits = random.normal(size=(images, 4))
    logits[np.arange(images), labels] += skill
    names = [f"{prefix}{fold}-{row // 2}" for row in range(images)]
    table = pd.DataFrame({
        "path": [f"{name}-{row % 2}.jpg" for row, name in enumerate(names)],
        "patient": names,
        "group": names,
        "label": np.take(CLASSES, labels),
        "fold": fold,
    })  # fmt: skip
    table[CLASSES] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return table.assign(twin_in_training=np.arange(images) % 4 == 0) if twins else table


def write(table, folder, name, **options):
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / name, index=False, **options)
    return folder / name


@pytest.fixture
def folder(tmp_path):
    """Write the tables of two models: one with its folds apart, one with all folds in one."""
    folder = tmp_path / "predictions"
    for fold in range(5):
        write(make_table(fold), folder, f"seed_cnn_patient{fold}.test.csv")
        write(make_table(fold, prefix="v"), folder, f"seed_cnn_patient{fold}.validation.csv")
    write(make_table(twins=True), folder, "seed_cnn_official.test.csv")
    together = pd.concat([make_table(fold, skill=1.0) for fold in range(5)])
    write(together, folder, "a_shortcut_patient.test.csv")
    write(make_table(twins=True, skill=1.0), folder, "a_shortcut_official.test.csv")
    return folder


def test_the_folds_of_a_model_become_one_table_beside_the_other_protocols(folder):
    tables = evaluation.read_tables(folder, models=("lesion_net", "seed_cnn"))
    assert list(tables) == ["seed_cnn", "a_shortcut"]
    for by_protocol in tables.values():
        assert tuple(by_protocol) == splits.PROTOCOLS
        assert by_protocol["patient"]["fold"].value_counts().to_dict() == dict.fromkeys(
            range(5), 80
        )
        official, unseen = by_protocol["official"], by_protocol["deduplicated"]
        assert set(unseen["path"]) == set(official.loc[~official["twin_in_training"], "path"])
    validation = evaluation.read_tables(folder, "validation")
    assert list(validation) == ["seed_cnn"]
    assert validation["seed_cnn"]["patient"]["path"].str.startswith("v").all()
    del by_protocol["patient"]
    assert evaluation.preferred_protocol(by_protocol) == "official"


def test_a_folder_that_does_not_fit_is_refused_by_name(folder, tmp_path):
    with pytest.raises(paths.BrainlibError, match="02_train") as refused:
        evaluation.read_tables(tmp_path)
    assert str(tmp_path) in str(refused.value)
    images = evaluation.read_tables(folder)["seed_cnn"]["patient"]["path"]
    with pytest.raises(paths.BrainlibError, match="does not hold 1 images"):
        evaluation.read_tables(folder, images=images.iloc[1:])
    write(make_table(0), folder, "seed_cnn_patient.test.csv")  # the fold is there already
    with pytest.raises(paths.BrainlibError, match="more than one row"):
        evaluation.read_tables(folder)


@pytest.fixture(scope="module")
def foreign():
    """Make what another framework would give for the published folds: path and probabilities."""
    known = splits.benchmark()
    random = np.random.default_rng(0)
    values = random.dirichlet(np.ones(4), len(known))
    values[np.arange(len(known)), known["label"].map(CLASSES.index)] += 0.3
    table = pd.DataFrame(values / values.sum(axis=1, keepdims=True), columns=CLASSES)
    return table.assign(path=known["path"]).sample(frac=1, random_state=0)


def test_a_table_of_another_framework_is_compared_with_the_published_networks(foreign, tmp_path):
    file = write(foreign, tmp_path, "theirs.test.csv", float_format="%.5f")
    networks = ("lesion_net", "seed_cnn")
    tables = evaluation.read_tables(file, models=networks)
    assert list(tables) == ["theirs", *networks]
    table = tables["theirs"]["patient"]
    assert table["path"].tolist() == foreign["path"].tolist()
    assert (table["label"] == table["path"].str.split("/").str[1]).all()
    correct = evaluation.is_correct(table)
    scores = evaluation.score_tables(tables, 100, detailed=["theirs"])
    accuracy = scores["theirs"]["patient"]["accuracy"]
    assert accuracy["value"] == pytest.approx(correct.mean(), abs=1e-6)
    assert accuracy["low"] < correct.mean() < accuracy["high"]
    compared = evaluation.compare_with_others(tables, "theirs")
    assert compared.index.tolist() == list(networks)
    assert (compared["low"] < compared["difference"]).all()
    assert (compared["difference"] < compared["high"]).all()
    published = scores["lesion_net"]["patient"]["accuracy"]["value"]
    difference = correct.mean() - published
    assert compared.loc["lesion_net", "difference"] == pytest.approx(difference, abs=1e-6)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.iloc[2:], "with the published reference, .* lacks 2 images"),
        (lambda table: pd.concat([table, table.head(1).assign(path="mine/1.jpg")]),
         "lacks 1 images"),
        (lambda table: pd.concat([table, table.head(1)]), "more than one row for 1 images"),
        (lambda table: splits.benchmark().merge(table).assign(label="glioma"),
         "disagree on the label"),
        (lambda table: table.drop(columns="notumor"), "has no column notumor"),
    ],
)  # fmt: skip
def test_a_table_of_another_framework_that_does_not_fit_is_refused(
    foreign, tmp_path, spoil, message
):
    file = write(spoil(foreign.reset_index(drop=True)), tmp_path, "theirs.csv")
    with pytest.raises(paths.BrainlibError, match=message) as refused:
        evaluation.read_tables(file)
    assert "theirs.csv" in str(refused.value)


def test_a_single_table_with_its_own_labels_needs_no_reference(tmp_path):
    file = write(make_table(), tmp_path, "mine.test.csv")
    tables = evaluation.read_tables(file, models=("lesion_net",))
    assert list(tables) == ["mine"]
    pd.testing.assert_series_equal(tables["mine"]["patient"]["label"], make_table()["label"])


def test_networks_are_scored_in_full_and_others_by_their_headline(folder):
    tables = evaluation.read_tables(folder, models=["seed_cnn"])
    scores = evaluation.score_tables(tables, 100, detailed=["seed_cnn"])
    assert set(scores["seed_cnn"]["patient"]) == {"images", "groups", *evaluation.METRICS}
    headline = {"images", "groups", *evaluation.scores.HEADLINE}
    assert set(scores["a_shortcut"]["patient"]) == headline
    shown = evaluation.headline(scores)
    cell = shown.loc[("seed_cnn", "patient"), "accuracy"]
    accuracy = scores["seed_cnn"]["patient"]["accuracy"]
    numbers = [float(number) for number in re.findall(r"\d\.\d+", cell)]
    assert numbers == [round(accuracy[name], 3) for name in ("value", "low", "high")]
    assert shown.loc[("seed_cnn", "deduplicated"), "n"] == 60
    by_patient = evaluation.patient_tables(tables)["seed_cnn"]
    assert len(by_patient["patient"]) == 5 * 40
    assert evaluation.tumor_type_tables(tables) == {}  # they do not know their sources


def test_look_alikes_and_robustness_are_read_from_beside_the_predictions(folder, tmp_path):
    table = evaluation.read_tables(folder)["seed_cnn"]["patient"]
    assert evaluation.without_look_alikes(table, folder).empty, "nobody listed them"
    assert evaluation.read_robustness(folder) == {}
    first, second, *others = table["path"]
    write(pd.DataFrame({"first": [first], "second": [second]}), folder.parent, "look_alikes.csv")
    assert evaluation.without_look_alikes(table, folder)["path"].tolist() == others
    published = pd.read_csv(paths.project_root() / "model/look_alikes.csv")
    listed, images = {*published["first"], *published["second"]}, splits.benchmark()
    kept = evaluation.without_look_alikes(images, tmp_path / "elsewhere" / "theirs.csv")["path"]
    assert len(kept) == len(images) - len(listed) and not listed & set(kept)
    rows = {"corruption": ["clean", "blur"], "strength 1": [np.nan, 0.8], "mean": [0.9, 0.8]}
    robustness = pd.DataFrame(rows).assign(model="lesion_net", images=5, seed=0)
    write(robustness, folder.parent, "robustness.csv")
    assert evaluation.read_robustness(folder)["lesion_net"].loc["blur", "strength 1"] == 0.8


def test_sections_of_metrics_are_replaced_and_those_of_another_source_go(tmp_path):
    run = runs.start("03_evaluate", {"output": str(tmp_path)})
    run.update_metrics(results={"a": 1}, audit={"pairs": 3}, conformal={"all": 1})
    document = run.update_metrics(results={"b": 2}, conformal={})
    assert document == {"results": {"b": 2}, "audit": {"pairs": 3}}
    assert evaluation.read_metrics(tmp_path) == document
    table = pd.DataFrame({"source": ["theirs"]})
    run.collection = datasets.Collection("theirs", "", tmp_path, table, "nothing")
    document = run.update_metrics(theirs={"a": 1})
    assert document == {"source": "theirs", "synthetic": False, "theirs": {"a": 1}}
    run.collection = None
    assert run.update_metrics(timed={"b": 2}) == document | {"timed": {"b": 2}}


def test_what_is_missing_is_left_out_of_metrics_and_no_run_taken_for_another(tmp_path):
    table = pd.DataFrame({"value": [0.123456789, np.nan], "low": [0.1, 0.2]}, index=["a", "b"])
    assert evaluation.rounded(table) == {"a": {"value": 0.123457, "low": 0.1}, "b": {"low": 0.2}}
    history = pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.4], "validation_loss": [np.nan] * 2})
    for model in ("my_patient_net", "mine_wide", "mine2", "mine"):
        names = {
            protocol: [runs.run_name(model, protocol, fold=0)] for protocol in splits.PROTOCOLS
        }
        for images, [name] in enumerate(names.values(), 8):
            write(history, tmp_path, f"{name}.history.csv")
            write(make_table(images=images, twins=True), tmp_path, f"{name}.test.csv")
        histories = evaluation.read_histories(tmp_path, model)
        assert {protocol: list(read) for protocol, read in histories.items()} == names
        last = {name: {"epoch": 2.0, "loss": 0.4} for [name] in names.values()}
        assert evaluation.last_epochs(histories) == last
        tables = evaluation.read_tables(tmp_path)[model]
        assert [len(table) for table in tables.values()] == [8, 9, 10]
