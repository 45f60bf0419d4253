"""What the pages share: names of the models, tables, and numbers with their intervals."""

from collections.abc import Iterable
from typing import Any

ABSENT = "-"
"""What stands for a number that is not there."""

MODEL_TITLES = {
    "brain_tumor": "released network",
    "seed_cnn": "starting network",
    "hog_svm": "gradient histograms, tuned SVM",
    "nearest_neighbor": "nearest neighbour, thumbnails of 32 by 32",
    "border_pixels": "the border of the picture alone",
    "intensity_statistics": "twelve intensity statistics",
    "masked_head": "the head painted over",
    "file_properties": "size, mode and bytes of the file",
    "mirror_flag": "whether the file is a mirror image",
}
"""The models by name, the project's networks first, in the order of every table."""

_METRIC_TITLES = {
    "macro_f1": "macro F1",
    "macro_auroc": "macro AUROC",
    "brier_score": "Brier score",
    "tumor_sensitivity_at_99_specificity": "sensitivity for any tumour at 99 % specificity",
}


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table by its lines, the first column left, the others right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def interval(metric: dict[str, float], value: str = "value", digits: int = 3) -> str:
    """Return a metric as `value (low to high)`.

    Parameters
    ----------
    metric : dict
        With `low`, `high` and the value.
    value : str
        The key of the value.
    digits : int
        Digits after the point.

    Examples
    --------
    >>> interval({"value": 0.9, "low": 0.85, "high": 0.93125})
    '0.900 (0.850 to 0.931)'
    """
    found, low, high = (f"{metric[name]:.{digits}f}" for name in (value, "low", "high"))
    return f"{found} ({low} to {high})"


def number(value: Any, digits: int = 3) -> str:
    """Return a number as tables show it: whole numbers with commas, others rounded.

    Examples
    --------
    >>> number(4855.0), number(0.97531)
    ('4,855', '0.975')
    """
    is_count = float(value).is_integer() and abs(value) >= 2
    return f"{value:,.0f}" if is_count else f"{value:,.{digits}f}"


def value_of(found: Any) -> float:
    """Return the value of a metric, that after temperature where there are two, or a number."""
    return found[_value_key(found)] if isinstance(found, dict) else found


def cell(found: Any, key: str = "", digits: int = 3) -> str:
    """Return a metric with its interval where it has one, a plain number, a text, or a dash.

    Examples
    --------
    >>> cell({"value": 0.9}), cell({"value": 0.9, "low": 0.8, "high": 1.0}), cell(None)
    ('0.900', '0.900 (0.800 to 1.000)', '-')
    """
    if isinstance(found, dict):
        key = key or _value_key(found)
        has_interval = key != "before" and {"low", "high"} <= found.keys()
        return interval(found, key, digits) if has_interval else cell(found.get(key), "", digits)
    if found is None:
        return ABSENT
    is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
    return number(found, digits) if is_number else str(found)


def listed(section: dict[str, Any]) -> list[str]:
    """Return all numbers of a section, however deep, as a table of names and values."""
    rows = list(_leaves(section))
    return table(["", "value"], rows) if rows else []


def grid(section: dict[str, Any]) -> list[str]:
    """Return a section of two levels as a table: a row a name, a column for each inner key."""
    rows = {name: found for name, found in section.items() if isinstance(found, dict)}
    columns = list(dict.fromkeys(key for found in reversed(rows.values()) for key in found))
    cells = [
        [name.replace("_", " "), *(cell(found.get(key)) for key in columns)]
        for name, found in rows.items()
    ]
    return table(["", *(key.replace("_", " ") for key in columns)], cells) if rows else []


def metric_title(name: str) -> str:
    """Return a metric's name in words.

    Examples
    --------
    >>> metric_title("sensitivity_glioma"), metric_title("macro_f1")
    ('sensitivity for glioma', 'macro F1')
    """
    plain = name.replace("_", " ").replace("sensitivity ", "sensitivity for ")
    return _METRIC_TITLES.get(name, plain)


def _value_key(found: dict[str, Any]) -> str:
    return "after" if "after" in found else "value"


def _leaves(section: dict[str, Any], start: str = "") -> Iterable[list[str]]:
    for name, found in section.items():
        title = f"{start}{name.replace('_', ' ')}"
        if isinstance(found, dict) and "value" not in found:
            yield from _leaves(found, f"{title}, ")
        else:
            yield [title, cell(found)]
