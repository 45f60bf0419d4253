"""Brain MRI to tumour class: `model = brainlib.load(); answer = model("scan.dcm")`.

From below: `data` finds a source and splits it, `imaging` reads pixels, `audit` looks for leaks;
`models` and `training` make a network; `evaluation` and `explain` measure it; `inference` answers
for scans, `report` shows the answers; `plots` draws, and `notebook` frames the notebooks. A room
takes from those below it. Importing `brainlib` loads none of them.
"""

import logging
import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["CLASS_COLORS", "CLASS_NAMES", "__version__", "load"]

CLASS_NAMES = ("glioma", "meningioma", "notumor", "pituitary")
"""The four classes, in the order of every table's columns and every model's outputs."""

CLASS_COLORS = dict(zip(CLASS_NAMES, ("#D55E00", "#0072B2", "#009E73", "#CC79A7"), strict=True))
"""Their colours in every figure and in the app, after Okabe and Ito: safe for colour-blind eyes."""

try:
    __version__ = version("brainlib")
except PackageNotFoundError:  # run from a copy of the sources that was never installed
    __version__ = "unknown"

# TensorFlow's start-up notices would otherwise end up in every notebook's stored output
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# images come in many sizes, and TensorFlow warns of every one that it compiles for
logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in record.getMessage())
# oneDNN's convolutions train a third faster on processors without AVX-512, where they are not used
# unless asked for
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# ONNX Runtime would otherwise report its use, with an identifier of the machine, to its makers
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    """Load `load` when it is first asked for: `import brainlib` alone stays quick."""
    if name == "load":
        return import_module("brainlib.report").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
