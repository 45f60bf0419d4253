"""From tables to matplotlib figures. Nothing is computed here, only drawn.

Classes have the same order and colour everywhere: four of Okabe and Ito's colours (2008), which
colour-blind readers tell apart.
"""

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
from matplotlib.ticker import MaxNLocator, PercentFormatter

from brainlib import CLASS_NAMES
from brainlib.explain import OUTLINE_THRESHOLD

CLASS_COLORS = dict(zip(CLASS_NAMES, ("#D55E00", "#0072B2", "#009E73", "#CC79A7"), strict=True))
_LINE_COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#999999",
)
_MARKERS = "osD^vPX*"
PROTOCOL_COLORS = {"patient": "#0072B2", "official": "#E69F00", "deduplicated": "#56B4E9"}
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
    return _finished(figure, title)


def class_counts(counts: pd.DataFrame, title: str = "Pictures of each class") -> Figure:
    """Draw the number of pictures, a group of bars for each row of the table."""
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    counts.plot.bar(ax=axes, color=[CLASS_COLORS[label] for label in counts.columns], rot=0)
    for bars in axes.containers:
        axes.bar_label(bars, fontsize=8)
    axes.set(xlabel="", ylabel="pictures")
    axes.legend(title="", frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return _finished(figure, title)


def grey_histograms(shares: pd.DataFrame, title: str) -> Figure:
    """Draw the share of pixels at each grey value, a line for each class, on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for label in shares.columns:
        axes.plot(shares.index, shares[label], color=CLASS_COLORS[label], label=label)
    axes.set(xlabel="grey value", ylabel="share of pixels", yscale="log", xlim=(0, 255))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return _finished(figure, title)


def history(
    histories: Mapping[str, Mapping[str, pd.DataFrame]], quantity: str, title: str
) -> Figure:
    """Draw accuracy or loss over the epochs, training dashed and validation solid.

    Parameters
    ----------
    histories : mapping of protocol to mapping of run name to history
        Histories as `training.fit` returns them; a line for each run, a colour for each protocol.
    quantity : str
        `accuracy` or `loss`.
    title : str
    """
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for protocol, runs in histories.items():
        for number, table in enumerate(runs.values()):
            for column, style in ((quantity, "--"), (f"validation_{quantity}", "-")):
                if table[column].isna().all():  # a fit without validation pictures
                    continue
                name = "validation" if column.startswith("validation") else "training"
                axes.plot(
                    table["epoch"], table[column], style, color=PROTOCOL_COLORS[protocol],
                    marker="o", markersize=5, alpha=0.85, linewidth=1.4,
                    label=f"{protocol}, {name}" if number == 0 else None,
                )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.08)
    axes.set(xlabel="epoch", ylabel="cross-entropy loss" if quantity == "loss" else quantity)
    if quantity == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return _finished(figure, title)


def confusion_matrices(matrices: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Draw one confusion matrix for each protocol: counts, coloured by the share of the true class.

    Parameters
    ----------
    matrices : mapping of name to DataFrame of shape (4, 4)
        Rows the true class, columns the predicted one.
    title : str
    """
    figure, axes_row = plt.subplots(
        1, len(matrices), figsize=(4.6 * len(matrices), 4.4), squeeze=False, layout="constrained"
    )
    for axes, (name, matrix) in zip(axes_row[0], matrices.items(), strict=True):
        shares = matrix.div(matrix.sum(axis="columns").clip(lower=1), axis="index")
        notes = [
            [f"{count:,}\n{share:.0%}" for count, share in zip(counts, parts, strict=True)]
            for counts, parts in zip(matrix.to_numpy(), shares.to_numpy(), strict=True)
        ]
        sns.heatmap(
            shares, annot=notes, fmt="", cmap="Blues", vmin=0, vmax=1, cbar=False, square=True,
            linewidths=1, ax=axes, annot_kws={"fontsize": 9},
        )  # fmt: skip
        axes.set(title=name, xlabel="predicted class", ylabel="true class")
        axes.tick_params(axis="x", rotation=30)
        axes.tick_params(axis="y", rotation=0)
    return _finished(figure, title)


def reliability(diagrams: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Draw accuracy over confidence in equal-mass bins, a panel for each diagram.

    Its upper corner, where most bins of a sure model lie, is drawn large in each.

    Parameters
    ----------
    diagrams : mapping of name to DataFrame
        As `evaluation.reliability` gives them: `confidence`, `accuracy`, `low`, `high`.
    title : str
    """
    figure, axes_row = plt.subplots(
        1,
        len(diagrams),
        figsize=(4.4 * len(diagrams), 4.2),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axes, (name, bins) in zip(axes_row[0], diagrams.items(), strict=True):
        corner = axes.inset_axes((0.57, 0.1, 0.4, 0.37), xlim=(0.92, 1.004), ylim=(0.92, 1.004))
        for part in (axes, corner):
            _draw_bins(part, bins)
        axes.indicate_inset_zoom(corner, edgecolor="0.5")
        axes.set(title=name, xlabel="confidence (highest probability)", xlim=(0.2, 1.02))
    axes_row[0][0].set(ylabel="accuracy", ylim=(0, 1.02))
    axes_row[0][0].legend(frameon=False, loc="upper left")
    return _finished(figure, title)


def _draw_bins(axes: Axes, bins: pd.DataFrame) -> None:
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="as sure as right")
    errors = [bins["accuracy"] - bins["low"], bins["high"] - bins["accuracy"]]
    axes.errorbar(
        bins["confidence"], bins["accuracy"], np.clip(errors, 0, None), fmt="o", markersize=4.5,
        color=PROTOCOL_COLORS["patient"], capsize=2, label="bin, 95 % interval",
    )  # fmt: skip
    axes.grid(alpha=0.3)


def risk_coverage(curves: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Draw the error rate of the accepted pictures over the share that is accepted.

    Parameters
    ----------
    curves : mapping of name to DataFrame
        As `evaluation.risk_coverage` gives them: `coverage`, `risk`. The first is drawn thick.
    title : str
    """
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for number, (name, curve) in enumerate(curves.items()):
        axes.plot(
            curve["coverage"], curve["risk"], color=_LINE_COLORS[number % len(_LINE_COLORS)],
            label=name.replace("_", " "), linewidth=1.2 if number else 2.6, zorder=2 - number / 99,
        )  # fmt: skip
    axes.set(xlabel="coverage: share of pictures answered", ylabel="risk: share of answers wrong")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return _finished(figure, title)


def protocol_scores(results: Mapping[str, Mapping], title: str, metric: str = "accuracy") -> Figure:
    """Draw one metric of every model under every protocol, with its interval, the best on top.

    Parameters
    ----------
    results : mapping
        By model, then by protocol, as `results.measure` gives them.
    title : str
    metric : str
    """
    figure, axes = plt.subplots(figsize=(7.5, 1.2 + 0.55 * len(results)), layout="constrained")
    protocols = list(PROTOCOL_COLORS)
    best = sorted(results, key=lambda name: -next(iter(results[name].values()))[metric]["value"])
    for row, name in enumerate(best):
        for protocol, values in results[name].items():
            score = values[metric]
            shift = 0.22 * (protocols.index(protocol) - 1)
            reach = [[score["value"] - score["low"]], [score["high"] - score["value"]]]
            axes.errorbar(
                score["value"], row + shift, xerr=np.clip(reach, 0, None), fmt="o", capsize=2,
                color=PROTOCOL_COLORS[protocol],
            )  # fmt: skip
    for protocol in protocols:
        axes.plot([], [], "o", color=PROTOCOL_COLORS[protocol], label=protocol)
    axes.set_yticks(range(len(results)), [name.replace("_", " ") for name in best])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlabel=f"{metric.replace('_', ' ')}, 95 % interval over patients")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return _finished(figure, title)


def labelled_pictures(
    pictures: Sequence[np.ndarray], captions: Sequence[str], title: str, columns: int = 6
) -> Figure:
    """Draw pictures in a grid, each below its caption."""
    rows = max(1, -(-len(pictures) // columns))
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.3 * columns, 2.75 * rows), squeeze=False, layout="constrained"
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, picture, caption in zip(grid.flat, pictures, captions, strict=False):
        show_picture(axes, picture)
        axes.set_title(caption, fontsize=8.5)
    return _finished(figure, title)


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
    return _finished(figure, title)


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


def robustness(tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Draw accuracy over the strength of each corruption, a panel for each, a line for each model.

    Parameters
    ----------
    tables : mapping of model to DataFrame
        As `corruptions.robustness` gives them, all with the same rows; strength 0 is `clean`.
    title : str
    """
    names = [name for name in next(iter(tables.values())).index if name != "clean"]
    columns = min(5, len(names))
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.1 * columns, 0.9 + 2.1 * rows), squeeze=False,
        sharex=True, sharey=True, layout="constrained",
    )  # fmt: skip
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        for number, (model, table) in enumerate(tables.items()):
            _strength_line(axes, table, name, number, model.replace("_", " "))
        axes.set_title(name.replace("_", " "), fontsize=11)
        axes.grid(alpha=0.3)
    for axes in grid.flat[: len(names)][-columns:]:  # the lowest of each column
        axes.set_xlabel("strength (0: clean)")
        axes.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy")
    grid[0][0].xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[0][0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=4, loc="outside lower center")
    return _finished(figure, title)


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
    rows = max(1, -(-len(pictures) // columns))
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.7 * columns, 0.6 + 3.2 * rows), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes in grid.flat:
        axes.set_axis_off()
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
    return _finished(figure, title)


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
    rows = max(1, -(-len(pictures) // columns))
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.7 * columns, 0.6 + 3.1 * rows), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes in grid.flat:
        axes.set_axis_off()
    answers = zip(
        grid.flat[: len(pictures)], pictures, maps.probabilities, maps.in_pictures(), strict=True
    )
    for axes, picture, probabilities, (outline, heat) in answers:
        show_picture(axes, picture)
        strength = heat / (heat.max() or 1.0)
        axes.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.6 * strength)
        if outline.max() > OUTLINE_THRESHOLD:
            axes.contour(outline, [OUTLINE_THRESHOLD], colors=[_OUTLINE_STYLES["network"]["color"]])
        best = int(probabilities.argmax())
        axes.set_title(f"{CLASS_NAMES[best]}, {probabilities[best]:.0%}", fontsize=9)
    return _finished(figure, title)


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


def _outline_line(
    axes: Axes, points: Sequence[Sequence[float]], shape: tuple[int, int], who: str
) -> None:
    """Draw a closed outline given in fractions of the picture's width and height."""
    corners = np.array(points, float).reshape(-1, 2) * shape[::-1] - 0.5
    x, y = np.concatenate([corners, corners[:1]]).T
    axes.plot(x, y, **_OUTLINE_STYLES[who])


def _strength_line(axes: Axes, table: pd.DataFrame, name: str, number: int, label: str) -> None:
    columns = [column for column in table.columns if column.startswith("strength ")]
    strengths = [int(column.removeprefix("strength ")) for column in columns]
    axes.plot(
        [0, *strengths], [table.loc["clean", "mean"], *table.loc[name, columns]],
        color=_LINE_COLORS[number % len(_LINE_COLORS)], marker=_MARKERS[number % len(_MARKERS)],
        markersize=4.5, linewidth=1.6, label=label,
    )  # fmt: skip


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


def _finished(figure: Figure, title: str) -> Figure:
    figure.suptitle(title, fontsize=12)
    plt.close(figure)  # the notebook shows what a cell returns; left open it would show twice
    return figure
