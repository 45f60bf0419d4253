"""The report: one file that opens from disk, tells an answer from none, and lets nothing in."""

import base64
import io
import re
import shutil
import subprocess
from datetime import datetime, timezone
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainlib import CLASS_NAMES, report
from brainlib.report import drawing, words

CLASSES = list(CLASS_NAMES)
EVIL = "<script>alert('x')</script>&\"'.dcm"
GLIOMA, HEALTHY = (0.92, 0.05, 0.02, 0.01), (0.01, 0.01, 0.97, 0.01)
SHARE = {"value": 0.9, "low": 0.8, "high": 0.95}
RULES = {
    "model": "brain_tumor",
    "model_sha256": "f3cd450b",
    "source": "kaggle version 1",
    "synthetic": False,
    "held_out": {"pictures": 4855, "groups": 798},
    "conformal": {"coverage": 0.9, "thresholds": dict.fromkeys(CLASSES, 0.4)},
    "study": {
        "thresholds": dict.fromkeys(CLASSES, 0.4),
        "sentence": "The answer to the study is a mean.",
        "simulation": "These studies are simulated.",
    },
    "reliability": [
        {"class": name, "low": 0.0, "high": 1.0, "observed": 0.92, "lower": 0.881, "upper": 0.954}
        for name in CLASSES
    ],
    "study_reliability": [],
    "limits": {
        name: {
            "sensitivity": SHARE,
            "positive_predictive_value": SHARE,
            "taken_for": {"class": "meningioma", "share": 0.03, "pictures": 4},
            "really_was": {"class": "notumor", "share": 0.02, "pictures": 4},
            "missed": {"glioma": SHARE},
        }
        for name in CLASSES
    },
    "limits_of_all": {"part": "source sartaj", "accuracy": 0.8, "low": 0.7, "high": 0.9},
}


class Maps:
    """Maps as explain draws them, of as many pictures as asked for."""

    def __init__(self, count):
        self.outlines = np.zeros((count, 64, 64), np.float32)
        self.outlines[:, 20:40, 24:40] = 1
        self.heat_maps = np.zeros((count, 64, 64), np.float32)
        self.heat_maps[:, 25:35, 25:35] = 2


class Page(HTMLParser):
    """What a browser would make of a page: tags, what they point to, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note a tag and what it points to."""
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_data(self, data):
        """Note a piece of text."""
        self.text += data.replace("\u00a0", " ") + " "


def slices(*rows, path="series/x.dcm", series="401-70d5009c"):
    table = pd.DataFrame(list(rows), columns=CLASSES)
    table["class"] = table[CLASSES].idxmax(axis=1)
    table["set"] = table["class"]
    table["path"], table["series"], table["slice"] = path, series, range(len(table))
    return table.assign(plane="axial", decision="accepted", error="")


def study(probabilities=GLIOMA, **others):
    found = dict(zip(CLASSES, probabilities, strict=True))
    return {
        "series": "401-70d5009c", "path": "/home/someone/series", "slices": 3, "accepted": 3,
        "refused": 0, "unreadable": 0, "class": max(found, key=found.get), **found,
        "tumor_slices": 2, "deciding": "1 0", **others,
    }  # fmt: skip


def no_answer(**others):
    return study((np.nan,) * 4, **{"class": "", "accepted": 0, "deciding": "", **others})


def picture(height=300, width=200):
    return np.random.default_rng(0).integers(0, 256, (height, width)).astype(np.uint8)


def render(found=None, table=None, shown=(1, 0), rules=RULES, **others):
    table = slices(GLIOMA, GLIOMA, HEALTHY) if table is None else table
    pictures = {number: picture() for number in shown}
    maps = Maps(len(shown)) if shown else None
    return report.render_report(
        study() if found is None else found, table, pictures, maps, rules, **others
    )


def words_of(*arguments, **others):
    body = render(*arguments, **others).split("<body>")[1]
    return " ".join(Page(body).text.split())


def test_a_report_asks_nothing_of_the_network_and_runs_nothing():
    page = Page(render())
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    assert page.links and all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert not re.search(r"url\((?!#)|@import|https?://", render())


def test_names_and_reasons_are_escaped():
    table = slices(GLIOMA, GLIOMA, HEALTHY, path=f"x/{EVIL}", series=EVIL)
    table.loc[2, ["decision", "class", "set"]] = [f"refused: {EVIL}", "", ""]
    broken = table.iloc[[0]].assign(slice=np.nan, decision="", error=f"damaged {EVIL}")
    text = render(study(series=EVIL, path=f"x/{EVIL}"), pd.concat([table, broken]), engine=EVIL)
    page = Page(text)
    assert "script" not in page.tags and "<script" not in text
    assert EVIL in page.text and f"damaged {EVIL}" in page.text


def test_folders_are_not_shown_for_they_may_name_a_patient():
    assert "someone" not in render()


def test_it_is_no_medical_device_at_the_top_and_at_the_bottom():
    text = words_of()
    assert text.index(words.NOTICE) < text.index("Glioma") and text.endswith(words.NOTICE)


def test_an_answer_is_given_with_its_probability_and_how_often_that_was_right():
    text = words_of()
    assert "Glioma 92 %" in text
    assert "no other of the four classes is left" in text
    assert "Of 100 held-out slices called glioma at over 0 %, 88 to 96 were gliomas." in text


def test_an_answer_to_a_study_is_counted_on_studies():
    counted = [{"class": "glioma", "low": 0.9, "high": 0.97, "lower": 0.8, "upper": 0.99}]
    text = words_of(rules=RULES | {"study_reliability": counted})
    assert (
        "Of 100 simulated studies of held-out patients called glioma at 90 to 97 %, 80 to 99"
        in text
    )
    assert "These studies are simulated." in text


@pytest.mark.parametrize(
    ("probabilities", "said"),
    [
        ((0.5, 0.45, 0.03, 0.02), "no class is sure enough"),
        ((0.45, 0.2, 0.2, 0.15), "is the most probable of the four, at 45 %"),
    ],
)
def test_what_is_not_sure_is_called_undecided(probabilities, said):
    text = words_of(study(probabilities))
    assert "Undecided" in text and said in text
    assert 'class="answer undecided"' in render(study(probabilities))


def test_two_classes_that_both_may_be_are_named():
    loose = {"coverage": 0.9, "thresholds": dict.fromkeys(CLASSES, 0.6)}
    rules = RULES | {"study": RULES["study"] | loose}
    text = words_of(study((0.5, 0.45, 0.03, 0.02)), rules=rules)
    assert "Undecided" in text and "it may be glioma or meningioma" in text


def test_a_set_without_the_others_is_no_answer_below_one_half():
    loose = {"coverage": 0.9, "thresholds": {**dict.fromkeys(CLASSES, 0.1), "meningioma": 0.8}}
    table = slices((0.2, 0.39, 0.25, 0.16))
    found = study((0.2, 0.39, 0.25, 0.16), slices=1, accepted=1, deciding="0")
    text = words_of(found, table, shown=(0,), rules=RULES | {"conformal": loose})
    assert "Undecided" in text and "more probably it is another" in text


def test_abstaining_is_as_prominent_as_an_answer_and_gives_its_reasons():
    table = slices(HEALTHY, HEALTHY, HEALTHY).assign(decision="refused: it is blank")
    found = no_answer(refused=3)
    text = words_of(found, table, shown=())
    assert "No answer" in text and "All 3 slices were refused" in text
    assert "it is blank 0 to 2 (3)" in text and "Known limits" not in text
    assert '<p class="title" style="margin:0">No answer' in render(found, table, shown=())


def test_what_could_not_be_read_is_listed_and_a_long_list_is_cut():
    table = slices(*[HEALTHY] * 20)
    table["path"] = [f"x/{number}.dcm" for number in range(20)]
    text = words_of(no_answer(slices=20, unreadable=20), table.assign(error="truncated"), shown=())
    assert "None of 20 could be read" in text and "0.dcm truncated" in text
    assert "17 other files" in text and "19.dcm" not in text


def test_slices_that_look_like_a_tumour_are_named_when_the_study_does_not():
    text = words_of(study(HEALTHY, tumor_slices=2))
    assert "No tumour 97 %" in text and "Yet 2 slices, taken alone, would be called tumour" in text


def test_the_limits_of_the_class_come_from_the_rules():
    assert "it calls 90 % (80 to 95 %) by the name" in words_of()
    assert "90 % of glioma slices" in words_of(study(HEALTHY, tumor_slices=0))
    for line in words.FORBIDDEN:
        assert line in words_of()


def test_it_says_when_with_what_and_from_which_file():
    made = datetime(2026, 11, 25, 3, 4, tzinfo=timezone.utc)
    text = words_of(made=made, engine="onnx", model_sha256="0123abcd")
    for fact in ("2026-11-25 03:04 UTC", "engine onnx", "0123abcd", "kaggle version 1", "series"):
        assert fact in text
    assert "f3cd450b" in words_of()


def test_a_result_of_the_phantom_is_stamped():
    assert "phantom" in words_of(rules=RULES | {"synthetic": True})
    assert "phantom" not in words_of()


def test_deciding_slices_come_first_and_no_more_than_fit():
    table = slices(*[GLIOMA] * 6)
    text = words_of(study(slices=6, accepted=6, deciding="5 4"), table, shown=range(6))
    assert re.findall(r"Slice (\d) :", text) == ["5", "4", "0", "1"]


def test_maps_of_other_pictures_are_refused():
    with pytest.raises(report.ReportError, match="2 maps for 1 pictures"):
        report.render_report(study(), slices(GLIOMA), {0: picture()}, Maps(2), RULES)
    with pytest.raises(report.ReportError, match="slice 9"):
        report.render_report(study(), slices(GLIOMA), {9: picture()}, Maps(1), RULES)


def test_a_picture_keeps_its_shape_and_its_map_lies_on_it():
    maps = Maps(1)
    drawn = drawing.draw_slice(picture(900, 600), maps.outlines[0], maps.heat_maps[0])
    assert (drawn["width"], drawn["height"], drawn["side"], drawn["left"]) == (280, 420, 420, 70)
    pixels = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn[name].split(",")[1]))).convert("L"))
        for name in ("plain", "heat")
    ]
    assert pixels[0].shape == pixels[1].shape == (420, 280)
    changed = np.abs(pixels[0].astype(int) - pixels[1]) > 60
    rows, columns = np.nonzero(changed)
    assert rows.mean() == pytest.approx(420 * 30 / 64, abs=12)
    assert columns.mean() + 70 == pytest.approx(420 * 30 / 64, abs=12)
    corners = np.array(re.findall(r"[\d.]+", drawn["outline"]), float).reshape(-1, 2)
    assert corners.mean(axis=0) == pytest.approx([420 * 32 / 64, 420 * 30 / 64], abs=8)


def test_a_file_of_large_pictures_stays_small_and_is_whole_or_absent(tmp_path, monkeypatch):
    pictures = {number: picture(1500, 1500) for number in range(4)}
    arguments = (
        study(slices=4, deciding="0 1 2 3"),
        slices(*[GLIOMA] * 4),
        pictures,
        Maps(4),
        RULES,
    )
    path = report.write_report(tmp_path / "new" / "report.html", *arguments)
    assert path.stat().st_size < 2_000_000
    before = path.read_text(encoding="utf-8")
    monkeypatch.setattr(words, "describe_limits", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write_report(path, *arguments)
    assert path.read_text(encoding="utf-8") == before and len(list(path.parent.iterdir())) == 1


def test_a_study_read_back_from_csv_is_reported_the_same(tmp_path):
    made = datetime(2026, 11, 25, tzinfo=timezone.utc)
    table = slices(HEALTHY, HEALTHY, HEALTHY).assign(decision="refused: it is blank")
    for found, rows, shown in (
        (study(deciding="1"), slices(GLIOMA, GLIOMA, HEALTHY), (1,)),
        (no_answer(refused=3), table, ()),
    ):
        pd.DataFrame([found]).to_csv(tmp_path / "studies.csv", index=False)
        again = pd.read_csv(tmp_path / "studies.csv").iloc[0]
        assert render(again, rows, shown, made=made) == render(found, rows, shown, made=made)


@pytest.mark.parametrize("kind", ["answer", "none"])
def test_it_prints_on_two_pages_at_most(tmp_path, kind):
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium")
    table = slices(*[GLIOMA] * 30)
    table.loc[5:20, "decision"] = [f"refused: {'for some reason ' * 9} {row}" for row in range(16)]
    broken = table.iloc[:9].assign(path=[f"{row}{'long name' * 20}" for row in range(9)])
    table = pd.concat([table, broken.assign(error="it is damaged, copy it again " * 9)])
    found, shown = study(slices=39, accepted=14, deciding="0 1 2 3"), range(4)
    if kind == "none":
        table["decision"] = "refused: it is blank"
        found, shown = no_answer(slices=39, refused=30, unreadable=9), ()
    page = tmp_path / "report.html"
    page.write_text(render(found, table, shown), encoding="utf-8")
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/home",
         "--no-pdf-header-footer", f"--print-to-pdf={tmp_path}/report.pdf", page.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    pages = re.findall(rb"/Type\s*/Page\b(?!s)", (tmp_path / "report.pdf").read_bytes())
    assert 1 <= len(pages) <= 2
