"""The test pictures of each fold, and samples of them."""

import pandas as pd

from brainlib import models
from brainlib.data import splits
from brainlib.notebook import runs


def tested_pictures(run: runs.Run) -> dict[int, pd.DataFrame]:
    """Return the image table of the test pictures of each patient fold, as `02_train` has them."""
    table = run.load_images(models.PICTURE_SIZE).table
    seed = run.settings.seed
    return {
        fold: splits.part(table, splits.make_split(table, "patient", fold, seed, 0.0), "test")
        for fold in range(splits.FOLDS)
    }


def stratified_sample(table: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Draw rows of an image table at random, each class with the share that it has in the table.

    Returns
    -------
    DataFrame
        `count` rows, or all where there are fewer.
    """
    shuffled = table.sample(frac=1, random_state=seed)
    by_label = shuffled.groupby("label")["path"]
    place = (by_label.cumcount() + 0.5) / by_label.transform("size")
    return shuffled.loc[place.sort_values(kind="stable").index[:count]].reset_index(drop=True)
