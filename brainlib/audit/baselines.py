"""A classical baseline that is not a straw man: gradient histograms and a tuned support vector."""

import itertools
import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainlib.audit.classes import check_rows, class_codes, class_probabilities
from brainlib.audit.pictures import CHUNK, AuditError, check_pixels, known, shrink

logger = logging.getLogger(__name__)

HOG_SIDE = 128
HOG_CELL = 8
HOG_BINS = 9
HOG_COMPONENTS = 300
GREY_SIZE = 32
GREY_COMPONENTS = 60
GREY_WEIGHT = 0.3
PENALTIES = (1.0, 3.0, 10.0)
GAMMAS = (0.5, 1.0, 2.0)
TUNING_FOLDS = 3


def hog_features(
    pixels: np.ndarray, side: int = HOG_SIDE, cell: int = HOG_CELL, bins: int = HOG_BINS
) -> np.ndarray:
    """Describe pictures by histograms of oriented gradients.

    Gradients by central differences; orientation without sign, each vote shared by the two nearest
    bins; cells without overlap; blocks of 2 × 2 cells, each normalised, clipped at 0.2 and
    normalised again (Dalal and Triggs, 2005; clipping from Lowe, 2004). Votes are not shared
    between cells.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Pictures.
    side : int, default 128
        Side to which a picture is shrunk first; a multiple of `cell`.
    cell : int, default 8
        Side of a cell in pixels.
    bins : int, default 9
        Orientations between 0° and 180°.

    Returns
    -------
    ndarray of float32, shape (n, d)
        d = (side / cell − 1)² × 4 × bins; zeros for a blank picture.

    Raises
    ------
    AuditError
        If `pixels` is not the project's pixel array, or `side` is no multiple of `cell`, or there
        are fewer than two cells.

    Examples
    --------
    >>> import numpy as np
    >>> hog_features(np.zeros((3, 150, 150, 1), np.uint8)).shape
    (3, 8100)
    """
    if side % cell or side < 2 * cell:
        raise AuditError(f"side {side} must be a multiple of cell {cell}, at least twice as large")
    check_pixels(pixels)
    chunks = range(0, len(pixels), CHUNK)
    small = (shrink(pixels[start : start + CHUNK], side) for start in chunks)
    features = [_blocks_of(_cells(chunk, cell, bins)) for chunk in small]
    width = (side // cell - 1) ** 2 * 4 * bins
    return np.concatenate([np.empty((0, width), np.float32), *features])


def _cells(pictures: np.ndarray, cell: int, bins: int) -> np.ndarray:
    """Orientation histograms, shape (n, cells, cells, bins)."""
    down, right = np.gradient(pictures, axis=(1, 2))
    strength = np.hypot(down, right)
    angle = np.arctan2(down, right) % np.pi * (bins / np.pi) - 0.5
    lower = np.floor(angle).astype(np.int64)
    upper_share = (angle - lower).astype(np.float32)
    count = pictures.shape[1] // cell
    along = np.arange(pictures.shape[1]) // cell
    place = (along[:, None] * count + along[None, :])[None]
    place = (np.arange(len(pictures))[:, None, None] * count * count + place) * bins
    histogram = np.zeros(len(pictures) * count * count * bins)
    for shift, share in ((0, 1 - upper_share), (1, upper_share)):
        index = place + (lower + shift) % bins
        histogram += np.bincount(index.ravel(), (strength * share).ravel(), len(histogram))
    return histogram.reshape(len(pictures), count, count, bins).astype(np.float32)


def _blocks_of(cells: np.ndarray) -> np.ndarray:
    """Normalised 2 × 2 blocks, flattened."""
    corners = [cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:]]
    blocks = np.concatenate(corners, axis=-1)
    blocks = np.minimum(_unit(blocks), 0.2)
    return _unit(blocks).reshape(len(cells), -1)


def _unit(blocks: np.ndarray) -> np.ndarray:
    # One grey level of gradient keeps noise in an empty corner from looking like structure.
    return blocks / np.sqrt((blocks**2).sum(axis=-1, keepdims=True) + 1)


def mirror_hog(
    features: np.ndarray, side: int = HOG_SIDE, cell: int = HOG_CELL, bins: int = HOG_BINS
) -> np.ndarray:
    """Turn a picture's gradient histograms into those of its mirror image.

    Parameters
    ----------
    features : ndarray of float32, shape (n, d)
        As `hog_features` gives them.
    side, cell, bins : int
        As they were given to `hog_features`.

    Returns
    -------
    ndarray of float32, shape (n, d)
        What `hog_features` gives for the pictures with left and right exchanged.
    """
    along = side // cell - 1
    blocks = features.reshape(len(features), along, along, 2, 2, bins)
    return blocks[:, :, ::-1, :, ::-1, ::-1].reshape(len(features), -1)


@dataclass(frozen=True)
class BaselineResult:
    """What the classical baseline predicts, and how it was tuned.

    Attributes
    ----------
    probabilities : ndarray of float64, shape (len(test), 4)
        In the order of `brainlib.CLASS_NAMES`.
    penalty, gamma : float
        The chosen C, and the chosen gamma in units of 1 / (summed variance of the features).
    tuning : DataFrame
        One row per setting: `penalty`, `gamma`, `balanced_accuracy` over the tuning folds.
    """

    probabilities: np.ndarray
    penalty: float
    gamma: float
    tuning: pd.DataFrame


def classical_baseline(
    table: pd.DataFrame,
    pixels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    seed: int = 0,
    mirror: bool = False,
    hog: np.ndarray | None = None,
) -> np.ndarray:
    """Classify with gradient histograms and a support vector machine tuned on training groups.

    The probabilities of `fit_classical_baseline`, which says more.

    Parameters
    ----------
    table, pixels, train, test, seed, mirror, hog
        As for `fit_classical_baseline`.

    Returns
    -------
    ndarray of float64, shape (len(test), 4)
        Probabilities in the order of `brainlib.CLASS_NAMES`.

    Raises
    ------
    AuditError
        As `fit_classical_baseline`.
    """
    return fit_classical_baseline(table, pixels, train, test, seed, mirror, hog).probabilities


def fit_classical_baseline(
    table: pd.DataFrame,
    pixels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    seed: int = 0,
    mirror: bool = False,
    hog: np.ndarray | None = None,
) -> BaselineResult:
    """Fit and tune the classical baseline, and predict the test rows.

    Histograms of oriented gradients of the 128 × 128 picture (Dalal and Triggs, 2005), reduced to
    300 principal components, beside 60 components of the 32 × 32 picture; a support vector machine
    with a Gaussian kernel (Cortes and Vapnik, 1995). Penalty and kernel width are those with the
    best balanced accuracy in three folds of the training rows that cut no group; a logistic
    regression on the decision values of these folds makes them probabilities (after Platt, 1999).
    Components and tuning see training rows only.

    Parameters
    ----------
    table : DataFrame
        Image table with `label` and `group`, n rows.
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Its pixels.
    train, test : ndarray of int
        Row positions.
    seed : int, default 0
        Seed of the tuning folds and of the principal components.
    mirror : bool, default False
        Learn from mirror images too, and average the decision over a picture and its mirror
        image. The result then cannot depend on which way a picture was mirrored.
    hog : ndarray of float32, shape (n, 8100), optional
        `hog_features(pixels)`, where several folds share them.

    Returns
    -------
    BaselineResult
        Probabilities, chosen setting, tuning scores.

    Raises
    ------
    AuditError
        If table, pixels and rows do not fit, training has one class only, a class has fewer than
        two groups in training, or a training row has no group.
    """
    check_pixels(pixels, len(table))
    check_rows(table, train, test)
    codes = class_codes(table)[train]
    folds = _tuning_folds(table, codes, train, seed)
    views = _views(pixels, train, seed, mirror, hog)
    tuning, decisions = _tune([view[train] for view in views], codes, folds)
    penalty, gamma = tuning.loc[tuning["balanced_accuracy"].idxmax(), ["penalty", "gamma"]]
    logger.info("baseline: C = %g, gamma = %g / variance", penalty, gamma)
    model = _fit([view[train] for view in views], codes, penalty, gamma)
    probabilities = _calibrate(
        decisions[(penalty, gamma)], codes, _decide(model, [view[test] for view in views], codes)
    )
    return BaselineResult(probabilities, float(penalty), float(gamma), tuning)


def _tuning_folds(
    table: pd.DataFrame, codes: np.ndarray, train: np.ndarray, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedGroupKFold

    group = table["group"].iloc[train]
    if not known(group).all():
        raise AuditError("some training rows have no group; see brainlib.audit.group_from_audit")
    fewest = int(group.groupby(codes).nunique().min())
    if fewest < 2 or len(np.unique(codes)) < 2:
        raise AuditError("training needs at least two classes, each with at least two groups")
    splitter = StratifiedGroupKFold(min(TUNING_FOLDS, fewest), shuffle=True, random_state=seed)
    return list(splitter.split(codes, codes, pd.factorize(group)[0]))


def _views(
    pixels: np.ndarray, train: np.ndarray, seed: int, mirror: bool, hog: np.ndarray | None
) -> list[np.ndarray]:
    """Features of all pictures and, if asked for, of all mirror images."""
    hog = hog_features(pixels) if hog is None else hog
    if len(hog) != len(pixels):
        raise AuditError(f"hog has {len(hog)} rows for {len(pixels)} pictures")
    grey = shrink(pixels, GREY_SIZE)
    sides = [(hog, grey)] + ([(mirror_hog(hog), grey[:, :, ::-1])] if mirror else [])
    parts = zip(*sides, strict=True)
    reduced = [
        _reduce([side.reshape(len(side), -1) for side in part], train, components, seed)
        for part, components in zip(parts, (HOG_COMPONENTS, GREY_COMPONENTS), strict=True)
    ]
    return [np.hstack([shape, GREY_WEIGHT * level]) for shape, level in zip(*reduced, strict=True)]


def _reduce(
    sides: list[np.ndarray], train: np.ndarray, components: int, seed: int
) -> list[np.ndarray]:
    """Principal components of the training rows, with a summed variance of one."""
    from sklearn.decomposition import PCA

    learned = np.concatenate([side[train] for side in sides])
    components = min(components, len(learned) - 1, learned.shape[1])
    model = PCA(components, random_state=seed, svd_solver="randomized").fit(learned)
    scale = max(float(np.sqrt(model.explained_variance_.sum())), 1e-12)
    return [(model.transform(side) / scale).astype(np.float32) for side in sides]


def _fit(views: list[np.ndarray], codes: np.ndarray, penalty: float, gamma: float) -> object:
    from sklearn.svm import SVC

    features = np.concatenate(views)
    width = gamma / max(float(features.var(axis=0).sum()), 1e-12)
    model = SVC(C=penalty, gamma=width, class_weight="balanced", cache_size=500)
    return model.fit(features, np.tile(codes, len(views)))


def _decide(model: object, views: list[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Decision values, one column for each class of `codes`, averaged over the views."""
    values = np.mean([model.decision_function(view) for view in views], axis=0)
    if values.ndim == 1:
        values = np.column_stack([-values, values])
    classes = np.unique(codes)
    decisions = np.full((len(values), len(classes)), values.min(initial=-1))
    decisions[:, np.searchsorted(classes, model.classes_)] = values
    return decisions


def _tune(
    views: list[np.ndarray], codes: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[pd.DataFrame, dict[tuple[float, float], np.ndarray]]:
    decisions, rows = {}, []
    for penalty, gamma in itertools.product(PENALTIES, GAMMAS):
        values = np.empty((len(codes), len(np.unique(codes))))
        for fit, check in folds:
            model = _fit([view[fit] for view in views], codes[fit], penalty, gamma)
            values[check] = _decide(model, [view[check] for view in views], codes)
        right = np.unique(codes)[values.argmax(axis=1)] == codes
        score = float(pd.Series(right).groupby(codes).mean().mean())
        decisions[(penalty, gamma)] = values
        rows.append({"penalty": penalty, "gamma": gamma, "balanced_accuracy": score})
    return pd.DataFrame(rows), decisions


def _calibrate(held_out: np.ndarray, codes: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000).fit(held_out, codes)
    return class_probabilities(model, decisions)
