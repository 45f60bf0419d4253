"""Pictures in rows and grids, with what is known about each."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainlib import CLASS_NAMES
from brainlib.plots.style import CLASS_COLORS, finished

_OUTLINE_STYLES = {
    "radiologist": {"color": "#E69F00", "linewidth": 1.8, "label": "radiologist's outline"},
    "network": {"color": "#56B4E9", "linewidth": 1.8, "linestyle": "--",
                "label": "the network's outline"},
}  # fmt: skip
_PEAK_STYLE = {"marker": "X", "markersize": 9, "color": "white", "markeredgecolor": "black",
               "linestyle": "none", "label": "peak of the heat map"}  # fmt: skip


def class_examples(
    pictures: Mapping[str, Sequence[np.ndarray]], title: str = "Four pictures of each class"
) -> Figure:
    """Draw some pictures of each class, a row for each.

    Parameters
    ----------
    pictures : mapping of class name to uint8 arrays of shape (height, width)
    title : str
    """
    columns = max(len(row) for row in pictures.values())
    figure, grid = plt.subplots(
        len(pictures),
        columns,
        figsize=(2.2 * columns, 2.25 * len(pictures)),
        squeeze=False,
        layout="constrained",
    )
    for axes_row, (label, row) in zip(grid, pictures.items(), strict=True):
        for axes in axes_row:
            axes.set_axis_off()
        for axes, picture in zip(axes_row, row, strict=False):
            show_picture(axes, picture)
        axes_row[0].text(
            -0.06, 0.5, label, transform=axes_row[0].transAxes, rotation=90, ha="right",
            va="center", color=CLASS_COLORS[label], fontweight="bold", fontsize=12,
        )  # fmt: skip
    return finished(figure, title)


def labelled_pictures(
    pictures: Sequence[np.ndarray], captions: Sequence[str], title: str, columns: int = 6
) -> Figure:
    """Draw pictures in a grid, each below its caption."""
    figure, grid = _grid(len(pictures), columns, 2.3, 2.75)
    for axes, picture, caption in zip(grid.flat, pictures, captions, strict=False):
        show_picture(axes, picture)
        axes.set_title(caption, fontsize=8.5)
    return finished(figure, title)


def classified_pictures(
    pictures: Sequence[np.ndarray], predictions: pd.DataFrame, title: str
) -> Figure:
    """Draw each picture beside the probabilities that the model gives it.

    Parameters
    ----------
    pictures : sequence of uint8 arrays of shape (height, width)
    predictions : DataFrame
        One row a picture, with a column for each class, and `name` for the caption. Where there is
        no answer, `decision` says why.
    title : str
    """
    columns = 4
    rows = max(1, -(-len(pictures) // columns))
    figure, grid = plt.subplots(
        2 * rows, columns, figsize=(3 * columns, 4.1 * rows), squeeze=False,
        height_ratios=[3, 1.1] * rows, layout="constrained",
    )  # fmt: skip
    for axes in grid.flat:
        axes.set_axis_off()
    for number, (picture, row) in enumerate(
        zip(pictures, predictions.to_dict("records"), strict=True)
    ):
        line, column = divmod(number, columns)
        show_picture(grid[2 * line, column], picture)
        grid[2 * line, column].set_title(row["name"], fontsize=9)
        if np.isfinite([row[label] for label in CLASS_NAMES]).all():
            _probability_bars(grid[2 * line + 1, column], row)
        else:
            _reason(grid[2 * line + 1, column], row["decision"])
    return finished(figure, title)


def twin_pictures(
    pairs: pd.DataFrame, table: pd.DataFrame, pixels: np.ndarray, title: str
) -> Figure:
    """Draw pairs of pictures, the file from Training above the one from Testing.

    Parameters
    ----------
    pairs : DataFrame
        As `audit.twins_across_splits` gives them.
    table : DataFrame
        The image table.
    pixels : uint8 array of shape (n, height, width, 1)
    title : str
    """
    rows = [*pairs["train"], *pairs["test"]]
    notes = ["mirrored" if mirrored else "the same" for mirrored in pairs["mirrored"]]
    captions = [
        f"{Path(table['path'].iloc[row]).name}\n{note}"
        for row, note in zip(rows, [*["Training"] * len(pairs), *notes], strict=True)
    ]
    pictures = [pixels[row, :, :, 0] for row in rows]
    return labelled_pictures(pictures, captions, title, columns=max(1, len(pairs)))


def outlines(
    pictures: Sequence[np.ndarray],
    scored_rows: pd.DataFrame,
    truth_outlines: Sequence[np.ndarray],
    title: str,
    columns: int = 4,
) -> Figure:
    """Draw where the model sees the tumour, and where the radiologist does.

    Parameters
    ----------
    pictures : sequence of uint8 arrays of shape (height, width)
    scored_rows : DataFrame
        A row for each picture, as `explain.score_maps` gives them.
    truth_outlines : sequence of float arrays of shape (n, 2)
        The radiologist's outline of each, x and y in fractions of the picture's sides, as
        `explain.read_outline` gives them.
    title : str
    columns : int
    """
    figure, grid = _grid(len(pictures), columns, 2.7, 3.2, margin=0.6)
    together = zip(
        grid.flat[: len(pictures)], pictures, scored_rows.to_dict("records"), truth_outlines,
        strict=True,
    )  # fmt: skip
    for axes, picture, row, truth in together:
        show_picture(axes, picture)
        _outline_line(axes, truth, picture.shape, "radiologist")
        _outline_line(axes, json.loads(row["outline"] or "[]"), picture.shape, "network")
        x, y = (row["peak_x"], row["peak_y"]) * np.array(picture.shape[::-1]) - 0.5
        axes.plot(x, y, **_PEAK_STYLE)
        axes.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
        axes.set_title(outline_caption(row), fontsize=9)
    handles = {handle.get_label(): handle for axes in grid.flat for handle in axes.lines}
    figure.legend(
        handles=list(handles.values()), ncols=3, loc="outside lower center", facecolor="0.35",
        labelcolor="white", edgecolor="none",
    )  # fmt: skip
    return finished(figure, title)


def heat_maps(pictures: Sequence[np.ndarray], maps: Any, title: str, columns: int = 4) -> Figure:
    """Draw pictures with what each place adds to the answer, and the outline of the tumour.

    Parameters
    ----------
    pictures : sequence of uint8 arrays of shape (height, width)
    maps : explain.Maps
        Of the same pictures.
    title : str
    columns : int
    """
    figure, grid = _grid(len(pictures), columns, 2.7, 3.1, margin=0.6)
    answers = zip(
        grid.flat[: len(pictures)], pictures, maps.probabilities, maps.in_pictures(), strict=True
    )
    for axes, picture, probabilities, (outline, heat) in answers:
        show_picture(axes, picture)
        strength = heat / (heat.max() or 1.0)
        axes.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.6 * strength)
        if outline.max() > maps.threshold:
            axes.contour(outline, [maps.threshold], colors=[_OUTLINE_STYLES["network"]["color"]])
        best = int(probabilities.argmax())
        axes.set_title(f"{CLASS_NAMES[best]}, {probabilities[best]:.0%}", fontsize=9)
    return finished(figure, title)


def confusion_captions(confused: pd.DataFrame) -> list[str]:
    """Return a caption for each row of `evaluation.most_confused`."""
    return [
        f"{row.label}\ntaken for {row.predicted} ({row.probability:.0%})"
        for row in confused.itertuples()
    ]


def answer_captions(predictions: pd.DataFrame) -> list[str]:
    """Return the name of the file and the class for each row of `inference.classify`."""
    return [
        f"{Path(row.path).name}{f', slice {row.slice}' if row.slice else ''}\n"
        f"{row.label or 'no answer'}"
        for row in predictions.rename(columns={"class": "label"}).itertuples()
    ]


def outline_caption(row: Mapping[str, Any]) -> str:
    """Return class, answer and scores in one row of `explain.score_maps`."""
    is_right = row["answer"] == row["label"]
    verdict = f"{row['label']}, " + ("answered right" if is_right else f"TAKEN FOR {row['answer']}")
    place = "inside" if row["heat_peak_inside"] else "OUTSIDE"
    return f"{verdict}\nDice {row['dice']:.2f}, peak {place}"


def show_picture(axes: Axes, picture: np.ndarray) -> None:
    """Show one grey picture without axes."""
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()


def _grid(
    count: int, columns: int, width: float, height: float, margin: float = 0.0
) -> tuple[Figure, np.ndarray]:
    """Return a figure with room for `count` pictures, each of some inches, and its axes, bare."""
    rows = max(1, -(-count // columns))
    size = (width * columns, margin + height * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, grid


def _outline_line(
    axes: Axes, points: Sequence[Sequence[float]], shape: tuple[int, int], who: str
) -> None:
    """Draw a closed outline given in fractions of the picture's width and height."""
    corners = np.array(points, float).reshape(-1, 2) * shape[::-1] - 0.5
    x, y = np.concatenate([corners, corners[:1]]).T
    axes.plot(x, y, **_OUTLINE_STYLES[who])


def _probability_bars(axes: Axes, row: Mapping[str, float]) -> None:
    values = [row[label] for label in CLASS_NAMES]
    axes.set_axis_on()
    axes.barh(CLASS_NAMES, values, color=[CLASS_COLORS[label] for label in CLASS_NAMES])
    for position, value in enumerate(values):
        axes.text(value + 0.02, position, f"{value:.2f}", va="center", fontsize=7.5)
    axes.set(xlim=(0, 1.2), xticks=[])
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7.5, length=0)
    sns.despine(ax=axes, bottom=True, left=True)


def _reason(axes: Axes, decision: str) -> None:
    text = textwrap.fill(decision, 28)
    axes.text(0.5, 1, text, ha="center", va="top", fontsize=8, transform=axes.transAxes)
