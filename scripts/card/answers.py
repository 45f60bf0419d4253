"""What turns probabilities into answers: the gate, and the rule from slices to studies."""

from scripts.card.document import Document
from scripts.markdown import cell, table

_STUDY_MEASURES = {
    "accuracy": "four classes",
    "tumor_found": "tumours found",
    "healthy_found": "healthy found",
    "type_right": "tumour type",
    "log_loss": "log loss",
    "calibration_error": "calibration error",
}


def gate(document: Document) -> list[str]:
    """Return what the gate refuses by mistake, and what it catches."""
    found = document.get("gate")
    if not found:
        return []
    refused = {"all": found["false_refusals"], **found["by_class"], **found["by_source"]}
    refusals = [[name, cell(one, digits=4), f"{one['pictures']:,}"]
                for name, one in refused.items()]  # fmt: skip
    caught = [
        [kind, _share(one), f"{one['pictures']:,}", _left_out(one)]
        for kind, one in found["caught"].items()
    ]
    accepted = [
        [name, _share(one), f"{one['pictures']:,}"] for name, one in found["accepted"].items()
    ]
    scanner = found.get("other_scanner")
    if scanner:
        accepted.append(
            [
                "healthy scan of another scanner",
                f"{scanner['accepted']:.3f}",
                f"{scanner['slices']:,}",
            ]
        )
    return [
        f"{found['method']}",
        "",
        "Slices of held-out patients that are refused by mistake:",
        "",
        *table(["", "refused", "pictures"], refusals),
        "",
        "Wrong inputs that are caught, by kind. `unseen`: where nothing of that kind was fitted "
        "on.",
        "",
        *table(["", "caught", "pictures", "unseen"], caught),
        "",
        "Heads of other origin that are accepted:",
        "",
        *table(["", "accepted", "pictures"], accepted),
    ]


def _share(one: Document) -> str:
    """Return a share with its interval, which one origin alone has not."""
    return cell(one) if "low" in one else f"{one['value']:.3f}"


def _left_out(one: Document) -> str:
    return f"{one['left_out']:.3f}" if "left_out" in one else ""


def studies(document: Document) -> list[str]:
    """Return how right the answers to studies are, by the share of slices with tumour."""
    found = document.get("studies")
    if not found:
        return []
    rows = [
        [share, *(cell(one.get(name)) for name in _STUDY_MEASURES),
         cell(found["plain_mean"].get(share, {}).get("accuracy"))]
        for share, one in found["shares"].items()
    ]  # fmt: skip
    return [
        f"{found['simulation']} {found['patients']} patients, {found['healthy_groups']} healthy "
        "groups; choice and fit are done without the fold that is measured.",
        "",
        *table(
            ["slices with tumour", *_STUDY_MEASURES.values(), "four classes, by a plain mean"], rows
        ),
    ]
