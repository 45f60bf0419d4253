"""The numbers of MODEL_CARD.md, written from `metrics.json` and the run records beside it.

A part of the card whose numbers are not there yet is left out, and named under "Not measured".
`document` says where a number is, `targets` holds them against what was wanted, `network`,
`answers` and `studied` are the parts.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from brainlib import paths
from brainlib.evaluation import results
from brainlib.notebook import runs
from scripts.card import answers, network, studied
from scripts.card.document import MODEL, Document, find
from scripts.card.targets import TARGETS, Target, targets
from scripts.markdown import listed

__all__ = [
    "NO_RESULTS",
    "TARGETS",
    "Target",
    "describe",
    "find",
    "read_records",
    "results_section",
]

NO_RESULTS = f"`{results.METRICS_FILE}` holds no results of `{MODEL}` yet."


def results_section(metrics: dict[str, Any]) -> str:
    """Return the numbers of the model card as Markdown.

    Parameters
    ----------
    metrics : dict
        The content of `metrics.json`. The run records are read from the project's `model` folder.
    """
    if MODEL not in metrics.get("results", {}):
        return NO_RESULTS
    root = paths.project_root()
    return describe({**metrics, "records": read_records(root / "model")})


def read_records(folder: Path) -> dict[str, Document]:
    """Return the records of the released network's runs, by name, the patient folds first."""
    files = [*sorted(folder.glob(f"{MODEL}_patient?.run.json")),
             folder / f"{MODEL}_official.run.json", folder / "release.run.json"]  # fmt: skip
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


def _as_it_is(
    section: str, show: Callable[[Document], list[str]]
) -> Callable[[Document], list[str]]:
    """Return a part that shows every number of a section of `metrics.json`."""
    return lambda document: show(document.get(section, {}))


_PARTS: dict[str, Callable[[Document], list[str]]] = {
    "New patients": network.new_patients,
    "Class by class, new patients": network.classes,
    "Source by source, new patients": network.by_part,
    "Against the others on the same pictures, new patients": network.comparisons,
    "Targets": targets,
    "Is it as sure as it is right": network.calibration,
    "Conformal sets": network.conformal,
    "What is refused": answers.gate,
    "From slices to a study": answers.studies,
    "A kind of tumour that it does not know": studied.unknown,
    "Where it looks": _as_it_is("maps", listed),
    "Spoilt pictures": network.robustness,
    "Other scanners": _as_it_is("other_scanners", listed),
    "Shortcuts": network.shortcuts,
    "Other protocols": network.protocols,
    "Speed and size": _as_it_is("release", listed),
    "What training costs": network.cost,
    "What each part brings": studied.ablation,
    "Known limits": network.limits,
}
"""The parts of the card in their order; each gives no line where its numbers are not there."""
