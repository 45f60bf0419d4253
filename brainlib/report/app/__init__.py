"""A page that takes scans and shows what the network says, through Voilà or in JupyterLab.

`uploads` turns an upload into files, `reading` into studies with answers, `drawing` draws slices,
`wording` says what they mean, `view` is the page, and `server` serves it. Each is loaded when it is
first asked for: what serves the page reads no scans.
"""

from importlib import import_module
from typing import Any

from brainlib.report.app.uploads import PageError

_ROOMS = {"open_page": "view", "Page": "view", "serve": "server", "read_uploads": "reading"}

__all__ = ["Page", "PageError", "open_page", "read_uploads", "serve"]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
