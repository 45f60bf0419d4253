"""The numbers of README.md, written from `metrics.json` between markers."""

from typing import Any

from brainlib import paths, results

START, END = "<!-- results: start -->", "<!-- results: end -->"
_NAMES = {"seed_cnn": "starting network"}
_PROTOCOLS = {
    "patient": "`patient`: new patients",
    "official": "`official`: what everyone reports",
    "deduplicated": "`deduplicated`: official without twins",
}


def results_section(metrics: dict[str, Any]) -> str:
    """Return the results as Markdown: one table, and a sentence on how the fit went.

    Parameters
    ----------
    metrics : dict
        The content of `metrics.json`.
    """
    lines = [
        "| model | protocol | test pictures | accuracy | macro F1 | log loss |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for model, by_protocol in metrics["results"].items():
        for protocol, values in by_protocol.items():
            cells = [_NAMES.get(model, model), _PROTOCOLS[protocol], f"{values['pictures']:,}"]
            cells += [_interval(values[name]) for name in results.HEADLINE]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _training_sentence(metrics)])


def write_results() -> None:
    """Replace the results in README.md by those of `model/metrics.json`."""
    readme = paths.project_root() / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    section = results_section(results.read_metrics(paths.project_root()))
    with paths.atomic_write(readme) as temporary:
        text = f"{before}{START}\n{section}\n{END}{after}"
        temporary.write_text(text, encoding="utf-8")


def _interval(metric: dict[str, float]) -> str:
    return "{value:.3f} ({low:.3f} to {high:.3f})".format(**metric)


def _training_sentence(metrics: dict[str, Any]) -> str:
    last = metrics["training"]["seed_cnn"]
    return (
        f"Source: {metrics['source']}. In brackets 95 % intervals, from resampling patients. "
        f"The official model after {last['epoch']:.0f} epochs: training accuracy "
        f"{last['accuracy']:.3f}, validation accuracy {last['validation_accuracy']:.3f}, "
        f"validation loss {last['validation_loss']:.3f}."
    )
