"""The numbers of MODEL_CARD.md, written from `metrics.json` and the run records beside it.

A part of the card whose numbers are not there yet is left out, and named under "Not measured".
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brainlib import CLASS_NAMES, paths, results, runs, splits
from brainlib.markdown import (
    ABSENT,
    MODEL_TITLES,
    cell,
    grid,
    listed,
    metric_title,
    number,
    table,
    value_of,
)

Document = dict[str, Any]
"""The content of `metrics.json`, with the run records under `records`."""

MODEL, BASELINE = runs.MODEL_NAMES
NO_RESULTS = f"`{results.METRICS_FILE}` holds no results of `{MODEL}` yet."
SHORTCUTS = (
    "border_pixels", "intensity_statistics", "masked_head", "file_properties", "mirror_flag",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """What the network was to reach, as issue 4 of the project set it before training.

    Attributes
    ----------
    title : str
    bound : float
    place : str
        Where the reached value is: keys of `metrics.json` with `/` between them.
    quoted : str
        What others reached, as the issue quotes it.
    measured : str
        The place of what the starting network reaches.
    at_most : bool
        Whether the value must not exceed the bound, rather than reach it.
    """

    title: str
    bound: float
    place: str
    quoted: str = ""
    measured: str = ""
    at_most: bool = False

    def is_met(self, value: float) -> bool:
        """Return whether a value reaches the target."""
        return value <= self.bound if self.at_most else value >= self.bound


_PATIENT, _OFFICIAL = f"results/{MODEL}/patient", f"results/{MODEL}/official"

TARGETS = (
    Target(
        "tumour type among figshare slices, accuracy",
        0.975,
        f"tumor_type/{MODEL}/patient/accuracy",
        quoted="0.948 (VGG19, pretrained), 0.973 (segmentation-driven multiscale network)",
    ),
    Target("the same, by patient", 0.98, f"tumor_type_by_patient/{MODEL}/patient/accuracy"),
    Target(
        "four classes, macro F1",
        0.97,
        f"{_PATIENT}/macro_f1",
        measured=f"results/{BASELINE}/patient/macro_f1",
    ),
    Target("sensitivity for meningioma", 0.95, f"{_PATIENT}/sensitivity_meningioma"),
    Target("sensitivity for glioma", 0.95, f"{_PATIENT}/sensitivity_glioma"),
    Target(
        "log loss, after temperature",
        0.10,
        "calibration/log_loss",
        quoted="0.21 (the starting project, on a leaky split)",
        at_most=True,
    ),
    Target(
        "calibration error, after temperature",
        0.015,
        "calibration/calibration_error",
        quoted="0.019 (best published, leaky)",
        at_most=True,
    ),
    Target(
        "the peak of the heat map lies in the outlined tumour, correct tumour slices",
        0.95,
        "maps/heat_peak_inside",
    ),
    Target("outline of the tumour, Dice", 0.80, "maps/dice", quoted="0.72 to 0.83 (published)"),
    Target(
        "official split, accuracy, for comparison only",
        0.997,
        f"{_OFFICIAL}/accuracy",
        quoted="0.9977 (best published)",
    ),
    Target(
        "official split, log loss, for comparison only",
        0.02,
        f"{_OFFICIAL}/log_loss",
        quoted="0.038 (best published)",
        at_most=True,
    ),
    Target(
        "share of the clean accuracy kept on spoilt pictures",
        0.95,
        f"robustness/{MODEL}/accuracy_kept",
        measured=f"robustness/{BASELINE}/accuracy_kept",
    ),
    Target(
        "healthy slices of another scanner called notumor", 0.95, "other_scanners/called_notumor"
    ),
    Target(
        "size of the file, MB",
        15,
        f"release/{MODEL}/megabytes",
        measured=f"release/{BASELINE}/megabytes",
        at_most=True,
    ),
    Target(
        "pictures a second on two cores, times the starting network's", 1.0, "release/speed_ratio"
    ),
)
"""The table "Targets" of issue 4, in its order."""


def results_section(metrics: dict[str, Any]) -> str:
    """Return the numbers of the model card as Markdown.

    Parameters
    ----------
    metrics : dict
        The content of `metrics.json`. The run records are read from the project's `model` folder.
    """
    if MODEL not in metrics.get("results", {}):
        return NO_RESULTS
    return describe({**metrics, "records": read_records(paths.project_root() / "model")})


def read_records(folder: Path) -> dict[str, Document]:
    """Return the records of the released network's runs, by name, the patient folds first."""
    files = [*sorted(folder.glob(f"{MODEL}_patient?.run.json")), folder / f"{MODEL}.run.json"]
    files.append(folder / "release.run.json")
    return {
        file.name.removesuffix(".run.json"): runs.read_record(file)
        for file in files
        if file.is_file()
    }


def describe(document: Document) -> str:
    """Return every part of the card that there are numbers for, and the names of the others."""
    parts = {title: part(document) for title, part in _PARTS.items()}
    lines = [
        line for title, found in parts.items() if found for line in (f"### {title}", "", *found, "")
    ]
    absent = [f"{title[0].lower()}{title[1:]}" for title, found in parts.items() if not found]
    absent += [target.title for target in TARGETS if find(document, target.place) is None]
    lines += ["### Not measured", ""]
    lines += [f"- {name}" for name in absent] or ["Nothing that this page has a place for."]
    return "\n".join(lines)


def find(document: Document, place: str) -> Any:
    """Return what is at a place, keys with `/` between them, or None.

    Examples
    --------
    >>> find({"maps": {"dice": 0.8}}, "maps/dice"), find({}, "maps/dice")
    (0.8, None)
    """
    found: Any = document
    for key in place.split("/"):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _targets(document: Document) -> list[str]:
    rows = [_target_row(document, target) for target in TARGETS]
    return [
        "Set by issue 4 before training. `yes` where the value itself reaches the target; its 95 % "
        "interval says how sure that is.",
        "",
        *table(["", "to beat", "wanted", "reached", "met"], rows),
    ]


def _target_row(document: Document, target: Target) -> list[str]:
    beaten = find(document, target.measured) if target.measured else None
    measured = "" if beaten is None else f"{value_of(beaten):.4g} ({MODEL_TITLES[BASELINE]})"
    wanted = f"{'≤' if target.at_most else '≥'} {target.bound:g}"
    start = [target.title, target.quoted or measured or ABSENT, wanted]
    found = find(document, target.place)
    if found is None:
        return [*start, "not measured", ABSENT]
    met = "yes" if target.is_met(value_of(found)) else "no"
    return [*start, cell(found, digits=4), met]


def _new_patients(document: Document) -> list[str]:
    found = find(document, _PATIENT)
    if not found:
        return []
    names = ["accuracy", "balanced_accuracy", "macro_f1", "macro_auroc", "log_loss", "brier_score",
             "calibration_error", *(f"sensitivity_{label}" for label in CLASS_NAMES),
             "tumor_sensitivity_at_99_specificity"]  # fmt: skip
    measures = [(metric_title(name), f"results/{{}}/patient/{name}") for name in names]
    measures += [
        ("accuracy, by patient", "by_patient/{}/patient/accuracy"),
        ("tumour type among figshare slices, accuracy", "tumor_type/{}/patient/accuracy"),
        ("tumour type, by patient", "tumor_type_by_patient/{}/patient/accuracy"),
    ]
    return [
        f"{found['pictures']:,} pictures in {found['groups']:,} groups, each predicted once by a "
        "network that never saw its group; a group is a patient, or a cluster of like pictures "
        "where no patient is known. In brackets 95 % intervals from resampling groups. "
        "Probabilities are those before temperature.",
        "",
        *_side_by_side(document, measures),
    ]


def _side_by_side(document: Document, measures: Iterable[tuple[str, str]]) -> list[str]:
    """Return a table of measures, by title and place, of the network and the one before it."""
    models = (MODEL, BASELINE)
    rows = [
        [title, *(cell(find(document, place.format(name))) for name in models)]
        for title, place in measures
    ]
    known = [row for row in rows if row[1] != ABSENT]
    return table(["", *(MODEL_TITLES[name] for name in models)], known)


def _classes(document: Document) -> list[str]:
    names = ("sensitivity", "specificity", "positive_predictive_value",
             "negative_predictive_value", "f1", "auroc")  # fmt: skip
    found = find(document, _PATIENT) or {}
    rows = [
        [label, *(cell(found.get(f"{name}_{label}")) for name in names)] for label in CLASS_NAMES
    ]
    heads = [{"f1": "F1", "auroc": "AUROC"}.get(name, name.replace("_", " ")) for name in names]
    return table(["", *heads], rows) if found else []


def _by_part(document: Document) -> list[str]:
    rows = [
        [name, cell(part, "accuracy"), f"{part['pictures']:,.0f}", f"{part['groups']:,.0f}"]
        for name, part in document.get("by_part", {}).items()
    ]
    return table(["", "accuracy", "pictures", "groups"], rows) if rows else []


def _comparisons(document: Document) -> list[str]:
    found = document.get("comparisons", {})
    rows = [
        [
            MODEL_TITLES.get(name, f"`{name}`"),
            cell(found[name], "difference"),
            f"{found[name]['only_first_right']:,.0f}",
            f"{found[name]['only_second_right']:,.0f}",
            _p_value(found[name]["p_value_groups"]),
        ]
        for name in sorted(found, key=lambda name: [*MODEL_TITLES, name].index(name))
    ]
    heads = ["against", "difference in accuracy", "only this network right",
             "only the other right", "sign test on groups"]  # fmt: skip
    return table(heads, rows) if rows else []


def _p_value(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def _protocols(document: Document) -> list[str]:
    known = [name for name in splits.PROTOCOLS if find(document, f"results/{MODEL}/{name}")]
    if len(known) < 2:
        return []
    measures = (("accuracy", "results"), ("macro_f1", "results"), ("log_loss", "results"),
                ("accuracy", "tumor_type"))  # fmt: skip
    rows = [
        [
            f"{'tumour type, ' * (part == 'tumor_type')}{metric_title(metric)}, "
            f"{MODEL_TITLES[model]}",
            *(cell(find(document, f"{part}/{model}/{name}/{metric}")) for name in known),
        ]
        for metric, part in measures
        for model in (MODEL, BASELINE)
    ]
    counts = [find(document, f"results/{MODEL}/{name}/pictures") for name in known]
    heads = [f"`{name}`, {count:,} pictures" for name, count in zip(known, counts, strict=True)]
    return [
        "`official` and `deduplicated` have patients on both sides: they compare with what others "
        "report, and say nothing about new patients.",
        "",
        *table(["", *heads], rows),
    ]


def _calibration(document: Document) -> list[str]:
    found = document.get("calibration", {})
    rows = [
        [metric_title(name), cell(values, "before"), cell(values)] for name, values in found.items()
    ]
    heads = ["", "before temperature", "after"]
    return [*table(heads, rows), "", _temperature_sentence(document)] if rows else []


def _temperature_sentence(document: Document) -> str:
    by_fold = document.get("temperatures", {}).items()
    shown = ", ".join(f"{value:.2f} (fold {fold})" for fold, value in by_fold)
    records = [record for name, record in document.get("records", {}).items() if "_patient" in name]
    has_validation = any(record["split"]["validation"]["pictures"] for record in records)
    others = "its validation groups" if has_validation else "the test pictures of the other folds"
    return (
        f"Temperatures: {shown}. That of a fold, and its conformal thresholds, are fitted on "
        f"{others}, never on its own test pictures."
    )


def _conformal(document: Document) -> list[str]:
    rows = [
        [name, cell(sets, "coverage"), *(number(sets[key]) for key in
                                          ("mean_set_size", "single", "empty"))]
        for name, sets in document.get("conformal", {}).items()
    ]  # fmt: skip
    heads = [f"share of sets that hold the class (wanted: {1 - results.CONFORMAL_ALPHA:g})",
             "classes in a set, mean", "sets of one class", "empty sets"]  # fmt: skip
    return table(["", *heads], rows) if rows else []


def _robustness(document: Document) -> list[str]:
    found = document.get("robustness", {})
    tables = {name: grid(found[name]) for name in (MODEL, BASELINE) if name in found}
    kept = _side_by_side(
        document, [("share of the clean accuracy kept, mean", "robustness/{}/accuracy_kept")]
    )
    lines = [
        line
        for name, shown in tables.items()
        for line in (f"Accuracy of the {MODEL_TITLES[name]}:", "", *shown, "")
    ]
    return [*lines, *kept] if tables else grid(found)


def _shortcuts(document: Document) -> list[str]:
    rows = [
        [MODEL_TITLES[name], *(cell(find(document, f"{part}/{name}/patient/accuracy"))
                               for part in ("results", "tumor_type"))]
        for name in (MODEL, *SHORTCUTS)
    ]  # fmt: skip
    lines = [
        "What classifiers reach on the same new patients that cannot know what a tumour is:",
        "",
        *table(["", "four classes", "tumour type among figshare slices"], rows),
    ]
    return [*lines, "", _scanner_sentence(document["scanner"])] if "scanner" in document else lines


def _scanner_sentence(scanner: dict[str, float]) -> str:
    return (
        "From its intensities the source of a picture is told with accuracy "
        f"{scanner['source_accuracy']:.3f}, and who knows only the source answers tumour or no "
        f"tumour right for {scanner['tumour_accuracy_by_source']:.3f} of the pictures. The score "
        "on four classes may rest on that; the type of tumour among figshare slices cannot."
    )


def _cost(document: Document) -> list[str]:
    records = {name: found for name, found in document.get("records", {}).items()
               if "split" in found}  # fmt: skip
    if not records:
        return []
    rows = [_cost_row(document, name, record) for name, record in records.items()]
    last = list(records.values())[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    minutes = sum(record["duration_seconds"] for record in records.values()) / 60
    return [
        *table(["run", "trained on", "epochs", "minutes", "machine"], rows),
        "",
        f"{minutes:.0f} minutes in all, from opening the pictures to the table of predictions; "
        "runs may have shared the machine, and one that was resumed counts from its last start. "
        f"Backend {last['backend']}; {versions}. Energy was not measured.",
    ]


def _cost_row(document: Document, name: str, record: Document) -> list[str]:
    return [
        f"`{name}`",
        f"{record['split']['train']['pictures']:,} pictures",
        cell(find(document, f"training/{name}/epoch"), digits=0),
        f"{record['duration_seconds'] / 60:.0f}",
        record["machine"],
    ]


_STUDIED = {
    "accuracy": "accuracy",
    "tumor_type_accuracy": "tumour type among figshare slices",
    "log_loss": "log loss",
    "dice": "Dice",
}


def _ablation(document: Document) -> list[str]:
    """Return the study: what each variant reaches, and by how much it differs from the whole."""
    found = document.get("ablation")
    if not found:
        return []
    variants = found["variants"].values()
    return [
        f"Trainings of {found['epochs']} epochs on pictures of {found['size']} by {found['size']} "
        f"pixels, {found['seeds']} seeds of each, on the training groups of fold {found['fold']}, "
        f"scored on {found['pictures']:,} pictures of {found['groups']:,} validation groups; no "
        f"test picture was looked at. {found['minutes']:.0f} minutes of training in all. In "
        "brackets 95 % intervals that cover other seeds and other patients.",
        "",
        *_studied([(one["title"], one) for one in variants]),
        "",
        "The same less the whole recipe, seed by seed on the same pictures; a log loss above 0 is "
        "a loss:",
        "",
        *_studied([(one["title"], one["difference"]) for one in variants if one["difference"]]),
    ]


def _studied(rows: list[tuple[str, Document]]) -> list[str]:
    shown = [[title, *(cell(values.get(name)) for name in _STUDIED)] for title, values in rows]
    return table(["", *_STUDIED.values()], shown)


def _limits(document: Document) -> list[str]:
    """Return the weakest class and the weakest source, in sentences."""
    found = find(document, _PATIENT) or {}
    known = {label: found[f"sensitivity_{label}"] for label in CLASS_NAMES
             if f"sensitivity_{label}" in found}  # fmt: skip
    lines = [
        f"- {label}: misses {_percent(1 - one['value'])} of the slices "
        f"({_percent(1 - one['high'])} to {_percent(1 - one['low'])}); of the answers `{label}` "
        f"{_percent(1 - found[f'positive_predictive_value_{label}']['value'])} are wrong"
        for label, one in sorted(known.items(), key=lambda item: item[1]["value"])
    ]
    parts = document.get("by_part", {})
    if parts:
        worst = min(parts, key=lambda name: parts[name]["accuracy"])
        lines.append(f"- weakest part: {worst}, accuracy {cell(parts[worst], 'accuracy')}")
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _as_it_is(
    section: str, show: Callable[[Document], list[str]]
) -> Callable[[Document], list[str]]:
    """Return a part that shows every number of a section of `metrics.json`."""
    return lambda document: show(document.get(section, {}))


_PARTS: dict[str, Callable[[Document], list[str]]] = {
    "New patients": _new_patients,
    "Class by class, new patients": _classes,
    "Source by source, new patients": _by_part,
    "Against the others on the same pictures, new patients": _comparisons,
    "Targets": _targets,
    "Is it as sure as it is right": _calibration,
    "Conformal sets": _conformal,
    "Where it looks": _as_it_is("maps", listed),
    "Spoilt pictures": _robustness,
    "Other scanners": _as_it_is("other_scanners", listed),
    "Shortcuts": _shortcuts,
    "Other protocols": _protocols,
    "Speed and size": _as_it_is("release", listed),
    "What training costs": _cost,
    "What each part brings": _ablation,
    "Known limits": _limits,
}
"""The parts of the card in their order; each gives no line where its numbers are not there."""
