"""Figures: words for readers, the same colours everywhere, nothing promised that is not drawn."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from brainlib import CLASS_COLORS, CLASS_NAMES, plots

COUNTS = pd.DataFrame([[3, 4, 5, 6], [30, 40, 50, 60]], ["Testing", "Training"], CLASS_NAMES)
IMAGES = [np.zeros((20, 30), np.uint8)] * 6


def texts(figure):
    figure.canvas.draw()
    return " ".join(text.get_text() for text in figure.findobj(lambda x: hasattr(x, "get_text")))


def test_training_comes_first_and_classes_keep_their_colours():
    [axes] = plots.class_counts(COUNTS, "Images").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Training", "Testing"]
    colors = [to_hex(bars[0].get_facecolor()).upper() for bars in axes.containers]
    assert colors == list(CLASS_COLORS.values())
    assert axes.get_ylim()[1] > 60 * 1.05  # room for the number above the highest bar


@pytest.mark.parametrize(("validation", "epochs"), [(np.nan, 2), (0.5, 2), (0.5, 1)])
def test_a_history_has_dashed_lines_where_patients_were_held_out(validation, epochs):
    table = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "validation_loss": validation})
    figure = plots.history({"patient": {"seed_cnn_patient0": table.head(epochs)}}, "loss", "Loss")
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    styles = [line.get_linestyle() for line in lines]
    assert styles == (["-"] if np.isnan(validation) else ["-", "--"])
    assert all((line.get_marker() in ("None", "", None)) == (epochs > 1) for line in lines)


def test_no_figure_shows_an_identifier_and_what_was_not_measured_is_said():
    scores = {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}}
    matrix = pd.DataFrame(np.eye(4, dtype=int), CLASS_NAMES, CLASS_NAMES)
    figures = [
        plots.class_counts(COUNTS, "Images"),
        plots.protocol_scores({"hog_svm": {"patient": scores}}, "Accuracy"),
        plots.confusion_matrices({"patient": matrix}, ""),
        plots.image_rows(dict.fromkeys(CLASS_NAMES, IMAGES), ""),
    ]
    for figure in figures:
        assert "notumor" not in texts(figure) and "_" not in texts(figure).replace("_{", "")
    assert "not been measured" in texts(plots.robustness({}, ""))
    assert "no maps" in texts(plots.heat_maps(IMAGES, [], [], ""))


def test_few_data_are_drawn_without_empty_panels_and_nothing_hides_them():
    for count in (1, 3, 6, 8, 12):
        figure = plots.labelled_images(IMAGES[:1] * count, ["caption"] * count, "Images")
        assert len(figure.axes) == count
    score = {"accuracy": {"value": 0.6, "low": 0.5, "high": 0.7}}
    [axes] = plots.protocol_scores({"seed_cnn": {"patient": score}}, "Accuracy").axes
    assert axes.get_ylim() == (0.5, -0.5) and axes.lines[0].get_ydata().tolist() == [0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["new patients"]
    bins = pd.DataFrame({"confidence": [0.5, 0.95], "accuracy": 0.9, "low": 0.2, "high": 1.0})
    for table, is_wide in ((bins, True), (bins.assign(low=0.6, high=0.8), False)):
        [axes] = plots.reliability({"seed_cnn": table}, "Reliability").axes
        assert bool(axes.child_axes) != is_wide  # the inset
        legend, frame = axes.get_legend().get_window_extent(), axes.get_window_extent()
        assert (legend.y1 < frame.y0) == is_wide


def test_captions_name_the_truth_and_heat_is_drawn_for_tumours_alone():
    answers = pd.DataFrame({"path": "a.png", "plane": "", "class": ["glioma", "notumor", ""],
                            "truth": ["meningioma", "notumor", ""]})  # fmt: skip
    wrong, right, none = plots.answer_captions(answers)
    assert wrong == "a\nglioma\nWRONG, true: meningioma"
    assert (right, none) == ("a\nno tumour\ntrue: no tumour", "a\nno answer")
    outline, heat_map = np.zeros((20, 30)), np.ones((20, 30))
    maps = [(probabilities, outline, heat_map) for probabilities in np.eye(4)[[0, 2]]]
    figure = plots.heat_maps(IMAGES[:2], maps, [wrong, right], "")
    assert [len(axes.images) for axes in figure.axes] == [2, 1]


def test_names_of_files_are_never_read_as_formulas():
    name = "a$\\frac{_$.png"
    answers = pd.DataFrame({"name": [name], "decision": name} | dict.fromkeys(CLASS_NAMES, np.nan))
    figure = plots.classified_images(IMAGES[:1], answers, f"Answers in {name}")
    assert texts(figure).count(name) == 3
    bins = pd.DataFrame(0.01, range(3), CLASS_NAMES)
    assert "$" not in texts(plots.grey_histograms(bins, "Grey values"))
