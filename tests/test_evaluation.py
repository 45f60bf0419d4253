"""The promises of `brainlib.evaluation`: right numbers, honest intervals, errors that help."""

import doctest
import importlib
import pkgutil

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from brainlib import CLASS_NAMES, evaluation
from brainlib.evaluation import EvaluationError, metrics

CLASSES = list(CLASS_NAMES)


def make_table(labels, values, groups=None):
    """Return a prediction table for labels (names or numbers) and probabilities."""
    labels = np.asarray(labels)
    names = np.array(CLASSES)[labels] if labels.dtype.kind == "i" else labels
    table = pd.DataFrame({"path": [f"picture_{row:05}.jpg" for row in range(len(labels))]})
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    table["patient"] = [f"P{group:04}" for group in groups]
    table["group"] = [f"group_{group:04}" for group in groups]
    table["label"] = names
    table["fold"] = groups % 5
    table[CLASSES] = np.asarray(values, float)
    return table


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def random_table(seed=0, pictures=600, groups=120, skill=2.0, patient_noise=0.0):
    """Return predictions of some skill; `patient_noise` makes a patient's mistakes alike."""
    generator = np.random.default_rng(seed)
    group = generator.integers(0, groups, pictures)
    truth = generator.integers(0, 4, groups)[group]
    logits = generator.normal(size=(pictures, 4)) + skill * np.eye(4)[truth]
    logits += patient_noise * generator.normal(size=(groups, 4))[group]
    return make_table(truth, softmax(logits), group)


def calibrated_table(seed, pictures, spread=2.0):
    """Return pictures whose labels are drawn from the very probabilities they have."""
    generator = np.random.default_rng(seed)
    values = softmax(spread * generator.normal(size=(pictures, 4)))
    truth = (values.cumsum(axis=1) > generator.random((pictures, 1))).argmax(axis=1)
    return make_table(truth, values)


def with_ties(table, decimals):
    values = table[CLASSES].round(decimals).clip(lower=0.02)
    return table.assign(**values.div(values.sum(axis=1), axis=0))


def report_on(table, thresholds, resamples):
    sets = evaluation.conformal_sets(table, thresholds)
    return evaluation.describe_sets(table, sets, resamples)


def perfect_table(pictures=40, groups=20):
    truth = np.arange(pictures) % groups % 4
    return make_table(truth, np.eye(4)[truth], np.arange(pictures) % groups)


# --- tables ------------------------------------------------------------------------------------


@pytest.fixture
def table():
    return random_table()


def test_a_written_table_is_read_back_with_its_names_as_text(tmp_path, table):
    table.loc[0, ["patient", "group", "path"]] = ["", "007", "NA"]
    table.loc[1, ["patient", "group"]] = ["NA", "lone"]
    table.to_csv(tmp_path / "predictions.csv", index=False)
    found = evaluation.read_predictions(tmp_path / "predictions.csv")
    assert found.loc[0, ["patient", "group", "path"]].tolist() == ["", "007", "NA"]
    assert found.loc[1, "patient"] == "NA"
    np.testing.assert_allclose(evaluation.probabilities(found), evaluation.probabilities(table))
    assert evaluation.true_classes(found).tolist() == evaluation.true_classes(table).tolist()


def spoil(column, value):
    def change(table):
        table[column] = table[column].astype(object)
        table.loc[2, column] = value
        return table

    return change


SPOILED = {
    "a column is missing": (lambda t: t.drop(columns=["fold", "glioma"]), "no column fold, glioma"),
    "no rows": (lambda t: t.iloc[:0], "no rows"),
    "an unknown label": (spoil("label", "tumor"), r"unknown labels \(tumor\).*picture_00002"),
    "no label": (spoil("label", ""), "unknown labels"),
    "a picture twice": (spoil("path", "picture_00005.jpg"), "more than one row for 1 pictures"),
    "no path": (spoil("path", ""), "without path"),
    "no group": (spoil("group", ""), r"no group for 1 pictures \(picture_00002"),
    "no probability": (spoil("glioma", ""), "missing or infinite.*picture_00002"),
    "infinite": (spoil("glioma", np.inf), "missing or infinite"),
    "logits": (spoil("glioma", -3.0), "outside 0 to 1.*not logits"),
    "no sum of 1": (spoil("glioma", 1.0), "do not sum to 1 for 1 pictures.*softmax"),
    "text": (spoil("glioma", "high"), "no numbers.*high"),
}


@pytest.mark.parametrize(("change", "message"), SPOILED.values(), ids=SPOILED.keys())
def test_a_spoiled_file_is_refused_by_name_and_reason(tmp_path, table, change, message):
    file = tmp_path / "spoiled.csv"
    change(table).to_csv(file, index=False)
    with pytest.raises(EvaluationError, match=message) as caught:
        evaluation.read_predictions(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("column", ["label", "group", "notumor"])
def test_a_column_that_a_metric_needs_is_named(table, column):
    with pytest.raises(EvaluationError, match=f"no column {column}"):
        evaluation.metrics_with_intervals(table.drop(columns=column))


def test_a_file_that_is_absent_or_no_csv_is_named(tmp_path):
    with pytest.raises(EvaluationError, match=r"absent\.csv does not exist"):
        evaluation.read_predictions(tmp_path / "absent.csv")
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    with pytest.raises(EvaluationError, match=r"empty\.csv cannot be read"):
        evaluation.read_predictions(tmp_path / "empty.csv")


def test_a_patient_in_two_groups_is_refused(table):
    table.loc[[0, 1], "patient"] = "P-torn"
    table.loc[[0, 1], "group"] = ["left", "right"]
    with pytest.raises(EvaluationError, match=r"1 patients in more than one group.*P-torn"):
        evaluation.check_predictions(table)


def test_rounded_probabilities_are_accepted_and_made_to_sum_to_one(table):
    table[CLASSES] = table[CLASSES].round(4)
    values = evaluation.probabilities(table)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values.sum(axis=1), 1, rtol=1e-12)


def test_predictions_of_another_framework_are_completed_from_a_reference(tmp_path, table):
    reference = table.assign(source="figshare").sample(frac=1, random_state=0)
    table[["path", *CLASSES]].to_csv(tmp_path / "bare.csv", index=False)
    with pytest.raises(EvaluationError, match="published patient folds"):
        evaluation.read_predictions(tmp_path / "bare.csv")
    joined = evaluation.read_predictions(tmp_path / "bare.csv", reference)
    assert joined["path"].tolist() == table["path"].tolist()
    assert joined["label"].tolist() == table["label"].tolist()
    assert set(joined["source"]) == {"figshare"}
    assert evaluation.point_metrics(joined) == pytest.approx(evaluation.point_metrics(table))


def test_a_reference_of_other_pictures_is_refused_with_counts_and_names(table):
    with pytest.raises(EvaluationError, match=r"lacks 2 pictures.*picture_00000\.jpg, picture_00"):
        evaluation.join_reference(table.iloc[2:], table)
    with pytest.raises(EvaluationError, match=r"reference lacks 596 pictures.*, …"):
        evaluation.join_reference(table, table.iloc[:4])
    other = table.assign(label=table["label"].replace("glioma", "notumor"))
    with pytest.raises(EvaluationError, match="disagree on the label"):
        evaluation.join_reference(table, other)


def test_slices_of_a_patient_are_averaged_and_the_group_stands_for_an_unknown_patient():
    values = [[0.9, 0.1, 0, 0], [0.3, 0.7, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0.6, 0.4]]
    table = make_table([0, 0, 1, 2, 2], values, [0, 0, 0, 1, 1])
    table.loc[3:, "patient"] = np.nan
    patients = evaluation.per_patient(table)
    evaluation.check_predictions(patients)
    assert patients["path"].tolist() == ["P0000/glioma", "P0000/meningioma", "group_0001"]
    assert patients["pictures"].tolist() == [2, 1, 2]
    np.testing.assert_allclose(
        patients[CLASSES], [[0.6, 0.4, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.8, 0.2]]
    )
    assert patients["label"].tolist() == ["glioma", "meningioma", "notumor"]


def test_a_patient_and_a_group_of_the_same_name_stay_apart():
    table = make_table([0, 1], [[1, 0, 0, 0], [0, 1, 0, 0]])
    table["patient"], table["group"], table["label"] = ["7", ""], ["g", "7"], "glioma"
    assert len(evaluation.per_patient(table)) == 2


def test_tumor_type_is_asked_among_tumors_of_one_source_only():
    values = [[0.2, 0.1, 0.6, 0.1], [0, 0, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    table = make_table([0, 1, 2, 3], values)
    table["source"] = ["figshare", "figshare", "figshare", "sartaj"]
    tumors = evaluation.restrict_to_tumors(table)
    evaluation.check_predictions(tumors)
    np.testing.assert_allclose(tumors[CLASSES], [[0.5, 0.25, 0, 0.25], [1 / 3, 1 / 3, 0, 1 / 3]])
    assert evaluation.point_metrics(tumors)["accuracy"] == 0.5
    with pytest.raises(EvaluationError, match="choose one of figshare, sartaj"):
        evaluation.restrict_to_tumors(table, "br35h")
    with pytest.raises(EvaluationError, match="no column source"):
        evaluation.restrict_to_tumors(table.drop(columns="source"))


# --- metrics -----------------------------------------------------------------------------------


def sklearn_metrics(table, weights):
    """Return what scikit-learn says, with weights of the pictures."""
    truth, values = evaluation.true_classes(table), evaluation.probabilities(table)
    predicted, one_hot = values.argmax(axis=1), np.eye(4)[truth]
    given = {"sample_weight": weights}
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(truth, predicted, **given),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(truth, predicted, **given),
        "macro_f1": sklearn.metrics.f1_score(truth, predicted, average="macro", **given),
        "log_loss": sklearn.metrics.log_loss(truth, values, **given),
        "brier_score": np.average(((values - one_hot) ** 2).sum(axis=1), weights=weights),
        "macro_auroc": sklearn.metrics.roc_auc_score(one_hot, values, average="macro", **given),
    }
    false_alarms, found, _ = sklearn.metrics.roc_curve(
        truth != 2, -values[:, 2], drop_intermediate=False, **given
    )
    expected["tumor_sensitivity_at_99_specificity"] = found[false_alarms <= 0.01 + 1e-12].max()
    for number, name in enumerate(CLASSES):
        is_class, is_called = truth == number, predicted == number
        for metric, positive, negative in (
            ("sensitivity", is_class, is_called),
            ("positive_predictive_value", is_called, is_class),
            ("specificity", ~is_class, ~is_called),
            ("negative_predictive_value", ~is_called, ~is_class),
        ):
            score = sklearn.metrics.recall_score(positive, negative, **given)
            expected[f"{metric}_{name}"] = score
        expected[f"f1_{name}"] = sklearn.metrics.f1_score(is_class, is_called, **given)
        expected[f"auroc_{name}"] = sklearn.metrics.roc_auc_score(
            is_class, values[:, number], **given
        )
    return expected


@pytest.mark.parametrize("decimals", [1, 12], ids=["many ties", "no ties"])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_agree_with_scikit_learn(seed, decimals):
    table = with_ties(random_table(seed, pictures=400), decimals)
    generator = np.random.default_rng(seed)
    weights = np.stack([np.ones(400), generator.integers(0, 4, 400), generator.random(400)])
    found = metrics.weighted_metrics(table, weights)
    for row, weight in zip(found, weights, strict=True):
        expected = sklearn_metrics(table, weight)
        assert set(evaluation.METRICS) - set(expected) == {"calibration_error"}
        result = dict(zip(evaluation.METRICS, row, strict=True))
        assert {name: result[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_calibration_error_is_the_gap_in_equal_mass_bins():
    table = random_table(3, pictures=450)
    confidence = table[CLASSES].max(axis=1).to_numpy()
    is_right = table[CLASSES].idxmax(axis=1).to_numpy() == table["label"].to_numpy()
    bins = np.argsort(confidence).reshape(15, 30)
    expected = np.abs(is_right[bins].mean(axis=1) - confidence[bins].mean(axis=1)).mean()
    assert evaluation.point_metrics(table)["calibration_error"] == pytest.approx(expected)


def test_a_weight_counts_as_so_many_copies():
    table = with_ties(random_table(5, pictures=80), decimals=1)
    copies = np.random.default_rng(0).integers(0, 4, len(table))
    repeated = table.loc[table.index.repeat(copies)].reset_index(drop=True)
    weighted = metrics.weighted_metrics(table, copies[np.newaxis])[0]
    assert evaluation.point_metrics(repeated) == pytest.approx(
        dict(zip(evaluation.METRICS, weighted, strict=True))
    )


def test_a_perfect_predictor_is_perfect():
    values = evaluation.point_metrics(perfect_table())
    lowest = {"log_loss", "brier_score", "calibration_error"}
    assert values == pytest.approx({name: 0.0 if name in lowest else 1.0 for name in values})
    assert evaluation.most_confused(perfect_table()).empty


def test_a_constant_predictor_knows_nothing():
    table = make_table(np.arange(80) % 4, np.full((80, 4), 0.25))
    values = evaluation.point_metrics(table)
    assert values["accuracy"] == values["balanced_accuracy"] == 0.25
    assert values["macro_auroc"] == values["auroc_pituitary"] == 0.5
    assert values["tumor_sensitivity_at_99_specificity"] == 0
    assert values["log_loss"] == pytest.approx(np.log(4))
    assert values["calibration_error"] == pytest.approx(0)
    assert np.isnan(values["positive_predictive_value_pituitary"])  # it is never called


def test_absent_classes_are_not_a_number_and_left_out_of_means():
    table = make_table([0, 0, 1], [[0.8, 0.2, 0, 0], [0.4, 0.6, 0, 0], [0.1, 0.9, 0, 0]])
    values = evaluation.point_metrics(table)
    for name in ("sensitivity_notumor", "auroc_pituitary", "f1_pituitary"):
        assert np.isnan(values[name])
    assert np.isnan(values["tumor_sensitivity_at_99_specificity"])
    assert values["balanced_accuracy"] == pytest.approx(0.75)
    assert values["macro_f1"] == pytest.approx(2 / 3)
    assert values["macro_auroc"] == 1
    only_glioma = evaluation.metrics_with_intervals(table.iloc[:2], resamples=20)
    assert np.isnan(only_glioma.loc["macro_auroc", "value"])


def test_confident_mistakes_have_a_finite_loss():
    table = make_table([0, 1], [[0, 1, 0, 0], [0, 1, 0, 0]])
    assert evaluation.point_metrics(table)["log_loss"] == pytest.approx(-np.log(1e-12) / 2)


def test_confusion_report_and_mistakes_tell_the_same_story(table):
    matrix = evaluation.confusion(table)
    assert list(matrix.index) == list(matrix.columns) == CLASSES
    truth = evaluation.true_classes(table)
    predicted = evaluation.probabilities(table).argmax(axis=1)
    expected = sklearn.metrics.confusion_matrix(truth, predicted, labels=range(4))
    np.testing.assert_array_equal(matrix, expected)
    report = evaluation.class_report(table)
    np.testing.assert_array_equal(report["pictures"], matrix.sum(axis=1))
    np.testing.assert_allclose(report["sensitivity"], np.diag(matrix) / matrix.sum(axis=1))
    wrong = evaluation.most_confused(table, count=1000)
    assert len(wrong) == len(table) - np.trace(matrix)
    assert (wrong["label"] != wrong["predicted"]).all()
    assert wrong["probability"].is_monotonic_decreasing
    assert len(evaluation.most_confused(table)) == 12


def test_an_unknown_metric_names_the_known_ones(table):
    with pytest.raises(EvaluationError, match="no metric recall: choose from accuracy"):
        evaluation.metrics_with_intervals(table, metrics=["recall"])


# --- intervals ---------------------------------------------------------------------------------


def test_intervals_hold_their_values_and_repeat_with_the_seed(table):
    first = evaluation.metrics_with_intervals(table, resamples=200, seed=1)
    assert list(first.index) == list(evaluation.METRICS)
    assert ((first["low"] <= first["value"]) & (first["value"] <= first["high"])).all()
    assert first["value"].to_dict() == pytest.approx(evaluation.point_metrics(table))
    pd.testing.assert_frame_equal(
        first, evaluation.metrics_with_intervals(table, resamples=200, seed=1)
    )
    chosen = ["macro_f1", "accuracy"]
    some = evaluation.metrics_with_intervals(table, resamples=200, seed=1, metrics=chosen)
    pd.testing.assert_frame_equal(some, first.loc[chosen])


def test_slices_of_one_patient_do_not_make_a_result_surer():
    grouped = random_table(2, pictures=1500, groups=60, skill=1.5, patient_noise=2.5)
    by_picture = grouped.assign(group=grouped["path"], patient="")
    widths = [
        rows["high"] - rows["low"]
        for rows in (
            evaluation.metrics_with_intervals(data, 300, metrics=["accuracy", "log_loss"])
            for data in (grouped, by_picture)
        )
    ]
    assert (widths[0] > 2 * widths[1]).all()


def test_intervals_agree_with_scipy():
    from scipy.stats import bootstrap

    table = random_table(4, pictures=300)
    table = table.assign(group=table["path"], patient="")
    is_right = table[CLASSES].idxmax(axis=1) == table["label"]
    expected = bootstrap(
        (is_right.to_numpy(float),), np.mean, n_resamples=4000, method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    found = evaluation.metrics_with_intervals(table, 4000, metrics=["accuracy"]).loc["accuracy"]
    np.testing.assert_allclose([found["low"], found["high"]], expected, atol=0.01)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Accuracy 0.75, each patient's pictures all right or all wrong, 50 patients of 4."""
    covered = {"by group": 0, "by picture": 0}
    for seed in range(100):
        is_right = np.repeat(np.random.default_rng(seed).random(50) < 0.75, 4)
        values = np.where(is_right[:, np.newaxis], [0.9, 0.1, 0, 0], [0.1, 0.9, 0, 0])
        table = make_table(np.zeros(200, int), values, np.repeat(np.arange(50), 4))
        by_picture = table.assign(group=table["path"], patient="")
        for name, data in (("by group", table), ("by picture", by_picture)):
            row = evaluation.metrics_with_intervals(data, 200, metrics=["accuracy"]).iloc[0]
            covered[name] += row["low"] <= 0.75 <= row["high"]
    assert 88 <= covered["by group"] <= 99
    assert covered["by picture"] < 80


def test_no_mistake_in_few_groups_is_not_taken_for_certainty():
    few = evaluation.metrics_with_intervals(perfect_table(groups=20), resamples=50)
    assert few.loc["accuracy"].tolist() == pytest.approx([1, 0.025 ** (1 / 20), 1])
    assert few.loc["sensitivity_glioma", "low"] == pytest.approx(0.025 ** (1 / 5))
    assert few.loc["specificity_glioma", "low"] == pytest.approx(0.025 ** (1 / 15))


def test_one_group_gives_no_interval():
    table = random_table(0, pictures=30, groups=1)
    table["label"] = np.array(CLASSES)[np.arange(30) % 4]
    result = evaluation.metrics_with_intervals(table, resamples=20)
    assert result[["low", "high"]].isna().all(axis=None)
    assert result["value"].notna().all()


def test_calibration_error_of_a_calibrated_model_may_be_mere_noise():
    """Plain percentiles would begin near the value, where the truth is 0."""
    rows = [
        evaluation.metrics_with_intervals(
            calibrated_table(seed, pictures=2000), 200, metrics=["calibration_error"]
        ).iloc[0]
        for seed in range(12)
    ]
    table = pd.DataFrame(rows)
    assert (table["low"] >= 0).all()
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert table["low"].mean() < 0.5 * table["value"].mean()


def test_breakdown_counts_pictures_and_groups(table):
    table["plane"] = np.where(np.arange(len(table)) < 250, "axial", "")
    table["source"] = "figshare"
    rows = evaluation.breakdown(table, "plane", resamples=100)
    assert rows["pictures"].to_dict() == {"axial": 250, "unknown": 350}
    assert rows.loc["axial", "groups"] == table["group"].iloc[:250].nunique()
    is_right = table[CLASSES].idxmax(axis=1) == table["label"]
    assert rows.loc["axial", "accuracy"] == pytest.approx(is_right.iloc[:250].mean())
    assert ((rows["low"] < rows["accuracy"]) & (rows["accuracy"] < rows["high"])).all()
    whole = evaluation.breakdown(table, "source", resamples=300).iloc[0]
    expected = evaluation.metrics_with_intervals(table, 300, metrics=["accuracy"]).iloc[0]
    assert whole[["accuracy", "low", "high"]].tolist() == pytest.approx(expected.tolist())
    with pytest.raises(EvaluationError, match="no column 'scanner'"):
        evaluation.breakdown(table, "scanner")


def test_impossible_choices_are_refused(table):
    with pytest.raises(EvaluationError, match="resamples = 0"):
        evaluation.metrics_with_intervals(table, resamples=0)
    with pytest.raises(EvaluationError, match="confidence_level = 95"):
        evaluation.metrics_with_intervals(table, resamples=2, confidence_level=95)


# --- calibration -------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_recovered(temperature):
    calibrated = calibrated_table(1, pictures=6000)
    distorted = evaluation.apply_temperature(calibrated, 1 / temperature)
    found = evaluation.fit_temperature(distorted)
    assert found == pytest.approx(temperature, rel=0.05)
    restored = evaluation.apply_temperature(distorted, found)
    evaluation.check_predictions(restored)
    assert evaluation.confusion(restored).equals(evaluation.confusion(calibrated))
    assert (
        evaluation.point_metrics(restored)["log_loss"]
        <= evaluation.point_metrics(distorted)["log_loss"]
    )


def test_temperature_at_the_edges():
    constant = make_table(np.arange(40) % 4, np.full((40, 4), 0.25))
    assert evaluation.fit_temperature(constant) == 1
    assert 0 < evaluation.fit_temperature(perfect_table()) <= 1
    same = evaluation.apply_temperature(perfect_table(), 1.0)
    np.testing.assert_allclose(same[CLASSES], perfect_table()[CLASSES], atol=1e-9)
    with pytest.raises(EvaluationError, match="temperature = 0"):
        evaluation.apply_temperature(constant, 0)


def test_reliability_has_equal_bins_on_the_diagonal_of_a_calibrated_model():
    rows = evaluation.reliability(calibrated_table(2, pictures=6000), bins=10, resamples=200)
    assert rows["pictures"].tolist() == [600] * 10
    assert rows["confidence"].is_monotonic_increasing
    np.testing.assert_allclose(rows["accuracy"], rows["confidence"], atol=0.07)
    assert ((rows["low"] <= rows["accuracy"]) & (rows["accuracy"] <= rows["high"])).all()
    assert (rows["low"] < 1).all()


def test_reliability_bins_give_the_calibration_error(table):
    rows = evaluation.reliability(table, resamples=10)
    gaps = (rows["accuracy"] - rows["confidence"]).abs()
    expected = np.average(gaps, weights=rows["pictures"])
    assert evaluation.point_metrics(table)["calibration_error"] == pytest.approx(expected)


def test_equal_confidences_share_a_bin_where_most_of_them_belong():
    values = [[0.5, 0.3, 0.1, 0.1], [0.6, 0.4, 0, 0], [0.4, 0.6, 0, 0]]
    rows = evaluation.reliability(make_table([0, 0, 0], values), bins=2, resamples=10)
    assert rows["confidence"].tolist() == pytest.approx([0.5, 0.6])
    assert rows["pictures"].tolist() == [1, 2]


def test_risk_falls_as_unsure_pictures_are_declined():
    table = calibrated_table(3, pictures=4000)
    curve = evaluation.risk_coverage(table)
    assert curve["coverage"].is_monotonic_increasing
    assert curve["coverage"].iloc[-1] == 1
    accuracy = evaluation.point_metrics(table)["accuracy"]
    assert curve["risk"].iloc[-1] == pytest.approx(1 - accuracy)
    assert curve["risk"].iloc[len(curve) // 5] < 0.3 * (1 - accuracy)
    area = evaluation.area_under_risk_coverage(table)
    assert area == pytest.approx(curve["risk"].mean())
    assert 0 < area < 1 - accuracy
    assert evaluation.area_under_risk_coverage(perfect_table()) == 0
    always_wrong = perfect_table().assign(label="glioma").query("glioma == 0")
    assert evaluation.area_under_risk_coverage(always_wrong) == 1


# --- conformal sets ----------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_sets_cover_each_class_as_promised(alpha):
    coverages = []
    for seed in range(40):
        pictures = random_table(seed, pictures=4000, groups=4000, skill=1.5)
        thresholds = evaluation.fit_conformal(pictures.iloc[:2000], alpha)
        report = report_on(pictures.iloc[2000:], thresholds, resamples=20)
        coverages.append(report["coverage"])
    mean = pd.concat(coverages, axis=1).mean(axis=1)
    assert list(mean.index) == [*CLASSES, "all"]
    np.testing.assert_allclose(mean, 1 - alpha, atol=0.015)  # four standard errors at 0.2


def test_thresholds_are_finite_sample_quantiles():
    scores = np.arange(1, 20) / 20  # 19 pictures: at alpha 0.1 the 18th smallest score
    table = make_table(np.zeros(19, int), np.stack([1 - scores, scores, 0 * scores, 0 * scores], 1))
    thresholds = evaluation.fit_conformal(table, alpha=0.1)
    assert thresholds["glioma"] == pytest.approx(18 / 20)
    assert thresholds["notumor"] == 1  # no picture to learn from: in every set
    sets = evaluation.conformal_sets(table, thresholds)
    assert sets["glioma"].sum() == 18
    assert sets["notumor"].all()
    assert evaluation.fit_conformal(table.iloc[:8], alpha=0.1)["glioma"] == 1


def test_rounding_does_not_raise_a_threshold():
    scores = np.arange(1, 150) / 150  # 150 * (1 - 0.18) is 123, and a little more in floats
    table = make_table(
        np.zeros(149, int), np.stack([1 - scores, scores, 0 * scores, 0 * scores], 1)
    )
    assert evaluation.fit_conformal(table, alpha=0.18)["glioma"] == pytest.approx(123 / 150)


def test_conformal_report_counts_empty_and_single_sets():
    values = [[0.9, 0.1, 0, 0], [0.5, 0.5, 0, 0], [0.3, 0.3, 0.2, 0.2], [0.1, 0.9, 0, 0]]
    table = make_table([0, 0, 0, 1], values)
    report = report_on(table, dict.fromkeys(CLASSES, 0.6), resamples=50)
    glioma = report.loc["glioma"]
    assert glioma["coverage"] == pytest.approx(2 / 3)
    assert glioma[["mean_set_size", "empty", "single"]].tolist() == pytest.approx([1, 1 / 3, 1 / 3])
    assert report.loc["all", "pictures"] == 4
    assert report.loc["pituitary"].drop(["pictures", "groups"]).isna().all()
    with pytest.raises(EvaluationError, match="no threshold for notumor"):
        evaluation.conformal_sets(table, {"glioma": 0.1, "meningioma": 0.1, "pituitary": 0.1})
    with pytest.raises(EvaluationError, match="alpha = 90"):
        evaluation.fit_conformal(table, alpha=90)


# --- comparison --------------------------------------------------------------------------------


def test_a_better_model_is_told_from_a_worse_one():
    good, poor = random_table(6, skill=3.0), random_table(6, skill=1.0)
    result = evaluation.compare(good, poor, resamples=200)
    assert evaluation.compare(good, poor.sample(frac=1, random_state=0), resamples=200) == result
    accuracies = [evaluation.point_metrics(data)["accuracy"] for data in (good, poor)]
    assert [result["first"], result["second"]] == pytest.approx(accuracies)
    assert 0 < result["low"] < result["difference"] < result["high"]
    assert result["difference"] == pytest.approx(accuracies[0] - accuracies[1])
    lead = result["only_first_right"] - result["only_second_right"]
    assert lead == round(result["difference"] * len(good))
    assert result["p_value"] < 1e-6
    assert result["p_value_groups"] < 1e-6
    assert (result["pictures"], result["groups"]) == (len(good), good["group"].nunique())
    assert evaluation.compare(good, poor, "log_loss", resamples=50)["high"] < 0


def test_mcnemar_counts_and_probability():
    truth = np.zeros(10, int)
    right, wrong = [0.8, 0.2, 0, 0], [0.2, 0.8, 0, 0]
    first = make_table(truth, [right] * 8 + [wrong] * 2)
    second = make_table(truth, [wrong] * 6 + [right] * 3 + [wrong])
    result = evaluation.compare(first, second, resamples=10)
    assert (result["only_first_right"], result["only_second_right"]) == (6, 1)
    assert result["p_value"] == pytest.approx(2 * (1 + 7) / 2**7)


def test_a_model_does_not_differ_from_itself(table):
    result = evaluation.compare(table, table, "macro_f1", resamples=50)
    assert (result["difference"], result["low"], result["high"]) == (0, 0, 0)
    assert result["p_value"] == result["p_value_groups"] == 1


def test_tables_of_other_pictures_are_not_compared(table):
    with pytest.raises(EvaluationError, match="second table lacks 3 pictures"):
        evaluation.compare(table, table.iloc[3:])
    with pytest.raises(EvaluationError, match="disagree on the label of"):
        evaluation.compare(table, table.assign(label="glioma"))


# --- all ---------------------------------------------------------------------------------------


def test_the_order_of_rows_changes_nothing():
    table = with_ties(random_table(7, pictures=300, patient_noise=1.0), decimals=1)
    table["source"] = np.where(np.arange(300) % 3, "figshare", "sartaj")
    shuffled = table.sample(frac=1, random_state=1)
    thresholds = evaluation.fit_conformal(table)
    assert evaluation.fit_conformal(shuffled) == thresholds
    for function in (
        lambda t: evaluation.metrics_with_intervals(t, resamples=100),
        lambda t: evaluation.breakdown(t, "source", resamples=100),
        lambda t: evaluation.reliability(t, resamples=100),
        lambda t: report_on(t, thresholds, resamples=100),
        evaluation.confusion,
        evaluation.most_confused,
        evaluation.per_patient,
        evaluation.risk_coverage,
    ):
        pd.testing.assert_frame_equal(function(table), function(shuffled))
    assert evaluation.fit_temperature(table) == pytest.approx(evaluation.fit_temperature(shuffled))


def test_nothing_changes_the_table_it_is_given(table):
    table["source"] = "figshare"
    before = table.copy(deep=True)
    evaluation.metrics_with_intervals(table, resamples=10)
    evaluation.per_patient(table)
    evaluation.restrict_to_tumors(table)
    evaluation.apply_temperature(table, 2.0)
    evaluation.compare(table, table, resamples=10)
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize("room", [part.name for part in pkgutil.iter_modules(evaluation.__path__)])
def test_examples_in_the_docstrings_are_true(room):
    module = importlib.import_module(f"brainlib.evaluation.{room}")
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.failed == 0
    assert found.attempted > 0
