"""Pages: README, model card and datasheet say what metrics.json and the tables say."""

import copy
import re

import pandas as pd
import pytest

from brainlib import CLASS_NAMES, evaluation, paths
from brainlib.data import datasets, kaggle, splits
from scripts import pages

ROOT = paths.project_root()
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.fixture
def document():
    return copy.deepcopy(evaluation.read_metrics(ROOT))


@pytest.mark.parametrize("page", pages.PAGES)
def test_a_page_is_what_its_template_makes_of_metrics_json(page):
    assert (ROOT / page).read_text(encoding="utf-8") == pages.expected_text(page)


@pytest.mark.parametrize(
    "place",
    ["results/{}/patient/accuracy", "results/{}/official/accuracy", "maps/dice", "scanner",
     *(f"results/{{}}/patient/{name}" for name in ("macro_f1", "log_loss")),
     *(f"results/{{}}/patient/sensitivity_{name}" for name in CLASS_NAMES),
     "conformal/all", "gate/false_refusals", "robustness/{}/noise", "studies/shares/50%/accuracy",
     "margins/{}/black sides, 40 %", "sizes/same_class"],
)  # fmt: skip
def test_the_card_changes_with_every_number_it_rests_on(document, place):
    before = pages.expected_text("docs/model_card.md", document)
    found = document
    for key in place.format(next(iter(document["results"]))).split("/"):
        found = found[key]
    found |= {key: value + 9 for key, value in found.items() if isinstance(value, float)}
    assert pages.expected_text("docs/model_card.md", document) != before


def test_what_was_not_measured_leaves_a_page_whole(document):
    for name in ("ablation", "benchmark", "margins", "external"):
        document.pop(name, None)
    text = pages.expected_text("docs/model_card.md", document)
    assert "Contribution of each part" not in text and "{{" not in text


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_link_and_image_of_a_page_is_there(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_pages_are_as_short_as_they_promise_and_the_readme_invites_to_all_images():
    readme, card = (
        (ROOT / name).read_text("utf-8") for name in ("README.md", "docs/model_card.md")
    )
    assert len(readme.splitlines()) <= 150 and len(card.splitlines()) <= 250
    assert f"for the {len(splits.benchmark()):,} images" in readme


SPLITS, SOURCES = list(datasets.SPLIT_NAMES), ["figshare", "sartaj", "br35h_no"]
QUOTED = {"1", "2", "4", "233", "2005", "2010", "2020", "2021", "64", "12"}
"""Numbers that are no count of ours: versions, years, and what the sources say of themselves."""


@pytest.fixture(scope="module")
def text():
    return (paths.project_root() / "docs" / "datasheet.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def table():
    table = kaggle.read_provenance().replace({"patient": {"": None}, "figshare_slice": {"": None}})
    folders = table["path"].str.split("/", expand=True)
    folds = splits.read_published_folds().reindex(table["path"]).to_numpy()
    table = table.assign(split=folders[0], label=folders[1], fold=folds)
    published = table["figshare_label"]
    return table.assign(wrong=(published != "") & (published != table["label"]))


def shown(text, name):
    """Return the rows of one table of the page, its header left out."""
    lines = text.split(f"<!-- table: {name} -->\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def written(frame):
    """Return the rows of a frame, index first, as the page writes them."""
    rows = frame.reset_index().to_numpy(object).tolist()
    return [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]


def with_all(table, column, counts):
    """Return the counts of each value of a column, and of all rows."""
    return pd.concat([counts(table.groupby(column)), counts(table.groupby(lambda row: "all"))])


def count(**columns):
    return lambda groups: groups.agg(**{name: (name, how) for name, how in columns.items()})


def test_tables_of_the_datasheet_and_what_is_said_of_folds_and_mirror_images_are_true(text, table):
    by_split = pd.crosstab(table["split"], table["label"], margins=True, margins_name="all")
    assert shown(text, "splits") == written(by_split.loc[[*SPLITS, "all"]])
    by_source = table.groupby(["source", "label", "split"]).size().unstack(fill_value=0)[SPLITS]
    by_source = by_source.loc[SOURCES].assign(all=by_source.sum(axis=1))
    assert shown(text, "sources") == written(by_source)
    used = table[table["fold"] >= 0].astype({"fold": int})
    by_fold = pd.crosstab(used["fold"], used["label"], margins=True, margins_name="all")
    held = with_all(used, "fold", count(patient="nunique", group="nunique"))
    assert shown(text, "folds") == written(by_fold.join(held))
    counts = count(path="size", source_image="nunique", patient="nunique", group="nunique")
    by_source = with_all(table, "source", counts)
    assert shown(text, "origins") == written(by_source.loc[[*SOURCES, "all"]])
    counts = count(patient="nunique", figshare_slice="nunique", path="size")
    by_class = counts(table.groupby("figshare_label")).loc[["glioma", "meningioma", "pituitary"]]
    assert shown(text, "patients") == written(by_class)
    assert table.loc[table["label"] == "notumor", "patient"].isna().all()
    columns = ["path", "label", "figshare_label", "figshare_slice"]
    wrong = table.loc[table["wrong"], columns]
    expected = wrong.assign(path="`" + wrong["path"] + "`").set_index("path")
    assert shown(text, "mislabelled") == written(expected)
    assert wrong["figshare_slice"].isin(table.loc[~table["wrong"], "figshare_slice"]).all()
    assert used["source_image"].is_unique and not used["wrong"].any()
    assert set(used["source_image"]) == set(table["source_image"])
    assert (used.groupby("group")["fold"].nunique() == 1).all()
    mirrored = table.loc[table["mirrored"] == "1", "figshare_slice"].dropna()
    assert mirrored.is_unique and len(mirrored) == 3064
    assert (table.groupby("patient")["figshare_label"].nunique() == 1).all()
    sides = table.dropna(subset="patient").groupby("split")["patient"].agg(set)
    assert sides["Testing"] <= sides["Training"]


def test_no_number_of_the_prose_is_left_unchecked(text, table):
    training, testing = (table[table["split"] == name] for name in SPLITS)
    keys = ["source_image", "patient", "group"]
    tied = pd.DataFrame({key: testing[key].isin(training[key].dropna()) for key in keys})
    slices = table.dropna(subset="figshare_slice")
    per_patient = slices.groupby("patient")["figshare_slice"].nunique()
    is_tumor = table["label"] != "notumor"
    patients = table["patient"].dropna()
    frames = [
        table, training, testing, table[table["wrong"]], table[is_tumor],
        table[is_tumor & (table["source"] != "figshare")], table[table["fold"] < 0],
        table[~is_tumor & (table["source"] == "sartaj")], table[table["label"] == "glioma"],
        testing.dropna(subset="patient"), tied[tied["source_image"]], tied[~tied["source_image"]],
        tied[~tied.any(axis=1)], *(group for _, group in table.groupby("source")),
    ]  # fmt: skip
    counts = [
        *map(len, frames), table["source_image"].nunique(), slices["figshare_slice"].nunique(),
        len(table) - table["source_image"].nunique(),
        slices.loc[slices["mirrored"] == "0", "figshare_slice"].nunique(),
        patients.nunique(), len(set(training["patient"]) & set(testing["patient"].dropna())),
        table.loc[table["label"] == "glioma", "patient"].nunique(),
        per_patient.min(), per_patient.max(), int(per_patient.median()),
    ]  # fmt: skip
    prose = re.sub(r"<!-- audit:start -->.*?<!-- audit:end -->", "", text, flags=re.DOTALL)
    prose = re.sub(r"<!-- table: .*?\n\n", "", prose, flags=re.DOTALL)
    prose = re.sub(r"`[^`]*`|\(http\S+\)|10\.6084/\S+|CC BY 4\.0|\bBr35H|\bT1\b|CC0", "", prose)
    numbers = set(re.findall(r"\d[\d,]*\d|\d", prose))
    assert numbers - QUOTED <= {f"{number:,}" for number in counts}
