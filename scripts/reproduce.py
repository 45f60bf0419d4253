"""Everything that is released, from the data: trainings, release, evaluation, inference."""

import itertools
import os
from pathlib import Path
from typing import Annotated, Any

import nbformat
import typer

from brainlib import paths
from brainlib.data import splits
from brainlib.notebook import pipeline, runs
from brainlib.notebook.pipeline import Step
from scripts import command, release
from scripts.release.files import BASELINE, RELEASED

APP = "*The app appears here when the cell runs.*"
WIDGET = "application/vnd.jupyter.widget-view+json"


def main(
    source: str = "kaggle",
    output: str = ".",
    seed: int = 0,
    epochs: Annotated[int, typer.Option(help="0: as each recipe says")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="keep finished trainings")] = False,
    jobs: Annotated[int, typer.Option(help="trainings at a time")] = os.cpu_count() or 1,
    scheduler: Annotated[str, typer.Option(help="dask cluster to train on")] = "",
) -> None:
    """Train all, release the network of fold 0, then evaluate and infer with what was released."""
    target = (source, output, seed)
    steps = reproduce_steps(output, epochs)
    if resume:
        steps = [step for step in steps if not is_finished(step, *target)]
    first = [step for step in steps if step.notebook < "03"]
    pipeline.run(first, *target, jobs=jobs, scheduler=scheduler)
    release.make_release(release.ReleaseSettings(source, output, seed))
    pipeline.run([step for step in steps if step.notebook == "03_evaluate"], *target)
    # the rules name the weakest source, which is known now
    release.rules.make_rules(paths.resolve(output) / "model", RELEASED)
    pipeline.run([step for step in steps if step.notebook == "04_infer"], *target)
    if paths.resolve(output) == paths.project_root():
        for step in steps:
            if not step.suffix:
                publish(paths.project_root() / "runs" / "reproduce" / f"{step.name}.ipynb")
    print(pipeline.summary(output))


def training_steps(model: str, epochs: int = 0) -> list[Step]:
    """Return the trainings behind a model's released results: five folds and the official split.

    The released network trains on all but the test images; the starting network keeps the
    validation images that it always had.
    """
    hold_out = {} if model == BASELINE else {"hold_out": 0.0}
    common = {"model": model, "epochs": epochs, **hold_out}
    folds = [
        Step("02_train", {**common, "protocol": "patient", "fold": fold}, f"-{model}-patient{fold}")
        for fold in range(splits.FOLDS)
    ]
    return [*folds, Step("02_train", {**common, "protocol": "official"}, f"-{model}-official")]


def reproduce_steps(output: str, epochs: int = 0) -> list[Step]:
    """Return the steps that make every released result, all models under all protocols.

    The committed copy of `02_train` is that of the released network's fold 0.
    """
    explore, _, evaluate, infer = pipeline.demo_steps(output, epochs)
    trainings = [step for model in (RELEASED, BASELINE) for step in training_steps(model, epochs)]
    shown = Step("02_train", trainings[0].parameters)
    infer = Step("04_infer", {"model": str(Path(output, "model", f"{RELEASED}.keras"))})
    return [explore, *trainings[1:], shown, evaluate, infer]


def is_finished(step: Step, source: str, output: str, seed: int) -> bool:
    """Return whether a training has left all its files, of the same parameters and commit."""
    if step.notebook != "02_train":
        return False
    folder, name = pipeline.model_files(step, output)
    files = [f"{name}.run.json", f"{name}.keras", f"predictions/{name}.test.csv"]
    if not all((folder / file).is_file() for file in files):
        return False
    record = runs.read_record(folder / files[0])
    commits = {commit.removesuffix("+changes") for commit in
               (record["git_commit"], runs.git_commit())}  # fmt: skip
    asked = {**step.parameters, "source": source, "seed": seed}
    return len(commits) == 1 and record["parameters"] == record["parameters"] | asked


def publish(executed: Path) -> None:
    """Replace the committed notebook by an executed copy, without traces of the machine.

    The injected parameters, standard error, progress bars and papermill's metadata are removed;
    execution counts are renumbered. The app lives only in a running notebook: a sentence says so.
    """
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"],
                         "language_info": {"name": "python"}}  # fmt: skip
    counter = itertools.count(1)
    notebook.cells = [cell for cell in notebook.cells
                      if "injected-parameters" not in cell.metadata.get("tags", [])]  # fmt: skip
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            cell.execution_count = next(counter)
            cell.outputs = [output for output in cell.outputs if _is_lasting(output)]
            if "page" in tags:
                cell.outputs = [nbformat.v4.new_output("display_data", {"text/markdown": APP})]
        for output in cell.get("outputs", []):
            if "execution_count" in output:
                output.execution_count = cell.execution_count
    with paths.atomic_write(paths.project_root() / "notebooks" / executed.name) as temporary:
        nbformat.write(notebook, temporary)


def _is_lasting(output: dict[str, Any]) -> bool:
    """Return whether an output means anything after the run: no log, no widget."""
    return output.get("name") != "stderr" and WIDGET not in output.get("data", {})


if __name__ == "__main__":
    command.run(main)
