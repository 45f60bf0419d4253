"""Out-of-distribution detection: plain rules, then a linear model of the network's own features.

What cannot be a slice (blank, tiny, a strip) is refused by rule. Of the rest, a multinomial
logistic regression tells slices of a head MRI from what is not, on the `features` of
`models.with_maps`: mean and deviation of each channel of the backbone, computed after the head was
found, so that margins do not matter. Linear probes of pretrained features detect near-distribution
inputs better than distances do (Hendrycks et al., 2019, outlier exposure).
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brainlib import paths
from brainlib.models import manifest
from brainlib.paths import BrainlibError

FALSE_REFUSALS = 0.012
"""Share of the images of unseen groups that the limit refuses."""

BLANK = "it is blank"
STRANGE = "it does not look like a slice of a head MRI"
LEAST_CONTRAST, LEAST_SIDE, LONGEST_SHAPE = 12, 32, 3.0
_REGULARIZATION, _CLIP, _FOLDS = 1e-3, 8.0, 5


@dataclass(frozen=True, eq=False)
class Gate:
    """A linear model of d features, for k kinds of wrong input.

    Attributes
    ----------
    mean, spread : float32 arrays of shape (d,)
        Of the features of accepted images; standardised features are clipped at 8.
    weights : float32 array of shape (1 + k, d + 1)
        Of the logits: accepted first, then each kind; the constant is last.
    reasons : str array of shape (k,)
        Why an image of each kind is refused.
    limit : float32 array of shape ()
        The log odds of a wrong input above which an image is refused.
    """

    mean: np.ndarray
    spread: np.ndarray
    weights: np.ndarray
    reasons: np.ndarray
    limit: np.ndarray


def refuse(gate: Gate, features: np.ndarray | None) -> list[str]:
    """Return why each image is no slice that the network can answer for, empty where it is one.

    Parameters
    ----------
    gate : Gate
    features : float array of shape (n, d)
        As `models.with_maps` gives them.

    Raises
    ------
    BrainlibError
        Where the gate is that of another model.
    """
    if np.shape(features)[1:] != gate.mean.shape:
        raise BrainlibError(
            f"the gate beside the model belongs to another one: it needs {len(gate.mean)} features "
            "of each image; make it anew, as docs/own_models.md shows, or take it away"
        )
    logits = _logits(gate, features)
    refused = ~(_log_odds(logits) <= gate.limit)  # also where they are no number
    kinds = logits[:, 1:].argmax(axis=1)
    return [str(gate.reasons[kind]) if is_refused else ""
            for kind, is_refused in zip(kinds, refused, strict=True)]  # fmt: skip


def refuse_plainly(image: np.ndarray) -> str:
    """Return why an image cannot be a slice, whatever was trained on; empty where it can.

    Parameters
    ----------
    image : uint8 array of shape (height, width)

    Examples
    --------
    >>> refuse_plainly(np.zeros((224, 224), np.uint8))
    'it is blank'
    """
    height, width = image.shape
    if min(height, width) < LEAST_SIDE:
        return f"it is too small to judge, {width} by {height} pixels"
    if max(height, width) > LONGEST_SHAPE * min(height, width):
        return f"it is a strip of {width} by {height} pixels, not a slice"
    step = max(1, min(height, width) // 128)
    low, high = np.percentile(image[::step, ::step], [0.5, 99.5])
    return BLANK if high - low < LEAST_CONTRAST else ""


def fit_gate(
    features: np.ndarray,
    groups: Iterable,
    wrong: Mapping[str, np.ndarray],
    strata: Iterable | None = None,
) -> Gate:
    """Fit a gate.

    The limit is the quantile of the log odds that images got from gates fitted on other groups.

    Parameters
    ----------
    features : float array of shape (n, d)
        Of images to accept.
    groups : iterable of length n
        Groups that are never divided, such as patients.
    wrong : mapping of str to float arrays of shape (m, d)
        Features of images to refuse, by the reason to give.
    strata : iterable of length n, optional
        Each stratum, such as the source of an image, weighs the same in the fit.

    Examples
    --------
    >>> heads = np.random.default_rng(0).normal(size=(60, 3))
    >>> gate = fit_gate(heads, range(60), {"it is a page of text": heads + 9})
    >>> refuse(gate, np.array([[0, 0, 0], [9, 9, 9]]))
    ['', 'it is a page of text']
    """
    from sklearn.model_selection import GroupKFold
    from sklearn.utils.class_weight import compute_sample_weight

    groups = np.asarray(list(groups))
    strata = np.zeros(len(features)) if strata is None else np.asarray(list(strata))
    weights = compute_sample_weight("balanced", strata)
    log_odds = np.empty(len(features))
    folds = GroupKFold(min(_FOLDS, len(np.unique(groups))))
    for rest, held_out in folds.split(features, groups=groups):
        gate = _fit(features[rest], weights[rest], wrong)
        log_odds[held_out] = _log_odds(_logits(gate, features[held_out]))
    limit = np.quantile(log_odds, 1 - FALSE_REFUSALS, method="higher")
    return _fit(features, weights, wrong, limit)


def write_gate(gate: Gate, path: Path) -> None:
    """Write a gate to an `.npz` file, whole or not at all."""
    with paths.atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **vars(gate))


def read_gate(path: Path) -> Gate | None:
    """Read a gate that `write_gate` wrote; None for a model of one's own that has none.

    Raises
    ------
    BrainlibError
        Where the file is damaged or no gate;
        where it is not the released one, or absent beside a released model.
    """
    content = manifest.read_file(path)
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            gate = Gate(**{name: stored[name] for name in stored.files})
        length = len(gate.mean)
        shapes = (gate.spread.shape, gate.weights.shape, gate.limit.shape)
        is_gate = shapes == ((length,), (1 + len(gate.reasons), length + 1), ())
        sums = [gate.limit, gate.weights.sum(), gate.mean.sum(), gate.spread.sum()]
        if not is_gate or not np.isfinite(sums).all() or gate.spread.min() <= 0:
            raise BrainlibError("it is none of this version")
        return gate
    except Exception as error:  # the archive, its arrays or their names may be what is damaged
        raise BrainlibError(f"{path} is no readable gate ({error}): run `make release`") from error


def _fit(
    features: np.ndarray, weights: np.ndarray, wrong: Mapping[str, np.ndarray], limit: float = 0.0
) -> Gate:
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-3
    kinds = np.repeat(np.arange(1 + len(wrong)), [len(features), *map(len, wrong.values())])
    examples = _standardize(np.concatenate([features, *wrong.values()]), mean, spread)
    weights = np.concatenate([weights, np.ones(len(kinds) - len(features))])
    model = LogisticRegression(C=_REGULARIZATION, max_iter=1000).fit(examples, kinds, weights)
    coefficients = np.column_stack([model.coef_, model.intercept_])
    if len(wrong) == 1:  # scikit-learn keeps one row for two kinds
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
    arrays = (np.asarray(array, np.float32) for array in (mean, spread, coefficients))
    return Gate(*arrays, np.array(list(wrong)), np.float32(limit))


def _standardize(features: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return np.clip((features - mean) / spread, -_CLIP, _CLIP)


def _logits(gate: Gate, features: np.ndarray) -> np.ndarray:
    standard = _standardize(features, gate.mean, gate.spread)
    return standard @ gate.weights[:, :-1].T + gate.weights[:, -1]


def _log_odds(logits: np.ndarray) -> np.ndarray:
    """Return the log odds of any wrong input against an accepted one."""
    return np.logaddexp.reduce(logits[:, 1:], axis=1) - logits[:, 0]
