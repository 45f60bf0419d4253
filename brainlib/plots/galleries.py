"""Images in rows and grids, with what is known about each."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainlib import CLASS_COLORS, CLASS_NAMES
from brainlib.plots.style import drawn, readable, say

_RADIOLOGIST = {"color": "#E69F00", "linewidth": 2, "label": "radiologist's outline"}
_NETWORK = {"color": "#56B4E9", "linewidth": 2, "linestyle": "--", "label": "network's outline"}
_PEAK = {"marker": "X", "markersize": 7, "color": "white", "markeredgecolor": "black",
         "linestyle": "none", "label": "peak of the heat map"}  # fmt: skip
_WIDTH = 8.4  # inches of a figure: readable at the width of a README


@drawn
def image_rows(rows: Mapping[str, Sequence[np.ndarray]], title: str) -> Figure:
    """Draw rows of images, each row behind its name; classes in their colours.

    Parameters
    ----------
    rows : mapping of name to arrays of shape (height, width), grey values 0 to 255
    title : str
    """
    figure, grid = _grid(sum(map(len, rows.values())), max(map(len, rows.values())))
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=False):
            _show(axes, image)
        line[0].text(-0.06, 0.5, readable(name), transform=line[0].transAxes, rotation=90,
                     ha="right", va="center", color=CLASS_COLORS.get(name, "black"),
                     fontweight="bold")  # fmt: skip
    figure.suptitle(title)
    return figure


@drawn
def labelled_images(
    images: Sequence[np.ndarray], captions: Sequence[str], title: str, columns: int = 4
) -> Figure:
    """Draw images in a grid, each below its caption."""
    if not len(images):
        return say("There is no image to show.")
    lines = 1 + max(caption.count("\n") for caption in captions)
    figure, grid = _grid(len(images), columns, below=0.18 * lines)
    for axes, image, caption in zip(grid.flat, images, captions, strict=False):
        _show(axes, image)
        axes.set_title(caption, fontsize=10)
    figure.suptitle(title)
    return figure


def twin_images(pairs: pd.DataFrame, table: pd.DataFrame, pixels: np.ndarray, title: str) -> Figure:
    """Draw pairs of images, the file from Training above the one from Testing.

    Parameters
    ----------
    pairs : DataFrame
        As `audit.twins_across_splits` gives them.
    table : DataFrame
        The image table.
    pixels : uint8 array of shape (n, height, width, 1)
    title : str
    """
    if pairs.empty:
        return drawn(say)("No image is in both Training and Testing.")
    tested = np.where(pairs["mirrored"], "Testing, mirrored", "Testing, the same")
    rows = [*pairs["train"], *pairs["test"]]
    stems = table["path"].iloc[rows].map(lambda path: Path(path).stem)
    captions = list(stems + "\n" + [*["Training"] * len(pairs), *tested])
    return labelled_images(list(pixels[rows, :, :, 0]), captions, title, columns=len(pairs))


@drawn
def classified_images(
    images: Sequence[np.ndarray], predictions: pd.DataFrame, title: str
) -> Figure:
    """Draw each image above the model's probabilities.

    Parameters
    ----------
    images : sequence of uint8 arrays of shape (height, width)
    predictions : DataFrame
        One row per image, with a column for each class, and `name` for the caption. Where there is
        no answer, `decision` says why.
    title : str
    """
    columns, rows = _shape(len(images), 4)
    figure, grid = plt.subplots(
        2 * rows, columns, figsize=(_WIDTH * columns / 4, 3.7 * rows), squeeze=False,
        height_ratios=[3, 1.3] * rows,
    )  # fmt: skip
    upper, lower = grid[::2].flat, grid[1::2].flat
    for axes in grid.flat:
        axes.set_axis_off()
    answers = predictions.to_dict("records")
    for image_axes, axes, image, row in zip(upper, lower, images, answers, strict=False):
        _show(image_axes, image)
        image_axes.set_title(row["name"], fontsize=10)
        if pd.notna(row[CLASS_NAMES[0]]):
            _draw_probabilities(axes, row)
        else:
            axes.text(0.5, 1, textwrap.fill(row["decision"], 26), ha="center", va="top",
                      fontsize=9.5, transform=axes.transAxes)  # fmt: skip
    figure.suptitle(title)
    return figure


@drawn
def outlines(
    images: Sequence[np.ndarray],
    scored_rows: pd.DataFrame,
    truth_outlines: Sequence[np.ndarray],
    title: str,
) -> Figure:
    """Draw the model's and the radiologist's outline of each tumour.

    Parameters
    ----------
    images : sequence of uint8 arrays of shape (height, width)
    scored_rows : DataFrame
        A row for each image, as `explain.score_maps` gives them.
    truth_outlines : sequence of float arrays of shape (n, 2)
        The radiologist's outline of each, x and y in fractions of the image's sides, as
        `explain.read_outline` gives them.
    title : str
    """
    if not len(images):
        return say("There are no outlines to compare.")
    rows = scored_rows.to_dict("records")
    figure = labelled_images(images, [_outline_caption(row) for row in rows], title)
    for axes, image, row, truth in zip(figure.axes, images, rows, truth_outlines, strict=True):
        drawn_by = ((truth, _RADIOLOGIST), (json.loads(row["outline"] or "[]"), _NETWORK))
        for points, style in drawn_by:
            corners = np.array(points, float).reshape(-1, 2) * image.shape[::-1] - 0.5
            axes.plot(*np.concatenate([corners, corners[:1]]).T, **style)
        x, y = (row["peak_x"], row["peak_y"]) * np.array(image.shape[::-1]) - 0.5
        axes.plot(x, y, **_PEAK)
        axes.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
    figure.legend(handles=figure.axes[0].lines, ncols=3, loc="outside lower center", frameon=True,
                  facecolor="0.35", labelcolor="white", edgecolor="none")  # fmt: skip
    return figure


@drawn
def heat_maps(
    images: Sequence[np.ndarray], maps: Any, captions: Sequence[str], title: str
) -> Figure:
    """Draw images with the outline of the tumour and, where one is the answer, its heat map.

    Parameters
    ----------
    images : sequence of uint8 arrays of shape (height, width)
    maps : explain.Maps or None
        Of the same images; None where the model draws none.
    captions : sequence of str
    title : str
    """
    if maps is None or not len(images):
        return say("There are no maps to show: this model draws none, or found no tumour.")
    figure = labelled_images(images, captions, title)
    answers = zip(figure.axes, maps.probabilities, maps.in_images(), strict=False)
    for axes, probabilities, (outline, heat) in answers:
        if CLASS_NAMES[probabilities.argmax()] != "notumor":
            strength = heat / (heat.max() or 1.0)
            axes.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.6 * strength)
        if outline.max() > maps.threshold:
            axes.contour(outline, [maps.threshold], colors=[_NETWORK["color"]])
    return figure


def confusion_captions(confused: pd.DataFrame) -> list[str]:
    """Return a caption for each row of `evaluation.most_confused`."""
    return [
        f"{readable(row.label)}, called\n{readable(row.predicted)} ({100 * row.probability:.0f} %)"
        for row in confused.itertuples()
    ]


def answer_captions(predictions: pd.DataFrame) -> list[str]:
    """Return file, class and `truth`, if known, for each row of `inference.classify`."""
    captions = []
    for row in predictions.rename(columns={"class": "answer"}).itertuples():
        caption = Path(row.path).stem + (f", slice {row.slice}" if row.plane else "")
        caption += f"\n{readable(row.answer or 'no_answer')}"
        if row.truth:
            is_wrong = row.answer not in ("", row.truth)
            caption += f"\n{'WRONG, ' if is_wrong else ''}true: {readable(row.truth)}"
        captions.append(caption)
    return captions


def _show(axes: Axes, image: np.ndarray) -> None:
    """Show one grey image."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)


def _shape(count: int, most: int) -> tuple[int, int]:
    """Return columns and rows for some panels, without empty ones if possible."""
    fitting = [columns for columns in range(most, most // 2, -1) if count % columns == 0]
    columns = min(count, fitting[0] if fitting else most) or 1
    return columns, max(1, -(-count // columns))


def _grid(count: int, most: int, below: float = 0.0) -> tuple[Figure, np.ndarray]:
    """Return a figure with square panels for some images, and room for captions, in inches."""
    columns, rows = _shape(count, most)
    side = _WIDTH / max(columns, 4)
    figure, grid = plt.subplots(
        rows, columns, figsize=(side * columns, 0.6 + (side + below) * rows), squeeze=False
    )
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, grid


def _draw_probabilities(axes: Axes, row: Mapping[str, float]) -> None:
    values = [row[label] for label in CLASS_NAMES]
    bars = axes.barh(CLASS_NAMES, values, color=[CLASS_COLORS[label] for label in CLASS_NAMES])
    notes = [f"{row[label]:.2f} {readable(label)}" for label in CLASS_NAMES]
    axes.bar_label(bars, notes, padding=3, fontsize=9.5)
    axes.set_xlim(0, 2.65)
    axes.invert_yaxis()


def _outline_caption(row: Mapping[str, Any]) -> str:
    """Return the caption of a row of `explain.score_maps`: class, answer and scores."""
    called = "" if row["answer"] == row["label"] else f", called {readable(row['answer'])}"
    side = "in" if row["heat_peak_inside"] else "OUTSIDE"
    return f"{readable(row['label'])}{called}\nDice {row['dice']:.2f}, peak {side}"
