"""Fitting: interrupted runs resume at the last epoch and end as uninterrupted ones."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from brainlib import models, paths
from brainlib.training.augmentation import Augmentation, Augmenter
from brainlib.training.batches import AugmentedBatches, Examples, ShuffledBatches, cropped_examples
from brainlib.training.schedules import Schedule

logger = logging.getLogger(__name__)

HISTORY_COLUMNS = ("epoch", "accuracy", "loss", "validation_accuracy", "validation_loss")


def fit(
    model: keras.Model,
    train: Examples,
    validation: Examples | None,
    schedule: Schedule,
    checkpoint: Path,
    watchers: Iterable[keras.callbacks.Callback] = (),
    finds_head: bool = True,
) -> pd.DataFrame:
    """Train a model, resuming at the last epoch of an interrupted run of the same kind.

    Parameters
    ----------
    model : keras.Model
        It is given the trained weights.
    train, validation : Examples
        Without validation examples the history has none of their numbers.
    schedule : Schedule
        With an outline weight the network inside the model is trained on classes and outlines, with
        augmentation; without one the model itself on the classes.
    checkpoint : Path
        Folder that holds the state of this run after each epoch. A state that other data or another
        schedule left there, or one that is damaged, is replaced. Delete the folder once the model
        is saved.
    watchers : iterable of keras.callbacks.Callback
        Called beside those that `fit` itself needs.
    finds_head : bool
        Whether the model crops to the head, so that training does.

    Returns
    -------
    DataFrame
        One row an epoch: `epoch` (from 1), `accuracy`, `loss`, `validation_accuracy`,
        `validation_loss`, all of the class. The training columns are Keras' running means during
        the epoch.
    """
    state = State(checkpoint, _identity(model, train, validation, schedule))
    if schedule.outline_weight:
        learner = models.learner_of(model)
        augmenter = Augmenter(Augmentation(), learner.input_shape[1], finds_head)
        batches = AugmentedBatches(train, schedule.batch_size, schedule.seed, augmenter)
    else:  # a view of the model: compiling it leaves nothing in the model's file
        learner, augmenter = keras.Model(model.inputs, model.outputs[0]), None
        batches = ShuffledBatches(train, schedule.batch_size, schedule.seed)
    for layer in models.block_layers(learner, schedule.frozen_blocks):
        layer.trainable = False
    _compile(learner, schedule, batches.steps * schedule.epochs)
    batches.first_epoch = state.restore(learner)
    learner.fit(
        batches,
        validation_data=_validation_data(validation, augmenter),
        validation_batch_size=64,
        steps_per_epoch=batches.steps,
        epochs=schedule.epochs,
        initial_epoch=batches.first_epoch,
        shuffle=False,  # the batches shuffle themselves
        verbose=0,
        callbacks=[DrawByEpoch(schedule.seed), state, Progress(schedule.epochs), *watchers],
    )
    return pd.DataFrame(state.rows, columns=list(HISTORY_COLUMNS)).astype({"epoch": int})


def _validation_data(validation: Examples | None, augmenter: Augmenter | None) -> tuple | None:
    if validation is None or not len(validation):
        return None
    if augmenter is None:
        return validation.pixels, validation.classes
    return cropped_examples(validation, augmenter)


def _compile(learner: keras.Model, schedule: Schedule, steps: int) -> None:
    losses = keras.losses
    both = {
        "loss": {"logits": losses.CategoricalCrossentropy(from_logits=True), "tissue": tissue_loss},
        "loss_weights": {"logits": 1.0, "tissue": schedule.outline_weight},
        "metrics": {"logits": "accuracy"},
    }
    alone = {"loss": losses.SparseCategoricalCrossentropy(), "metrics": ["accuracy"]}
    learner.compile(
        optimizer=_optimizer(schedule, steps),
        # XLA halves TensorFlow's speed on a CPU; JAX knows nothing else
        jit_compile=keras.backend.backend() == "jax",
        **(both if schedule.outline_weight else alone),
    )


def _optimizer(schedule: Schedule, steps: int) -> keras.optimizers.Optimizer:
    rate: Any = schedule.learning_rate
    if schedule.warm_up:
        rising = int(schedule.warm_up * steps)
        rate = keras.optimizers.schedules.CosineDecay(
            rate / 25, steps - rising, alpha=1e-3, warmup_target=rate, warmup_steps=rising
        )
    if not schedule.weight_decay:
        return keras.optimizers.Adam(rate)
    # the average of a short fit must not reach back to the first, untrained weights
    momentum = max(0.0, min(schedule.average, 1 - 5 / steps))
    average = {"use_ema": True, "ema_momentum": momentum} if schedule.average else {}
    optimizer = keras.optimizers.AdamW(
        rate, weight_decay=schedule.weight_decay, clipnorm=5.0, **average
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def tissue_loss(shares: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Return the loss of the tissue map for each image.

    Four times the mean cross-entropy of the pixels, so that the few pixels of the tumour count;
    half the soft Dice loss of tumour against background (Milletari et al., 2016); and a
    quarter of the cross-entropy of "no tumour" for the strongest evidence outside the outline,
    because that is healthy tissue of the same scanner.

    Parameters
    ----------
    shares, logits : float tensors of shape (n, size, size, 4)
    """
    ops = keras.ops
    logarithms = ops.log_softmax(logits, axis=-1)
    entropy = -ops.mean(ops.sum(shares * logarithms, axis=-1), axis=(1, 2))
    drawn, outlined = 1 - ops.exp(logarithms[..., 0]), 1 - shares[..., 0]
    common, drawn, total = (
        ops.sum(part, axis=(1, 2)) for part in (drawn * outlined, drawn, outlined)
    )
    dice = 1 - (2 * common + 1) / (drawn + total + 1)
    near = ops.max_pool(outlined[..., None], _NEAR, 1, "same")
    outside = models.strongest_evidence(logits, ops.cast(ops.greater(near, 0), "float32"))
    return 4 * entropy + 0.5 * dice + OUTSIDE_WEIGHT * ops.softplus(outside)[:, 0]


OUTSIDE_WEIGHT = 0.25
_NEAR = 9
"""Width in pixels of the map around an outline that counts neither as lesion nor as outside."""


def forget(checkpoint: Path) -> None:
    """Delete the state of a fit, once its model is saved."""
    shutil.rmtree(checkpoint, ignore_errors=True)


class DrawByEpoch(keras.callbacks.Callback):
    """Make dropout depend on the seed and the epoch alone."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Set the state of each layer that draws."""
        for number, layer in enumerate(self.model.layers):
            generator = getattr(layer, "seed_generator", None)
            if generator is not None:
                state = np.random.SeedSequence((self.seed, epoch, number)).generate_state(2)
                generator.state.assign(state.astype(generator.state.dtype))


class State(keras.callbacks.Callback):
    """All that a fit resumes from, in one file: weights, optimizer and history after an epoch."""

    def __init__(self, folder: Path, identity: str) -> None:
        super().__init__()
        self.file, self.identity = folder / "state.npz", identity
        self.rows: list[tuple[float, ...]] = []

    def restore(self, learner: keras.Model) -> int:
        """Load the state of an interrupted fit of the same kind, and return its epochs."""
        learner.optimizer.build(learner.trainable_variables)
        if self.file.is_file():
            try:
                with self.file.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                    identity, rows, *values = (stored[name] for name in stored.files)
                pairs = list(zip(_variables(learner), values, strict=identity == self.identity))
            except Exception as error:  # a damaged archive fails in a dozen ways
                logger.warning("%s is damaged: the fit begins anew (%s)", self.file, error)
            else:
                if identity == self.identity:
                    self.rows = [tuple(row) for row in rows]
                    for variable, value in pairs:
                        variable.assign(value)
        return len(self.rows)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the state, whole or not at all."""
        logs = logs or {}
        prefix = "logits_" if "logits_loss" in logs else ""
        names = (f"{part}{prefix}{name}" for part in ("", "val_") for name in ("accuracy", "loss"))
        self.rows.append((epoch + 1, *(logs.get(name, np.nan) for name in names)))
        values = [keras.ops.convert_to_numpy(variable) for variable in _variables(self.model)]
        with paths.atomic_write(self.file) as temporary:
            np.savez(temporary, np.array(self.identity), np.array(self.rows), *values)


def _variables(learner: keras.Model) -> list[keras.Variable]:
    return [*learner.variables, *learner.optimizer.variables]


class Progress(keras.callbacks.Callback):
    """Progress bar on standard error, readable in terminals and in papermill's log."""

    async_safe = True  # it reads no numbers of a batch, so that JAX need not wait for them

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
        if self.bar.n + 1 < self.bar.total:  # the full bar is printed once, with its numbers
            self.bar.update()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Close the bar with the numbers of the epoch."""
        numbers = {name: f"{value:.3f}" for name, value in (logs or {}).items()}
        self.bar.set_postfix(numbers, refresh=False)
        self.bar.n = self.bar.total
        self.bar.close()


def _identity(
    model: keras.Model, train: Examples, validation: Examples | None, schedule: Schedule
) -> str:
    """Return a hash over all that decides the outcome of a fit."""
    # without the numbers at the end of names, which Keras counts up in a process
    digest = hashlib.sha256(re.sub(r"_\d+\b", "", model.to_json()).encode())
    for weight in model.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    for part in (part for part in (train, validation) if part is not None):
        for array in (getattr(part, attribute.name) for attribute in fields(part)):
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    digest.update(json.dumps(asdict(schedule), sort_keys=True).encode())
    return digest.hexdigest()
