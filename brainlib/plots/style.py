"""What every figure has in common: colours, and the last touch."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from brainlib import CLASS_NAMES

CLASS_COLORS = dict(zip(CLASS_NAMES, ("#D55E00", "#0072B2", "#009E73", "#CC79A7"), strict=True))
PROTOCOL_COLORS = {"patient": "#0072B2", "official": "#E69F00", "deduplicated": "#56B4E9"}


def finished(figure: Figure, title: str) -> Figure:
    """Return the figure with its title, not shown yet."""
    figure.suptitle(title, fontsize=12)
    plt.close(figure)  # the notebook shows what a cell returns; left open it would show twice
    return figure
