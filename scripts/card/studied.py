"""What was studied with short trainings: each part of the recipe, and a kind of tumour unknown."""

from scripts.card.document import Document
from scripts.markdown import cell, table

_STUDIED = {
    "accuracy": "accuracy",
    "tumor_type_accuracy": "tumour type among figshare slices",
    "log_loss": "log loss",
    "dice": "Dice",
}


def ablation(document: Document) -> list[str]:
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


def unknown(document: Document) -> list[str]:
    """Return what the network makes of a kind of tumour that it was not trained on."""
    rows = [
        [
            f"`{name}`",
            f"{one['pictures']:,}",
            cell(one["certainty_unknown"]),
            cell(one["certainty_known"]),
            f"{one['auroc']:.3f}",
            f"`{one['called']}` ({one['share']:.3f})",
        ]
        for name, one in document.get("unknown", {}).items()
    ]
    heads = ["never trained on", "pictures", "certainty about it", "about the known tumours",
             "AUROC of low certainty", "most often taken for"]  # fmt: skip
    if not rows:
        return []
    return [
        "The short recipe, trained without one class, asked about the validation groups of fold "
        "0. Certainty is the mean probability of the answer. It should be lower for what is "
        "unknown; an AUROC of 0.5 says that it tells nothing.",
        "",
        *table(heads, rows),
    ]
