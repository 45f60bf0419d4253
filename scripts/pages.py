"""Numbers of README, model card and datasheet, filled in from `model/metrics.json`.

A page that has a template in `scripts/templates` is written by it: the model card as a whole, the
others between markers `<!-- name:start -->` and `<!-- name:end -->`, each by the template's block
of that name. `make pages` writes them; a test fails where a page differs.
"""

import re
from pathlib import Path
from typing import Any

import jinja2

from brainlib import CLASS_NAMES, evaluation, paths
from brainlib.evaluation.tables import parse_run
from brainlib.notebook import runs
from scripts import command

PAGES = {
    "README.md": "readme.md.jinja",
    "docs/model_card.md": "model_card.md.jinja",
    "docs/datasheet.md": "datasheet.md.jinja",
    "docs/scaling.md": "scaling.md.jinja",
}
"""Each page, and its template."""

ABSENT = "–"  # noqa: RUF001
"""What stands for a number that was not measured."""

BASELINES = {
    "hog_svm": "HOG + SVM, tuned",
    "nearest_neighbor": "nearest neighbour, 32 × 32 thumbnails",  # noqa: RUF001
    "border_pixels": "image border only",
    "intensity_statistics": "twelve intensity statistics",
    "masked_head": "head masked out",
    "file_properties": "file size, mode and dimensions",
    "mirror_flag": "mirrored or not",
}
"""Classical baseline, memory and shortcuts, in the order of the tables."""


def write_pages() -> None:
    """Write the numbers of `model/metrics.json` into every page."""
    for page in PAGES:
        text = expected_text(page)
        with paths.atomic_write(paths.project_root() / page) as temporary:
            temporary.write_text(text, encoding="utf-8")


def expected_text(page: str, document: dict[str, Any] | None = None) -> str:
    """Return a page with its numbers filled in.

    Parameters
    ----------
    page : str
        A key of `PAGES`.
    document : dict, optional
        The content of `metrics.json`; that of the project by default.
    """
    root = paths.project_root()
    template = _environment().get_template(PAGES[page])
    context = page_context(document or evaluation.read_metrics(root), root / "model")
    if not template.blocks:
        return template.render(context)
    text = (root / page).read_text(encoding="utf-8")
    for name, block in template.blocks.items():
        filled = "".join(block(template.new_context(context))).strip()
        marker = f"<!-- {name}:{{}} -->"
        pattern = f"({marker.format('start')}).*({marker.format('end')})"
        text = re.sub(pattern, lambda m, new=filled: f"{m[1]}\n{new}\n{m[2]}", text, flags=re.S)
    return text


def page_context(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what the templates read: metrics, names and titles of models, training records."""
    released, starting, *_ = document["results"]
    titles = {released: "**released network**", starting: "starting network", **BASELINES}
    names = [file.name.removesuffix(".run.json") for file in sorted(folder.glob("*.run.json"))]
    names = [name for name in names if (parse_run(name) or [""])[0] == released]
    return {
        "metrics": document,
        "released": released,
        "starting": starting,
        "titles": {name: title for name, title in titles.items() if name in document["results"]},
        "classes": CLASS_NAMES,
        "coverage": evaluation.COVERAGE,
        "records": {name: runs.read_record(folder / f"{name}.run.json") for name in names},
    }


def interval(metric: Any, value: str = "value", digits: int = 3) -> str:
    """Return a metric as `value (low to high)`, as far as these are known.

    Examples
    --------
    >>> interval({"value": 0.9, "low": 0.85, "high": 0.93125}), interval({"value": 0.9})
    ('0.900 (0.850 to 0.931)', '0.900')
    """
    if isinstance(metric, (int, float)):
        metric = {"value": metric}
    if not metric or value not in metric:
        return ABSENT
    shown = f"{metric[value]:.{digits}f}"
    if not {"low", "high"} <= metric.keys():
        return shown
    return f"{shown} ({metric['low']:.{digits}f} to {metric['high']:.{digits}f})"


def percent(value: Any, digits: int = 1) -> str:
    """Return a share in per cent.

    Examples
    --------
    >>> percent(0.9483), percent({"value": 0.5})
    ('94.8 %', '50.0 %')
    """
    share = value.get("value") if isinstance(value, dict) else value
    return f"{100 * share:.{digits}f} %" if isinstance(share, (int, float)) else ABSENT


def count(value: Any) -> str:
    """Return a whole number with thousands separators; of a metric, the number of its images."""
    number = value.get("images") if isinstance(value, dict) else value
    return f"{number:,.0f}" if isinstance(number, (int, float)) else ABSENT


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.ChainableUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"interval": interval, "percent": percent, "count": count,
                            "words": lambda name: str(name).replace("_", " ")}  # fmt: skip
    return environment


if __name__ == "__main__":
    command.run(write_pages)
