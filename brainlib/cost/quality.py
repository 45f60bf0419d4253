"""How long the released recipe takes to the quality of the starting network."""

import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from brainlib import models, training
from brainlib.cost.tables import as_table
from brainlib.runs import MODEL_NAMES

HARDLY_CHANGED = training.Augmentation(
    rotation=0.0, scale=0.0, shift=0.0, gamma=0.0, bias=0.0, noise=0.0, coarse=0.0
)
"""Pictures are mirrored and nothing else: in a few epochs more only holds the network up."""


class Clock(keras.callbacks.Callback):
    """Note how many seconds after its making each epoch ended, validation and all."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.seconds = time.perf_counter(), []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the time."""
        self.seconds.append(time.perf_counter() - self.began)


def time_to_quality(
    seen: dict[str, tuple[training.Examples, training.Examples]],
    schedules: dict[str, training.Schedule],
) -> pd.DataFrame:
    """Fit the starting network, then the released one, and compare when they are equally good.

    Parameters
    ----------
    seen : dict of (Examples, Examples)
        Training and validation pictures, by the names of both networks.
    schedules : dict of Schedule

    Returns
    -------
    DataFrame
        As `as_table` gives it: the validation loss of the class that the starting network ends with
        and the first one of ours at or below it, and the seconds to them from the start of each
        fit. Where ours never comes that low its seconds are NaN and its loss is its lowest. Ours
        learns from pictures that are `HARDLY_CHANGED`.
    """
    ours, starting = MODEL_NAMES
    wanted = _fit(starting, seen[starting], schedules[starting])[-1]
    found = _fit(ours, seen[ours], schedules[ours])
    reached = found[found[:, 1] <= wanted[1]]
    best = reached[0] if len(reached) else np.array([np.nan, found[:, 1].min()])
    return as_table(
        {
            "time to the starting network's validation loss": ("seconds", best[0], wanted[0]),
            "the validation loss itself, class": ("nats", best[1], wanted[1]),
        }
    )


def _fit(
    name: str, seen: tuple[training.Examples, training.Examples], schedule: training.Schedule
) -> np.ndarray:
    """Return, for each epoch, the seconds to its end and the validation loss of the class."""
    model = models.build_model(name, schedule.seed)
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        state = Path(folder) / "state"
        history = training.fit(model, *seen, schedule, state, HARDLY_CHANGED, [clock])
    return np.column_stack([clock.seconds, history["validation_loss"]])
