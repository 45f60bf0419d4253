"""Rates of training: of the machine, of bare steps, of batches alone, of a whole fit."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from brainlib import models, training

MATRIX_SIZE = 2048
_COUNTED = (keras.layers.Conv2D, keras.layers.Conv2DTranspose, keras.layers.Dense)

Rate = Callable[[], float]
"""Measures once: pictures a second, or GFLOP a second."""


def forward_operations(network: keras.Model, size: int) -> int:
    """Count the multiplications and additions that a network needs for one picture.

    Those of convolutions and dense layers, two for each weight and place; what normalisation,
    pooling and the rest need is not counted, because it is not what a network is for.

    Parameters
    ----------
    network : keras.Model
        It takes grey pictures.
    size : int
        Their height and width, pixels.

    Examples
    --------
    >>> picture = keras.Input((None, None, 1))
    >>> forward_operations(keras.Model(picture, keras.layers.Conv2D(2, 3)(picture)), 10)
    2304
    """
    counted = [layer for layer in network.layers if isinstance(layer, _COUNTED)]
    probe = keras.Model(network.inputs, [layer.output for layer in counted])
    found = probe.compute_output_spec(keras.KerasTensor((1, size, size, 1)))
    outputs = found if isinstance(found, list) else [found]
    return sum(
        2 * int(np.prod(layer.kernel.shape)) * _places(layer, output.shape)
        for layer, output in zip(counted, outputs, strict=True)
    )


def _places(layer: keras.layers.Layer, shape: tuple[int, ...]) -> int:
    """Return how often the whole kernel is applied."""
    places = int(np.prod(shape[1:-1]))
    if isinstance(layer, keras.layers.Conv2DTranspose):  # once for each place that comes in
        return places // int(np.prod(layer.strides))
    return places


def matrix_rate(size: int = MATRIX_SIZE, precision: str = "float32") -> float:
    """Return GFLOP a second of a matrix product: in Keras, or in NumPy where that is faster.

    Parameters
    ----------
    size : int
        Height and width of the matrices.
    precision : {"float32", "bfloat16"}
        NumPy knows the first alone.
    """
    left, right = np.random.default_rng(0).standard_normal((2, size, size), dtype=np.float32)
    tensors = [keras.ops.cast(each, precision) for each in (left, right)]

    def in_keras() -> None:
        keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.matmul(*tensors)[0, 0], "float32"))

    ways = [in_keras, *([lambda: left @ right] if precision == "float32" else [])]
    return 2 * size**3 / min(_seconds(way) for way in ways) / 1e9


def _seconds(way: Callable[[], Any]) -> float:
    way()
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def loading_rate(batches: training.ShuffledBatches, steps: int) -> float:
    """Return pictures a second of the first batches of an epoch alone, nothing being trained."""
    steps = min(steps, batches.steps)
    began = time.perf_counter()
    count = sum(len(batches[index][0]) for index in range(steps))
    return count / (time.perf_counter() - began)


def step_rate(
    name: str,
    seen: training.Examples,
    schedule: training.Schedule,
    batch: tuple,
    steps: int,
    precision: str = "float32",
) -> Rate:
    """Return what measures bare steps of a network: the same batch again and again.

    Parameters
    ----------
    name : str
        A key of `models.MODELS`.
    seen : Examples
        At least one batch, of the size that the steps are measured at.
    schedule : Schedule
    batch : tuple
        Pictures, targets, and weights where there are any.
    steps : int
    precision : {"float32", "bfloat16"}
        As for `training.fit`.
    """
    learner = _learner(name, seen.part(np.arange(schedule.batch_size)), schedule, precision)
    learner.train_on_batch(*batch)  # tracing is not what is measured

    def rate() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            learner.train_on_batch(*batch)
        keras.ops.convert_to_numpy(learner.weights[0])  # wait for what is still being computed
        return steps * len(batch[0]) / (time.perf_counter() - began)

    return rate


def _learner(
    name: str, seen: training.Examples, schedule: training.Schedule, precision: str
) -> keras.Model:
    """Return a network as `fit` compiles it, after one step."""
    watcher = keras.callbacks.Callback()
    with tempfile.TemporaryDirectory() as folder:
        training.fit(
            models.build_model(name), seen, None,
            replace(schedule, epochs=1), Path(folder) / "state",
            watchers=[watcher], precision=precision,
        )  # fmt: skip
    return watcher.model


class Turns(keras.callbacks.Callback):
    """Measure the fit while it runs, and at the end of each epoch everything else.

    Parameters
    ----------
    ways : dict of Rate
    pictures : int
        In an epoch.
    batch_size : int

    Attributes
    ----------
    rates : list of dict
        One an epoch: the ways by name, and `fit`, pictures a second from the end of the first step
        to the end of the last, so that tracing and the state on disk do not count.
    """

    def __init__(self, ways: dict[str, Rate], pictures: int, batch_size: int) -> None:
        super().__init__()
        self.ways, self.later_pictures = ways, pictures - batch_size
        self.rates: list[dict[str, float]] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Note when the step ended."""
        now = time.perf_counter()
        self.first = now if batch == 0 else self.first
        self.last = now

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Measure the others."""
        fit = self.later_pictures / (self.last - self.first)
        self.rates.append({"fit": fit, **{name: way() for name, way in self.ways.items()}})


def measure_in_turns(
    name: str,
    seen: training.Examples,
    schedule: training.Schedule,
    ways: dict[str, Rate],
    checkpoint: Path,
    precision: str = "float32",
) -> pd.Series:
    """Fit a network, measure it and in turns the other ways, and return the median of each.

    Parameters
    ----------
    name : str
        A key of `models.MODELS`.
    seen : Examples
        More than one batch.
    schedule : Schedule
        Its epochs are the rounds.
    ways : dict of Rate
    checkpoint : Path
    precision : {"float32", "bfloat16"}
        As for `training.fit`.

    Returns
    -------
    Series
        The rates of `ways` by name, and `fit`.
    """
    turns = Turns(ways, len(seen), schedule.batch_size)
    training.fit(
        models.build_model(name), seen, None, schedule, checkpoint,
        watchers=[turns], precision=precision,
    )  # fmt: skip
    return pd.DataFrame(turns.rates).median()
