"""What training costs: how near to the machine's limit, beside plain PyTorch, and to what quality.

Everything is measured in one run, in turns, and shown as ratios: machines differ and are shared.
The limit is the rate of a matrix product in the same run. A fit, its limit and PyTorch compute in
float32; where this machine trains in bfloat16, all three are measured in that too. How long a
training takes to a quality is measured in the precision that this machine trains in.
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
    Rate,
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
BY_LIMIT, BY_SECOND = "GFLOP a second", "pictures a second"
TRAINING = 3
"""A step of training takes this many times the operations of an answer: the way back costs two."""

Rows = dict[str, tuple[str, float, float]]
"""Comparisons as `as_table` takes them: by name the unit, ours, and the other."""

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
    epochs: int = 3
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
    before = training.ShuffledBatches(train[starting], training.recipe(starting).batch_size, seed)
    others = {
        "batches": lambda: loading_rate(batches, STEPS),
        "starting": step_rate(
            starting, train[starting], training.recipe(starting), before[0], STEPS
        ),
    }
    rates = _rates(few, schedule, batches[0], "float32", others)
    operations = {
        ours: TRAINING * forward_operations(models.network_of(models.build_model(ours)), size),
        starting: TRAINING
        * forward_operations(models.build_model(starting), models.TRAINING_SIZES[starting]),
    }
    rows = _rows(rates, operations)
    if training.precision_for(schedule) == COARSE:
        coarse = _rates(few, schedule, batches[0], COARSE, {"batches": others["batches"]})
        rows |= _coarse_rows(coarse, rates, operations)
    return as_table(rows)


def _rates(
    few: training.Examples,
    schedule: training.Schedule,
    batch: tuple,
    precision: str,
    others: dict[str, Rate],
) -> pd.Series:
    """Measure the released network in one precision, and in turns with it everything else."""
    ours = runs.MODEL_NAMES[0]
    ways = {
        "limit": partial(matrix_rate, precision=precision),
        "steps": step_rate(ours, few, schedule, batch, STEPS, precision),
        **others,
    }
    if util.find_spec("torch"):
        from brainlib.cost import plain_torch

        ways["torch"] = plain_torch.step_rate(batch, schedule, STEPS, precision)
    else:
        logger.warning("PyTorch cannot be imported: training is not compared with it")
    with tempfile.TemporaryDirectory() as folder:
        return measure_in_turns(ours, few, schedule, ways, Path(folder), precision)


def _rows(rates: pd.Series, operations: dict[str, int]) -> Rows:
    ours, starting = (count / 1e9 for count in operations.values())
    torch = rates.get("torch", np.nan)
    return {
        "steps, of the matrix product rate": (BY_LIMIT, rates["steps"] * ours, rates["limit"]),
        "fit, of the matrix product rate": (BY_LIMIT, rates["fit"] * ours, rates["limit"]),
        "plain PyTorch, of the matrix product rate": (BY_LIMIT, torch * ours, rates["limit"]),
        "starting network, steps, of the matrix product rate": (
            BY_LIMIT, rates["starting"] * starting, rates["limit"],
        ),
        "steps, against plain PyTorch": (BY_SECOND, rates["steps"], torch),
        "fit, against plain PyTorch": (BY_SECOND, rates["fit"], torch),
        "fit, against steps": (BY_SECOND, rates["fit"], rates["steps"]),
        "batches alone, against fit": (BY_SECOND, rates["batches"], rates["fit"]),
    }  # fmt: skip


def _coarse_rows(coarse: pd.Series, rates: pd.Series, operations: dict[str, int]) -> Rows:
    """Return the rows of a machine that trains in bfloat16, as the released networks were."""
    ours = operations[runs.MODEL_NAMES[0]] / 1e9
    limit, torch = "the matrix product rate", "plain PyTorch"
    return {
        f"fit in bfloat16, of {limit} in bfloat16": (
            BY_LIMIT, coarse["fit"] * ours, coarse["limit"],
        ),
        f"fit in bfloat16, of {limit} in float32": (BY_LIMIT, coarse["fit"] * ours, rates["limit"]),
        f"fit in bfloat16, against {torch} in bfloat16": (
            BY_SECOND, coarse["fit"], coarse.get("torch", np.nan),
        ),
        "fit in bfloat16, against steps in bfloat16": (BY_SECOND, coarse["fit"], coarse["steps"]),
        "fit in bfloat16, against fit in float32": (BY_SECOND, coarse["fit"], rates["fit"]),
        "batches alone, against fit in bfloat16": (BY_SECOND, coarse["batches"], coarse["fit"]),
    }  # fmt: skip
