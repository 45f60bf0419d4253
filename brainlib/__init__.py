"""Thin helpers behind the four notebooks: one room for each step of the data's way.

The rooms, in the order data passes through them: `datasets`, `phantom`, `images`, `audit`,
`splits`, `models`, `training`, `evaluation`, `explain`, `corruptions`, `results`; then, on the way
from a scan to an answer, `gate`, `studies`, `rules`, `inference`, `plots`, `report`, `page`.
`export`, `engines` and `release` make and run the released files, `ablation`, `cost`, `bench` and
`throughput` study what was done, `card` and `readme` write the pages; `runs` holds the notebooks'
parameters, output folders and records. Importing `brainlib` loads none of them.
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
