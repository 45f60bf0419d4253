"""Notebooks in order, each executed with papermill.

`steps` says what is executed, here it is, one after the other, side by side or on a cluster;
`publishing` makes of it what is committed.
"""

import itertools
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from brainlib import paths
from brainlib.notebook import runs
from brainlib.notebook.publishing import publish, summary
from brainlib.notebook.steps import (
    NOTEBOOKS,
    PipelineError,
    Step,
    demo_steps,
    summarise_sweep,
    sweep_steps,
)

__all__ = [
    "NOTEBOOKS",
    "PipelineError",
    "Step",
    "demo_steps",
    "execute",
    "is_finished",
    "publish",
    "run",
    "summarise_sweep",
    "summary",
    "sweep_steps",
]

Outcome = tuple[int, Path | None, BaseException | None]
"""The place of a step in its list, and the executed notebook or what went wrong."""

logger = logging.getLogger("brainlib")


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
        Where a step failed; of those that do not need each other, once all others are done. Where
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
                target = _attempt(step, place, f"[{count}/{len(steps)}]")
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
        jobs, mp_context=spawned, initializer=_begin_worker, initargs=(threads,)
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
    """Execute a step; what goes wrong in a cell is told in a line."""
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


def end_with_parent() -> None:
    """End this process as soon as the one that started it has ended, even by a kill.

    For the start of a worker of a `ProcessPoolExecutor`: one whose parent is gone would finish its
    training, and the next one that it has been sent, beside those of a run that is started again.
    What a training has done until its last epoch is kept.
    """

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _begin_worker(threads: int) -> None:
    end_with_parent()
    _use_threads(threads)


def _use_threads(count: int) -> None:
    """Share the cores: trainings side by side are faster than one on all of them."""
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(count)


def _announce_and_execute(position: str, step: Step, *place: Any) -> Path:
    _show_progress()
    logger.info("%s %s", position, step.name)
    return execute(step, *place)


def is_finished(step: Step, source: str, output: str, seed: int) -> bool:
    """Return whether a training has left all its files, of the same parameters and commit."""
    if step.notebook != "02_train":
        return False
    wanted = runs.TrainSettings(source=source, output=output, seed=seed, **step.parameters)
    folder = paths.resolve(step.output(output)) / "model"
    name = runs.run_name(wanted.model, wanted.protocol, wanted.fold)
    record = folder / f"{name}.run.json"
    left = [record, folder / f"{name}.keras", folder / "predictions" / f"{name}.test.csv"]
    if not all(file.is_file() for file in left):
        return False
    found = runs.read_record(record)
    if _commit(found["git_commit"]) != _commit(runs.git_commit()):
        return False
    asked = {**step.parameters, "source": source, "seed": seed}
    return found["parameters"] == {**found["parameters"], **asked}


def _commit(described: str) -> str:
    return described.removesuffix("+changes")


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
