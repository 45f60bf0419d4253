"""The app: drop a scan, see the answer; through Voilà or in JupyterLab.

`uploads` turns what was dropped into answers, `view` shows them, `server` serves the page.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from brainlib.paths import BrainlibError

if TYPE_CHECKING:
    import ipywidgets

LIMIT_VARIABLE = "BRAINLIB_UPLOAD_MB"
"""The environment variable that says how many megabytes the server lets through at a time."""


def open_page(
    model: Path | str | None = None, engine: str = "onnx", plane: str = "acquired"
) -> "ipywidgets.VBox":
    """Return a page that takes scans and shows what the network says about them.

    Parameters are those of `load`. Where the model cannot be opened, the page says why.
    """
    from brainlib.report import load
    from brainlib.report.app import view  # here, because what serves the page needs no widgets

    try:
        return view.Page(load(model, engine, plane)).box
    except BrainlibError as error:
        return view.explain(error)
