"""Figures: words for readers, the same colours everywhere, nothing promised that is not drawn."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from brainlib import CLASS_COLORS, CLASS_NAMES, plots

COUNTS = pd.DataFrame([[3, 4, 5, 6], [30, 40, 50, 60]], index=["Testing", "Training"],
                      columns=list(CLASS_NAMES))  # fmt: skip
IMAGES = [np.zeros((20, 30), np.uint8)] * 6


def texts(figure):
    figure.canvas.draw()
    found = [text.get_text() for text in figure.findobj(lambda one: hasattr(one, "get_text"))]
    return " ".join(found)


def test_training_comes_first_and_classes_keep_their_colours():
    [axes] = plots.class_counts(COUNTS, "Images").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Training", "Testing"]
    colors = [to_hex(bars[0].get_facecolor()).upper() for bars in axes.containers]
    assert colors == list(CLASS_COLORS.values())
    assert axes.get_ylim()[1] > 60 * 1.05  # room for the number above the highest bar


@pytest.mark.parametrize("validation", [np.nan, 0.5])
def test_a_history_has_dashed_lines_where_patients_were_held_out(validation):
    table = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "accuracy": [0.5, 0.6],
                          "validation_loss": validation, "validation_accuracy": validation}
                         )  # fmt: skip
    figure = plots.history({"patient": {"seed_cnn_patient0": table}}, "loss", "Loss")
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    styles = [line.get_linestyle() for line in lines]
    assert styles == (["-"] if np.isnan(validation) else ["-", "--"])
    assert all(line.get_marker() in ("None", "", None) for line in lines)


def test_no_figure_shows_an_identifier():
    scores = {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}}
    figures = [
        plots.class_counts(COUNTS, "Images"),
        plots.protocol_scores({"hog_svm": {"patient": scores}}, "Accuracy"),
        plots.confusion_matrices({"patient": pd.DataFrame(np.eye(4, dtype=int), list(CLASS_NAMES),
                                                          list(CLASS_NAMES))}, ""),
        plots.image_rows(dict.fromkeys(CLASS_NAMES, IMAGES), ""),
    ]  # fmt: skip
    for figure in figures:
        assert "notumor" not in texts(figure) and "_" not in texts(figure).replace("_{", "")


def test_what_was_not_measured_is_said_in_a_sentence():
    assert "not been measured" in texts(plots.robustness({}, ""))
    assert "no maps" in texts(plots.heat_maps(IMAGES, None, ""))


def test_names_of_files_are_never_read_as_formulas():
    name = "a$\\frac{_$.png"
    answers = pd.DataFrame({"name": [name], "decision": name} | dict.fromkeys(CLASS_NAMES, np.nan))
    figure = plots.classified_images(IMAGES[:1], answers, f"Answers in {name}")
    assert texts(figure).count(name) == 3
    bins = pd.DataFrame(0.01, index=range(3), columns=list(CLASS_NAMES))
    assert "$" not in texts(plots.grey_histograms(bins, "Grey values"))


@pytest.mark.parametrize("count", [1, 3, 6, 8, 12])
def test_a_grid_has_no_empty_panel(count):
    figure = plots.labelled_images(IMAGES[:1] * count, ["caption"] * count, "Images")
    assert len(figure.axes) == count
