"""Notebooks executed with papermill: one after the other, side by side, or on a cluster."""

import itertools
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
from tqdm.auto import tqdm

from brainlib import evaluation, paths
from brainlib.inference import cluster
from brainlib.notebook import runs
from brainlib.paths import BrainlibError

NOTEBOOKS = tuple(runs.SETTINGS)

Target = tuple[str, str, int, Path]
"""Source, output folder, seed, and the folder of the executed notebooks."""

logger = logging.getLogger("brainlib")


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
        Tells executions of the same notebook apart. Steps with a suffix do not need each other.
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
    output: str, epochs: int, protocol: str = "patient", model: str = runs.TrainSettings.model
) -> list[Step]:
    """Return explore, train, evaluate and infer, each once; 0 epochs: as the recipe says."""
    folder = PurePath(output)  # of ".", the name is that of the file alone
    name = runs.run_name(model, protocol, 0)
    return [
        Step("01_explore"),
        Step("02_train", {"model": model, "protocol": protocol, "fold": 0, "epochs": epochs}),
        Step("03_evaluate", {"predictions": str(folder / evaluation.tables.PUBLISHED)}),
        Step("04_infer", {"model": str(folder / "model" / f"{name}.keras"), "engine": "keras"}),
    ]


def sweep_steps(model: str, values: Mapping[str, Sequence[Any]]) -> list[Step]:
    """Return a training for each combination of values, each into a folder of its own.

    Parameters
    ----------
    model : str
        A key of `models.MODELS`.
    values : mapping of str to sequence
        Parameters of `02_train` and the values that each is to have in turn.

    Raises
    ------
    BrainlibError
        Where `02_train` has no such parameter, there are no values, or nothing is held out for
        validation, by which a sweep is judged.

    Examples
    --------
    >>> steps = sweep_steps("seed_cnn", {"learning_rate": [0.001, 0.01], "fold": [0, 1]})
    >>> steps[1].folder
    'sweeps/seed_cnn/learning_rate-0.001_fold-1'
    """
    known = {parameter.name for parameter in fields(runs.TrainSettings)}
    known -= {"source", "output", "model"}
    if unknown := sorted({*values} - known):
        listed = ", ".join(sorted(known))
        raise BrainlibError(f"02_train has no parameter {unknown[0]!r}: choose from {listed}")
    if not values or not all(map(len, values.values())):
        raise BrainlibError("a sweep needs at least one parameter, and a value for each")
    if 0 in values.get("hold_out", ()):
        raise BrainlibError(
            "hold_out is 0, and a sweep is judged by its validation images: give it 0.1 or more"
        )
    steps = []
    for combination in itertools.product(*map(dict.fromkeys, values.values())):
        chosen = dict(zip(values, combination, strict=True))
        name = "_".join(f"{key}-{value}" for key, value in chosen.items())
        parameters = {"model": model, **chosen}
        steps.append(Step("02_train", parameters, f"-{model}-{name}", f"sweeps/{model}/{name}"))
    return steps


def summarise_sweep(steps: list[Step], output: str) -> pd.DataFrame:
    """Return the validation results of each training of a sweep.

    Returns
    -------
    DataFrame
        A row for each step: its parameters, `epochs_trained`, `validation_accuracy` and
        `validation_log_loss` after the last epoch; empty where it left no history.
    """
    columns = {"epochs_trained": "epoch", "validation_accuracy": "validation_accuracy",
               "validation_log_loss": "validation_loss"}  # fmt: skip
    rows = []
    for step in steps:
        folder, name = model_files(step, output)
        file = folder / f"{name}.history.csv"
        last = pd.read_csv(file).iloc[-1] if file.is_file() else {}
        rows.append(step.parameters | {key: last.get(name) for key, name in columns.items()})
    return pd.DataFrame(rows).astype({"epochs_trained": "Int64"})


@contextmanager
def _progress_shown() -> Iterator[None]:
    """Print what brainlib and papermill report, and leave their loggers as they were."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: record.name.startswith("brainlib")
                      or "100%|" in record.getMessage())  # finished progress bars  # fmt: skip
    loggers = [logging.getLogger(name) for name in ("brainlib", "papermill")]
    before = [(shown.handlers, shown.propagate, shown.level) for shown in loggers]
    for shown in loggers:
        shown.handlers, shown.propagate = [handler], False
        shown.setLevel(logging.INFO)
    try:
        yield
    finally:
        for shown, (handlers, propagate, level) in zip(loggers, before, strict=True):
            shown.handlers, shown.propagate = handlers, propagate
            shown.setLevel(level)


@_progress_shown()
def run(
    steps: list[Step], source: str, output: str, seed: int, jobs: int = 1, scheduler: str = ""
) -> None:
    """Execute steps in order into `output`, the executed notebooks in `notebooks` below it.

    Where the output folder is the project itself they go to `runs/reproduce`.

    Parameters
    ----------
    steps : list of Step
    source, output : str
    seed : int
    jobs : int
        Executions at a time of steps that do not need each other. They share the cores: two
        trainings on a core each finish in about half the time of two in turn on both.
    scheduler : str
        Address of a running dask cluster that executes these steps instead, one a worker thread;
        its workers see the same project folder. An interrupted training resumes at its last epoch.

    Raises
    ------
    BrainlibError
        Where a step failed; of those that do not need each other, once all others are done.
    """
    folder = paths.resolve(output)
    is_project = folder == paths.project_root()
    executed = folder / ("runs/reproduce" if is_project else "notebooks")
    target = (source, output, seed, executed)
    for is_independent, group in itertools.groupby(steps, key=lambda step: bool(step.suffix)):
        batch = list(group)
        if is_independent and (scheduler or jobs > 1):
            attempt = partial(_attempt_on_worker, target=target)
            with cluster.running(scheduler, jobs) as address:
                _watch(batch, cluster.spread(attempt, batch, address))
        else:
            for step in batch:
                logger.info("[%d/%d] %s", steps.index(step) + 1, len(steps), step.name)
                _attempt(step, target)


@_progress_shown()
def execute(step: Step, source: str, output: str, seed: int, executed: Path) -> Path:
    """Execute a notebook with papermill and return the executed copy, written after each cell."""
    import papermill

    target = executed / f"{step.name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    parameters = {"source": source, "output": step.output(output), "seed": seed}
    root = paths.project_root()
    papermill.execute_notebook(
        root / "notebooks" / f"{step.notebook}.ipynb", target, parameters | step.parameters,
        cwd=root, kernel_name="python3", log_output=True, progress_bar=False,
        # each kernel would warn of its ports, and one that is interrupted of its sockets
        extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
    )  # fmt: skip
    return target


def summary(output: str) -> str:
    """Return the accuracy of a run and the location of its results as text."""
    folder = paths.resolve(output)
    metrics = evaluation.read_metrics(folder)
    lines = [f"Source: {metrics['source']}"]
    lines += [
        "Accuracy, protocol {}: {value:.3f} (95 % interval {low:.3f} to {high:.3f}, "
        "{} test images)".format(protocol, values["images"], **values["accuracy"])
        for protocol, values in next(iter(metrics["results"].values())).items()
    ]
    if metrics["synthetic"]:
        lines.append("A short run on phantoms: the number says nothing about real patients.")
    names = {"Figures": "figures", "Model and metrics": "model", "Predictions": "predictions.csv",
             "Executed notebooks": "notebooks",
             "Open next, in JupyterLab": "notebooks/01_explore.ipynb"}  # fmt: skip
    lines += [f"{title}: {folder / name}" for title, name in names.items()]
    return "\n".join(lines)


def model_files(step: Step, output: str) -> tuple[Path, str]:
    """Return the model folder of a training, and the name of its model."""
    settings = runs.TrainSettings(**step.parameters)
    name = runs.run_name(settings.model, settings.protocol, settings.fold)
    return paths.resolve(step.output(output)) / "model", name


def _watch(steps: list[Step], outcomes: Iterator[tuple]) -> None:
    """Show which steps are done and which failed; raise at the end if any failed."""
    reasons: dict[str, BaseException] = {}
    with tqdm(outcomes, total=len(steps), desc="notebooks", unit=" runs") as bar:
        for index, _, error in bar:
            if error:
                reasons[steps[index].name] = error
            bar.set_postfix(last=steps[index].name, failed=", ".join(reasons) or "none")
    if reasons:
        raise BrainlibError(
            f"{len(reasons)} of {len(steps)} steps failed, the others are done. "
            + "; ".join(f"{name}: {error}" for name, error in reasons.items())
        )


def _attempt(step: Step, target: Target) -> Path:
    """Execute a step; an error in a cell becomes one line."""
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError

    copy = target[-1] / f"{step.name}.ipynb"
    try:
        with paths.write_errors(copy.parent):
            return execute(step, *target)
    except PapermillExecutionError as error:
        raise BrainlibError(
            f"cell {error.exec_count} of {copy} raised {error.ename}: {error.evalue}"
        ) from None
    except DeadKernelError:
        raise BrainlibError(
            f"the process of {copy} was killed: free some memory, and run it again"
        ) from None


def _attempt_on_worker(step: Step, target: Target) -> Path:
    """Execute a step on a worker of a cluster, which shares its machine's cores with others.

    Trainings side by side are faster than one on all cores.
    """
    from dask.system import CPU_COUNT
    from distributed import get_client, get_worker

    here = urlsplit(get_worker().address).hostname
    threads = get_client().nthreads().items()
    sharing = sum(count for address, count in threads if urlsplit(address).hostname == here)
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(max(1, CPU_COUNT // max(1, sharing)))
    return _attempt(step, target)
