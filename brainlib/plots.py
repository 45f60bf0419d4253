"""Figures of tables, images and maps. Nothing is computed here, only drawn.

A figure is a function with `@drawn` that returns a matplotlib `Figure`. Colours, and names for
readers, come first; then charts of numbers; then galleries of images.
"""

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brainlib import CLASS_COLORS, CLASS_NAMES

Images = Sequence[np.ndarray]

PROTOCOL_COLORS = {"patient": "#0072B2", "official": "#E69F00", "deduplicated": "#56B4E9"}

LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
               "#999999")  # fmt: skip

NAMES = {
    "notumor": "no tumour", "patient": "new patients", "official": "official split",
    "deduplicated": "official split without twins", "lesion_net": "released network",
    "lesion_net (published)": "released network", "seed_cnn": "starting network",
    "hog_svm": "HOG + SVM", "nearest_neighbor": "nearest neighbour",
    "mirror_flag": "mirrored or not", "masked_head": "outline of the head", "jpeg": "JPEG",
    "f1": "F1", "macro f1": "macro F1", "auroc": "AUROC", "dice": "Dice", "br35h_no": "Br35H",
    "sartaj": "Sartaj", "source br35h_no": "source Br35H", "source sartaj": "source Sartaj",
    "kaggle version 1": "Kaggle, version 1", "figshare version 8": "figshare, version 8",
}  # fmt: skip
"""Identifiers that are not words; of all others the underscores become spaces."""

NOTHING = "nothing to draw"
"""Label of a figure that holds a sentence alone."""

_STYLE = {
    **sns.axes_style("whitegrid", {"grid.color": "0.9", "axes.edgecolor": "0.4"}),
    "font.size": 11, "axes.titlesize": 11, "figure.titlesize": 13, "legend.fontsize": 10,
    "legend.frameon": False, "figure.constrained_layout.use": True,
    "text.parse_math": False,  # names of files and folders may hold any sign
}  # fmt: skip

_SUBSETS = {"training": ("", "-", "o"), "validation": ("validation_", "--", "s")}
_RADIOLOGIST = {"color": "#E69F00", "linewidth": 2, "label": "radiologist's outline"}
_NETWORK = {"color": "#56B4E9", "linewidth": 2, "linestyle": "--", "label": "network's outline"}
_PEAK = {"marker": "X", "markersize": 7, "color": "white", "markeredgecolor": "black",
         "linestyle": "none", "label": "peak of the heat map"}  # fmt: skip
_WIDTH = 8.4  # inches of a figure: readable at the width of a README


def readable(name: str) -> str:
    """Return an identifier as words: a class, protocol, model, corruption or source.

    Examples
    --------
    >>> readable("hog_svm"), readable("border_pixels")
    ('HOG + SVM', 'border pixels')
    """
    return NAMES.get(name, name.replace("_", " "))


def percent(share: float, _: int = 0) -> str:
    """Return a share in per cent, as the formatter of an axis."""
    return f"{100 * share:g} %"


def drawn(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorate a function that draws: the style of this package, and the figure closed after."""

    @wraps(draw)
    def styled(*arguments: object, **options: object) -> Figure:
        with plt.rc_context(_STYLE):
            figure = draw(*arguments, **options)
            figure.canvas.draw()  # the layout depends on the style
        plt.close(figure)
        return figure

    return styled


def say(text: str) -> Figure:
    """Return a figure that holds a sentence, for when there is nothing to draw; none is saved."""
    figure, axes = plt.subplots(figsize=(7, 0.6))
    axes.set_axis_off()
    axes.text(0, 0.5, f"{text} No figure is saved.", va="center", color="0.3")
    figure.set_label(NOTHING)
    return figure


@drawn
def class_counts(counts: pd.DataFrame, title: str) -> Figure:
    """Draw the number of images of each class, a group of bars for each row of the table."""
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    counts.sort_index(ascending=False).rename(columns=readable).plot.bar(  # Training first
        ax=axes, color=[CLASS_COLORS[label] for label in counts], rot=0, width=0.8
    )
    for bars in axes.containers:
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=9.5)
    axes.set(xlabel="", ylabel="images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.margins(y=0.12)
    axes.grid(visible=False, axis="x")
    axes.legend(title="", ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    figure.suptitle(title)
    return figure


@drawn
def grey_histograms(shares: pd.DataFrame, title: str) -> Figure:
    """Draw the share of pixels at each grey value, a line for each class, on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(7.5, 3.8))
    colors = {readable(label): CLASS_COLORS[label] for label in shares}
    sns.lineplot(shares.rename(columns=readable), palette=colors, dashes=False, ax=axes)
    axes.set(xlabel="grey value, 0 to 255", ylabel="share of pixels", yscale="log", xlim=(0, 255))
    axes.set_ylim(1e-6, None)
    axes.yaxis.set_major_formatter(percent)
    figure.suptitle(title)
    return figure


@drawn
def history(histories: Mapping[str, Mapping], quantity: str, title: str) -> Figure:
    """Draw accuracy or loss over the epochs, training solid and validation dashed.

    Parameters
    ----------
    histories : mapping of protocol to mapping of run name to history
        Histories as `training.fit` returns them. A colour for each protocol: a line for the mean of
        its runs, and a band for their range.
    quantity : {"accuracy", "loss"}
    title : str
    """
    figure, axes = plt.subplots(figsize=(7.5, 4))
    for protocol, runs in histories.items():
        epochs = pd.concat(runs.values())
        folds = f", mean and range of {len(runs)} folds" if len(runs) > 1 else ""
        for subset, (prefix, line, marker) in _SUBSETS.items():
            if epochs[prefix + quantity].notna().any():
                sns.lineplot(
                    epochs, x="epoch", y=prefix + quantity, errorbar=("pi", 100), linestyle=line,
                    color=PROTOCOL_COLORS[protocol], label=f"{readable(protocol)}, {subset}{folds}",
                    marker=marker if epochs["epoch"].max() == 1 else None, ax=axes,
                )  # fmt: skip
    axes.set_xlim(0.5, max(1.5, axes.get_xlim()[1]))
    axes.set(xlabel="epoch", ylabel="cross-entropy, nats", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if quantity == "accuracy":
        axes.set(ylabel="accuracy", ylim=(0, 1))
        axes.yaxis.set_major_formatter(percent)
    axes.legend(loc="best")
    figure.suptitle(title)
    return figure


@drawn
def confusion_matrices(matrices: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Draw confusion matrices, two in a row: counts, coloured by the share of the true class.

    Parameters
    ----------
    matrices : mapping of name to DataFrame of shape (4, 4)
        Rows the true class, columns the predicted one.
    title : str
    """
    columns, rows = min(2, len(matrices)), -(-len(matrices) // 2)
    figure, grid = plt.subplots(
        rows, columns, figsize=(0.8 + 3.8 * columns, 0.5 + 4.4 * rows), squeeze=False, sharey=True
    )
    figure.get_layout_engine().set(h_pad=0.12, hspace=0.04)
    for axes in grid.flat[len(matrices) :]:
        axes.remove()
    for axes, (name, matrix) in zip(grid.flat, matrices.items(), strict=False):
        words = matrix.rename(index=readable, columns=readable)
        shares = words.div(words.sum(axis="columns").clip(lower=1), axis="index")
        notes = words.map("{:,}".format) + shares.map(lambda x: f"\n{100 * x:.1f} %" if x else "")
        sns.heatmap(
            shares, annot=notes, fmt="", cmap="Blues", vmin=0, vmax=1, cbar=False, square=True,
            linewidths=1, ax=axes, annot_kws={"fontsize": 11},
        )  # fmt: skip
        axes.set(title=readable(name), xlabel="predicted", ylabel="")
        axes.tick_params(axis="x", rotation=25)
        axes.tick_params(axis="y", rotation=0)
    for axes in grid[:, 0]:
        axes.set_ylabel("true")
    figure.suptitle(title)
    return figure


@drawn
def reliability(diagrams: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Draw accuracy over confidence in equal-mass bins, a panel for each diagram.

    Its upper corner, where most bins of a sure model lie, is drawn large in each panel that has
    room for it: not over the wide intervals of few images.

    Parameters
    ----------
    diagrams : mapping of name to DataFrame
        As `evaluation.reliability` gives them: `confidence`, `accuracy`, `low`, `high`.
    title : str
    """
    figure, row = plt.subplots(
        1, len(diagrams), figsize=(0.6 + 4.2 * len(diagrams), 4.4), squeeze=False, sharey=True
    )
    for axes, (name, bins) in zip(row[0], diagrams.items(), strict=True):
        panels = [axes]
        if not (bins["confidence"].gt(0.6) & bins["low"].lt(0.5)).any():
            box = (0.55, 0.1, 0.42, 0.38)
            panels.append(axes.inset_axes(box, xlim=(0.9, 1.005), ylim=(0.9, 1.005)))
            axes.indicate_inset_zoom(panels[1], edgecolor="0.5")
        for panel in panels:
            panel.plot([0, 1], [0, 1], ":", color="0.4", label="accuracy = confidence")
            panel.errorbar(bins["confidence"], bins["accuracy"], _reach(bins, "accuracy"), fmt="o",
                           markersize=4.5, capsize=2, color=LINE_COLORS[0],
                           label="bin, 95 % interval")  # fmt: skip
        axes.set(title=name, xlabel="confidence (highest probability)", xlim=(0.2, 1.02),
                 xticks=[0.2, 0.4, 0.6, 0.8, 1])  # fmt: skip
    row[0][0].set(ylabel="accuracy", ylim=(0, 1.02))
    hidden = next(iter(diagrams.values())).query("confidence < 0.75 and high > 0.85")
    row[0][0].legend(loc="upper left", bbox_to_anchor=None if hidden.empty else (0, -0.15))
    figure.suptitle(title)
    return figure


def _reach(table: pd.DataFrame, value: str) -> np.ndarray:
    """Return how far the intervals reach below and above the values, shape (2, n)."""
    return np.clip([table[value] - table["low"], table["high"] - table[value]], 0, None)


@drawn
def risk_coverage(curves: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Draw the error rate of the accepted images over the share that is accepted.

    Parameters
    ----------
    curves : mapping of name to DataFrame
        As `evaluation.risk_coverage` gives them: `coverage`, `risk`. The first is drawn thick.
    title : str
    """
    figure, axes = plt.subplots(figsize=(8, 4.2))
    axes.set_prop_cycle(plt.cycler(linestyle=["-", "--"]) * plt.cycler(color=LINE_COLORS))
    for index, (name, curve) in enumerate(curves.items()):
        axes.plot(curve["coverage"], curve["risk"], label=readable(name),
                  linewidth=1.4 if index else 3, zorder=3 - index / 99)  # fmt: skip
    axes.set(xlabel="coverage: share of images answered", ylabel="risk: share of answers wrong")
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.xaxis.set_major_formatter(percent)
    axes.yaxis.set_major_formatter(percent)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title)
    return figure


@drawn
def protocol_scores(results: Mapping[str, Mapping], title: str, metric: str = "accuracy") -> Figure:
    """Draw one metric of every model under every protocol, with its interval, the best on top.

    Parameters
    ----------
    results : mapping
        By model, then by protocol, as `evaluation.score_tables` gives them.
    title : str
    metric : str
    """
    figure, axes = plt.subplots(figsize=(8, 1.5 + 0.5 * len(results)))
    best = sorted(results, key=lambda name: -next(iter(results[name].values()))[metric]["value"])
    markers = dict(zip(PROTOCOL_COLORS, "osD", strict=True))
    measured = [name for name in PROTOCOL_COLORS if any(name in x for x in results.values())]
    for index, protocol in enumerate(measured):
        rows = [name for name in best if protocol in results[name]]
        scores = pd.DataFrame([results[name][protocol][metric] for name in rows],
                              columns=["value", "low", "high"])  # fmt: skip
        heights = [best.index(name) + 0.22 * (index - (len(measured) - 1) / 2) for name in rows]
        axes.errorbar(scores["value"], heights, xerr=_reach(scores, "value"), fmt=markers[protocol],
                      markersize=5, capsize=2, color=PROTOCOL_COLORS[protocol],
                      label=readable(protocol))  # fmt: skip
    axes.set_yticks(range(len(best)), [readable(name) for name in best])
    axes.set_ylim(max(axes.get_ylim()[1], len(best) - 0.5), min(axes.get_ylim()[0], -0.5))
    axes.xaxis.set_major_formatter(percent)
    axes.set_xlabel(f"{readable(metric)}, 95 % interval over patients")
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1))
    figure.suptitle(title)
    return figure


@drawn
def robustness(tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Draw accuracy over the strength of each corruption, a panel for each, a line for each model.

    Parameters
    ----------
    tables : mapping of model to DataFrame
        As `evaluation.read_robustness` gives them, with the same rows; strength 0 is `clean`.
    title : str
    """
    if not tables:
        return say("Robustness has not been measured for these predictions.")
    first = next(iter(tables.values()))
    names = first.index.drop("clean")
    columns = min(5, len(names))
    figure, grid = plt.subplots(
        -(-len(names) // columns), columns, figsize=(8.4, 1.2 + 1.8 * -(-len(names) // columns)),
        squeeze=False, sharex=True, sharey=True,
    )  # fmt: skip
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for axes, name in zip(grid.flat, names, strict=False):
        styles = zip(tables.items(), LINE_COLORS, "osD^vPX*", strict=False)
        for (model, table), color, marker in styles:
            strengths = table.filter(like="strength ").loc[name]
            values = [table.loc["clean", "mean"], *strengths]
            axes.plot(values, marker=marker, markersize=4.5, color=color, label=readable(model))
        axes.set_title(readable(name), fontsize=10.5)
        axes.tick_params(labelbottom=True)
    grid[0][0].xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[0][0].yaxis.set_major_formatter(percent)
    for axes in grid[-1]:
        axes.set_xlabel("strength")
    figure.supylabel(f"accuracy on {first['images'].iloc[0]} images (0: clean)", fontsize=11)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=4, loc="outside lower center")
    figure.suptitle(title)
    return figure


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
    images: Images, captions: Sequence[str], title: str, columns: int = 4
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
def classified_images(images: Images, predictions: pd.DataFrame, title: str) -> Figure:
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
    images: Images, scored_rows: pd.DataFrame, truth_outlines: Images, title: str
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
def heat_maps(images: Images, maps: Sequence, captions: Sequence[str], title: str) -> Figure:
    """Draw images with the outline of the tumour and, where one is the answer, its heat map.

    Parameters
    ----------
    images : sequence of uint8 arrays of shape (height, width)
    maps : sequence of explain.Maps
        Of the same images; empty where the model draws none.
    captions : sequence of str
    title : str
    """
    if not maps:
        return say("There are no maps to show: this model draws none, or found no tumour.")
    figure = labelled_images(images, captions, title)
    for axes, (probabilities, outline, heat) in zip(figure.axes, maps, strict=False):
        if CLASS_NAMES[probabilities.argmax()] != "notumor":
            strength = heat / (heat.max() or 1.0)
            axes.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.6 * strength)
        if outline.max() > 0.5:
            axes.contour(outline, [0.5], colors=[_NETWORK["color"]])
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
