"""The numbers of the pages, written from `metrics.json` between markers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from brainlib import CLASS_NAMES, paths
from brainlib.data import splits
from brainlib.evaluation import results
from brainlib.notebook import runs
from scripts import card
from scripts.markdown import ABSENT, MODEL_TITLES, interval, metric_title, table

_PROTOCOLS = {
    "patient": "`patient`: new patients",
    "official": "`official`: as everyone reports",
    "deduplicated": "`deduplicated`: without slices that are in Training",
}


def results_section(metrics: dict[str, Any]) -> str:
    """Return the results as Markdown: accuracy by protocol, by type of tumour, and details.

    Parameters
    ----------
    metrics : dict
        The content of `metrics.json`.
    """
    return "\n".join(
        [
            "Accuracy on four classes, in brackets its 95 % interval from resampling patients:",
            "",
            *_accuracies(metrics["results"]),
            "",
            "Which tumour it is, among the figshare slices, where no scanner gives it away:",
            "",
            *_accuracies(metrics["tumor_type"]),
            "",
            "The networks on new patients, in more than one number:",
            "",
            *_details(metrics),
            "",
            _training_sentence(metrics),
        ]
    )


def audit_section(metrics: dict[str, Any]) -> str:
    """Return what the audit found in the pixels, as a Markdown list."""
    audit, official = metrics["audit"], metrics["protocols"]["official"]
    facts = [
        "{pairs:,} pairs of files look like one picture (thumbnails correlate at {threshold} or "
        "more), {mirrored_pairs:,} of them mirrored and {identical_pairs:,} identical to the "
        "pixel. Of the {known_pairs:,} pairs that the provenance table knows, {found_pairs:,} are "
        "among them. The others: {same_group_other_file:,} pairs of one group, "
        "{different_patients:,} of different patients, and {unexplained:,} that nothing explains.",
        "False alarms: {control_false_pairs:,} among {control_pairs:,} pairs of different "
        "patients, of which the most similar correlate at {control_highest_correlation:.3f}.",
        "{pairs_with_two_labels:,} pairs show one picture under two labels; they betray "
        "{mislabelled_files_found:,} of the {mislabelled_files:,} files known to be mislabelled.",
        "Of {test_test:,} test files {test_twin:,} look like one in Training. Of the "
        "{test_patient_known:,} with a known patient {test_patient:,} have that patient in "
        "Training. {test_free:,} are free of any tie.",
    ]
    by_provenance = (
        f"By provenance, {official['with a twin in training']:,.0f} of the test files show the "
        "very slice of a file in Training, mirrored or not; these are what protocol "
        "`deduplicated` leaves out."
    )
    look_alikes = (
        "Once heads are cut out of their pictures, {look_alike_pictures:,} pictures in the patient "
        "folds, all without a known patient, look like one in another fold ({look_alike_pairs:,} "
        "pairs; heads of different patients correlate at {look_alike_control:.3f} at most, these "
        "at {look_alike_threshold} or more). The folds are published and stay as they are; "
        "`MODEL_CARD.md` says what is left without these."
    )
    listed = [*(f.format(**audit) for f in facts), by_provenance, look_alikes.format(**audit)]
    return "\n".join(f"- {fact}" for fact in listed)


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "README.md": ("results", results_section),
    "DATASET.md": ("audit", audit_section),
    "MODEL_CARD.md": ("results", card.results_section),
}
"""The page, the name of its markers, and what stands between them."""


def written_section(page: str) -> str:
    """Return what stands between the markers of a page now."""
    return _cut(_file(page).read_text(encoding="utf-8"), SECTIONS[page][0])[1].strip()


def expected_section(page: str) -> str:
    """Return what should stand there, from `model/metrics.json`."""
    return SECTIONS[page][1](results.read_metrics(paths.project_root())).strip()


def write_results() -> None:
    """Replace the numbers in every page of `SECTIONS` by those of `model/metrics.json`."""
    for page, (name, _) in SECTIONS.items():
        before, _, after = _cut(_file(page).read_text(encoding="utf-8"), name)
        with paths.atomic_write(_file(page)) as temporary:
            text = f"{before}\n{expected_section(page)}\n{after}"
            temporary.write_text(text, encoding="utf-8")


def _file(page: str) -> Path:
    return paths.project_root() / page


def _cut(text: str, name: str) -> tuple[str, str, str]:
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    before, rest = text.split(start)
    inside, after = rest.split(end)
    return before + start, inside, end + after


def _accuracies(scores: dict[str, Any]) -> list[str]:
    whole = max(scores.values(), key=len)
    heads = [
        f"{_PROTOCOLS[name]}, {whole[name]['pictures']:,} pictures"
        for name in splits.PROTOCOLS
        if name in whole
    ]
    rows = [
        [_in_bold(name) if name in runs.MODEL_NAMES else title, *_by_protocol(scores[name])]
        for name, title in MODEL_TITLES.items()
        if name in scores
    ]
    return table(["", *heads], rows)


def _in_bold(model: str) -> str:
    return f"**{MODEL_TITLES[model]}**"


def _by_protocol(by_protocol: dict[str, Any]) -> list[str]:
    return [
        interval(by_protocol[name]["accuracy"]) if name in by_protocol else ABSENT
        for name in splits.PROTOCOLS
    ]


def _details(metrics: dict[str, Any]) -> list[str]:
    """Return a row a number, a column for each of the project's networks, the released one first.

    Calibration and maps are measured of the main model only.
    """
    shown = [name for name in runs.MODEL_NAMES if "patient" in metrics["results"].get(name, {})]
    names = ["balanced_accuracy", "macro_f1", "macro_auroc", "log_loss", "calibration_error"]
    names += [f"sensitivity_{label}" for label in CLASS_NAMES]
    names += ["tumor_sensitivity_at_99_specificity"]
    rows = [
        [metric_title(name), *(interval(metrics["results"][one]["patient"][name]) for one in shown)]
        for name in names
    ]
    for title, part in (("accuracy", "by_patient"), ("tumour type", "tumor_type_by_patient")):
        values = (metrics[part][one]["patient"]["accuracy"] for one in shown)
        rows.append([f"{title}, by patient", *map(interval, values)])
    rows += [[*row, *[ABSENT] * (len(shown) - 1)] for row in _details_of_main(metrics)]
    return table(["", *(MODEL_TITLES[name] for name in shown)], rows)


def _details_of_main(metrics: dict[str, Any]) -> list[list[str]]:
    rows = [
        [
            f"{metric_title(name)}, after temperature",
            interval(metrics["calibration"][name], "after"),
        ]
        for name in ("log_loss", "calibration_error")
    ]
    sets = metrics["conformal"]["all"]
    rows.append(
        ["share of conformal sets that hold the class (wanted: 0.9)", interval(sets, "coverage")]
    )
    rows.append(["classes in a conformal set, mean", f"{sets['mean_set_size']:.2f}"])
    maps = metrics.get("maps", {})
    titles = {
        "heat_peak_inside": "peak of the heat map in the tumour, of right answers",
        "dice": "overlap with the radiologist's outline, Dice",
    }
    return rows + [[title, interval(maps[name])] for name, title in titles.items() if name in maps]


def _training_sentence(metrics: dict[str, Any]) -> str:
    last = metrics["training"]["seed_cnn_official"]
    official = metrics["results"]["seed_cnn"]["official"]
    return (
        f"Source: {metrics['source']}. The starting network's official model after "
        f"{last['epoch']:.0f} epochs: training accuracy {last['accuracy']:.3f}, "
        "validation accuracy "
        f"{last['validation_accuracy']:.3f}, validation loss {last['validation_loss']:.3f}, "
        f"official Testing loss {official['log_loss']['value']:.3f}."
    )


if __name__ == "__main__":
    write_results()
