"""What a reader gets: answers in Python, the HTML report of a study, and the app.

`answers` takes any scan, `html` writes reports, `words` and `drawing` are what they and `app` say
and show. Each is loaded when it is first asked for.
"""

from importlib import import_module
from typing import Any

from brainlib.paths import BrainlibError

_HOMES = dict.fromkeys(("Answer", "Answers", "Model", "load"), "answers")
_HOMES |= dict.fromkeys(("render_report", "write_report", "write_reports"), "html")

__all__ = sorted([*_HOMES, "ReportError"])


class ReportError(BrainlibError):
    """What was given is no scan, an upload cannot be taken, or the app cannot be served."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
