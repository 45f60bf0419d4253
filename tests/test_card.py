"""Pages: README, model card and datasheet say what metrics.json says."""

import copy
import re

import pytest

from brainlib import CLASS_NAMES, evaluation, paths
from brainlib.data import splits
from scripts import pages

ROOT = paths.project_root()
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.fixture
def document():
    return copy.deepcopy(evaluation.read_metrics(ROOT))


def cells(text):
    """Return the cells of all tables of a page, by row."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("page", pages.PAGES)
def test_a_page_is_what_its_template_makes_of_metrics_json(page):
    assert (ROOT / page).read_text(encoding="utf-8") == pages.expected_text(page)


def test_the_card_shows_every_score_of_new_patients(document):
    released, starting = list(document["results"])[:2]
    shown = cells((ROOT / "docs/model_card.md").read_text(encoding="utf-8"))
    for name, title in (("macro_f1", "macro F1"), ("log_loss", "log loss")):
        expected = [pages.interval(document["results"][model]["patient"][name])
                    for model in (released, starting)]  # fmt: skip
        assert [title, *expected] in shown
    scores = document["results"][released]["patient"]
    for label in CLASS_NAMES:
        expected = [label, pages.interval(scores[f"sensitivity_{label}"])]
        assert expected in [row[:2] for row in shown]


@pytest.mark.parametrize(
    "place",
    ["results/{}/patient/accuracy", "results/{}/official/accuracy", "maps/dice", "scanner",
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
