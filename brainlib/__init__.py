"""Thin helpers behind the four notebooks: one room for each step of the data's way.

From below: `data` finds a source and splits it, `imaging` reads pixels, `audit` looks for leaks;
`models` and `training` make a network; `evaluation` and `explain` measure it; `inference` answers
for scans, `report` shows the answers; `plots` draws, and `notebook` frames the notebooks. A room
takes from those below it. Importing `brainlib` loads none of them.
"""

import os
from importlib.metadata import PackageNotFoundError, version

__all__ = ["CLASS_NAMES", "__version__"]

CLASS_NAMES = ("glioma", "meningioma", "notumor", "pituitary")
"""The four classes, in the order of every table's columns and every model's outputs."""

try:
    __version__ = version("brainlib")
except PackageNotFoundError:  # run from a copy of the sources that was never installed
    __version__ = "unknown"

# TensorFlow's start-up notices would otherwise end up in every notebook's stored output
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# oneDNN's convolutions train a third faster on processors without AVX-512, where they are not used
# unless asked for
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
