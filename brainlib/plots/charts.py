"""Numbers as bars, lines and matrices."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brainlib import CLASS_COLORS
from brainlib.plots.style import LINE_COLORS, PROTOCOL_COLORS, drawn, percent, readable, say

_SUBSETS = {"training": ("", "-", "o"), "validation": ("validation_", "--", "s")}


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
def history(
    histories: Mapping[str, Mapping[str, pd.DataFrame]], quantity: str, title: str
) -> Figure:
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

    Its upper corner, where most bins of a sure model lie, is drawn large in each.

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
        corner = axes.inset_axes((0.55, 0.1, 0.42, 0.38), xlim=(0.9, 1.005), ylim=(0.9, 1.005))
        for panel in (axes, corner):
            panel.plot([0, 1], [0, 1], ":", color="0.4", label="accuracy = confidence")
            panel.errorbar(bins["confidence"], bins["accuracy"], _reach(bins, "accuracy"), fmt="o",
                           markersize=4.5, capsize=2, color=LINE_COLORS[0],
                           label="bin, 95 % interval")  # fmt: skip
        axes.indicate_inset_zoom(corner, edgecolor="0.5")
        axes.set(title=name, xlabel="confidence (highest probability)", xlim=(0.2, 1.02),
                 xticks=[0.2, 0.4, 0.6, 0.8, 1])  # fmt: skip
    row[0][0].set(ylabel="accuracy", ylim=(0, 1.02))
    row[0][0].legend(loc="upper left")
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
    for index, (name, curve) in enumerate(curves.items()):
        cycle, color = divmod(index, len(LINE_COLORS))
        axes.plot(
            curve["coverage"], curve["risk"], ("-", "--")[cycle % 2], color=LINE_COLORS[color],
            label=readable(name), linewidth=1.4 if index else 3, zorder=3 - index / 99,
        )  # fmt: skip
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
    for index, (protocol, color) in enumerate(PROTOCOL_COLORS.items()):
        rows = [name for name in best if protocol in results[name]]
        scores = pd.DataFrame([results[name][protocol][metric] for name in rows],
                              columns=["value", "low", "high"])  # fmt: skip
        heights = [best.index(name) + 0.22 * (index - 1) for name in rows]
        axes.errorbar(scores["value"], heights, xerr=_reach(scores, "value"), fmt="osD"[index],
                      markersize=5, capsize=2, color=color, label=readable(protocol))  # fmt: skip
    axes.set_yticks(range(len(best)), [readable(name) for name in best])
    axes.invert_yaxis()
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
