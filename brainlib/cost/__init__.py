"""What training costs: how near to the machine's limit, beside plain PyTorch, and to what quality.

Everything is measured in one run, in turns, and shown as ratios: machines differ and are shared.
The limit is the rate of a matrix product in the same run. Like is held against like: the fit, its
limit and PyTorch all compute in float32; where this machine trains in bfloat16, steps, limit and
PyTorch are measured in that too.
"""

import logging
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from importlib import util
from pathlib import Path

import numpy as np
import pandas as pd

from brainlib import models, paths, runs, splits, training
from brainlib.cost.quality import time_to_quality
from brainlib.cost.rates import (
    forward_operations,
    loading_rate,
    matrix_rate,
    measure_in_turns,
    step_rate,
)
from brainlib.cost.tables import as_table

__all__ = [
    "CostSettings", "compare_rates", "forward_operations", "loading_rate", "matrix_rate", "measure",
    "measure_in_turns", "step_rate", "time_to_quality", "write_table",
]  # fmt: skip

FOLD = 0
STEPS = 12
COARSE = "bfloat16"
TRAINING = 3
"""A step of training takes this many times the operations of an answer: the way back costs two."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CostSettings(runs.Settings):
    """Parameters of the measurement.

    Attributes
    ----------
    source, output, seed
        As for every notebook.
    size : int
        Height and width of the pictures with which steps are measured, pixels.
    rounds : int
        How often all is measured in turns.
    pictures : int
        How many are in each epoch of the fit that is measured.
    epochs : int
        Of the short schedule that is to reach the starting network's quality; 0 leaves this out.
    quality_size : int
        Its pictures, pixels.
    """

    output: str = "."
    size: int = 96
    rounds: int = 5
    pictures: int = 640
    epochs: int = 8
    quality_size: int = 64


def write_table(settings: CostSettings) -> pd.DataFrame:
    """Measure, write `figures/bench_training.csv`, and return the table."""
    table = measure(settings)
    path = paths.resolve(settings.output) / "figures" / "bench_training.csv"
    with paths.atomic_write(path) as temporary:
        table.to_csv(temporary, lineterminator="\n")
    return table


def measure(settings: CostSettings) -> pd.DataFrame:
    """Measure the cost of training on the training and validation groups of fold 0.

    Returns
    -------
    DataFrame
        A row for each comparison: `unit`, `ours`, `other`, and `ratio`, the first by the second.
        What could not be measured, as PyTorch where it cannot be imported, is NaN.
    """
    run = runs.Run("cost", settings, paths.resolve(settings.output), smoke=False)
    seen = {name: _examples(run, name) for name in runs.MODEL_NAMES}
    train = {name: parts[0] for name, parts in seen.items()}
    table = compare_rates(train, settings.size, settings.pictures, settings.rounds, settings.seed)
    if not settings.epochs:
        return table
    released = training.recipe(runs.MODEL_NAMES[0], settings.seed, settings.epochs)
    quick = replace(
        released,
        sizes=((settings.quality_size, 1.0),),
        cycles=(replace(released.cycles[0], until=1.0),),
    )
    schedules = {name: training.recipe(name, settings.seed) for name in runs.MODEL_NAMES}
    return pd.concat([table, time_to_quality(seen, {**schedules, runs.MODEL_NAMES[0]: quick})])


def _examples(run: runs.Run, name: str) -> tuple[training.Examples, training.Examples]:
    """Return what a network is trained on, and the validation groups."""
    loaded = run.load_images(models.TRAINING_SIZES[name])
    split = splits.make_split(loaded.table, "patient", FOLD, run.settings.seed)
    root = run.open_collection().root if name == runs.MODEL_NAMES[0] else None
    return (
        training.examples(loaded, split.train, root),
        training.examples(loaded, split.validation, root),
    )


def compare_rates(
    train: dict[str, training.Examples], size: int, pictures: int, rounds: int, seed: int = 0
) -> pd.DataFrame:
    """Compare steps, a fit and its batches with the machine's limit and with plain PyTorch.

    Parameters
    ----------
    train : dict of Examples
        By the names of the two networks.
    size : int
        Height and width of the pictures of the released network, pixels.
    pictures : int
        In each epoch of the fit.
    rounds, seed : int

    Returns
    -------
    DataFrame
        As `measure` gives it.
    """
    ours, starting = runs.MODEL_NAMES
    schedule = replace(
        training.recipe(ours, seed, rounds), sizes=((size, 1.0),), cycles=(training.Cycle(),)
    )
    few = train[ours].part(np.arange(min(pictures, len(train[ours])))).resized(size)
    batches = training.AugmentedBatches(few, schedule.batch_size, seed)
    batch = batches[0]
    before = training.ShuffledBatches(train[starting], training.recipe(starting).batch_size, seed)
    ways = {
        "limit": matrix_rate,
        "batches": lambda: loading_rate(batches, STEPS),
        "steps": step_rate(ours, few, schedule, batch, STEPS),
        "starting": step_rate(
            starting, train[starting], training.recipe(starting), before[0], STEPS
        ),
    }
    precisions = ["float32"]
    if training.precision_for(schedule) == COARSE:
        precisions.append(COARSE)
        ways["coarse_limit"] = partial(matrix_rate, precision=COARSE)
        ways["coarse_steps"] = step_rate(ours, few, schedule, batch, STEPS, COARSE)
    if util.find_spec("torch"):
        from brainlib.cost import plain_torch

        for precision in precisions:
            name = "torch" if precision != COARSE else "coarse_torch"
            ways[name] = plain_torch.step_rate(batch, schedule, STEPS, precision)
    else:
        logger.warning("PyTorch cannot be imported: training is not compared with it")
    with tempfile.TemporaryDirectory() as folder:
        rates = measure_in_turns(ours, few, schedule, ways, Path(folder))
    operations = {
        ours: TRAINING * forward_operations(models.network_of(models.build_model(ours)), size),
        starting: TRAINING
        * forward_operations(models.build_model(starting), models.TRAINING_SIZES[starting]),
    }
    return _rows(rates, operations)


def _rows(rates: pd.Series, operations: dict[str, int]) -> pd.DataFrame:
    ours, starting = (count / 1e9 for count in operations.values())
    torch = rates.get("torch", np.nan)
    by_limit, by_second = "GFLOP a second", "pictures a second"
    rows = {
        "steps, of the matrix product rate": (by_limit, rates["steps"] * ours, rates["limit"]),
        "fit, of the matrix product rate": (by_limit, rates["fit"] * ours, rates["limit"]),
        "plain PyTorch, of the matrix product rate": (by_limit, torch * ours, rates["limit"]),
        "starting network, steps, of the matrix product rate": (
            by_limit, rates["starting"] * starting, rates["limit"],
        ),
        "steps, against plain PyTorch": (by_second, rates["steps"], torch),
        "fit, against plain PyTorch": (by_second, rates["fit"], torch),
        "fit, against steps": (by_second, rates["fit"], rates["steps"]),
        "batches alone, against fit": (by_second, rates["batches"], rates["fit"]),
    }  # fmt: skip
    if "coarse_steps" in rates:
        steps = rates["coarse_steps"]
        rows |= {
            "steps in bfloat16, against float32": (by_second, steps, rates["steps"]),
            "steps in bfloat16, against plain PyTorch in bfloat16": (
                by_second, steps, rates.get("coarse_torch", np.nan),
            ),
            "steps in bfloat16, of the matrix product rate in bfloat16": (
                by_limit, steps * ours, rates["coarse_limit"],
            ),
        }  # fmt: skip
    return as_table(rows)
