"""Numbers as bars, lines and matrices."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from brainlib.plots.style import CLASS_COLORS, PROTOCOL_COLORS, finished

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


def class_counts(counts: pd.DataFrame, title: str = "Pictures of each class") -> Figure:
    """Draw the number of pictures, a group of bars for each row of the table."""
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    counts.plot.bar(ax=axes, color=[CLASS_COLORS[label] for label in counts.columns], rot=0)
    for bars in axes.containers:
        axes.bar_label(bars, fontsize=8)
    axes.set(xlabel="", ylabel="pictures")
    axes.legend(title="", frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return finished(figure, title)


def grey_histograms(shares: pd.DataFrame, title: str) -> Figure:
    """Draw the share of pixels at each grey value, a line for each class, on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for label in shares.columns:
        axes.plot(shares.index, shares[label], color=CLASS_COLORS[label], label=label)
    axes.set(xlabel="grey value", ylabel="share of pixels", yscale="log", xlim=(0, 255))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return finished(figure, title)


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
    return finished(figure, title)


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
    return finished(figure, title)


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
    return finished(figure, title)


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
            linestyle="-" if number < len(_LINE_COLORS) else "--",
            label=name.replace("_", " "), linewidth=1.2 if number else 2.6, zorder=2 - number / 99,
        )  # fmt: skip
    axes.set(xlabel="coverage: share of pictures answered", ylabel="risk: share of answers wrong")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return finished(figure, title)


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
    return finished(figure, title)


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
    return finished(figure, title)


def _strength_line(axes: Axes, table: pd.DataFrame, name: str, number: int, label: str) -> None:
    columns = [column for column in table.columns if column.startswith("strength ")]
    strengths = [int(column.removeprefix("strength ")) for column in columns]
    axes.plot(
        [0, *strengths], [table.loc["clean", "mean"], *table.loc[name, columns]],
        color=_LINE_COLORS[number % len(_LINE_COLORS)], marker=_MARKERS[number % len(_MARKERS)],
        markersize=4.5, linewidth=1.6, label=label,
    )  # fmt: skip
