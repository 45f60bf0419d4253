"""Studies: one answer from many slices, by a rule that is fitted, measured and written down."""

import json

import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES
from brainlib.evaluation import EvaluationError
from brainlib.inference import studies
from brainlib.inference.studies import fitting, pooling, simulation

CLASSES = list(CLASS_NAMES)
PLAIN = {
    "pooling": {"kind": "top", "average": "probability", "share": 0.5, "least": 1},
    "temperature": 1.0,
    "offsets": dict.fromkeys(CLASSES, 0.0),
}


def held_out(seed=0, folds=3, patients=6, slices=5):
    """Make held-out predictions of a network that is mostly right, and at times wrong at random."""
    generator = np.random.default_rng(seed)
    rows = []
    for fold in range(folds):
        for number in range(patients):
            for label in ("glioma", "meningioma", "pituitary", "notumor"):
                person = f"{label}{fold}_{number}"
                scores = generator.normal(0, 1, (slices, 4))
                scores[:, CLASSES.index(label)] += 3
                values = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
                for place, row in enumerate(values):
                    known = "" if label == "notumor" else person
                    rows.append((f"{person}_{place}", known, person, label, fold, *row))
    columns = ["path", "patient", "group", "label", "fold", *CLASSES]
    return pd.DataFrame(rows, columns=columns)


def slices_of(series, *probabilities, **others):
    """Return rows as classify gives them."""
    table = pd.DataFrame(list(probabilities), columns=CLASSES)
    table["class"] = table[CLASSES].idxmax(axis=1)
    table = table.assign(path=f"{series}.nii", series=series, slice=range(len(table)), plane="")
    return table.assign(**{"decision": "accepted", "error": "", **others})


GLIOMA, HEALTHY = (0.9, 0.04, 0.04, 0.02), (0.01, 0.01, 0.97, 0.01)


@pytest.fixture(scope="module")
def table():
    return held_out()


@pytest.fixture(scope="module")
def rule(table):
    return studies.fit_study_rule(table)


def test_the_rule_is_plain_json_and_says_in_words_what_it_does(rule):
    assert json.loads(json.dumps(rule, allow_nan=False)) == rule
    studies.check_rule(rule)
    assert (
        rule["sentence"].startswith("The answer to the study is") or "noisy-or" in rule["sentence"]
    )
    assert "simulated" in rule["simulation"] and "independent" in rule["simulation"]


def test_the_rule_is_the_candidate_with_the_least_loss_on_held_out_folds(rule):
    losses = {name: one["log_loss"] for name, one in rule["candidates"].items()}
    assert set(losses) == set(fitting.CANDIDATES)
    assert rule["name"] == min(losses, key=losses.get)


def test_a_rule_is_the_same_from_the_same_predictions_and_seed(table, rule):
    assert studies.fit_study_rule(table) == rule


def test_a_tumour_in_a_fifth_of_the_slices_is_found_where_the_plain_mean_misses_it(rule):
    slices = np.array([GLIOMA] * 4 + [HEALTHY] * 16)
    found = studies.study_probabilities(slices, np.zeros(20, int), rule)[0][0]
    assert CLASSES[found.argmax()] == "glioma"
    assert CLASSES[slices.mean(axis=0).argmax()] == "notumor"


def test_a_healthy_study_is_healthy(rule):
    found = studies.study_probabilities(np.array([HEALTHY] * 20), np.zeros(20, int), rule)[0][0]
    assert CLASSES[found.argmax()] == "notumor"


def test_a_single_slice_keeps_its_own_probabilities(rule):
    values = np.array([GLIOMA, HEALTHY])
    found, is_pooled = studies.study_probabilities(values, np.array([0, 1]), rule)
    assert np.array_equal(found, values) and is_pooled.all()


def test_pooling_takes_the_slices_that_look_most_like_a_tumour():
    values = np.array([HEALTHY, GLIOMA, HEALTHY, GLIOMA])
    found, is_pooled = studies.study_probabilities(values, np.zeros(4, int), PLAIN)
    assert is_pooled.tolist() == [False, True, False, True]
    assert found[0] == pytest.approx(GLIOMA)


@pytest.mark.parametrize("name", fitting.CANDIDATES)
def test_no_study_depends_on_the_others_or_on_the_order_of_slices(name):
    generator = np.random.default_rng(1)
    values, codes = (
        generator.dirichlet(np.ones(4), 30),
        generator.permutation(np.repeat([0, 1], 15)),
    )
    together = pooling.pool(values, codes, fitting.CANDIDATES[name])[0]
    alone = pooling.pool(values[codes == 1][::-1], np.zeros(15, int), fitting.CANDIDATES[name])[0]
    assert together[1] == pytest.approx(alone[0])


def test_a_noisy_or_is_what_it_says():
    values = np.array([GLIOMA, HEALTHY])
    scores = pooling.pool(values, np.zeros(2, int), {"kind": "noisy_or", "power": 0.0})[0][0]
    assert np.exp(scores).sum() == pytest.approx(1)
    assert np.exp(scores[CLASSES.index("notumor")]) == pytest.approx(0.04 * 0.97)


def test_refused_and_unreadable_slices_take_no_part():
    good = slices_of("a", GLIOMA, GLIOMA)
    refused = slices_of("a", HEALTHY, decision="refused: it is blank")
    refused[CLASSES] = np.nan
    broken = slices_of("", HEALTHY, path="b.dcm", error="it is truncated", decision="")
    broken[CLASSES] = np.nan
    found = studies.summarise_studies(pd.concat([good, refused, broken]), PLAIN)
    assert list(found.columns) == list(studies.COLUMNS)
    first, second = found.to_dict("records")
    assert (first["slices"], first["accepted"], first["refused"]) == (3, 2, 1)
    assert first["class"] == "glioma" and first["glioma"] == pytest.approx(0.9)
    assert second["series"] == "b.dcm" and second["unreadable"] == 1
    assert second["class"] == "" and np.isnan(second["glioma"]) and second["deciding"] == ""


def test_a_study_where_all_is_refused_has_no_class():
    refused = slices_of("a", HEALTHY, HEALTHY, decision="refused: it is blank")
    found = studies.summarise_studies(refused, PLAIN)
    assert found.loc[0, "class"] == "" and found.loc[0, "refused"] == 2
    assert found[CLASSES].isna().all(axis=None)


def test_the_slices_that_decided_come_strongest_first_and_are_four_at_most():
    surer = (0.96, 0.02, 0.01, 0.01)
    found = studies.summarise_studies(slices_of("a", HEALTHY, GLIOMA, surer, HEALTHY), PLAIN)
    assert found.loc[0, "deciding"] == "2 1" and found.loc[0, "tumor_slices"] == 2
    many = studies.summarise_studies(slices_of("a", *[GLIOMA] * 30), PLAIN)
    assert len(many.loc[0, "deciding"].split()) == 4


def test_a_healthy_study_names_the_slices_that_look_most_like_a_tumour():
    doubtful = (0.3, 0.1, 0.5, 0.1)
    table = slices_of("a", HEALTHY, HEALTHY, doubtful, HEALTHY)
    found = studies.summarise_studies(table, PLAIN).loc[0]
    assert found["class"] == "notumor" and found["deciding"].split()[0] == "2"


def test_series_stay_apart_in_their_order_and_patients_join_them():
    both = pd.concat([slices_of("z", GLIOMA), slices_of("a", HEALTHY), slices_of("z", GLIOMA)])
    assert studies.summarise_studies(both, PLAIN)["series"].tolist() == ["z", "a"]
    joined = studies.summarise_studies(both.assign(patient=["p", "p", "p"]), PLAIN)
    assert joined["series"].tolist() == ["p"] and joined.loc[0, "slices"] == 3


def test_many_files_are_named_by_their_folder():
    table = slices_of("a", GLIOMA, GLIOMA).assign(path=["scans/x/1.dcm", "scans/x/2.dcm"])
    assert studies.summarise_studies(table, PLAIN).loc[0, "path"] == "scans/x"


def test_an_empty_table_gives_no_studies():
    found = studies.summarise_studies(slices_of("a", GLIOMA)[:0], PLAIN)
    assert found.empty and list(found.columns) == list(studies.COLUMNS)


def test_what_lacks_is_named(table):
    with pytest.raises(studies.StudyError, match="no column decision"):
        studies.summarise_studies(slices_of("a", GLIOMA).drop(columns="decision"), PLAIN)
    with pytest.raises(studies.StudyError, match="offsets"):
        studies.study_probabilities(np.array([GLIOMA]), np.zeros(1, int), {"pooling": {}})
    with pytest.raises(studies.StudyError, match="fold 0 has no slice"):
        studies.fit_study_rule(table.assign(patient=""))
    with pytest.raises(studies.StudyError, match="three folds"):
        studies.measure_studies(table[table["fold"] < 2], resamples=2)
    with pytest.raises(EvaluationError, match="no column"):
        studies.fit_study_rule(table.drop(columns="group"))


def test_one_fold_is_enough_to_fit_a_rule(table):
    studies.check_rule(studies.fit_study_rule(table[table["fold"] == 0]))


def test_simulated_studies_hold_one_patients_tumour_and_other_peoples_healthy_slices(table):
    parts = simulation.split_parts(table)
    made = simulation.simulate(parts, (0.5, 0.2), 1, np.random.default_rng(0))
    slices = table.iloc[made.rows].reset_index(drop=True)
    for code, study in made.studies.iterrows():
        inside = slices[made.codes == code]
        tumors = inside[inside["label"] != "notumor"]
        assert len(inside) == study["slices"] and set(inside["fold"]) == {study["fold"]}
        assert set(tumors["label"]) == ({study["label"]} - {"notumor"})
        assert tumors["patient"].nunique() == (study["label"] != "notumor")
        if study["label"] != "notumor":
            assert len(tumors) / len(inside) == pytest.approx(study["share"])


def test_studies_are_measured_by_rules_that_have_not_seen_the_fold(table, monkeypatch):
    seen = []
    fit = fitting._fit

    def spy(values, made, parts):
        seen.append(set(made.studies["fold"]))
        return fit(values, made, parts)

    monkeypatch.setattr(fitting, "_fit", spy)
    measured = studies.measure_studies(table, resamples=3)
    assert seen == [{1, 2}, {0, 2}, {0, 1}]
    assert set(measured["shares"]) == {"100%", "50%", "20%", "10%", "5%"}
    score = measured["shares"]["20%"]["accuracy"]
    assert 0.8 < score["value"] <= 1 and score["low"] <= score["high"]
    plain = measured["plain_mean"]["10%"]["tumor_found"]["value"]
    assert measured["shares"]["10%"]["tumor_found"]["value"] > plain + 0.5
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    for row in measured["reliability"]:
        assert 0 <= row["lower"] <= row["upper"] <= 1 and row["class"] in CLASSES
