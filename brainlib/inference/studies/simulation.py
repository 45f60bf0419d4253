"""Studies put together from held-out slices, because the collection holds no whole series."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainlib.inference.studies.pooling import StudyError

SHARES = (1.0, 0.5, 0.2, 0.1)
"""Shares of slices that show the tumour, in the studies that a rule is fitted on."""

UNSEEN_SHARE = 0.05
"""A share that no rule is fitted on, to see what happens beyond."""

MOST_SLICES = 12
"""At most so many slices of a tumour in a study: 240 slices with the smallest share."""

DESCRIPTION = (
    "These studies are simulated. The collection holds single slices, chosen through tumours, and "
    "no whole series: the slices of a tumour of one held-out patient are mixed with held-out "
    "slices without tumour of other people, drawn group by group, as if all were independent; a "
    "healthy study is made of such slices alone. Slices without tumour come from other scanners "
    f"than those with. Real series can be harder, and a tumour that shows in less than "
    f"{100 * min(SHARES):.0f} % of the slices was not asked for: it is easily missed."
)


@dataclass(frozen=True, eq=False)
class Part:
    """The held-out people of one fold.

    Attributes
    ----------
    fold : int
    patients : list of int arrays
        Rows of the prediction table: those of each patient's tumour.
    labels : list of str
        The tumour of each patient.
    healthy : list of int arrays
        Rows without tumour, group by group.
    """

    fold: int
    patients: list[np.ndarray]
    labels: list[str]
    healthy: list[np.ndarray]


@dataclass(frozen=True, eq=False)
class Simulation:
    """Simulated studies.

    Attributes
    ----------
    rows : int array of shape (n,)
        Of each slice, its row in the prediction table.
    codes : int array of shape (n,)
        The study of each slice.
    studies : DataFrame
        A row a study: `label`, `fold`, `share` and the number of `slices`.
    """

    rows: np.ndarray
    codes: np.ndarray
    studies: pd.DataFrame


def split_parts(predictions: pd.DataFrame) -> list[Part]:
    """Sort the rows of a prediction table by fold, person and class.

    A patient counts where it is known and has a tumour. Where there is one fold only, its groups
    are dealt into two.

    Raises
    ------
    StudyError
        For a fold without a known tumour patient, or without a slice free of tumour.
    """
    table = predictions.reset_index(drop=True)
    folds = table["fold"].astype(int)
    if folds.nunique() == 1:
        folds = _dealt_into_two(table)
    parts = [_part(int(fold), table[folds == fold]) for fold in sorted(folds.unique())]
    lacking = [part.fold for part in parts if not (part.patients and part.healthy)]
    if lacking:
        raise StudyError(
            f"fold {lacking[0]} has no slice of a known tumour patient or none without tumour, so "
            "no study can be simulated: give predictions of the protocol patient, with patients"
        )
    return parts


def redraw(parts: list[Part], generator: np.random.Generator) -> list[Part]:
    """Draw patients and groups of each fold with replacement, as many as there are."""
    drawn = []
    for part in parts:
        patients = generator.integers(0, len(part.patients), len(part.patients))
        healthy = generator.integers(0, len(part.healthy), len(part.healthy))
        drawn.append(
            Part(
                part.fold,
                [part.patients[number] for number in patients],
                [part.labels[number] for number in patients],
                [part.healthy[number] for number in healthy],
            )
        )
    return drawn


def simulate(
    parts: Iterable[Part], shares: Iterable[float], draws: int, generator: np.random.Generator
) -> Simulation:
    """Put studies together.

    Each patient gives one study for each share and draw, and every second one a healthy study of
    as many slices, so that the number of slices says nothing; about the mix of the collection.

    Parameters
    ----------
    parts : iterable of Part
    shares : iterable of float
        Shares of slices that show the tumour, 0 to 1.
    draws : int
    generator : numpy.random.Generator
    """
    shares = list(shares)
    slices, rows = [], []
    for part in parts:
        for share in shares:
            for draw in range(draws):
                for number, tumor in enumerate(part.patients):
                    shown = generator.permutation(tumor)[:MOST_SLICES]
                    size = max(len(shown), round(len(shown) / share))
                    others = _healthy_slices(part.healthy, size - len(shown), generator)
                    slices.append(np.concatenate([shown, others]))
                    rows.append((part.labels[number], part.fold, share, size))
                    if number % 2 == draw % 2:
                        slices.append(_healthy_slices(part.healthy, size, generator))
                        rows.append(("notumor", part.fold, share, size))
    studies = pd.DataFrame(rows, columns=["label", "fold", "share", "slices"])
    codes = np.repeat(np.arange(len(slices)), [len(found) for found in slices])
    return Simulation(np.concatenate(slices), codes, studies)


def _part(fold: int, table: pd.DataFrame) -> Part:
    is_tumor = (table["label"] != "notumor") & (table["patient"].fillna("") != "")
    by_patient = table[is_tumor].groupby(["patient", "label"], sort=True).indices
    tumor_rows = table.index[is_tumor].to_numpy()
    free = table[table["label"] == "notumor"]
    free_rows = free.index.to_numpy()
    return Part(
        fold,
        [tumor_rows[places] for places in by_patient.values()],
        [label for _, label in by_patient],
        [free_rows[places] for places in free.groupby("group", sort=True).indices.values()],
    )


def _dealt_into_two(table: pd.DataFrame) -> pd.Series:
    numbers = table.groupby("label")["group"].transform(lambda groups: pd.factorize(groups)[0])
    by_group = numbers.groupby(table["group"]).transform("first")
    return by_group % 2


def _healthy_slices(
    groups: list[np.ndarray], count: int, generator: np.random.Generator
) -> np.ndarray:
    """Return rows of whole groups in random order, as many as asked for; again where too few."""
    found: list[np.ndarray] = [np.empty(0, int)]
    missing = count
    while missing > 0:
        for number in generator.permutation(len(groups)):
            group = groups[number]
            if len(group) > missing:
                group = generator.permutation(group)[:missing]
            found.append(group)
            missing -= len(group)
            if missing <= 0:
                break
    return np.concatenate(found)
