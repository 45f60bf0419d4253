"""Rules: what turns probabilities into answers is one file, whole, checked and fitted honestly."""

import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest

from brainlib import CLASS_NAMES, evaluation
from brainlib.inference import rules
from brainlib.paths import BrainlibError
from scripts.release.rules import fit_rules, make_rules
from scripts.release.studies import fit_study_rule

CLASSES = list(CLASS_NAMES)
METRICS = {
    "source": "kaggle version 1",
    "synthetic": False,
    "release": {"lesion_net": {"sha256": "abc"}},
    "by_subgroup": {
        "source figshare": {"accuracy": 0.9, "low": 0.8, "high": 0.95},
        "source sartaj": {"accuracy": 0.7, "low": 0.6, "high": 0.8},
        "fold 1": {"accuracy": 0.1, "low": 0.0, "high": 0.2},
    },
    "studies": {
        "reliability": [
            {
                "class": "glioma",
                "low": 0.0,
                "high": 1.0,
                "observed": 0.9,
                "lower": 0.8,
                "upper": 0.95,
            }
        ]
    },
}


def held_out(folds=3, patients=5, slices=8):
    """Make held-out predictions, some of them wrong; gliomas are at times taken for meningiomas."""
    generator = np.random.default_rng(0)
    rows = []
    for fold in range(folds):
        for number in range(patients):
            for label in CLASSES:
                person = f"{label}{fold}_{number}"
                scores = generator.normal(0, 1, (slices, 4))
                scores[:, CLASSES.index(label)] += 3
                if label == "glioma":
                    scores[:, CLASSES.index("meningioma")] += 1.5
                for place, row in enumerate(np.exp(scores)):
                    known = "" if label == "notumor" else person
                    values = row / row.sum()
                    rows.append((f"{person}_{place}", known, person, label, fold, *values))
    columns = ["path", "patient", "group", "label", "fold", *CLASSES]
    return pd.DataFrame(rows, columns=columns)


STUDY = {"offset": 1.0, "temperature": 1.2, "coverage": 0.9,
         "thresholds": dict.fromkeys(CLASSES, 0.5)}  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return held_out()


@pytest.fixture(scope="module")
def fitted(table):
    drawn = table[(table["label"] != "notumor")][["label", "group"]]
    maps = drawn.assign(dice=0.5, heat_peak_inside=[True, False] * (len(drawn) // 2))
    return fit_rules(table, None, METRICS, STUDY, maps, resamples=50)


def test_rules_come_back_from_their_file_as_they_were(fitted, tmp_path):
    path = rules.write_rules(fitted, tmp_path / "lesion_net.rules.json")
    assert rules.read_rules(path) == fitted
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert rules.read_rules(tmp_path / "none.rules.json") is None  # a model of one's own


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff", "{}"])
def test_a_damaged_file_says_how_to_make_it_again(tmp_path, text):
    path = tmp_path / "rules.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BrainlibError, match=re.escape(str(path)) + r".*scripts.release"):
        rules.read_rules(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda found: found.pop("study"), "no .study"),
        (lambda found: found["study"].pop("offset"), "no .offset"),
        (lambda found: found["study"].update(temperature=0.0), "not positive"),
        (lambda found: found["conformal"]["thresholds"].update(glioma=1.7), "between 0 and 1"),
        (lambda found: found["reliability"][0].update(observed=-0.2), "between 0 and 1"),
        (lambda found: found["study_reliability"][0].update(upper=7), "between 0 and 1"),
        (lambda found: found["limits"]["glioma"]["dice"].update(value=2), "between 0 and 1"),
        (lambda found: found["conformal"].update(coverage=95), "between 0 and 1"),
        (lambda found: found["study"]["thresholds"].pop("glioma"), "no .glioma"),
        (lambda found: found["conformal"]["thresholds"].pop("glioma"), "no .glioma"),
        (lambda found: found["reliability"][0].pop("lower"), "no .lower"),
        (lambda found: found["limits"].pop("pituitary"), "no .pituitary"),
    ],
)
def test_rules_without_a_part_are_neither_read_nor_written(fitted, tmp_path, damage, message):
    broken = json.loads(json.dumps(fitted))
    damage(broken)
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(BrainlibError, match=message):
        rules.read_rules(path)
    with pytest.raises(BrainlibError, match=message):
        rules.write_rules(broken, tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()


def test_what_is_fitted_never_saw_the_released_fold(table, fitted):
    spoilt = table.copy()
    is_released = spoilt["fold"] == 0
    spoilt.loc[is_released, CLASSES] = spoilt.loc[is_released, CLASSES[::-1]].to_numpy()
    again = fit_rules(spoilt, None, METRICS, STUDY, resamples=5)
    assert again["conformal"] == fitted["conformal"] and again["limits"] != fitted["limits"]


def test_rules_name_what_they_are_of_and_thresholds_are_those_of_the_calibration(table, fitted):
    first = table["fold"] == 0
    sets = evaluation.conformal_sets(table[first], fitted["conformal"]["thresholds"])
    assert sets.equals(evaluation.cross_conformal(table)[first])
    assert (fitted["model_sha256"], fitted["source"]) == ("abc", "kaggle version 1")
    assert fitted["limits_of_all"]["part"] == "source sartaj"
    assert fitted["study_reliability"] == METRICS["studies"]["reliability"]


def test_reliability_counts_every_answer_once_and_has_a_bin_for_each(table, fitted):
    assert sum(row["images"] for row in fitted["reliability"]) == len(table)
    for name in CLASSES:
        rows = [row for row in fitted["reliability"] if row["class"] == name]
        edges = [(row["low"], row["high"]) for row in rows]
        assert edges[0][0] == 0 and edges[-1][1] == 1 and len(edges) > 1
        assert all(row["images"] >= 30 and row["groups"] >= 10 for row in rows)
        assert all(one[1] == other[0] for one, other in itertools.pairwise(edges))
        assert all(row["lower"] <= row["observed"] <= row["upper"] for row in rows)
    for probability in (0.26, 0.5, 0.95, 0.99, 1.0):
        found = rules.find_reliability(fitted["reliability"], "notumor", probability)
        assert found["low"] <= probability <= found["high"]
    assert rules.find_reliability([], "glioma", 0.9) is None


def test_reliability_is_the_share_that_was_right(table):
    answers = table[CLASSES].idxmax(axis=1)
    right = (answers == table["label"])[answers == "glioma"]
    rows = [row for row in evaluation.reliability_by_answer(table, 20) if row["class"] == "glioma"]
    total = sum(row["observed"] * row["images"] for row in rows)
    assert total == pytest.approx(right.sum(), abs=1e-3)


def test_limits_say_what_a_class_is_taken_for(table, fitted):
    limits = fitted["limits"]["glioma"]
    answers = table[CLASSES].idxmax(axis=1)
    missed = answers[(table["label"] == "glioma") & (answers != "glioma")]
    assert limits["taken_for"]["class"] == missed.mode()[0] == "meningioma"
    assert limits["taken_for"]["share"] == pytest.approx(
        (missed == "meningioma").sum() / (table["label"] == "glioma").sum(), abs=1e-6
    )
    assert limits["dice"]["value"] == 0.5 and limits["heat_peak_inside"]["value"] == 0.5
    assert set(fitted["limits"]["notumor"]["missed"]) == set(CLASSES) - {"notumor"}


def test_one_call_makes_the_rules_of_a_model_folder(table, tmp_path):
    (tmp_path / "predictions").mkdir()
    for fold, part in table.groupby("fold"):
        part.to_csv(tmp_path / f"predictions/lesion_net_patient{fold}.test.csv", index=False)
    made = make_rules(str(tmp_path), "lesion_net")
    assert made["study"] == fit_study_rule(table[table["fold"] != 0])
    assert rules.read_rules(tmp_path / "lesion_net.rules.json") == made
    with pytest.raises(BrainlibError, match="no test predictions of other"):
        make_rules(tmp_path, "other")
