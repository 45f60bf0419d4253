"""What a reader gets: the HTML report of a study, and the app that takes scans.

`html` writes one report, `series` those of the studies in a folder, `words` and `drawing` are what
both they and `app` say and show. Each is loaded when it is first asked for.
"""

from importlib import import_module
from typing import Any

_HOME_OF = {
    "MOST_LINES": "html",
    "MOST_PICTURES": "html",
    "ReportError": "html",
    "render_report": "html",
    "write_report": "html",
    "write_reports": "series",
}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
