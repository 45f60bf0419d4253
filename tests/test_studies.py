"""Studies: one answer from many slices, read from what persists between neighbours."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES, inference
from brainlib.inference import studies
from scripts.release.studies import fit_study_rule, measure_studies

CLASSES = list(CLASS_NAMES)
GLIOMA, HEALTHY = (0.95, 0.02, 0.02, 0.01), (0.01, 0.01, 0.97, 0.01)


def held_out(seed=0, folds=3, patients=6, slices=5):
    """Make held-out predictions of a network that is mostly right, and at times wrong at random."""
    generator = np.random.default_rng(seed)
    rows = []
    for fold in range(folds):
        for number in range(patients):
            for label in CLASSES:
                person = f"{label}{fold}_{number}"
                scores = generator.normal(0, 1, (slices, 4))
                scores[:, CLASSES.index(label)] += 4
                values = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
                known = None if label == "notumor" else person
                rows += [(f"{person}_{image}", known, person, label, fold, *row)
                         for image, row in enumerate(values)]  # fmt: skip
    columns = ["path", "patient", "group", "label", "fold", *CLASSES]
    return pd.DataFrame(rows, columns=columns)


def slices_of(series, *probabilities, places=None, **others):
    """Return rows as classify gives them, with the lesion at the given places."""
    table = pd.DataFrame(list(probabilities), columns=CLASSES)
    table["class"] = table[CLASSES].idxmax(axis=1)
    table["lesion_x"], table["lesion_y"] = places or [0.5] * len(table), 0.5
    table = table.assign(path=f"{series}.nii", series=series, slice=range(1, len(table) + 1))
    return table.assign(**{"plane": "", "decision": "accepted", "error": "", **others})


def summarise(table, rule=studies.UNFITTED):
    return studies.summarise_studies(table, rule)


@pytest.fixture(scope="module")
def table():
    return held_out()


@pytest.fixture(scope="module")
def rule(table):
    return fit_study_rule(table)


def test_a_tumour_in_two_neighbours_is_found_where_the_plain_mean_misses_it():
    slices = slices_of("a", *[HEALTHY] * 9, GLIOMA, GLIOMA, *[HEALTHY] * 9)
    assert summarise(slices).loc[0, "class"] == "glioma"
    assert slices[CLASSES].mean().idxmax() == "notumor"


@pytest.mark.parametrize(
    ("probabilities", "places"),
    [
        ([HEALTHY, GLIOMA, HEALTHY, HEALTHY], None),  # in one slice only
        ([HEALTHY, GLIOMA, GLIOMA, HEALTHY], [0.5, 0.3, 0.6, 0.5]),  # at two places
        ([GLIOMA, HEALTHY, HEALTHY, GLIOMA], None),  # in slices far apart
        ([HEALTHY] * 4, None),
    ],
)
def test_what_does_not_persist_is_no_tumour_of_the_study(probabilities, places):
    strict = {"offset": 4.5, "temperature": 1.0}  # more than a slice needs to be called a tumour
    for rule in (studies.UNFITTED, strict):
        study = summarise(slices_of("a", *probabilities, places=places), rule).loc[0]
        assert study["class"] == "notumor" and study["tumor_slices"] == probabilities.count(GLIOMA)


def test_the_order_of_rows_and_the_other_studies_do_not_matter():
    mixed = slices_of("a", HEALTHY, GLIOMA, GLIOMA, HEALTHY).sample(frac=1, random_state=0)
    both = pd.concat([slices_of("z", *[HEALTHY] * 4), mixed])
    alone, together = summarise(mixed), summarise(both)
    assert together["series"].tolist() == ["z", "a"]
    assert together.loc[1, CLASSES].tolist() == pytest.approx(alone.loc[0, CLASSES].tolist())


def test_slices_tell_the_kind_by_their_evidence_and_few_stand_for_themselves():
    meningioma = (0.2, 0.4, 0.39, 0.01)
    study = summarise(slices_of("a", GLIOMA, GLIOMA, meningioma, meningioma)).loc[0]
    assert study["class"] == "glioma" and study["meningioma"] > 0.02
    # without places the second strongest slice counts
    slices = slices_of("a", HEALTHY, GLIOMA, HEALTHY, GLIOMA).drop(columns=["lesion_x", "lesion_y"])
    assert summarise(slices).loc[0, "class"] == "glioma"
    assert summarise(slices.iloc[:3]).loc[0, "class"] == "notumor"
    # one slice keeps its own probabilities, and two stand for themselves
    assert summarise(slices_of("a", GLIOMA)).loc[0, CLASSES].tolist() == pytest.approx(GLIOMA)
    assert summarise(slices_of("a", GLIOMA, HEALTHY)).loc[0, "class"] == "glioma"


def test_refused_and_unreadable_slices_take_no_part():
    good = slices_of("a", GLIOMA, GLIOMA)
    refused = slices_of("a", HEALTHY, decision="refused: it is blank")
    broken = slices_of("", HEALTHY, path="b.dcm", error="it is truncated", decision="")
    for rows in (refused, broken):
        rows[CLASSES] = np.nan
    result = summarise(pd.concat([good, refused, broken]))
    assert list(result.columns) == list(studies.COLUMNS)
    first, second = result.to_dict("records")
    assert (first["slices"], first["accepted"], first["refused"]) == (3, 2, 1)
    assert first["class"] == "glioma"
    assert second["series"] == "b.dcm" and second["unreadable"] == 1
    assert second["class"] == "" and np.isnan(second["glioma"]) and second["deciding"] == ""
    assert summarise(refused).loc[0, "class"] == ""


def test_the_slices_that_decided_come_strongest_first_and_are_four_at_most():
    surer = (0.98, 0.01, 0.005, 0.005)
    study = summarise(slices_of("a", HEALTHY, GLIOMA, surer, surer, *[HEALTHY] * 9)).loc[0]
    assert study["deciding"].split()[:3] == ["3", "4", "2"] and study["tumor_slices"] == 3
    assert len(study["deciding"].split()) == 4


@pytest.mark.parametrize(("called", "plane", "decision"), [
    ("PGPPHPPPPP", "axial", "incomplete: most of"), ("PPPPPPNHHH", "axial", "incomplete: most"),
    ("HHHPPPPPPP", "axial", "accepted"), ("PPHHHPPPPP", "axial", "accepted"),
    ("PPPPPPPPPP", "coronal", "accepted"), ("PPPPPPP", "axial", "accepted"),
    ("GGGGGGGGGG", "axial", "accepted"),
])  # fmt: skip
def test_a_study_that_starts_in_a_pituitary_tumour_may_show_no_cerebrum(called, plane, decision):
    kinds = {"P": (0.01, 0.02, 0.02, 0.95), "G": GLIOMA, "H": HEALTHY, "N": (0.1, 0.1, 0.7, 0.1)}
    rows = slices_of("a", *[kinds[letter] for letter in called], set="", plane=plane)
    rules = {"conformal": {"thresholds": dict.fromkeys(CLASSES, 0.5)}, "study": studies.UNFITTED}
    judge = inference.Classifier(None, Path("a.keras"), "onnx", "a gate", rules)
    study = inference.summarise(judge, rows.iloc[::-1]).loc[0]
    assert study["decision"].startswith(decision)
    assert (study["class"] == "") == np.isnan(study["pituitary"]) == (decision != "accepted")


def test_many_files_are_named_by_their_folder_and_no_files_are_no_studies():
    table = slices_of("a", GLIOMA, GLIOMA).assign(path=["scans/x/1.dcm", "scans/x/2.dcm"])
    assert summarise(table).loc[0, "path"] == "scans/x"
    result = summarise(table[:0])
    assert result.empty and list(result.columns) == list(studies.COLUMNS)


def test_nearly_all_tumour_patients_are_called_a_tumour_and_no_more_than_that(table, rule):
    tumors = table[table["label"] != "notumor"].assign(
        series=table["patient"], slice=1, decision="accepted", error=""
    )
    for offset, is_enough in ((rule["offset"], True), (rule["offset"] + 0.1, False)):
        classes = summarise(tumors, rule | {"offset": offset})["class"]
        assert ((classes != "notumor").mean() >= rule["sensitivity"]) == is_enough


def test_the_rule_is_plain_json_and_says_what_it_does(table, rule):
    assert json.loads(json.dumps(rule, allow_nan=False)) == rule
    unknown = table[table["label"] != "notumor"].assign(patient="")  # they make no study
    assert fit_study_rule(pd.concat([table, unknown])) == rule
    assert "persist" in rule["sentence"] and "simulated" in rule["simulation"]


def test_studies_are_measured_by_rules_that_have_not_seen_the_fold(table):
    measured = measure_studies(table, resamples=20)
    assert set(measured["shares"]) == {"100%", "50%", "20%", "10%", "5%"}
    score = measured["shares"]["50%"]["accuracy"]
    assert 0.8 < score["value"] <= 1 and score["low"] <= score["value"] <= score["high"]
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    for row in measured["reliability"]:
        assert 0 <= row["lower"] <= row["upper"] <= 1 and row["class"] in CLASSES
    spoilt = table.copy()  # a fold's own images change nothing but its answers
    is_first = spoilt["fold"] == 0
    spoilt.loc[is_first, CLASSES] = spoilt.loc[is_first, CLASSES[::-1]].to_numpy()
    assert fit_study_rule(spoilt[~is_first]) == fit_study_rule(table[~is_first])
