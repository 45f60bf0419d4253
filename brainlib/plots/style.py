"""Colours, names for readers, and the layout that all figures share."""

from collections.abc import Callable
from functools import wraps

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

PROTOCOL_COLORS = {"patient": "#0072B2", "official": "#E69F00", "deduplicated": "#56B4E9"}

LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
               "#999999")  # fmt: skip

NAMES = {
    "notumor": "no tumour",
    "patient": "new patients",
    "official": "official split",
    "deduplicated": "official split without twins",
    "lesion_net": "released network",
    "lesion_net (published)": "released network",
    "seed_cnn": "starting network",
    "hog_svm": "HOG + SVM",
    "nearest_neighbor": "nearest neighbour",
    "mirror_flag": "mirrored or not",
    "masked_head": "outline of the head",
    "jpeg": "JPEG",
    "f1": "F1",
    "macro f1": "macro F1",
    "auroc": "AUROC",
    "dice": "Dice",
    "br35h_no": "Br35H",
    "sartaj": "Sartaj",
    "source br35h_no": "source Br35H",
    "source sartaj": "source Sartaj",
    "kaggle version 1": "Kaggle, version 1",
    "figshare version 8": "figshare, version 8",
}
"""Identifiers that are not words; of all others the underscores become spaces."""

NOTHING = "nothing to draw"
"""Label of a figure that holds a sentence alone."""

_STYLE = {
    **sns.axes_style("whitegrid", {"grid.color": "0.9", "axes.edgecolor": "0.4"}),
    "font.size": 11,
    "axes.titlesize": 11,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "figure.titlesize": 13,
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # names of files and folders may hold any sign
}


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
