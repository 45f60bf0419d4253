"""From a model and rows of pixels to a fitted model and its history.

A fit that was killed goes on from its last finished epoch: what an epoch draws at random depends
on the seed and the number of the epoch alone, never on what was drawn before.
"""

import hashlib
import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from brainlib import CLASS_NAMES, paths
from brainlib.images import LoadedImages

logger = logging.getLogger(__name__)

HISTORY_COLUMNS = ("epoch", "accuracy", "loss", "validation_accuracy", "validation_loss")


@dataclass(frozen=True)
class Schedule:
    """How a model is fitted.

    Attributes
    ----------
    epochs : int
    batch_size : int
        Pictures in a step.
    learning_rate : float
        Of Adam (Kingma and Ba, 2015).
    seed : int
        Seed of the order of the pictures and of dropout.
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-3
    seed: int = 0


def class_indices(labels: pd.Series) -> np.ndarray:
    """Return the position of each label in `CLASS_NAMES`, int32 of shape (n,)."""
    return pd.Categorical(labels, categories=list(CLASS_NAMES)).codes.astype(np.int32)


def examples(loaded: LoadedImages, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels and the class indices of some rows, as `fit` takes them."""
    return loaded.pixels[rows], class_indices(loaded.table["label"].iloc[rows])


def fit(
    model: keras.Model,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    schedule: Schedule,
    checkpoint: Path,
) -> pd.DataFrame:
    """Fit a model, going on from its checkpoint where an earlier fit of the same kind was killed.

    Parameters
    ----------
    model : keras.Model
        Untrained; it is trained in place.
    train, validation : (pixels, classes)
        uint8 of shape (n, height, width, 1) and int of shape (n,).
    schedule : Schedule
    checkpoint : Path
        Folder that holds the state of this fit after each epoch. A state that other data or
        another schedule left there, or one that cannot be read, is deleted. Delete the folder once
        the model is saved.

    Returns
    -------
    DataFrame
        One row an epoch: `epoch` (from 1), `accuracy`, `loss`, `validation_accuracy`,
        `validation_loss`. The training columns are Keras' running means during the epoch.
    """
    _discard_foreign_state(checkpoint, _identity(model, train, validation, schedule))
    model.compile(
        optimizer=keras.optimizers.Adam(schedule.learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        # XLA halves TensorFlow's speed on a CPU; JAX knows nothing else
        jit_compile=keras.backend.backend() == "jax",
    )
    batches = ShuffledBatches(*train, schedule.batch_size, schedule.seed)
    history = checkpoint / "history.csv"
    model.fit(
        batches,
        validation_data=validation,
        validation_batch_size=256,
        epochs=schedule.epochs,
        shuffle=False,  # the batches shuffle themselves
        verbose=0,
        callbacks=[
            DrawByEpoch(batches, schedule.seed),
            HistoryFile(history),
            Progress(schedule.epochs),
            keras.callbacks.BackupAndRestore(
                str(checkpoint), double_checkpoint=True, delete_checkpoint=False
            ),
        ],
    )
    return pd.read_csv(history)


def forget(checkpoint: Path) -> None:
    """Delete the state of a fit, once its model is saved."""
    shutil.rmtree(checkpoint, ignore_errors=True)


class ShuffledBatches(keras.utils.PyDataset):
    """Batches of an array in an order that the seed and the number of the epoch decide."""

    def __init__(self, pixels: np.ndarray, classes: np.ndarray, batch_size: int, seed: int) -> None:
        super().__init__()
        self.pixels, self.classes = pixels, classes
        self.batch_size, self.seed = batch_size, seed
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Draw the order of an epoch, counted from 0."""
        self.order = np.random.default_rng((self.seed, epoch)).permutation(len(self.classes))

    def __len__(self) -> int:
        return -(-len(self.classes) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.sort(self.order[index * self.batch_size : (index + 1) * self.batch_size])
        return self.pixels[rows], self.classes[rows]


class DrawByEpoch(keras.callbacks.Callback):
    """Make the order of the pictures and dropout depend on the seed and the epoch alone."""

    def __init__(self, batches: ShuffledBatches, seed: int) -> None:
        super().__init__()
        self.batches, self.seed = batches, seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Draw the order, and set the state of each layer that draws."""
        self.batches.start_epoch(epoch)
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
        values = (logs[name] for name in ("accuracy", "loss", "val_accuracy", "val_loss"))
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


def _identity(model: keras.Model, *parts: Any) -> str:
    """Return a hash over all that decides the outcome of a fit."""
    digest = hashlib.sha256()
    for layer in model.layers:  # without their names, which Keras counts up in one process
        config = sorted(layer.get_config().items())
        plain = [item for item in config if isinstance(item[1], (str, int, float, list, tuple))]
        plain = [(name, value) for name, value in plain if name != "name"]
        digest.update(f"{type(layer).__name__} {plain}".encode())
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    *arrays, schedule = parts
    for array in (array for pair in arrays for array in pair):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(json.dumps(asdict(schedule), sort_keys=True).encode())
    return digest.hexdigest()


def _is_damaged(checkpoint: Path) -> bool:
    """Return whether a fit that was killed while it wrote left what cannot be read."""
    try:
        for file in checkpoint.glob("*.json"):
            json.loads(file.read_text("utf-8"))
        for file in checkpoint.glob("*.weights.h5"):
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
