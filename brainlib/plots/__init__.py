"""From tables to matplotlib figures. Nothing is computed here, only drawn.

Classes have the same order and colour everywhere: four of Okabe and Ito's colours (2008), which
colour-blind readers tell apart. `charts` draws numbers, `galleries` pictures.
"""

from brainlib.plots.charts import (
    class_counts,
    confusion_matrices,
    grey_histograms,
    history,
    protocol_scores,
    reliability,
    risk_coverage,
    robustness,
)
from brainlib.plots.galleries import (
    answer_captions,
    class_examples,
    classified_pictures,
    confusion_captions,
    heat_maps,
    labelled_pictures,
    outline_caption,
    outlines,
    show_picture,
    twin_pictures,
)
from brainlib.plots.style import CLASS_COLORS, PROTOCOL_COLORS

__all__ = [
    "CLASS_COLORS",
    "PROTOCOL_COLORS",
    "answer_captions",
    "class_counts",
    "class_examples",
    "classified_pictures",
    "confusion_captions",
    "confusion_matrices",
    "grey_histograms",
    "heat_maps",
    "history",
    "labelled_pictures",
    "outline_caption",
    "outlines",
    "protocol_scores",
    "reliability",
    "risk_coverage",
    "robustness",
    "show_picture",
    "twin_pictures",
]
