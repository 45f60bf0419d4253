"""Evaluation: right numbers, honest intervals, errors that help, ten ways to degrade an image."""

import doctest
import importlib
import pkgutil
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from scipy import ndimage

from brainlib import CLASS_NAMES, evaluation, paths
from brainlib.data import datasets, phantom, splits
from brainlib.evaluation import METRICS, corruptions, metrics
from brainlib.evaluation.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from brainlib.notebook import runs
from brainlib.paths import BrainlibError

CLASSES = list(CLASS_NAMES)


def make_table(labels, values, groups=None):
    """Return a prediction table for numbers of classes and probabilities."""
    rows = np.arange(len(labels))
    groups = rows if groups is None else np.asarray(groups)
    table = pd.DataFrame(np.asarray(values, float), columns=CLASSES)
    return table.assign(
        path=[f"image_{row:05}.jpg" for row in rows],
        patient=[f"P{group:04}" for group in groups],
        group=[f"group_{group:04}" for group in groups],
        label=np.array(CLASSES)[labels],
        fold=groups % 5,
    )


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def random_table(seed=0, images=600, groups=120, skill=2.0):
    """Return predictions of some skill for patients of several images."""
    generator = np.random.default_rng(seed)
    group = generator.integers(0, groups, images)
    truth = generator.integers(0, 4, groups)[group]
    logits = generator.normal(size=(images, 4)) + skill * np.eye(4)[truth]
    return make_table(truth, softmax(logits), group)


def with_ties(table, decimals):
    values = table[CLASSES].round(decimals).clip(lower=0.02)
    return table.assign(**values.div(values.sum(axis=1), axis=0))


@pytest.fixture
def table():
    return random_table()


def test_a_written_table_is_read_back_with_its_names_as_text(tmp_path, table):
    table.loc[0, ["patient", "group", "path"]] = ["", "007", "NA"]
    table.to_csv(tmp_path / "predictions.csv", index=False)
    read = evaluation.read_predictions(tmp_path / "predictions.csv")
    assert read.loc[0, ["patient", "group", "path"]].tolist() == ["", "007", "NA"]
    np.testing.assert_allclose(evaluation.probabilities(read), evaluation.probabilities(table))
    assert evaluation.label_codes(read).tolist() == evaluation.label_codes(table).tolist()


def spoil(column, value):
    return lambda t: t.assign(**{column: t[column].astype(object).where(t.index != 2, value)})


SPOILED = {
    "a column is missing": (lambda t: t.drop(columns=["fold", "glioma"]), "no column fold, glioma"),
    "no rows": (lambda t: t.iloc[:0], "no rows"),
    "an unknown label": (spoil("label", "tumor"), "unknown label.*image_00002"),
    "an image twice": (spoil("path", "image_00005.jpg"), "more than one row for 1 images"),
    "no path": (spoil("path", ""), "no path"),
    "no group": (spoil("group", ""), r"no group for 1 images \(image_00002"),
    "a cut patient": (spoil("group", "other"), "patients in more than one group"),
    "half a fold": (spoil("fold", 0.5), "no fold for 1 images"),
    "no probability": (spoil("glioma", ""), "missing or infinite.*image_00002"),
    "logits": (spoil("glioma", -3.0), "outside 0 to 1.*not logits"),
    "no sum of 1": (spoil("glioma", 1.0), "do not sum to 1 for 1 images.*softmax"),
    "no csv": (lambda t: pd.DataFrame(), "cannot be read"),
    "no file": (lambda t: None, "cannot be read"),
}


@pytest.mark.parametrize(("change", "message"), SPOILED.values(), ids=SPOILED.keys())
def test_a_spoiled_file_is_refused_by_name_and_reason(tmp_path, table, change, message):
    file, spoiled = tmp_path / "spoiled.csv", change(table)
    if spoiled is not None:
        spoiled.to_csv(file, index=False)
    with pytest.raises(BrainlibError, match=message) as caught:
        evaluation.read_predictions(file)
    assert str(file) in str(caught.value)


def test_slices_of_a_patient_are_averaged_and_the_group_stands_for_an_unknown_patient():
    values = [[0.9, 0.1, 0, 0], [0.3, 0.7, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0.6, 0.4]]
    table = make_table([0, 0, 1, 2, 2], values, [0, 0, 0, 1, 1])
    table.loc[3:, "patient"] = np.nan
    patients = evaluation.per_patient(table)
    evaluation.check_predictions(patients)
    assert patients["path"].tolist() == ["P0000/glioma", "P0000/meningioma", "group_0001"]
    assert patients["images"].tolist() == [2, 1, 2]
    expected = [[0.6, 0.4, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.8, 0.2]]
    np.testing.assert_allclose(patients[CLASSES], expected)
    same_name = make_table([0, 0], [[1, 0, 0, 0]] * 2).assign(patient=["7", ""], group=["g", "7"])
    assert len(evaluation.per_patient(same_name)) == 2


def test_tumor_type_is_asked_among_tumors_of_one_source_only():
    values = [[0.2, 0.1, 0.6, 0.1], [0, 0, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    table = make_table([0, 1, 2, 3], values)
    table["source"] = ["figshare", "figshare", "figshare", "sartaj"]
    tumors = evaluation.restrict_to_tumors(table)
    np.testing.assert_allclose(tumors[CLASSES], [[0.5, 0.25, 0, 0.25], [1 / 3, 1 / 3, 0, 1 / 3]])
    with pytest.raises(BrainlibError, match="no column source"):
        evaluation.restrict_to_tumors(table.drop(columns="source"))


def sklearn_metrics(table, weights):
    """Return what scikit-learn says, with weights of the images."""
    truth, values = evaluation.label_codes(table), evaluation.probabilities(table)
    predicted, one_hot = values.argmax(axis=1), np.eye(4)[truth]
    given = {"sample_weight": weights}
    say = sklearn.metrics
    alarm = -values[:, 2]
    false_alarms, hits, _ = say.roc_curve(truth != 2, alarm, drop_intermediate=False, **given)
    expected = {
        "accuracy": say.accuracy_score(truth, predicted, **given),
        "balanced_accuracy": say.balanced_accuracy_score(truth, predicted, **given),
        "macro_f1": say.f1_score(truth, predicted, average="macro", **given),
        "log_loss": say.log_loss(truth, values, **given),
        "brier_score": np.average(((values - one_hot) ** 2).sum(axis=1), weights=weights),
        "macro_auroc": say.roc_auc_score(one_hot, values, average="macro", **given),
        "tumor_sensitivity_at_99_specificity": hits[false_alarms <= 0.01 + 1e-12].max(),
    }
    for index, name in enumerate(CLASSES):
        is_class, is_called = truth == index, predicted == index
        negative = ~is_class, ~is_called
        expected |= {
            f"sensitivity_{name}": say.recall_score(is_class, is_called, **given),
            f"positive_predictive_value_{name}": say.precision_score(is_class, is_called, **given),
            f"specificity_{name}": say.recall_score(*negative, **given),
            f"negative_predictive_value_{name}": say.precision_score(*negative, **given),
            f"f1_{name}": say.f1_score(is_class, is_called, **given),
            f"auroc_{name}": say.roc_auc_score(is_class, values[:, index], **given),
        }
    return expected


@pytest.mark.parametrize("decimals", [1, 12])
@pytest.mark.parametrize("seed", range(2))
def test_metrics_agree_with_scikit_learn(seed, decimals):
    table = with_ties(random_table(seed, images=400), decimals)
    generator = np.random.default_rng(seed)
    weights = np.stack([np.ones(400), generator.integers(0, 4, 400), generator.random(400)])
    ours = [name for name, metric in METRICS.items() if hasattr(metric, "weighted")]
    values = metrics.weighted_metrics(table, weights, ours)
    for row, weight in zip(values, weights, strict=True):
        expected = sklearn_metrics(table, weight)
        assert set(ours) - set(expected) == {"calibration_error"}
        result = dict(zip(ours, row, strict=True))
        assert {name: result[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert list(evaluation.point_metrics(table, ours).values()) == pytest.approx(values[0].tolist())


def test_calibration_error_is_the_gap_in_equal_mass_bins():
    table = random_table(3, images=450)
    confidence = table[CLASSES].max(axis=1).to_numpy()
    bins = np.argsort(confidence).reshape(15, 30)
    correct = evaluation.is_correct(table)
    expected = np.abs(correct[bins].mean(axis=1) - confidence[bins].mean(axis=1)).mean()
    assert evaluation.point_metrics(table)["calibration_error"] == pytest.approx(expected)
    rows = evaluation.reliability(table, resamples=10)
    gaps = (rows["accuracy"] - rows["confidence"]).abs()
    assert np.average(gaps, weights=rows["images"]) == pytest.approx(expected)
    values = [[0.5, 0.3, 0.1, 0.1], [0.6, 0.4, 0, 0], [0.4, 0.6, 0, 0]]
    tied = evaluation.reliability(make_table([0, 0, 0], values), bins=2, resamples=10)
    assert tied["images"].tolist() == [1, 2]


def test_absent_classes_are_not_a_number_and_left_out_of_means():
    values = evaluation.point_metrics(make_table([0, 0, 1], [[0.8, 0.2, 0, 0], [0.4, 0.6, 0, 0],
                                                             [0, 1, 0, 0]]))  # fmt: skip
    for name in ("sensitivity_notumor", "auroc_pituitary", "positive_predictive_value_pituitary",
                 "f1_pituitary", "tumor_sensitivity_at_99_specificity"):  # fmt: skip
        assert np.isnan(values[name])
    assert values["balanced_accuracy"] == pytest.approx(0.75)
    assert values["macro_f1"] == pytest.approx(2 / 3) and values["macro_auroc"] == 1
    wrong = evaluation.point_metrics(make_table([0, 1], [[0, 1, 0, 0], [0, 1, 0, 0]]))
    assert wrong["log_loss"] == pytest.approx(-np.log(1e-12) / 2)


def test_a_metric_from_outside_is_resampled_like_ours(table, monkeypatch):
    monkeypatch.setitem(METRICS, "theirs", lambda y, p: -np.log(p[np.arange(len(p)), y]).mean())
    rows = evaluation.metrics_with_intervals(table, 50, metrics=["log_loss", "theirs"])
    np.testing.assert_allclose(rows.loc["theirs"], rows.loc["log_loss"])
    other = random_table(1).assign(path=table["path"], label=table["label"], group=table["group"])
    ours, theirs = (evaluation.compare(table, other, m, 50) for m in ("log_loss", "theirs"))
    assert ours == pytest.approx(theirs)


def test_confusion_report_and_errors_tell_the_same_story(table):
    truth, predicted = evaluation.label_codes(table), evaluation.probabilities(table).argmax(axis=1)
    expected = sklearn.metrics.confusion_matrix(truth, predicted)
    np.testing.assert_array_equal(evaluation.confusion(table), expected)
    sensitivity = evaluation.class_report(table)["sensitivity"]
    np.testing.assert_allclose(sensitivity, np.diag(expected) / expected.sum(axis=1))
    errors = evaluation.most_confused(table, count=1000)
    assert len(errors) == expected.sum() - np.trace(expected)
    assert errors["probability"].is_monotonic_decreasing


def test_intervals_hold_their_values_and_repeat_with_the_seed(table):
    first = evaluation.metrics_with_intervals(table, resamples=200, seed=1)
    assert list(first.index) == list(METRICS)
    assert ((first["low"] <= first["value"]) & (first["value"] <= first["high"])).all()
    chosen = ["macro_f1", "accuracy"]
    some = evaluation.metrics_with_intervals(table, resamples=200, seed=1, metrics=chosen)
    pd.testing.assert_frame_equal(some, first.loc[chosen])
    with pytest.raises(BrainlibError, match="no metric acuracy: choose from accuracy"):
        evaluation.metrics_with_intervals(table, metrics=["acuracy"])


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Accuracy 0.75, each patient's images all right or all wrong, 50 patients of 4."""
    covered = {"by group": 0, "by image": 0}
    for seed in range(100):
        correct = np.repeat(np.random.default_rng(seed).random(50) < 0.75, 4)
        values = np.where(correct[:, np.newaxis], [0.9, 0.1, 0, 0], [0.1, 0.9, 0, 0])
        table = make_table(np.zeros(200, int), values, np.repeat(np.arange(50), 4))
        by_image = table.assign(group=table["path"], patient="")
        for name, data in (("by group", table), ("by image", by_image)):
            row = evaluation.metrics_with_intervals(data, 200, metrics=["accuracy"]).iloc[0]
            covered[name] += row["low"] <= 0.75 <= row["high"]
    assert 88 <= covered["by group"] <= 99 and covered["by image"] < 80
    groups = np.arange(40) % 20
    perfect = make_table(groups % 4, np.eye(4)[groups % 4], groups)
    few = evaluation.metrics_with_intervals(perfect, resamples=50)
    assert few.loc["accuracy"].tolist() == pytest.approx([1, 0.025 ** (1 / 20), 1])
    assert few.loc["sensitivity_glioma", "low"] == pytest.approx(0.025 ** (1 / 5))
    assert few.loc["specificity_glioma", "low"] == pytest.approx(0.025 ** (1 / 15))
    single = evaluation.metrics_with_intervals(random_table(0, 30, groups=1), resamples=20)
    assert single[["low", "high"]].isna().all(axis=None)


def test_calibration_error_of_a_calibrated_model_may_be_mere_noise():
    """Plain percentiles would begin near the value, where the truth is 0."""
    rows = []
    for seed in range(12):
        generator = np.random.default_rng(seed)
        values = softmax(2 * generator.normal(size=(2000, 4)))
        drawn = (values.cumsum(axis=1) > generator.random((2000, 1))).argmax(axis=1)
        table = make_table(drawn, values)
        rows += [evaluation.metrics_with_intervals(table, 200, metrics=["calibration_error"])]
    value, low, high = pd.concat(rows)[["value", "low", "high"]].to_numpy().T
    assert (low >= 0).all() and ((low <= value) & (value <= high)).all()
    assert low.mean() < 0.5 * value.mean()


def test_breakdown_counts_images_and_groups(table):
    table = table.assign(plane=["axial"] * 250 + [""] * 350, source="figshare")
    rows = evaluation.break_down(table, resamples=300)
    counts = {"source figshare": 600, "plane axial": 250, "plane unknown": 350}
    assert rows["images"].iloc[:3].to_dict() == counts
    assert rows.loc["plane axial", "groups"] == table["group"].iloc[:250].nunique()
    expected = evaluation.metrics_with_intervals(table, 300, metrics=["accuracy"]).iloc[0].tolist()
    whole = rows.loc["source figshare", ["accuracy", "low", "high"]].tolist()
    assert whole == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("coverage", [0.95, 0.8])
def test_sets_cover_each_class_as_promised(coverage):
    coverages = []
    for seed in range(40):
        images = random_table(seed, images=4000, groups=4000, skill=1.5)
        tested = images.iloc[2000:]
        thresholds = evaluation.fit_conformal(images.iloc[:2000], coverage)
        sets = evaluation.conformal_sets(tested, thresholds)
        coverages.append(evaluation.describe_sets(tested, sets, resamples=20)["coverage"])
    mean = pd.concat(coverages, axis=1).mean(axis=1)
    assert list(mean.index) == [*CLASSES, "all"]
    np.testing.assert_allclose(mean, coverage, atol=0.015)  # four standard errors at 0.2


def test_thresholds_are_finite_sample_quantiles():
    def scored_gliomas(count):
        scores = np.arange(1, count + 1) / (count + 1)
        return make_table([0] * count, np.stack([1 - scores, scores, *[0 * scores] * 2], 1))

    table = scored_gliomas(19)  # at 0.9 the 18th smallest score
    thresholds = evaluation.fit_conformal(table, 0.9)
    assert thresholds["glioma"] == pytest.approx(18 / 20)
    assert thresholds["notumor"] == 1  # no image to learn from: in every set
    assert evaluation.conformal_sets(table, thresholds)["glioma"].sum() == 18
    assert evaluation.fit_conformal(table.iloc[:8], 0.9)["glioma"] == 1
    # 150 * 0.82 is 123, and a little more in floats
    assert evaluation.fit_conformal(scored_gliomas(149), 0.82)["glioma"] == pytest.approx(0.82)


@pytest.mark.parametrize("with_validation", [True, False])
def test_a_fold_is_never_calibrated_on_its_own_test_images(with_validation):
    test, validation = random_table(0, 1200), random_table(1, 1200) if with_validation else None
    plain = evaluation.cross_conformal(test, validation, 0.9)
    rows = test["fold"] == 2
    relabelled = test.assign(label=test["label"].mask(rows, "glioma"))
    other = evaluation.cross_conformal(relabelled, validation, 0.9)
    pd.testing.assert_frame_equal(plain[rows], other[rows])
    assert plain[~rows].equals(other[~rows]) == with_validation
    if with_validation:  # a fold takes the validation images of its own
        labels = validation["label"].mask(validation["fold"] == 2, "glioma")
        spoiled = validation.assign(label=labels)
        changed = (evaluation.cross_conformal(test, spoiled, 0.9) != plain).any(axis=1)
        assert set(test["fold"][changed]) == {2}
        with pytest.raises(BrainlibError, match="fold 3 on: give its validation table"):
            evaluation.cross_conformal(test, validation[validation["fold"] != 3])


def test_a_better_model_is_told_from_a_worse_one():
    good, poor = random_table(6, skill=3.0), random_table(6, skill=1.0)
    result = evaluation.compare(good, poor, resamples=200)
    assert evaluation.compare(good, poor.sample(frac=1, random_state=0), resamples=200) == result
    accuracies = [evaluation.point_metrics(data)["accuracy"] for data in (good, poor)]
    assert [result["first"], result["second"]] == pytest.approx(accuracies)
    assert 0 < result["low"] < result["difference"] < result["high"]
    assert result["p_value"] < 1e-6 and result["p_value_groups"] < 1e-6
    assert (result["images"], result["groups"]) == (len(good), good["group"].nunique())
    same = evaluation.compare(good, good, "macro_f1", resamples=50)
    assert (same["difference"], same["low"], same["high"], same["p_value"]) == (0, 0, 0, 1)
    right, wrong = [0.8, 0.2, 0, 0], [0.2, 0.8, 0, 0]
    first = make_table([0] * 10, [right] * 8 + [wrong] * 2)
    second = make_table([0] * 10, [wrong] * 6 + [right] * 3 + [wrong])
    exact = evaluation.compare(first, second, resamples=10)
    assert exact["p_value"] == pytest.approx(2 * (1 + 7) / 2**7)
    with pytest.raises(BrainlibError, match=r"the second lacks 3 images.*image_00000\.jpg, im"):
        evaluation.compare(good, good.iloc[3:])
    with pytest.raises(BrainlibError, match="disagree on the label of"):
        evaluation.compare(good, good.assign(label="glioma"))


def test_the_order_of_rows_changes_nothing():
    table = with_ties(random_table(7, images=300), decimals=1)
    shuffled = table.sample(frac=1, random_state=1)
    resampled = (evaluation.metrics_with_intervals, evaluation.break_down, evaluation.reliability)
    for function in (
        *(partial(function, resamples=100) for function in resampled),
        lambda t: evaluation.describe_sets(t, evaluation.cross_conformal(t), resamples=100),
        evaluation.most_confused, evaluation.per_patient, evaluation.risk_coverage,
    ):  # fmt: skip
        pd.testing.assert_frame_equal(function(table), function(shuffled))


def test_examples_in_the_docstrings_are_true():
    for found in pkgutil.iter_modules(evaluation.__path__, "brainlib.evaluation."):
        module = importlib.import_module(found.name)
        result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
        assert result.failed == 0 and result.attempted > 0


def fold_table(fold=0, images=80, seed=0, skill=2.0, prefix="", twins=False):
    """Make a prediction table of groups of two images, right more often than not."""
    rows = np.arange(images)
    logits = np.random.default_rng([seed, fold]).normal(size=(images, 4))
    logits += skill * np.eye(4)[rows // 2 % 4]
    names = np.array([f"{prefix}{fold}-{row // 2}" for row in rows])
    table = make_table(rows // 2 % 4, softmax(logits)).assign(patient=names, group=names, fold=fold)
    table["path"] = [f"{name}-{row % 2}.jpg" for row, name in enumerate(names)]
    return table.assign(twin_in_training=rows % 4 == 0) if twins else table


def write(table, folder, name, **options):
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / name, index=False, **options)
    return folder / name


@pytest.fixture
def folder(tmp_path):
    """Write the tables of two models: one with its folds apart, one with all folds in one."""
    folder = tmp_path / "predictions"
    for fold in range(5):
        write(fold_table(fold), folder, f"seed_cnn_patient{fold}.test.csv")
        write(fold_table(fold, prefix="v"), folder, f"seed_cnn_patient{fold}.validation.csv")
    write(fold_table(twins=True), folder, "seed_cnn_official.test.csv")
    together = pd.concat([fold_table(fold, skill=1.0) for fold in range(5)])
    write(together, folder, "a_shortcut_patient.test.csv")
    write(fold_table(twins=True, skill=1.0), folder, "a_shortcut_official.test.csv")
    return folder


def test_the_folds_of_a_model_become_one_table_beside_the_other_protocols(folder):
    tables = evaluation.read_tables(folder, models=("lesion_net", "seed_cnn"))
    assert list(tables) == ["seed_cnn", "a_shortcut"]
    for by_protocol in tables.values():
        assert tuple(by_protocol) == splits.PROTOCOLS
        assert (by_protocol["patient"]["fold"].value_counts().sort_index() == [80] * 5).all()
        official, unseen = by_protocol["official"], by_protocol["deduplicated"]
        assert set(unseen["path"]) == set(official.loc[~official["twin_in_training"], "path"])
    validation = evaluation.read_tables(folder, "validation")
    assert list(validation) == ["seed_cnn"]
    assert validation["seed_cnn"]["patient"]["path"].str.startswith("v").all()
    del by_protocol["patient"]
    assert evaluation.preferred_protocol(by_protocol) == "official"


def test_a_folder_that_does_not_fit_is_refused_by_name(folder, tmp_path):
    with pytest.raises(BrainlibError, match="02_train") as refused:
        evaluation.read_tables(tmp_path)
    assert str(tmp_path) in str(refused.value)
    images = evaluation.read_tables(folder)["seed_cnn"]["patient"]["path"]
    with pytest.raises(BrainlibError, match="does not hold 1 images"):
        evaluation.read_tables(folder, images=images.iloc[1:])
    write(fold_table(0), folder, "seed_cnn_patient.test.csv")  # the fold is there already
    with pytest.raises(BrainlibError, match="more than one row"):
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
    with pytest.raises(BrainlibError, match=message) as refused:
        evaluation.read_tables(file)
    assert "theirs.csv" in str(refused.value)


def test_a_single_table_with_its_own_labels_needs_no_reference(tmp_path):
    file = write(fold_table(), tmp_path, "mine.test.csv")
    tables = evaluation.read_tables(file, models=("lesion_net",))
    assert list(tables) == ["mine"]
    pd.testing.assert_series_equal(tables["mine"]["patient"]["label"], fold_table()["label"])


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
        names = {name: [runs.run_name(model, name, fold=0)] for name in splits.PROTOCOLS}
        for images, [name] in enumerate(names.values(), 8):
            write(history, tmp_path, f"{name}.history.csv")
            write(fold_table(images=images, twins=True), tmp_path, f"{name}.test.csv")
        histories = evaluation.read_histories(tmp_path, model)
        assert {protocol: list(read) for protocol, read in histories.items()} == names
        tables = evaluation.read_tables(tmp_path)[model]
        assert [len(table) for table in tables.values()] == [8, 9, 10]


SIZE = 128
RANDOM = ("motion", "ghosting", "bias_field", "noise", "contrast", "rotation")


@pytest.fixture(scope="module")
def image():
    return phantom.simulate_patient("glioma", 0, 1, SIZE)[0].pixels


def distance(pixels, others):
    return np.abs(pixels.astype(float) - others).mean()


def spot(row, column):
    """Draw a white disc on black."""
    rows, columns = np.ogrid[:SIZE, :SIZE]
    return np.where(np.hypot(rows - row, columns - column) < 5, 255, 0).astype(np.uint8)


def centre(pixels):
    """Return where the disc lies from the middle of the image."""
    return np.array(ndimage.center_of_mass(pixels.astype(float))) - (SIZE - 1) / 2


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_shape_and_type_are_kept_and_the_image_is_not_touched(image, name):
    for pixels in (image, image[:, 20:-30], image[40:56, 30:50], np.zeros((16, 40), np.uint8)):
        before = pixels.copy()
        for strength in STRENGTHS:
            corrupted = corrupt(pixels, name, strength, seed=0)
            assert corrupted.shape == pixels.shape and corrupted.dtype == np.uint8
            assert np.array_equal(pixels, before)
            assert pixels.any() or corrupted.max() <= 2  # JPEG rounds the mean of a block


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_corrupts_in_the_same_way_and_stronger_is_worse(image, name):
    first, second, *others = (corrupt(image, name, 3, seed) for seed in (0, 0, *range(1, 9)))
    assert np.array_equal(first, second)
    differs = any(not np.array_equal(first, other) for other in others)
    assert differs == (name in RANDOM)
    for seed in range(4) if name not in ("rotation", "crop") else ():
        corrupted = [corrupt(image, name, strength, seed) for strength in STRENGTHS]
        distances = [distance(image, pixels) for pixels in corrupted]
        assert (np.diff([0, *distances]) > 0).all()
        weak, *_, strong = (np.corrcoef(image.ravel(), c.ravel())[0, 1] for c in corrupted)
        assert weak > 0.95 and 0.7 < strong < 0.99


def test_rotation_turns_further_to_the_same_side_and_crop_spreads_from_the_middle():
    sides = set()
    for seed in range(9):
        turned = [centre(corrupt(spot(64, 100), "rotation", s, seed)) for s in STRENGTHS]
        angles = np.array([np.degrees(np.arctan2(row, column)) for row, column in turned])
        assert np.abs(angles) == pytest.approx([3, 6, 10, 15, 20], abs=1)
        sides |= set(np.sign(angles).tolist())
        assert len(set(np.sign(angles))) == 1
    assert sides == {-1, 1}
    reach = [centre(corrupt(spot(44, 84), "crop", strength, 0)) for strength in STRENGTHS]
    factors = np.array(reach) / centre(spot(44, 84))
    assert factors[:, 0] == pytest.approx(factors[:, 1], rel=0.02)
    assert (np.diff([1, *factors[:, 0]]) > 0).all() and factors.max() < 1 / (1 - 2 / 8)


def test_artefacts_look_like_their_physics(image):
    moved = corrupt(image, "motion", 5, 0)
    assert centre(moved) == pytest.approx(centre(image), abs=1.5)
    ghosts = corrupt(spot(64, 64), "ghosting", 5, seed=0) > 20
    assert ndimage.label(ghosts)[1] == 3
    field = corrupt(np.full((SIZE, SIZE), 100, np.uint8), "bias_field", 5, seed=0).astype(int)
    assert np.ptp(field) > 50 and np.abs(np.diff(field, axis=0)).max() < 20
    half = np.zeros((SIZE, SIZE), np.uint8)
    half[:, 64:] = 200
    air, spread = corrupt(half, "noise", 5, seed=0)[:, :64], 0.14 * 200
    assert air.mean() == pytest.approx(spread * np.sqrt(np.pi / 2), rel=0.03)  # Rayleigh
    edge = np.zeros((SIZE, SIZE), np.uint8)
    edge[:, 32:96] = 150
    assert corrupt(edge, "low_resolution", 5, 0).max() > 155  # it rings
    assert corrupt(edge, "blur", 5, 0).max() <= 150


def knows(clean, limit=0):
    """Give a predictor that is right about images at most so far from the clean ones."""
    return lambda images: np.eye(4)[
        [0 if distance(*pair) <= limit else 3 for pair in zip(images, clean, strict=True)]
    ]


def test_robustness_of_a_predictor_with_a_known_answer(image):
    images = [np.zeros((16, 30), np.uint8), np.full((60, 60), 255, np.uint8), image]
    names = ("blur", "contrast", "rotation")  # only the last can touch a white image
    table = corruptions.robustness(knows(images), images, [0, 0, 0], names=names)
    assert table.index.tolist() == ["clean", *names] and table.index.name == "corruption"
    assert table.columns.tolist() == [*(f"strength {number}" for number in STRENGTHS), "mean"]
    assert table["mean"].tolist() == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3])
    assert table.loc["clean"].isna().tolist() == [True] * 5 + [False]
    assert corruptions.accuracy_kept(table) == pytest.approx(5 / 9)
    limit = distance(image, corrupt(image, "blur", 2, seed=0))
    table = corruptions.robustness(knows([image], limit), [image], [0], names=["blur"])
    assert table.loc["blur"].tolist() == pytest.approx([1, 1, 0, 0, 0, 0.4])


def test_every_predictor_sees_the_same_images_and_each_is_corrupted_in_its_own_way(image):
    corrupted = []

    def predict(images):
        if not np.array_equal(images[0], image):
            corrupted.append(np.stack(images))
        return np.eye(4)[[0] * len(images)]

    for count, seed in ((2, 0), (3, 0), (2, 1)):
        corruptions.robustness(predict, [image] * count, [0] * count, seed, ["noise"], [2])
    assert np.array_equal(corrupted[0], corrupted[1][:2])
    assert not np.array_equal(corrupted[0], corrupted[2])
    assert not np.array_equal(corrupted[0][0], corrupted[0][1])
