"""The report: one file that opens from disk, tells an answer from none, and lets nothing in."""

import base64
import io
import re
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainlib import CLASS_NAMES, explain, imaging, inference, report
from brainlib.explain import OUTLINE_THRESHOLD
from brainlib.models import engines
from brainlib.paths import BrainlibError
from brainlib.report import drawing, words
from brainlib.report.answers import Answer

CLASSES = list(CLASS_NAMES)
EVIL = "<script>alert('x')</script>&\"'.dcm"
GLIOMA, HEALTHY = (0.92, 0.05, 0.02, 0.01), (0.01, 0.01, 0.97, 0.01)
AXIAL = np.array([[0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
FACTS = {"description": "Ax T1 post", "contrast": "given"}
NOTICE = "This is not a medical device"
NOT_FOR = ("Any decision about a person", "Ruling out a tumour", "other sequences", "Side, size")
SHARE = {"value": 0.9, "low": 0.8, "high": 0.95}
CONFORMAL = {"coverage": 0.9, "thresholds": dict.fromkeys(CLASSES, 0.4)}
BIN = {"low": 0.0, "high": 1.0, "observed": 0.92, "lower": 0.881, "upper": 0.954}
LIMITS = {
    "sensitivity": SHARE, "positive_predictive_value": SHARE, "missed": {"glioma": SHARE},
    "taken_for": {"class": "meningioma", "share": 0.03, "images": 4},
    "really_was": {"class": "notumor", "share": 0.02, "images": 4},
}  # fmt: skip
RULES = {
    "source": "kaggle version 1", "synthetic": False,
    "held_out": {"images": 4855, "groups": 798},
    "conformal": CONFORMAL,
    "study": CONFORMAL | {"sentence": "Pooled.", "simulation": "These studies are simulated."},
    "reliability": [{"class": name} | BIN for name in CLASSES], "study_reliability": [],
    "limits": dict.fromkeys(CLASSES, LIMITS),
    "limits_of_all": {"part": "source sartaj", "accuracy": 0.8, "low": 0.7, "high": 0.9},
}  # fmt: skip

PIXELS = np.random.default_rng(0).integers(0, 256, (90, 60), np.uint8)
ROWS, COLUMNS = np.mgrid[0:90, 0:60] + 0.5
SPOT = np.exp(-((ROWS - 60) ** 2 + (COLUMNS - 20) ** 2) / 200).astype(np.float32)
"""Outline and heat map of each image: left of the middle, below it."""


@pytest.fixture(autouse=True)
def maps(monkeypatch):
    monkeypatch.setattr(explain, "draw_maps", lambda *_: iter([explain.Maps(None, SPOT, SPOT)]))


def slices(*rows, path="series/x.dcm", series="401-70d5009c"):
    table = pd.DataFrame(list(rows), columns=CLASSES)
    table["class"] = table[CLASSES].idxmax(axis=1)
    table["set"] = table["class"]
    table["path"], table["series"], table["slice"] = path, series, range(1, len(table) + 1)
    return table.assign(plane="axial", decision="accepted", error="")


def answer(probabilities=GLIOMA, table=None, rules=RULES, shown=(2, 1), **others):
    table = slices(GLIOMA, GLIOMA, HEALTHY) if table is None else table
    given = dict(zip(CLASSES, probabilities, strict=True))
    study = {
        "series": table["series"].iloc[0], "path": table["path"].iloc[0], "slices": len(table),
        "accepted": len(table), "refused": 0, "unreadable": 0, "class": max(given, key=given.get),
        **given, "tumor_slices": 2, "deciding": "2 1", "gaps": 0, "decision": "accepted", **others,
    }  # fmt: skip
    engine = engines.Engine(None, ("probabilities", *engines.MAPS))
    classifier = inference.Classifier(engine, Path("brain.keras"), "onnx", "a gate", rules)
    affine = AXIAL if table["plane"].iloc[0] else None
    image = imaging.ScanSlice(Path("x"), pixels=PIXELS, affine=affine, facts=FACTS)
    images = dict.fromkeys(shown, image)
    return Answer(study, table, images, classifier)


def no_answer(table, decision, **others):
    nothing = {"class": "", "accepted": 0, "deciding": "", "tumor_slices": 0}
    return answer((np.nan,) * 4, table, decision=decision, **nothing | others)


def words_of(study, **others):
    body = report.render_report(study, **others).split("<body>")[1]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).replace("\u00a0", " ").split())


def test_a_report_asks_nothing_of_the_network_and_runs_nothing():
    text = report.render_report(answer(), outlines=["401.outline.nii.gz"])
    assert not {"script", "link", "iframe"} & set(re.findall(r"<(\w+)", text))
    images = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(images) == 5 and images.pop() == "401.outline.nii.gz"
    assert all(link.startswith("data:image/jpeg;base64,") for link in images)
    assert not re.search(r"url\((?!#)|@import|https?://", text)


def test_names_and_reasons_are_escaped_and_folders_are_not_shown():
    table = slices(GLIOMA, GLIOMA, HEALTHY, path=f"/home/someone/{EVIL}", series=EVIL)
    table.loc[2, ["decision", "class", "set"]] = [f"refused: {EVIL}", "", ""]
    table.loc[3] = dict(table.loc[0]) | {"slice": 4, "class": "", "error": f"damaged {EVIL}"}
    text = report.render_report(answer(table=table))
    assert "<script" not in text and "someone" not in text
    text = words_of(answer(table=table))
    assert text.count(EVIL.split("/")[-1]) > 3 and f"damaged {EVIL}" in text
    line = words.line(answer(table=slices(GLIOMA, path="a\x1b[31m\n$x$.png", series="")))
    assert line.startswith("a\\x1b[31m $x$.png: glioma, 92 %")
    assert "mathjax_ignore" in answer()._repr_html_()


def test_what_a_model_of_ones_own_lacks_is_named_once_it_is_open(tmp_path, caplog, monkeypatch):
    mine = tmp_path / "mine.keras"
    mine.touch()
    with pytest.raises(BrainlibError, match=r"mine\.keras"):
        report.load(mine)
    assert not caplog.text
    bare = lambda model, engine: inference.Classifier(None, model, engine)  # noqa: E731
    monkeypatch.setattr(inference, "open_classifier", bare)
    assert repr(report.load(mine)) == "Model(mine, keras, acquired)"
    assert "mine.onnx is absent: Keras runs" in caplog.text
    assert "there is no mine.gate.npz or mine.rules.json beside" in caplog.text


def test_an_answer_is_given_with_its_probability_and_how_often_that_was_right():
    counted = [{"class": "glioma", "low": 0.9, "high": 0.97, "lower": 0.8, "upper": 0.99}]
    text = words_of(answer(rules=RULES | {"study_reliability": counted}))
    assert text.count(NOTICE) == 2 and "Glioma 92 %" in text
    assert "the only one of the four classes that remains" in text
    studies = "simulated studies of held-out patients classified as glioma at 90 to 97 %, 80"
    assert f"Of 100 {studies} to 99 were gliomas" in text
    alone = "Of 100 held-out slices classified as glioma at over 0 %, 88 to 96 were gliomas."
    alone_in = answer(table=slices(GLIOMA), deciding="1", shown=(1,))
    assert alone in words_of(alone_in) and "confidence, it" not in words_of(alone_in)
    alone_in.slices["set"] = "glioma meningioma"
    assert "At 90 % confidence, it may be glioma or meningioma. Of 100" in words_of(alone_in)
    pituitary = words_of(answer(GLIOMA[::-1], slices(*[GLIOMA[::-1]] * 2)))
    assert "base of the skull" in pituitary and "base of the skull" not in text


@pytest.mark.parametrize(("probabilities", "limit", "title", "said"), [
    ((0.5, 0.45, 0.03, 0.02), 0.4, "Undecided", "no class reaches 90 % confidence"),
    ((0.5, 0.45, 0.03, 0.02), 0.6, "Undecided", "it may be glioma or meningioma"),
    ((0.01, 0.51, 0.01, 0.47), 0.5, "Meningioma", "(47 %). At 90 % confidence, only men"),
    ((0.2, 0.39, 0.25, 0.16), 0.61, "Undecided", "other classes together are more probable"),
])  # fmt: skip
def test_no_other_class_is_left_only_where_that_is_true(probabilities, limit, title, said):
    conformal = CONFORMAL | {"thresholds": dict.fromkeys(CLASSES, limit)}
    study = answer(probabilities, rules=RULES | {"conformal": conformal, "study": conformal})
    text = words_of(study)
    assert words.headline(study)["title"] == title and said in text
    assert "the only one of the four" not in text
    assert ("answers, 90" in text) == (title != "Undecided")  # limits of a class that is called


def test_an_absence_is_worded_with_care_and_has_no_heat_map():
    study = answer(HEALTHY, slices(HEALTHY, HEALTHY, HEALTHY))
    text = words_of(study)
    assert "None of the three tumours was found 97 %" in text and "No tumour" not in text
    assert "2 slices were classified as tumour; please review them." in text
    assert study.maps(1)[1] is None and answer().maps(1)[1] is not None
    assert "evidence for the answer" not in text and "90 % of glioma slices" in text


def test_a_study_with_gaps_has_no_headline_of_absence():
    table = slices(HEALTHY, HEALTHY, HEALTHY)
    table.loc[1, ["decision", "class"]] = ["refused: it is blank", ""]
    decision = "incomplete: 1 slice inside the brain was not classified"
    study = no_answer(table, decision, accepted=2, gaps=1, tumor_slices=1)
    text = words_of(study)
    assert "Incomplete 1 slice inside the brain was not classified." in text
    assert "97 %" not in text.split("slices in all")[0] and decision in words.line(study)
    assert "1 slice inside the brain was not classified." in words_of(answer(gaps=1))
    assert study.outline is None  # which would be a finding
    base = words_of(no_answer(table, f"incomplete: {inference.studies.BASE_ONLY}", accepted=3))
    assert "Incomplete Most of its lowest slices" in base and "None of the three" not in base


def test_a_refusal_gives_its_reasons_and_a_long_list_is_cut():
    table = slices(*[HEALTHY] * 20).assign(decision="refused: it is blank")
    table["class"] = ""
    text = words_of(no_answer(table, "refused: it is blank", refused=20))
    assert "20 of 20 slices were refused" in text and "it is blank 1 to 20 (20)" in text
    assert "Known limits" not in text
    table["path"] = [f"x/{number}.dcm" for number in range(20)]
    broken = table.assign(error="truncated", decision="")
    text = words_of(no_answer(broken, "unreadable: truncated", unreadable=20))
    assert "Could not be read" in text and "0.dcm truncated" in text
    assert "17 other files" in text and "19.dcm" not in text


@pytest.mark.parametrize(("description", "said"), [
    ("Ax T2 FLAIR", "The file says “Ax T2 FLAIR”"), ("T1 post", ""),
    ("T1 SE", "does not state that contrast was given"), ("", "does not state the sequence"),
])  # fmt: skip
def test_a_sequence_unlike_those_of_the_training_is_noted(description, said):
    study, facts = answer(), {"description": description} if description else {}
    study.images.update({2: imaging.ScanSlice(Path("x"), pixels=PIXELS, facts=facts)})
    text = words_of(study)
    assert said in text and ("was trained on tumours in" in text) == bool(said)
    study.rules = RULES | {"source": "mine"}
    assert "was trained on tumours in" not in words_of(study)


def test_what_a_model_of_ones_own_was_trained_on_is_read_from_its_record(tmp_path):
    study = answer(rules=None)
    study.classifier = replace(study.classifier, model=tmp_path / "mine_patient0.keras")
    for source, said in {
        "": "unknown: the model has neither", '{"source": {}}': "unknown: the model has neither",
        '{"source": {"name": "mine", "version": "", "synthetic": false}}': "mine Measured on",
        '{"source": {"name": "mine", "version": "3", "synthetic": true}}': "mine version 3, synth",
    }.items():  # fmt: skip
        (tmp_path / "mine_patient0.run.json").write_text(source, encoding="utf-8")
        assert f"Trained on {said}" in words_of(study)
        assert "different scanners" not in words_of(study)  # which is so in Kaggle's collection


def test_limits_provenance_and_sides_are_stated():
    made = datetime(2026, 11, 25, 3, 4, tzinfo=UTC)
    text = words_of(answer(), made=made)
    assert "It recognises 90 % (80 to 95 %) of the slices that show a glioma" in text
    assert "These studies are simulated." in text and "phantom" not in text
    assert "kaggle version 1" in text
    for fact in ("2026-11-25 03:04 UTC", "engine onnx", "different scanners", *NOT_FOR):
        assert fact in text
    assert "phantom" in words_of(answer(rules=RULES | {"synthetic": True}))
    assert "side unknown" in words_of(answer(table=slices(GLIOMA, GLIOMA).assign(plane="")))
    oblique = np.c_[[0, -1, -1, 0], AXIAL[:, 1:]]
    assert drawing.sides(oblique) == ("R", "L", "AS", "PI") and drawing.sides(None) is None


@pytest.mark.parametrize("size", [90, 180, 560])
def test_overlays_lie_where_the_maps_say_whatever_the_size(size):
    grey = np.full((90, 60), 60, np.uint8)
    radii = {}
    for overlay in ("outline", "heat_map"):
        drawn = drawing.draw_slice(grey, **{overlay: SPOT}, affine=AXIAL, size=size)
        colored = np.ptp(np.asarray(drawn, int), axis=2) > 60
        assert colored.shape == (size, round(size * 60 / 90))
        rows, columns = (places * 90 / size for places in np.nonzero(colored))
        assert (rows.mean(), columns.mean()) == pytest.approx((60, 20), abs=3.6)
        radii[overlay] = np.hypot(rows - 60, columns - 20)
    assert radii["heat_map"].max() < 25  # the heat map leaves the rest as it is
    edge = np.sqrt(-200 * np.log(OUTLINE_THRESHOLD))
    assert np.median(radii["outline"]) == pytest.approx(edge, abs=1.5)


def test_the_deciding_images_come_first_keep_their_shape_and_stay_small(tmp_path):
    study = answer(table=slices(*[GLIOMA] * 6), deciding="5 4 1 2 3", shown=range(1, 7))
    assert re.findall(r"Slice (\d) of 6 :", words_of(study)) == list("5412")
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1000), np.uint8)
    big = imaging.ScanSlice(Path("x"), pixels=pixels)
    study.images.update(dict.fromkeys(range(1, 7), big))
    path = report.write_report(tmp_path / "new" / "report.html", study)
    assert path.stat().st_size < 1_000_000
    uri = re.search(r"base64,([^\"]+)", path.read_text(encoding="utf-8"))[1]
    assert Image.open(io.BytesIO(base64.b64decode(uri))).size == (280, 420)
    assert list(path.parent.iterdir()) == [path]
