"""MODEL_CARD.md says what metrics.json says, and CLAIM.md answers every item."""

import copy
import json
import re

import pytest
from scripts.markdown import interval

from brainlib import CLASS_NAMES, evaluation, models, paths
from brainlib.data import kaggle, splits
from brainlib.notebook import runs
from scripts import card, readme

ROOT = paths.project_root()
PAGES = ("MODEL_CARD.md", "CLAIM.md")
ANSWERS = {"yes", "partly", "not done", "not applicable"}
QUOTED = {"0", "255", "2005", "2010", "2019", "1", "4.0", "0.1.0"}
"""Numbers of the prose that are no count of ours: grey values, years, fold, versions."""


def page(name):
    return (ROOT / name).read_text(encoding="utf-8")


def prose():
    """Return the model card without its results, its code and its identifiers."""
    text = re.sub(r"<!-- results:start -->.*<!-- results:end -->", "", page("MODEL_CARD.md"),
                  flags=re.DOTALL)  # fmt: skip
    text = text.split("## Sources")[0]
    return re.sub(r"```.*?```|`[^`]*`|Br35H|T1", "", text, flags=re.DOTALL)


@pytest.fixture
def document():
    """Return metrics.json as it will be, the starting network's results under the new name."""
    metrics = copy.deepcopy(evaluation.read_metrics(ROOT))
    for part in ("results", "tumor_type", "by_patient", "tumor_type_by_patient"):
        metrics[part]["brain_tumor"] = copy.deepcopy(metrics[part]["seed_cnn"])
    metrics["comparisons"] |= {"seed_cnn": metrics["comparisons"]["hog_svm"]}
    record = runs.read_record(ROOT / "model" / "seed_cnn_patient0.run.json")
    records = {f"brain_tumor_patient{fold}": copy.deepcopy(record) for fold in range(5)}
    training = {name: metrics["training"]["seed_cnn_official"] for name in records}
    for part in ("maps", "robustness", "other_scanners", "release", "ablation"):
        metrics.pop(part, None)
    return {**metrics, "training": training, "records": records}


def part(text, title):
    """Return the lines below a heading, up to the next."""
    return text.split(f"### {title}\n")[1].split("\n### ")[0]


def rows(text):
    """Return the cells of the rows of a table by their first cell."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: others for first, *others in cells}


def test_the_numbers_of_the_card_are_those_of_metrics_json():
    if "brain_tumor" not in evaluation.read_metrics(ROOT)["results"]:
        pytest.skip("metrics.json has no results of brain_tumor")
    assert readme.written_section("MODEL_CARD.md") == readme.expected_section("MODEL_CARD.md")
    assert "### New patients" in readme.written_section("MODEL_CARD.md")


def test_the_readme_shows_the_released_network_first_and_in_detail(document):
    document["training"]["seed_cnn_official"] = document["training"]["brain_tumor_patient0"]
    document["results"]["brain_tumor"]["patient"]["macro_f1"]["value"] = 0.123
    text = readme.results_section(document)
    assert text.index("**released network**") < text.index("**starting network**")
    assert "The networks on new patients" in text and "| macro F1 | 0.123 (" in text


def test_the_page_is_written_and_a_number_that_differs_is_seen(document, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    document["training"]["seed_cnn_official"] = document["training"]["brain_tumor_patient0"]
    (tmp_path / "model").mkdir()
    for name in readme.SECTIONS:
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    write = (tmp_path / evaluation.METRICS_FILE).write_text
    write(json.dumps(document), encoding="utf-8")
    readme.write_results()
    assert "### New patients" in readme.written_section("MODEL_CARD.md")
    assert readme.written_section("MODEL_CARD.md") == readme.expected_section("MODEL_CARD.md")
    document["results"]["brain_tumor"]["patient"]["accuracy"]["low"] -= 0.01
    write(json.dumps(document), encoding="utf-8")
    assert readme.written_section("MODEL_CARD.md") != readme.expected_section("MODEL_CARD.md")


def test_a_card_without_results_says_so(document):
    del document["results"]["brain_tumor"]
    assert card.results_section(document) == card.NO_RESULTS


def test_every_score_of_new_patients_is_in_the_card(document):
    honest = document["results"]["brain_tumor"]["patient"]
    text = card.describe(document)
    shown = rows(part(text, "New patients"))
    assert text.startswith("### New patients")  # what counts comes first
    for name in ("macro_f1", "log_loss", "calibration_error"):
        title = name.replace("_", " ").replace("f1", "F1")
        assert shown[title][0] == interval(honest[name])
    for label in CLASS_NAMES:
        assert shown[f"sensitivity for {label}"][0] == interval(honest[f"sensitivity_{label}"])
    for section in ("tumor_type", "by_patient", "tumor_type_by_patient"):
        score = document[section]["brain_tumor"]["patient"]["accuracy"]
        assert interval(score) in [cells[0] for cells in shown.values()]


def test_the_card_changes_with_every_number_it_rests_on(document):
    before = card.describe(document)
    for place in (
        "results/brain_tumor/patient/log_loss",
        "results/brain_tumor/official/accuracy",
        "tumor_type/border_pixels/patient/accuracy",
        "calibration/log_loss",
        "conformal/glioma",
        "by_part/source figshare",
        "comparisons/seed_cnn",
        "scanner",
        "records/brain_tumor_patient3",
    ):
        changed = copy.deepcopy(document)
        found = card.find(changed, place)
        found |= {key: value + 99 for key, value in found.items() if isinstance(value, float)}
        assert card.describe(changed) != before, place


@pytest.mark.parametrize(("value", "met"), [(0.10, "yes"), (0.1001, "no")])
def test_a_target_is_met_at_its_bound_and_not_beyond(document, value, met):
    document["calibration"]["log_loss"]["after"] = value
    row = rows(part(card.describe(document), "Targets"))["log loss, after temperature"]
    assert row[1] == "≤ 0.1" and row[2].startswith(f"{value:.4f}") and row[3] == met


def test_a_target_to_be_reached_is_missed_below_its_bound(document):
    score = document["results"]["brain_tumor"]["patient"]["sensitivity_glioma"]
    for value, met in ((0.95, "yes"), (0.9499, "no")):
        score["value"] = value
        assert rows(part(card.describe(document), "Targets"))["sensitivity for glioma"][3] == met


def test_what_was_not_measured_is_named_and_never_met(document):
    text = card.describe(document)
    dice = "outline of the tumour, Dice"
    assert rows(part(text, "Targets"))[dice][2:] == ["not measured", "-"]
    absent = part(text, "Not measured")
    assert f"- {dice}" in absent and "- where it looks" in absent
    document["maps"] = {"dice": {"value": 0.81, "low": 0.79, "high": 0.83}}
    text = card.describe(document)
    assert rows(part(text, "Targets"))[dice][2:] == ["0.8100 (0.7900 to 0.8300)", "yes"]
    assert "### Where it looks" in text and dice not in part(text, "Not measured")


def test_spoilt_pictures_are_shown_by_corruption_and_strength(document):
    by_corruption = {"clean": {"mean": 0.9}, "blur": {"strength 1": 0.85, "mean": 0.85}}
    document["robustness"] = {"brain_tumor": {**by_corruption, "accuracy_kept": 0.944}}
    shown = part(card.describe(document), "Spoilt pictures")
    assert rows(shown)["blur"] == ["0.850", "0.850"] and rows(shown)["clean"] == ["-", "0.900"]
    assert "0.944" in shown


def test_the_card_says_what_temperatures_were_fitted_on(document):
    assert "its validation groups" in card.describe(document)
    for record in document["records"].values():
        record["split"]["validation"]["pictures"] = 0
    assert "the test pictures of the other folds" in card.describe(document)


def test_the_minutes_are_those_of_the_records(document):
    for record in document["records"].values():
        record["duration_seconds"] = 600.0
    shown = part(card.describe(document), "What training costs")
    assert rows(shown)["`brain_tumor_patient0`"][2] == "10" and "50 minutes in all" in shown


@pytest.mark.parametrize(("epochs", "said"), [(16, True), (40, False)])
def test_an_official_run_of_another_length_is_told(document, epochs, said):
    document["training"]["brain_tumor_patient0"] = {"epoch": 40}
    document["training"]["brain_tumor_official"] = {"epoch": epochs}
    shown = part(card.describe(document), "Other protocols")
    assert (f"trained for {epochs} epochs for them, and for 40 for new patients" in shown) == said


def test_what_is_left_without_look_alikes_is_told(document):
    patient = document["results"]["brain_tumor"]["patient"]
    document["without_look_alikes"] = {"brain_tumor": {"patient": copy.deepcopy(patient)}}
    document["without_look_alikes"]["brain_tumor"]["patient"] |= {
        "pictures": patient["pictures"] - 7, "accuracy": {"value": 0.123, "low": 0.1, "high": 0.2}
    }  # fmt: skip
    shown = part(card.describe(document), "Source by source, new patients")
    assert "7 pictures without a known patient" in shown
    assert "accuracy is 0.123 (0.100 to 0.200)" in shown


def test_records_are_read_by_name(tmp_path):
    for name in ("brain_tumor_patient1", "brain_tumor_official", "brain_tumor_patient0", "release",
                 "seed_cnn_patient0"):  # fmt: skip
        (tmp_path / f"{name}.run.json").write_text(json.dumps({"name": name}), encoding="utf-8")
    found = card.read_records(tmp_path)
    assert list(found) == ["brain_tumor_patient0", "brain_tumor_patient1", "brain_tumor_official",
                           "release"]  # fmt: skip
    assert all(record["name"] == name for name, record in found.items())


def test_every_number_of_the_prose_is_counted_or_quoted():
    table, benchmark = kaggle.read_provenance(), splits.benchmark()
    labels, testing = table["path"].str.split("/").str[1], table["path"].str.startswith("Testing")
    training, known = table[~testing], table["patient"].ne("")
    tumors = labels.ne("notumor")
    published = table["figshare_label"].ne("") & table["figshare_label"].ne(labels)
    counts = {
        len(table), len(benchmark), len(table) - len(benchmark), int(published.sum()),
        int(tumors.sum()), int((tumors & table["source"].ne("figshare")).sum()),
        *benchmark["source"].value_counts(), table.loc[known, "patient"].nunique(),
        int(testing.sum()), int((testing & known).sum()),
        int((testing & table["source_image"].isin(training["source_image"])).sum()),
        models.PICTURE_SIZE, models.PICTURE_SIZE // models.MAP_FACTOR,
    }  # fmt: skip
    allowed = {f"{count:,}" for count in counts} | QUOTED
    shown = set(re.findall(r"\d[\d,.]*\d|\d", prose()))
    assert shown <= allowed, shown - allowed
    assert (testing & known).sum() == (testing & table["patient"].isin(
        training.loc[training["patient"] != "", "patient"])).sum()  # fmt: skip


def test_the_citation_is_that_of_the_citation_file():
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    title, version, licence = (
        re.search(rf'^{key}: "?(.+?)"?$', cited, re.MULTILINE)[1]
        for key in ("title", "version", "license")
    )
    text = page("MODEL_CARD.md")
    assert f"*{title}*, version {version}" in text and f"| licence | {licence}" in text


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_a_page_names_is_there(name):
    text = page(name)
    released = "brain_tumor" in evaluation.read_metrics(ROOT)["results"]
    named = re.findall(r"\]\((?!https)([^)]+)\)", text)
    named += re.findall(r"`((?:brainlib|model|notebooks|figures)/[\w./]*)`", text)
    for file in named:
        is_model = file.startswith("model/brain_tumor.")
        assert (ROOT / file).exists() or (is_model and not released), file


def test_every_part_that_the_checklist_points_at_is_in_its_page(document):
    text = page("MODEL_CARD.md") + card.describe(document) + page("DATASET.md")
    empty_yet = {"Where it looks", "Spoilt pictures", "Other scanners"}
    for title in set(re.findall(r'"([A-Z][^"]+)"', page("CLAIM.md"))) - empty_yet - {"Results"}:
        assert re.search(rf"^#+ {re.escape(title)}$", text, re.MULTILINE), title


def test_the_checklist_answers_the_44_items_in_order():
    found = re.findall(r"^\| (\d+) \| .+? \| (.+?) \| .+ \|$", page("CLAIM.md"), re.MULTILINE)
    assert [int(number) for number, _ in found] == list(range(1, 45))
    assert {answer for _, answer in found} <= ANSWERS
