"""The app: drop a scan, see the answer; through Voilà or in JupyterLab.

`uploads` turns what was dropped into answers, `view` shows them, `server` serves the page. Each is
loaded when it is first asked for: what serves the page reads no scans.
"""

from importlib import import_module
from typing import Any

LIMIT_VARIABLE = "BRAINLIB_UPLOAD_MB"
"""The environment variable that says how many megabytes the server lets through at a time."""

_HOMES = {"Page": "view", "open_page": "view", "read_uploads": "uploads", "serve": "server"}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
