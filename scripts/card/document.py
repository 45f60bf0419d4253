"""What every part of the card reads: `metrics.json` with the run records, by place."""

from typing import Any

from brainlib.notebook import runs

Document = dict[str, Any]
"""The content of `metrics.json`, with the run records under `records`."""

MODEL, BASELINE = runs.MODEL_NAMES
PATIENT, OFFICIAL = f"results/{MODEL}/patient", f"results/{MODEL}/official"


def find(document: Document, place: str) -> Any:
    """Return what is at a place, keys with `/` between them, or None.

    Examples
    --------
    >>> find({"maps": {"dice": 0.8}}, "maps/dice"), find({}, "maps/dice")
    (0.8, None)
    """
    found: Any = document
    for key in place.split("/"):
        found = found.get(key) if isinstance(found, dict) else None
    return found
