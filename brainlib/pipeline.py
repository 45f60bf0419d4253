"""The four notebooks in order, each executed with papermill: `make run` and `make reproduce`."""

import itertools
import json
import logging
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from brainlib import paths, runs, splits

NOTEBOOKS = tuple(runs.SETTINGS)


@dataclass(frozen=True)
class Step:
    """One execution of a notebook.

    Attributes
    ----------
    notebook : str
        A key of `runs.SETTINGS`.
    parameters : dict
        What papermill passes, beside source, output and seed.
    suffix : str
        Tells executions of the same notebook apart in the names of the executed copies.
    """

    notebook: str
    parameters: dict[str, Any] = field(default_factory=dict)
    suffix: str = ""


def demo_steps(
    output: str, epochs: int, protocol: str = "patient", model: str = "brain_tumor"
) -> list[Step]:
    """Return explore, train, evaluate and infer, each once; 0 epochs: as the recipe says."""
    name = runs.run_name(model, protocol, 0)
    return [
        Step("01_explore"),
        Step("02_train", {"model": model, "protocol": protocol, "fold": 0, "epochs": epochs}),
        Step("03_evaluate", {"predictions": f"{output}/model/predictions"}),
        Step("04_infer", {"model": f"{output}/model/{name}.keras", "engine": "keras"}),
    ]


def training_steps(model: str, epochs: int = 0) -> list[Step]:
    """Return the trainings behind a model's released results: five folds and the official split.

    The released network trains on all but the test pictures; the starting network keeps the
    validation pictures that it always had.
    """
    hold_out = {} if model == "seed_cnn" else {"hold_out": 0.0}
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
    explore, _, evaluate, infer = demo_steps(output, epochs)
    trainings = [step for model in runs.MODEL_NAMES for step in training_steps(model, epochs)]
    shown = Step("02_train", trainings[0].parameters)
    infer = Step("04_infer", {"model": f"{output}/model/{runs.MODEL_NAMES[0]}.keras"})
    return [explore, *trainings[1:], shown, evaluate, infer]


def execute(step: Step, source: str, output: str, seed: int, executed: Path) -> Path:
    """Execute one notebook with papermill and return the executed copy.

    Progress goes to standard error as it happens. The executed copy is written after every cell,
    so that a run that stops shows where.
    """
    import papermill

    target = executed / f"{step.notebook}{step.suffix}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        paths.project_root() / "notebooks" / f"{step.notebook}.ipynb",
        target,
        parameters={"source": source, "output": output, "seed": seed, **step.parameters},
        cwd=paths.project_root(),
        kernel_name="python3",
        log_output=True,
        progress_bar=False,
    )
    return target


def run(steps: list[Step], source: str, output: str, seed: int, jobs: int = 1) -> None:
    """Execute steps in their order into `output`, the executed notebooks beside the results.

    Where the output folder is the project itself, the executed notebooks replace the committed
    ones, without what depends on the machine.

    Parameters
    ----------
    steps : list of Step
    source, output : str
    seed : int
    jobs : int
        Executions at a time of steps that do not need each other: the trainings with a suffix.
        They share the cores: two trainings of one core each finish in about half the time of two
        in turn on both.
    """
    folder = paths.resolve(output)
    released = folder == paths.project_root()
    executed = folder / "runs" / "reproduce" if released else folder / "notebooks"
    place = (source, output, seed, executed)
    number = 0
    for together, group in itertools.groupby(steps, key=lambda step: bool(step.suffix)):
        batch = list(group)
        named = [(f"[{number + n}/{len(steps)}]", step, *place) for n, step in enumerate(batch, 1)]
        number += len(batch)
        if together and jobs > 1:
            spawned = multiprocessing.get_context("spawn")
            threads = max(1, (os.cpu_count() or 1) // jobs)
            with ProcessPoolExecutor(
                jobs, mp_context=spawned, initializer=_use_threads, initargs=(threads,)
            ) as pool:
                targets = list(pool.map(_announce_and_execute, *zip(*named, strict=True)))
        else:
            targets = [_announce_and_execute(*arguments) for arguments in named]
        if released and not together:
            for target in targets:
                publish(target)


def _use_threads(count: int) -> None:
    """Share the cores: trainings side by side are faster than one on all of them."""
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(count)


def _announce_and_execute(position: str, step: Step, *place: Any) -> Path:
    _show_progress()
    logging.getLogger("brainlib").info("%s %s%s", position, step.notebook, step.suffix)
    return execute(step, *place)


def is_finished(step: Step, source: str, output: str, seed: int) -> bool:
    """Return whether a training step has left its record, of the same parameters and commit."""
    if step.notebook != "02_train":
        return False
    wanted = runs.TrainSettings(source=source, output=output, seed=seed, **step.parameters)
    folder = paths.resolve(output) / "model"
    name = runs.run_name(wanted.model, wanted.protocol, wanted.fold)
    record, model = folder / f"{name}.run.json", folder / f"{name}.keras"
    if not record.is_file() or not model.is_file():
        return False
    found = runs.read_record(record)
    if _commit(found["git_commit"]) != _commit(runs.git_commit()):
        return False
    asked = {**step.parameters, "source": source, "seed": seed}
    return found["parameters"] == {**found["parameters"], **asked}


def _commit(described: str) -> str:
    return described.removesuffix("+changes")


def publish(executed: Path) -> Path:
    """Put an executed notebook in place of the committed one, as a reader wants it.

    The injected parameters, what went to standard error, and papermill's notes on time and machine
    are taken out; execution counts are renumbered.
    """
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


def _show_progress() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(_is_worth_showing)
    for name in ("brainlib", "papermill"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


def _is_worth_showing(record: logging.LogRecord) -> bool:
    """Leave out TensorFlow's start-up notices and papermill's own book-keeping."""
    text = record.getMessage().strip()
    noise = (
        "I0000 ",
        "[IPKernelApp]",
        "WARNING: All log messages",
        "Input Notebook",
        "Output Notebook",
        "Executing Cell",
        "Ending Cell",
        "<Figure",
        "VBox(",
    )
    return bool(text) and not text.startswith(noise)
