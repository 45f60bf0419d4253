"""The second reading: lesion and kind of tumour from features that no training has changed."""

import logging

import keras
import numpy as np

from brainlib import CLASS_NAMES, models
from brainlib.training.augmentation import Augmentation, Augmenter
from brainlib.training.batches import Examples, cropped_examples
from brainlib.training.calibration import evidence_of

KIND_STRENGTH, LESION_STRENGTH = 0.03, 1e-3
"""C of the two logistic regressions, chosen by cross-validation on the training patients of fold 0
and on scans from elsewhere; neighbouring values change little."""

LESION_WEIGHT = 0.5
"""Of the second reading's log odds of a lesion. The whole of them holds better on scans from
elsewhere, none of them on the validation groups of fold 0."""

LESION_PLACES, OTHER_PLACES = 12, 24
"""Places drawn inside and outside the outline of each image."""

logger = logging.getLogger(__name__)


def add_second_reading(model: keras.Model, seen: Examples) -> keras.Model:
    """Return a trained model that reads tumours a second time, from ImageNet's features.

    Two logistic regressions are fitted on features of the backbone as ImageNet made it. One tells
    the kinds of tumour apart by features pooled inside the radiologists' outlines; its logits and
    those of the fine-tuned features are averaged (a logarithmic opinion pool), each at its own
    temperature. The other tells places inside an outline from other places of the same image; its
    log odds, the mean of the image left out, are added to those of the tissue map, at half weight,
    before the strongest regions are sought; the offset of the calibration makes up for what that
    adds to a typical image. Fine-tuned features are better on images like those of
    the training; those of ImageNet hold on images of other scanners. Outlines stay as they are.

    A model that draws no maps is returned as it is, and so is any where not every kind of tumour
    is outlined, as in a folder of one's own without outlines.

    Parameters
    ----------
    model : keras.Model
        A trained `lesion_net` that finds the head; calibrate it afterwards.
    seen : Examples
        What it was trained on.
    """
    if not models.draws_maps(model) or seen.outlines is None:
        return model
    network = models.network_of(model)
    outlined = seen.outlined & (seen.outlines >= 128).any(axis=(1, 2))
    is_tumor = seen.classes != CLASS_NAMES.index("notumor")
    if len(np.unique(seen.classes[outlined])) < len(models.KINDS) or is_tumor.all():
        logger.warning("no second reading: not every kind of tumour is outlined, or none healthy")
        return model
    augmenter = Augmenter(Augmentation(), network.input_shape[1], finds_head=True)
    squares, inside = _crop(seen, augmenter)
    offset, temperature, kind_temperature = models.calibration_of(model)
    pooled = pool(model, squares[outlined], inside[outlined])
    kernel, bias = fit_reading(pooled, np.tile(seen.classes[outlined], 2), KIND_STRENGTH)
    network.get_layer(models.SECOND_READING).set_weights(
        [kernel * kind_temperature, bias * kind_temperature]
    )
    places, is_lesion = draw_places(network, squares[outlined], inside[outlined])
    kernel = LESION_WEIGHT * fit_reading(places, is_lesion, LESION_STRENGTH)[0]
    before = _evidence(network, squares)
    for name in models.SECOND_EVIDENCE:
        layer = network.get_layer(name)
        count = layer.kernel.shape[2]
        layer.set_weights([kernel[:count].reshape(layer.kernel.shape)])
        kernel = kernel[count:]
    offset -= midpoint(_evidence(network, squares) - before, is_tumor)
    return models.recalibrate(model, (offset, temperature, 2 * kind_temperature))


def pool(model: keras.Model, squares: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the features of the lesions, of images and then of their mirror images.

    Parameters
    ----------
    model : keras.Model
    squares : float array of shape (n, size, size, 1)
    inside : float array of shape (n, size / 2, size / 2, 1)
        Share of tumour in each place.

    Returns
    -------
    float array of shape (2 n, channels)
    """
    pooler = models.build_pooler(model)
    views = ((squares, inside), (squares[:, :, ::-1], inside[:, :, ::-1]))
    return np.concatenate([pooler.predict(list(view), batch_size=64, verbose=0) for view in views])


def draw_places(
    network: keras.Model, squares: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw places inside and outside the outlines.

    Parameters
    ----------
    network : keras.Model
    squares, inside : float arrays
        As for `pool`; each image has an outline.

    Returns
    -------
    tuple of features, shape (places, channels), and bool array, which of them are in a lesion
    """
    kept = [network.get_layer(name).output for name in models.KEPT]
    reader, side = keras.Model(network.inputs, kept), kept[0].shape[1]
    step = inside.shape[1] // side
    shares = inside.reshape(len(inside), side, step, side, step).mean(axis=(2, 4))
    random = np.random.default_rng(0)
    drawn = []
    for start in range(0, len(squares), 64):
        rows = slice(start, start + 64)
        fine, coarse = reader.predict_on_batch(squares[rows])
        features = np.concatenate([fine, coarse.repeat(2, axis=1).repeat(2, axis=2)], axis=-1)
        features -= features.mean(axis=(1, 2), keepdims=True)
        for places, share in zip(features, shares[rows], strict=True):
            if share.max() >= 0.5:  # not where the lesion is smaller than a place
                lesion, other = places[share >= 0.5], places[share < 0.01]
                drawn += [random.choice(lesion, LESION_PLACES), random.choice(other, OTHER_PLACES)]
    is_lesion = np.repeat([True, False], [LESION_PLACES, OTHER_PLACES])
    return np.concatenate(drawn), np.tile(is_lesion, len(drawn) // 2)


def fit_reading(
    features: np.ndarray, classes: np.ndarray, strength: float, balanced: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a logistic regression.

    Parameters
    ----------
    features : float array of shape (n, channels)
    classes : array of shape (n,)
    strength : float
        C, the inverse of the regularisation.
    balanced : bool
        Weigh each class the same, however many examples it has.

    Returns
    -------
    tuple of kernel, shape (channels, outputs), and bias, shape (outputs,), of features as they are
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    weights = "balanced" if balanced else None
    fitted = LogisticRegression(C=strength, class_weight=weights, max_iter=1000)
    fitted.fit(scaler.fit_transform(features.astype(float)), classes)
    kernel = fitted.coef_.T / scaler.scale_[:, np.newaxis]
    return kernel, fitted.intercept_ - scaler.mean_ @ kernel


def midpoint(values: np.ndarray, is_tumor: np.ndarray) -> float:
    """Return where a logistic regression on one value sees tumour and none as equally likely.

    Both count the same, because tumours are commoner in the collection than in other scans.
    """
    kernel, bias = fit_reading(values[:, np.newaxis], is_tumor, 1.0, balanced=True)
    return float(-bias[0] / kernel[0, 0])


def _crop(seen: Examples, augmenter: Augmenter) -> tuple[np.ndarray, np.ndarray]:
    squares, inside = [], []
    for rows in np.array_split(np.arange(len(seen)), -(-len(seen) // 256)):  # spares memory
        grey, targets, _ = cropped_examples(seen.part(rows), augmenter)
        squares.append(grey)
        inside.append(1 - targets["tissue"][..., :1])
    return np.concatenate(squares), np.concatenate(inside)


def _evidence(network: keras.Model, squares: np.ndarray) -> np.ndarray:
    answers = keras.Model(network.inputs, network.get_layer("logits").output)
    return evidence_of(answers.predict(squares, batch_size=64, verbose=0))
