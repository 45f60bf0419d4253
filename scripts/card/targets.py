"""The targets that were set before training, and whether they are met."""

from dataclasses import dataclass

from scripts.card.document import BASELINE, MODEL, OFFICIAL, PATIENT, Document, find
from scripts.markdown import ABSENT, MODEL_TITLES, cell, table, value_of


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
        f"{PATIENT}/macro_f1",
        measured=f"results/{BASELINE}/patient/macro_f1",
    ),
    Target("sensitivity for meningioma", 0.95, f"{PATIENT}/sensitivity_meningioma"),
    Target("sensitivity for glioma", 0.95, f"{PATIENT}/sensitivity_glioma"),
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
        f"{OFFICIAL}/accuracy",
        quoted="0.9977 (best published)",
    ),
    Target(
        "official split, log loss, for comparison only",
        0.02,
        f"{OFFICIAL}/log_loss",
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


def targets(document: Document) -> list[str]:
    """Return each target, what was reached, and whether that meets it."""
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
