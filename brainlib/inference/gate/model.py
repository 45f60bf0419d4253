"""The gate: a few plain rules, how far an image is from those trained on, and what it resembles.

The distance is that of Mahalanobis among the leading principal components, with the error of
reconstructing the rest (as in multivariate process control: Jackson and Mudholkar, 1979). It needs
no wrong input. Logistic regressions on the same components tell what is nearly a slice of a head
MRI, such as a CT of the head. Each limit is a quantile of scores that images of other groups got.
"""

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from brainlib import paths
from brainlib.inference.gate.descriptors import contrast, describe_base, shrink
from brainlib.paths import BrainlibError

VERSION = "1"
"""Raised when an image would be described by other numbers."""

FALSE_REFUSALS = 0.016
"""The share of the images fitted on that all limits together may refuse, at most."""

BLANK = "it is blank"
STRANGE = "it does not look like a slice of a head MRI"
COMPONENTS, FOLDS, LEAST_IMAGES = 100, 5, 40
LEAST_CONTRAST, LEAST_SIDE, LONGEST_SHAPE = 12, 32, 3.0
_CLIP = 6.0  # standard deviations: what is far off is told by its distance, not by a straight line
_REGULARISATION = 0.1


class GateError(BrainlibError):
    """A gate that cannot be fitted or read."""


@dataclass(frozen=True, eq=False)
class Gate:
    """What an image is compared with; d numbers describe it, on k components.

    Attributes
    ----------
    mean, spread : float32 arrays of shape (d,)
        Of the descriptors of the images fitted on.
    components : float32 array of shape (k, d)
    variances : float32 array of shape (k,)
    residual : float32 array of shape ()
        Mean squared error of reconstruction.
    weights : float32 array of shape (m, k + 1)
        What tells each kind of wrong input from slices of head MRI; the constant is last.
    reasons : str array of shape (1 + m,)
        Why an image is refused, for the distance and for each kind.
    limits : float32 array of shape (1 + m,)
        The scores above which it is.
    """

    mean: np.ndarray
    spread: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    residual: np.ndarray
    weights: np.ndarray
    reasons: np.ndarray
    limits: np.ndarray


def refuse(gate: Gate, image: np.ndarray) -> str:
    """Return why an image is no slice that the network can answer for, or nothing.

    Parameters
    ----------
    gate : Gate
    image : uint8 array of shape (height, width)

    Returns
    -------
    str
        Empty where it is accepted, else a reason in words.

    Raises
    ------
    GateError
        Where it is no grey image of 8 bits.
    """
    impossible = _refuse_shape(image)
    if impossible:
        return impossible
    base = shrink(image)
    if contrast(base) < LEAST_CONTRAST:
        return BLANK
    return refused_described(gate, describe_base(base, image.shape)[np.newaxis])[0]


def refuse_plainly(image: np.ndarray) -> str:
    """Return why an image cannot be a slice, whatever was trained on, or nothing.

    Raises
    ------
    GateError
        Where it is no grey image of 8 bits.

    Examples
    --------
    >>> refuse_plainly(np.zeros((224, 224), np.uint8))
    'it is blank'
    """
    impossible = _refuse_shape(image)
    return impossible or (BLANK if contrast(shrink(image)) < LEAST_CONTRAST else "")


def _refuse_shape(image: np.ndarray) -> str:
    if image.ndim != 2 or image.dtype != np.uint8:
        raise GateError(
            f"an image of shape {image.shape} and type {image.dtype} is not grey of 8 bits: "
            "read it with imaging.open_scans"
        )
    height, width = image.shape
    if min(height, width) < LEAST_SIDE:
        return f"it is too small to judge, {width} by {height} pixels"
    if max(height, width) > LONGEST_SHAPE * min(height, width):
        return f"it is a strip of {width} by {height} pixels, not a slice"
    return ""


def describe(image: np.ndarray) -> np.ndarray:
    """Describe an image by numbers that do not change when it is mirrored.

    Returns
    -------
    float32 array of shape (d,)
    """
    return describe_base(shrink(image), image.shape)


def refused_described(gate: Gate, described: np.ndarray) -> list[str]:
    """Return why each described image is refused, or nothing.

    Parameters
    ----------
    gate : Gate
    described : float32 array of shape (n, d)

    Returns
    -------
    list of str
        Of the limits that an image exceeds, the reason of the most particular: a kind of wrong
        input that it resembles before its distance.
    """
    exceeded = _scores(gate, described) > gate.limits
    first = exceeded.shape[1] - 1 - exceeded[:, ::-1].argmax(axis=1)
    pairs = zip(first, exceeded.any(axis=1), strict=True)
    return [str(gate.reasons[reason]) if refused else "" for reason, refused in pairs]


def fit_gate(
    images: Iterable[np.ndarray],
    groups: Iterable | None = None,
    wrong: Mapping[str, Iterable[np.ndarray]] | None = None,
    quantile: float = 1 - FALSE_REFUSALS,
    seed: int = 0,
) -> Gate:
    """Fit a gate to images that it shall accept. Needs scikit-learn where `wrong` is given.

    Parameters
    ----------
    images : iterable of uint8 arrays of shape (height, width)
    groups : iterable, optional
        The group of each image: limits are set on images of groups not fitted on. Without it
        each image is a group of its own.
    wrong : mapping of str to iterables of uint8 arrays of shape (height, width), optional
        Images that it shall refuse, by the reason it shall give.
    quantile : float
        The share of the images that it shall accept at least.
    seed : int

    Raises
    ------
    GateError
        For fewer than 40 images, or a quantile that is not between 0.5 and 1.
    """
    described = [describe(one) for one in images]
    named = {reason: [describe(one) for one in found] for reason, found in (wrong or {}).items()}
    groups = range(len(described)) if groups is None else groups
    return fit_gate_to(np.array(described), groups, named, quantile, seed)


def fit_gate_to(
    described: np.ndarray,
    groups: Iterable,
    wrong: Mapping[str, Iterable[np.ndarray]],
    quantile: float = 1 - FALSE_REFUSALS,
    seed: int = 0,
) -> Gate:
    """Fit a gate to images that are described already; all else as for `fit_gate`.

    Parameters
    ----------
    described : float32 array of shape (n, d)
    groups : iterable of length n
    wrong : mapping of str to iterables of float32 arrays of shape (d,)
    """
    import threadpoolctl

    if len(described) < LEAST_IMAGES:
        raise GateError(f"{len(described)} images are too few: give at least {LEAST_IMAGES}")
    if not 0.5 < quantile < 1:
        raise GateError(f"quantile = {quantile}: it must lie between 0.5 and 1")
    groups = np.unique(list(groups), return_inverse=True)[1]
    fold = np.random.default_rng(seed).permutation(groups.max() + 1)[groups] % FOLDS
    stacked = {reason: np.array(list(found)) for reason, found in wrong.items()}
    # matrices this small are slower on several threads, and beside other work slower by far
    with threadpoolctl.threadpool_limits(1):
        scores = _held_out_scores(described, fold, stacked)
        each = 1 - (1 - quantile) / scores.shape[1]  # all limits together refuse what is allowed
        limits = np.quantile(scores, each, axis=0, method="higher")
        return _fit(described, stacked, limits)


def write_gate(gate: Gate, path: Path) -> None:
    """Write a gate to a `.npz` file: plain arrays, none of them an image."""
    arrays = {field.name: getattr(gate, field.name) for field in fields(Gate)}
    with paths.atomic_write(Path(path)) as temporary:
        np.savez_compressed(temporary, version=np.array(VERSION), **arrays)


def read_gate(path: Path | str) -> Gate:
    """Read a gate that `write_gate` wrote.

    Raises
    ------
    GateError
        Where the file is absent, damaged, no gate, or one of another version.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise GateError(f"{path} cannot be read as a gate ({error}): run `make release`") from error
    version = str(found.pop("version", "none"))
    if version != VERSION or set(found) != {field.name for field in fields(Gate)}:
        raise GateError(
            f"{path} holds no gate of version {VERSION} (its version: {version}): "
            "run `make release`"
        )
    return Gate(**found)


def _held_out_scores(
    described: np.ndarray, fold: np.ndarray, wrong: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return the scores that each image gets from a gate fitted on the other folds."""
    scores = np.empty((len(described), 1 + len(wrong)))
    for number in np.unique(fold):
        held_out = fold == number
        rest = described[~held_out] if (~held_out).any() else described
        scores[held_out] = _scores(_fit(rest, wrong), described[held_out])
    return scores


def _fit(
    described: np.ndarray,
    wrong: Mapping[str, np.ndarray],
    limits: np.ndarray | None = None,
) -> Gate:
    mean, spread = described.mean(axis=0), described.std(axis=0)
    spread = np.where(spread > 1e-6, spread, 1)
    standard = (described - mean) / spread
    variances, vectors = np.linalg.eigh(standard.T @ standard / len(standard))
    kept = np.argsort(-variances)[: min(COMPONENTS, len(standard) // 4)]
    components, variances = vectors[:, kept].T, variances[kept].clip(1e-6)
    residual = _residual(standard, standard @ components.T).mean()
    arrays = (mean, spread, components, variances, max(residual, 1e-6))
    unlimited = np.full(1 + len(wrong), np.inf) if limits is None else limits
    gate = Gate(
        *(np.asarray(array, np.float32) for array in arrays),
        weights=np.zeros((len(wrong), len(kept) + 1), np.float32),
        reasons=np.array([STRANGE, *wrong]),
        limits=unlimited.astype(np.float32),
    )
    for row, found in enumerate(wrong.values()):
        gate.weights[row] = _separate(_projected(gate, described), _projected(gate, found))
    return gate


def _separate(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return the weights and the constant of a logistic regression."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=_REGULARISATION, max_iter=1000, class_weight="balanced")
    model.fit(np.concatenate([right, wrong]), np.repeat([0, 1], [len(right), len(wrong)]))
    return np.append(model.coef_[0], model.intercept_)


def _scores(gate: Gate, described: np.ndarray) -> np.ndarray:
    """Return the distance and the resemblance to each kind, float array of shape (n, 1 + m)."""
    standard = (described - gate.mean) / gate.spread
    projected = standard @ gate.components.T
    distance = (projected**2 / gate.variances).mean(axis=1)
    distance += _residual(standard, projected) / gate.residual
    clipped = _projected(gate, described)
    resemblance = clipped @ gate.weights[:, :-1].T + gate.weights[:, -1]
    return np.column_stack([distance, resemblance])


def _projected(gate: Gate, described: np.ndarray) -> np.ndarray:
    standard = np.clip((described - gate.mean) / gate.spread, -_CLIP, _CLIP)
    return standard @ gate.components.T


def _residual(standard: np.ndarray, projected: np.ndarray) -> np.ndarray:
    """Return the mean squared error of each reconstruction; components are orthonormal."""
    return ((standard**2).sum(axis=1) - (projected**2).sum(axis=1)) / standard.shape[1]
