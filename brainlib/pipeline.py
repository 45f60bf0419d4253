"""The four notebooks in order, each executed with papermill: `make run` and `make reproduce`."""

import itertools
import json
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
from tqdm.auto import tqdm

from brainlib import paths, runs, splits

NOTEBOOKS = tuple(runs.SETTINGS)

Outcome = tuple[int, Path | None, BaseException | None]
"""The place of a step in its list, and the executed notebook or what went wrong."""

logger = logging.getLogger("brainlib")


class PipelineError(ValueError):
    """Steps that failed, or a sweep that cannot be made."""


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
    folder : str
        Below the output folder, where this step writes; empty: the output folder itself.
    """

    notebook: str
    parameters: dict[str, Any] = field(default_factory=dict)
    suffix: str = ""
    folder: str = ""

    @property
    def name(self) -> str:
        """The name of the executed copy."""
        return f"{self.notebook}{self.suffix}"

    def output(self, output: str) -> str:
        """Return the folder that this step writes to."""
        return f"{output}/{self.folder}" if self.folder else output


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


def sweep_steps(model: str, values: Mapping[str, Sequence[Any]], **common: Any) -> list[Step]:
    """Return a training for each combination of values, each into a folder of its own.

    Parameters
    ----------
    model : str
        A name of `runs.MODEL_NAMES`.
    values : mapping of str to sequence
        Parameters of `02_train` and the values that each is to have in turn.
    **common
        Parameters that are the same in all trainings.

    Raises
    ------
    PipelineError
        Where `02_train` has no such parameter, there are no values, or nothing is held out for
        validation, by which a sweep is judged.

    Examples
    --------
    >>> steps = sweep_steps("seed_cnn", {"learning_rate": [0.001, 0.01], "fold": [0, 1]}, epochs=3)
    >>> steps[1].folder
    'sweeps/seed_cnn/learning_rate-0.001_fold-1'
    """
    known = [one.name for one in fields(runs.TrainSettings)]
    known = [name for name in known if name not in ("source", "output", "model")]
    unknown = [name for name in (*values, *common) if name not in known]
    if unknown:
        raise PipelineError(
            f"02_train has no parameter {unknown[0]!r} to sweep: choose from {', '.join(known)}"
        )
    if not all(len(found) for found in values.values()) or not values:
        raise PipelineError("a sweep needs at least one parameter, and a value for each")
    if 0 in (*values.get("hold_out", ()), common.get("hold_out", 1)):
        raise PipelineError(
            "hold_out is 0, and a sweep is judged by its validation pictures: give it 0.1 or more"
        )
    steps = []
    for chosen in itertools.product(*(dict.fromkeys(found) for found in values.values())):
        named = dict(zip(values, chosen, strict=True))
        name = "_".join(f"{key}-{value}" for key, value in named.items())
        parameters = {"model": model, **common, **named}
        steps.append(Step("02_train", parameters, f"-{model}-{name}", f"sweeps/{model}/{name}"))
    return steps


def summarise_sweep(steps: list[Step], output: str) -> pd.DataFrame:
    """Return what each training of a sweep came to on its validation pictures, test folds unseen.

    Parameters
    ----------
    steps : list of Step
        As `sweep_steps` gives them.
    output : str
        The output folder that they were run with.

    Returns
    -------
    DataFrame
        A row a step: its parameters, `epochs_trained`, `validation_accuracy` and
        `validation_log_loss` after the last epoch; empty where it left no history.
    """
    rows = []
    for step in steps:
        settings = runs.TrainSettings(**step.parameters)
        name = runs.run_name(settings.model, settings.protocol, settings.fold)
        file = paths.resolve(step.output(output)) / "model" / f"{name}.history.csv"
        last = pd.read_csv(file).iloc[-1] if file.is_file() else {}
        rows.append(
            {
                **step.parameters,
                "epochs_trained": last.get("epoch"),
                "validation_accuracy": last.get("validation_accuracy"),
                "validation_log_loss": last.get("validation_loss"),
            }
        )
    return pd.DataFrame(rows).astype({"epochs_trained": "Int64"})


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

    target = executed / f"{step.name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        paths.project_root() / "notebooks" / f"{step.notebook}.ipynb",
        target,
        parameters={
            "source": source,
            "output": step.output(output),
            "seed": seed,
            **step.parameters,
        },
        cwd=paths.project_root(),
        kernel_name="python3",
        log_output=True,
        progress_bar=False,
    )
    return target


def run(
    steps: list[Step], source: str, output: str, seed: int, jobs: int = 1, scheduler: str = ""
) -> None:
    """Execute steps in their order into `output`, the executed notebooks beside the results.

    Where the output folder is the project itself, the executed notebooks replace the committed
    ones, without what depends on the machine.

    Parameters
    ----------
    steps : list of Step
    source, output : str
    seed : int
    jobs : int
        Executions at a time of steps that do not need each other: those with a suffix. They share
        the cores: two trainings of one core each finish in about half the time of two in turn on
        both.
    scheduler : str
        Address of a running dask cluster that executes these steps instead, one a worker thread;
        its workers see the same project folder. What a killed worker was training goes on with
        another one from its last epoch.

    Raises
    ------
    PipelineError
        Where some of the steps that do not need each other failed, once all others are done; or
        the scheduler does not answer.
    """
    folder = paths.resolve(output)
    released = folder == paths.project_root()
    executed = folder / "runs" / "reproduce" if released else folder / "notebooks"
    place = (source, output, seed, executed)
    number = 0
    for together, group in itertools.groupby(steps, key=lambda step: bool(step.suffix)):
        batch = list(group)
        if together and scheduler:
            _watch(batch, _on_cluster(batch, place, scheduler))
        elif together and jobs > 1:
            _watch(batch, _in_processes(batch, place, jobs))
        else:
            for count, step in enumerate(batch, number + 1):
                target = _announce_and_execute(f"[{count}/{len(steps)}]", step, *place)
                if released and not together:
                    publish(target)
        number += len(batch)


def _watch(steps: list[Step], outcomes: Iterator[Outcome]) -> None:
    """Show which steps are done and which failed, and raise at the end where some did."""
    done, failed = [], {}
    with tqdm(total=len(steps), desc="notebooks", unit=" runs") as bar:
        for place, _, error in outcomes:
            name = steps[place].name
            if error is None:
                done.append(name)
            else:
                failed[name] = error
            logger.info("%s %s", name, "is done" if error is None else f"failed: {error}")
            shown = {"done": ", ".join(done), "failed": ", ".join(failed)}
            bar.set_postfix({state: names for state, names in shown.items() if names})
            bar.update()
    if failed:
        reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise PipelineError(
            f"{len(failed)} of {len(steps)} steps failed, the others are done. {reasons}"
        )


def _in_processes(steps: list[Step], place: tuple, jobs: int) -> Iterator[Outcome]:
    spawned = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(
        jobs, mp_context=spawned, initializer=_use_threads, initargs=(threads,)
    ) as pool:
        futures = {
            pool.submit(_attempt, step, place, f"[{number}/{len(steps)}]"): number - 1
            for number, step in enumerate(steps, 1)
        }
        for future in as_completed(futures):
            error = future.exception()
            yield futures[future], None if error else future.result(), error


def _on_cluster(steps: list[Step], place: tuple, scheduler: str) -> Iterator[Outcome]:
    from brainlib.inference import InferenceError, cluster

    try:
        yield from cluster.spread(partial(_attempt_on_worker, place=place), steps, scheduler)
    except InferenceError as error:
        raise PipelineError(str(error)) from error


def _attempt(step: Step, place: tuple, position: str = "") -> Path:
    """Execute a step in a process of its own; what goes wrong is told in a line."""
    from papermill import PapermillExecutionError

    try:
        return _announce_and_execute(position, step, *place)
    except PapermillExecutionError as error:
        copy = place[-1] / f"{step.name}.ipynb"
        raise PipelineError(
            f"cell {error.exec_count} of {copy} raised {error.ename}: {error.evalue}"
        ) from None


def _attempt_on_worker(step: Step, place: tuple) -> Path:
    """Execute a step on a worker of a cluster, which shares its machine's cores with others."""
    from dask.system import CPU_COUNT
    from distributed import get_client, get_worker

    here = urlsplit(get_worker().address).hostname
    threads = get_client().nthreads().items()
    beside = sum(count for address, count in threads if urlsplit(address).hostname == here)
    _use_threads(max(1, CPU_COUNT // max(1, beside)))
    return _attempt(step, place)


def _use_threads(count: int) -> None:
    """Share the cores: trainings side by side are faster than one on all of them."""
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(count)


def _announce_and_execute(position: str, step: Step, *place: Any) -> Path:
    _show_progress()
    logger.info("%s %s", position, step.name)
    return execute(step, *place)


def is_finished(step: Step, source: str, output: str, seed: int) -> bool:
    """Return whether a training step has left its record, of the same parameters and commit."""
    if step.notebook != "02_train":
        return False
    wanted = runs.TrainSettings(source=source, output=output, seed=seed, **step.parameters)
    folder = paths.resolve(step.output(output)) / "model"
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


def _show_progress() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(_is_worth_showing)
    for name in ("brainlib", "papermill"):
        shown = logging.getLogger(name)
        shown.handlers, shown.propagate = [handler], False
        shown.setLevel(logging.INFO)


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
