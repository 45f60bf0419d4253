"""Fitting: a model and examples in, a fitted model and its history out, undone by no kill."""

import ctypes
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

import h5py
import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from brainlib import models, paths
from brainlib.training.augmentation import Augmentation
from brainlib.training.batches import (
    AugmentedBatches,
    Examples,
    ShuffledBatches,
    whole_examples,
)
from brainlib.training.machine import precision_for
from brainlib.training.optimizers import optimizer_for
from brainlib.training.schedules import Cycle, Schedule

logger = logging.getLogger(__name__)

HISTORY_COLUMNS = ("epoch", "accuracy", "loss", "validation_accuracy", "validation_loss")


def fit(
    model: keras.Model,
    train: Examples,
    validation: Examples | None,
    schedule: Schedule,
    checkpoint: Path,
    augmentation: Augmentation | None = None,
    watchers: Iterable[keras.callbacks.Callback] = (),
    precision: str | None = None,
) -> pd.DataFrame:
    """Fit a model, going on from its checkpoint where an earlier fit of the same kind was killed.

    A schedule with sizes fits the network inside the model, with augmentation, to classes and
    outlines at once; one without fits the model itself to the classes.

    Parameters
    ----------
    model : keras.Model
        Untrained. It is given the weights that a cycle ends with; a fit that is stopped leaves it
        as it was before the cycle.
    train, validation : Examples
        Without validation examples the history has none of their numbers.
    schedule : Schedule
    checkpoint : Path
        Folder that holds the state of this fit after each epoch. A state that other data or
        another schedule left there, or one that cannot be read, is deleted. Delete the folder once
        the model is saved.
    augmentation : Augmentation, optional
        For a schedule with sizes, where pictures are to be changed otherwise than by default.
    watchers : iterable of keras.callbacks.Callback
        Told of every step beside what `fit` itself needs to be told. Their `model` is what is
        trained, as `models.learner_of` makes it.
    precision : {"float32", "bfloat16"}, optional
        As `models.learner_of` takes it; without it that of `precision_for`.

    Returns
    -------
    DataFrame
        One row an epoch: `epoch` (from 1), `accuracy`, `loss`, `validation_accuracy`,
        `validation_loss`, all of the class. The training columns are Keras' running means during
        the epoch.

    Raises
    ------
    ValueError
        For mixup, or outlines that count otherwise than once, in a schedule without sizes.
    PrecisionError
        For a precision that does not exist.
    """
    _refuse_what_needs_sizes(schedule)
    precision = precision_for(schedule, precision)
    identity = _identity(model, train, validation, schedule, augmentation, precision)
    _discard_foreign_state(checkpoint, identity)
    history = checkpoint / "history.csv"
    steps = -(-len(train) // schedule.batch_size)
    shown = _validation_data(validation, schedule)
    for cycle, start, stop in schedule.spans():
        learner = _learner(model, schedule, precision)
        _compile(learner, schedule, cycle, steps * (stop - start))
        state = checkpoint / f"from_epoch_{start + 1}"
        for size, first_epoch, end in schedule.phases(start, stop):
            batches = _batches(train.resized(size), schedule, augmentation, cycle.mixup)
            learner.fit(
                batches,
                validation_data=shown,
                validation_batch_size=256 if not schedule.sizes else 64,
                steps_per_epoch=batches.steps,
                initial_epoch=first_epoch,
                epochs=end,
                shuffle=False,  # the batches shuffle themselves
                verbose=0,
                callbacks=[
                    KeepMemory(),
                    DrawByEpoch(batches, schedule.seed),
                    HistoryFile(history),
                    Progress(schedule.epochs),
                    keras.callbacks.BackupAndRestore(
                        str(state), double_checkpoint=True, delete_checkpoint=False
                    ),
                    *watchers,
                ],
            )
        _trained_part(model, schedule).set_weights(learner.get_weights())
    return pd.read_csv(history)


def _refuse_what_needs_sizes(schedule: Schedule) -> None:
    for name in () if schedule.sizes else ("mixup", "outline_weight"):
        if any(getattr(cycle, name) != getattr(Cycle(), name) for cycle in schedule.cycles):
            raise ValueError(
                f"{name} is only for a schedule with sizes: give it some, or no {name}"
            )


def _trained_part(model: keras.Model, schedule: Schedule) -> keras.Model:
    return models.network_of(model) if schedule.sizes else model


def _learner(model: keras.Model, schedule: Schedule, precision: str) -> keras.Model:
    """Return what is trained, anew for each cycle: Keras remembers where an earlier fit began."""
    if schedule.sizes:
        return models.learner_of(models.network_of(model), precision)
    return keras.Model(model.inputs, model.outputs[0])


def _batches(
    train: Examples, schedule: Schedule, augmentation: Augmentation | None, mixup: float
) -> ShuffledBatches:
    if schedule.sizes:
        return AugmentedBatches(train, schedule.batch_size, schedule.seed, augmentation, mixup)
    return ShuffledBatches(train, schedule.batch_size, schedule.seed)


def _validation_data(validation: Examples | None, schedule: Schedule) -> tuple | None:
    if validation is None or not len(validation):
        return None
    if not schedule.sizes:
        return validation.pixels, validation.classes
    return whole_examples(validation.resized(schedule.sizes[-1][0]))


def _compile(learner: keras.Model, schedule: Schedule, cycle: Cycle, steps: int) -> None:
    losses = keras.losses
    both = {
        "loss": {
            "logits": losses.CategoricalCrossentropy(from_logits=True),
            "tissue": tissue_loss,
        },
        "loss_weights": {"logits": 1.0, "tissue": cycle.outline_weight},
        "metrics": {"logits": "accuracy"},
    }
    alone = {"loss": losses.SparseCategoricalCrossentropy(), "metrics": ["accuracy"]}
    learner.compile(
        optimizer=optimizer_for(schedule, cycle.factor * schedule.learning_rate, steps),
        # XLA halves TensorFlow's speed on a CPU; JAX knows nothing else
        jit_compile=keras.backend.backend() == "jax",
        **(both if schedule.sizes else alone),
    )


def tissue_loss(shares: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Return how far the drawn tissue is from the outlined one, for each picture.

    Four times the mean cross-entropy of the places, so that the few places of the tumour count, and
    half the soft Dice loss of tumour against background (Milletari et al., 2016).

    Parameters
    ----------
    shares, logits : float tensors of shape (n, size, size, 4)
    """
    logarithms = keras.ops.log_softmax(logits, axis=-1)
    entropy = -keras.ops.mean(keras.ops.sum(shares * logarithms, axis=-1), axis=(1, 2))
    drawn, outlined = 1 - keras.ops.exp(logarithms[..., 0]), 1 - shares[..., 0]
    common, drawn, outlined = (
        keras.ops.sum(part, axis=(1, 2)) for part in (drawn * outlined, drawn, outlined)
    )
    return 4 * entropy + 0.5 * (1 - (2 * common + 1) / (drawn + outlined + 1))


def forget(checkpoint: Path) -> None:
    """Delete the state of a fit, once its model is saved."""
    shutil.rmtree(checkpoint, ignore_errors=True)


class KeepMemory(keras.callbacks.Callback):
    """Let glibc keep the memory of a step for the next one.

    TensorFlow's generator data sets ask glibc to hand every freed block back to the system, which
    then clears it anew for each layer of each step: a fit took two to three times as long.
    """

    _TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
    _KEPT_BYTES, _LARGEST_BLOCK = 2**31 - 1, 2**25

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Ask glibc once an epoch, after the data set has had its say."""
        if batch == 1 and sys.platform == "linux":
            library = ctypes.CDLL(None)
            if hasattr(library, "mallopt"):
                library.mallopt(self._TRIM_THRESHOLD, self._KEPT_BYTES)
                library.mallopt(self._MMAP_THRESHOLD, self._LARGEST_BLOCK)


class DrawByEpoch(keras.callbacks.Callback):
    """Make the order of the pictures and dropout depend on the seed and the epoch alone."""

    def __init__(self, batches: ShuffledBatches, seed: int) -> None:
        super().__init__()
        self.batches, self.seed, self.begun = batches, seed, 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Tell the batches where they begin, and set the state of each layer that draws."""
        self.batches.first_epoch = epoch - self.begun  # only here is it known what was resumed
        self.begun += 1
        for number, layer in enumerate(self.model.layers):
            generator = getattr(layer, "seed_generator", None)
            if generator is not None:
                state = np.random.SeedSequence((self.seed, epoch, number)).generate_state(2)
                generator.state.assign(state.astype(generator.state.dtype))


class HistoryFile(keras.callbacks.Callback):
    """Append each finished epoch to a CSV file; an epoch that is done again replaces its row."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the row of an epoch, whole or not at all."""
        logs = logs or {}
        prefix = "logits_" if "logits_loss" in logs else ""
        names = (f"{part}{prefix}{name}" for part in ("", "val_") for name in ("accuracy", "loss"))
        values = (logs.get(name, np.nan) for name in names)
        row = pd.DataFrame([(epoch + 1, *values)], columns=list(HISTORY_COLUMNS))
        if epoch > 0:
            before = pd.read_csv(self.path)
            row = pd.concat([before[before["epoch"] <= epoch], row])
        with paths.atomic_write(self.path) as temporary:
            row.to_csv(temporary, index=False)


class Progress(keras.callbacks.Callback):
    """One bar of text on standard error, for terminals and for papermill's log alike."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Open the bar of an epoch."""
        self.bar = tqdm(
            total=self.params["steps"], desc=f"epoch {epoch + 1}/{self.epochs}", mininterval=5
        )

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Move the bar by one step."""
        self.bar.update()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Close the bar with the numbers of the epoch."""
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in (logs or {}).items()})
        self.bar.close()


def _identity(
    model: keras.Model,
    train: Examples,
    validation: Examples | None,
    schedule: Schedule,
    augmentation: Augmentation | None,
    precision: str,
) -> str:
    """Return a hash over all that decides the outcome of a fit."""
    digest = hashlib.sha256(precision.encode())
    for layer in (*model.layers, *_trained_part(model, schedule).layers):
        config = sorted(layer.get_config().items())
        plain = [item for item in config if isinstance(item[1], (str, int, float, tuple))]
        # without their names, which Keras counts up in one process
        plain = [(name, value) for name, value in plain if name != "name"]
        digest.update(f"{type(layer).__name__} {plain}".encode())
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    for part in (part for part in (train, validation) if part is not None):
        for array in (getattr(part, attribute.name) for attribute in fields(part)):
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    for choice in (choice for choice in (schedule, augmentation) if choice is not None):
        digest.update(json.dumps(asdict(choice), sort_keys=True).encode())
    return digest.hexdigest()


def _is_damaged(checkpoint: Path) -> bool:
    """Return whether a fit that was killed while it wrote left what cannot be read."""
    try:
        for file in checkpoint.rglob("*.json"):
            json.loads(file.read_text("utf-8"))
        for file in checkpoint.rglob("*.weights.h5"):
            h5py.File(file).close()
    except (OSError, ValueError):
        return True
    return False


def _discard_foreign_state(checkpoint: Path, identity: str) -> None:
    name = checkpoint / "identity.txt"
    if checkpoint.is_dir() and (not name.is_file() or name.read_text("utf-8") != identity):
        shutil.rmtree(checkpoint)
    elif _is_damaged(checkpoint):
        logger.warning("the state in %s is damaged: the fit begins anew", checkpoint)
        shutil.rmtree(checkpoint)
    with paths.atomic_write(name) as temporary:
        temporary.write_text(identity, encoding="utf-8")
