"""What the network itself scores: on new patients, by part, spoilt, calibrated, and its cost."""

from collections.abc import Iterable

from brainlib import CLASS_NAMES
from brainlib.data import splits
from brainlib.evaluation import results
from scripts.card.document import BASELINE, MODEL, PATIENT, Document, find
from scripts.markdown import (
    ABSENT,
    MODEL_TITLES,
    cell,
    grid,
    metric_title,
    number,
    table,
)

SHORTCUTS = (
    "border_pixels", "intensity_statistics", "masked_head", "file_properties", "mirror_flag",
)  # fmt: skip


def new_patients(document: Document) -> list[str]:
    """Return the scores on patients that no network had seen."""
    found = find(document, PATIENT)
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


def classes(document: Document) -> list[str]:
    """Return the scores of each class against the others."""
    names = ("sensitivity", "specificity", "positive_predictive_value",
             "negative_predictive_value", "f1", "auroc")  # fmt: skip
    found = find(document, PATIENT) or {}
    rows = [
        [label, *(cell(found.get(f"{name}_{label}")) for name in names)] for label in CLASS_NAMES
    ]
    heads = [{"f1": "F1", "auroc": "AUROC"}.get(name, name.replace("_", " ")) for name in names]
    return table(["", *heads], rows) if found else []


def by_part(document: Document) -> list[str]:
    """Return the accuracy of each source and plane."""
    rows = [
        [name, cell(part, "accuracy"), f"{part['pictures']:,.0f}", f"{part['groups']:,.0f}"]
        for name, part in document.get("by_part", {}).items()
    ]
    if not rows:
        return []
    return [*table(["", "accuracy", "pictures", "groups"], rows), *_apart_sentence(document)]


def _apart_sentence(document: Document) -> list[str]:
    """Return what is left when nobody stands in two folds, as far as can be seen."""
    whole, apart = (find(document, f"{part}/{MODEL}/patient") for part in
                    ("results", "without_look_alikes"))  # fmt: skip
    if not whole or not apart or whole["pictures"] == apart["pictures"]:  # none, or not looked for
        return []
    return [
        "",
        f"{whole['pictures'] - apart['pictures']:,} pictures without a known patient look like one "
        f"in another fold ([`DATASET.md`](DATASET.md)). Without them accuracy is "
        f"{cell(apart, 'accuracy')}, macro F1 {cell(apart, 'macro_f1')}.",
    ]


def comparisons(document: Document) -> list[str]:
    """Return what differs from others on the same pictures."""
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


def protocols(document: Document) -> list[str]:
    """Return the scores under the other protocols, beside those on new patients."""
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
        "report, and say nothing about new patients." + _epochs_sentence(document),
        "",
        *table(["", *heads], rows),
    ]


def _epochs_sentence(document: Document) -> str:
    """Return by how much longer or shorter the official run was trained, where it was."""
    new, official = (
        find(document, f"training/{MODEL}_{name}/epoch") for name in ("patient0", "official")
    )
    if new is None or official is None or new == official:
        return ""
    return (
        f" The released network was trained for {official:.0f} epochs for them, and for {new:.0f} "
        "for new patients."
    )


def calibration(document: Document) -> list[str]:
    """Return whether probabilities mean what they say, before temperature and after."""
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


def conformal(document: Document) -> list[str]:
    """Return how often sets of classes hold the right one, and how large they are."""
    rows = [
        [name, cell(sets, "coverage"), *(number(sets[key]) for key in
                                          ("mean_set_size", "single", "empty"))]
        for name, sets in document.get("conformal", {}).items()
    ]  # fmt: skip
    heads = [f"share of sets that hold the class (wanted: {1 - results.CONFORMAL_ALPHA:g})",
             "classes in a set, mean", "sets of one class", "empty sets"]  # fmt: skip
    return table(["", *heads], rows) if rows else []


def robustness(document: Document) -> list[str]:
    """Return the accuracy on pictures that scanners spoil."""
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


def shortcuts(document: Document) -> list[str]:
    """Return what classifiers reach that cannot know what a tumour is."""
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


def cost(document: Document) -> list[str]:
    """Return what the trainings took."""
    records = {name: found for name, found in document.get("records", {}).items()
               if "split" in found}  # fmt: skip
    if not records:
        return []
    rows = [_cost_row(document, name, record) for name, record in records.items()]
    last = list(records.values())[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    minutes = sum(record["duration_seconds"] for record in records.values()) / 60
    return [
        *table(["run", "trained on", "epochs", "minutes", "machine, precision"], rows),
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
        f"{record['machine']}, {record.get('precision', 'float32')}",
    ]


def limits(document: Document) -> list[str]:
    """Return the weakest class and the weakest source, in sentences."""
    found = find(document, PATIENT) or {}
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
