"""Figures of tables, images and maps. Nothing is computed here, only drawn.

`charts` draws numbers, `galleries` images; `style` holds colours and names for readers.
"""

# ruff: noqa: F401

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
    classified_images,
    confusion_captions,
    heat_maps,
    image_rows,
    labelled_images,
    outlines,
    twin_images,
)
from brainlib.plots.style import readable
