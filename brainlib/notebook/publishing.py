"""What a reader sees of executed notebooks: clean copies, and where the results lie."""

import json
from pathlib import Path

from brainlib import paths


def publish(executed: Path) -> Path:
    """Put an executed notebook in place of the committed one, as a reader wants it.

    The injected parameters, what went to standard error, and papermill's notes on time and machine
    are taken out; execution counts are renumbered.
    """
    import nbformat

    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec", "language_info")}
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):
        cell.execution_count = count
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
    target = paths.project_root() / "notebooks" / executed.name
    with paths.atomic_write(target) as temporary:
        nbformat.write(notebook, temporary)
    return target


def summary(output: str) -> str:
    """Return, as text, where the results of a run lie and what accuracy came out."""
    folder = paths.resolve(output)
    metrics = json.loads((folder / "model" / "metrics.json").read_text(encoding="utf-8"))
    lines = [f"Source: {metrics['source']}"]
    for protocol, values in next(iter(metrics["results"].values())).items():
        accuracy = values["accuracy"]
        lines.append(
            f"Accuracy, protocol {protocol}: {accuracy['value']:.3f} "
            f"(95 % interval {accuracy['low']:.3f} to {accuracy['high']:.3f}, "
            f"{values['pictures']} test pictures)"
        )
    places = {
        "Executed notebooks": folder / "notebooks",
        "Figures": folder / "figures",
        "Model and metrics": folder / "model",
        "Predictions": folder / "predictions.csv",
    }
    lines += [f"{name}: {place}" for name, place in places.items()]
    return "\n".join(lines)
