"""One run of the study: a variant trained with one seed, and what it makes of each group."""

import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from scipy import special

from brainlib import CLASS_NAMES, models
from brainlib.data import splits
from brainlib.notebook import runs
from brainlib.training import Examples, examples, fit, forget
from scripts.ablation.variants import MODEL, Variant

FOLD = 0
"""The fold whose test pictures the study never looks at."""


@dataclass(frozen=True)
class Held:
    """What a variant is trained on, and the groups that it is scored on.

    Attributes
    ----------
    train, validation : Examples
    table : DataFrame
        The rows of the image table behind `validation`.
    """

    train: Examples
    validation: Examples
    table: pd.DataFrame


def make_run(variant: Variant, seed: int, place: tuple[str, int], checkpoint: Path) -> pd.DataFrame:
    """Train a variant with one seed, and score it on the validation groups.

    A run that is killed goes on from its last finished epoch.

    Parameters
    ----------
    variant : Variant
    seed : int
        Of the training.
    place : (str, int)
        The source, and the seed that chooses the validation groups.
    checkpoint : Path
        The folder of the state of this run; it is deleted at the end.

    Returns
    -------
    DataFrame
        A row for each group, as `score` gives it, with `seed` and `seconds`, how long the fit took.
    """
    held = load(*place)
    began = time.perf_counter()
    network = train(variant, seed, held.train, checkpoint)
    seconds = round(time.perf_counter() - began, 1)
    scored = score(network, variant, held)
    forget(checkpoint)
    return scored.assign(seed=seed, seconds=seconds)


@functools.lru_cache(maxsize=1)  # one process makes several runs on the same pictures
def load(source: str, seed: int) -> Held:
    """Load the pictures of a source that the study trains on and is scored on."""
    run = runs.Run("ablate", runs.Settings(source=source, seed=seed), Path(), smoke=False)
    loaded = run.load_images(models.TRAINING_SIZES[MODEL])
    split = splits.make_split(loaded.table, "patient", FOLD, seed)
    root = run.open_collection().root
    return Held(
        examples(loaded, split.train, root),
        examples(loaded, split.validation, root),
        loaded.table.iloc[split.validation].reset_index(drop=True),
    )


def train(variant: Variant, seed: int, seen: Examples, checkpoint: Path) -> keras.Model:
    """Fit a variant of the network and return its part that is trained, as `network_of` gives it.

    Parameters
    ----------
    variant : Variant
    seed : int
        Of the weights, the order of the pictures, augmentation and dropout.
    seen : Examples
        With outlines.
    checkpoint : Path
        The folder of the state of this fit.
    """
    keras.utils.clear_session()  # what the run before left would fill the memory
    keras.utils.set_random_seed(seed)
    model = models.build_brain_tumor(variant.parts)
    if not variant.outlines:
        seen = replace(seen, outlined=np.zeros(len(seen), bool))
    fit(model, seen, None, replace(variant.schedule, seed=seed), checkpoint, variant.augmentation)
    return models.network_of(model)


def score(network: keras.Model, variant: Variant, held: Held) -> pd.DataFrame:
    """Score a network on the validation groups.

    Returns
    -------
    DataFrame
        A row for each group: its `pictures` and how many are `right`; the sum of their log losses,
        `loss`; its tumours of the main source of tumours, `typed`, and how many have the right
        type among the three, `type_right`; its tumours with outline, `outlined`, and the sum of
        their `dice`, both 0 for a variant that is not taught to draw.
    """
    shown = held.validation.resized(variant.schedule.sizes[-1][0])
    answer = network.predict(shown.pixels, batch_size=64, verbose=0)
    table = held.table[["group", "label", "source"]].astype(str)
    table[list(CLASS_NAMES)] = special.softmax(answer["logits"].astype(float), axis=1)
    counted = pd.DataFrame({"group": table["group"], **_class_scores(table)})
    is_drawn = shown.outlined & (table["label"] != "notumor") & variant.outlines
    counted["outlined"] = is_drawn.astype(int)
    counted["dice"] = dice(special.softmax(answer["tissue"], axis=-1)[..., 0], shown.outlines)
    counted["dice"] *= is_drawn
    return counted.groupby("group", as_index=False).sum().round(6)


def _class_scores(table: pd.DataFrame) -> dict[str, np.ndarray]:
    probabilities = table[list(CLASS_NAMES)].to_numpy()
    truth = pd.Index(CLASS_NAMES).get_indexer(table["label"])
    is_tumor = (table["label"] != "notumor").to_numpy()
    main = table.loc[is_tumor, "source"].mode().iloc[0]
    typed = is_tumor & (table["source"] == main).to_numpy()
    among_tumors = probabilities * (np.array(CLASS_NAMES) != "notumor")
    given = np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12)
    return {
        "pictures": np.ones(len(table), int),
        "right": (probabilities.argmax(axis=1) == truth).astype(int),
        "loss": -np.log(given),
        "typed": typed.astype(int),
        "type_right": (typed & (among_tumors.argmax(axis=1) == truth)).astype(int),
    }


def dice(background: np.ndarray, outlines: np.ndarray) -> np.ndarray:
    """Return how well each drawn tumour covers the outlined one, 0 to 1 (Dice, 1945).

    Parameters
    ----------
    background : float array of shape (n, size, size)
        The probability that there is no tumour.
    outlines : uint8 array of shape (n, k size, k size)
        Share of each pixel inside the outlined tumour, 0 to 255; k is a whole number.
    """
    count, size = background.shape[:2]
    step = outlines.shape[1] // size
    inside = outlines.reshape(count, size, step, size, step).mean(axis=(2, 4)) >= 127.5
    drawn = background < 0.5
    common, total = (inside & drawn).sum(axis=(1, 2)), inside.sum(axis=(1, 2)) + drawn.sum((1, 2))
    return np.where(total > 0, 2 * common / np.maximum(total, 1), 1.0)
