"""LesionNet, the released network: it outlines the tumour and reads the class from the outline.

An EfficientNet-Lite backbone with ImageNet weights and a feature pyramid (Lin et al., 2017) draw a
map of tissues. Whether there is a tumour is read from the strongest region of that map alone, which
tumour it is from features pooled inside the drawn lesion alone, so that the scanner, which the rest
of the image shows, cannot answer. Both are read twice: from fine-tuned features, and from features
that stay as ImageNet made them, which have never seen the scanners of the training images
(`training.add_second_reading`). Only training needs outlines.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from brainlib import CLASS_NAMES
from brainlib.models.efficientnet import add_backbone, load_imagenet
from brainlib.models.field_of_view import clear_ground, crop, find_head, hide_surroundings, to_grey

IMAGE_SIZE = 224
"""Height and width of the square around the head that the network sees, pixels."""

MAP_FACTOR = 2
"""How many pixels of the square one pixel of the tissue map is wide."""

SURROUNDINGS = (0.04, 0.16)
"""Standard deviations of the Gaussians of local contrast normalisation, share of the width."""

NETWORK_LAYER = "network"

KINDS = tuple(name for name in CLASS_NAMES if name != "notumor")
TISSUES = ("background", *KINDS)
"""The channels of the tissue map."""

SECOND_READING = "second_reading"
"""The layer that reads the kind from ImageNet's features; it adds nothing until it is fitted."""

SECOND_EVIDENCE = ("second_evidence8", "second_evidence16")
"""The layers that read "here is a lesion" from ImageNet's features, fitted in the same way."""

KEPT = ("imagenet_features8", "imagenet_features16")
"""The layers that give ImageNet's features at strides of 8 and 16."""

CALIBRATION = (2.7, 1.1, 1.8)
"""Calibration of the released network: offset and temperature of the logit of a tumour, and the
temperature of the logits of its kind (temperature scaling, Guo et al., 2017).

Training on erased lesions makes tumours rarer than they are. Fitted by log loss on the validation
groups of fold 0, on four networks of the recipes that were tried; `training.calibrate` fits that of
other trainings.
"""

_PYRAMID, _DRAWN, _DROPOUT = 96, 64, 0.3
_KEPT, _KEPT_STRIDES, _FINEST = "imagenet_", (8, 16), 4
_REGION, _STRONGEST = 3, 8
_BLUR = 2.0
"""Standard deviation of the Gaussian over which the heat map is spread, in places of four pixels:
its peak then lies inside the lesion more often."""


@dataclass(frozen=True)
class Parts:
    """Parts of the network that can be changed, to study what each brings.

    Attributes
    ----------
    pretrained : bool
        Start from ImageNet weights.
    size : int
        Height and width of the square around the head, pixels; a multiple of 32.
    find_head : bool
        Crop to the head; without it the whole image is scaled into the square.
    """

    pretrained: bool = True
    size: int = IMAGE_SIZE
    find_head: bool = True


def build_lesion_net(parts: Parts | None = None) -> keras.Model:
    """Build the released network, not yet fine-tuned: raw pixels in, probabilities out."""
    parts = parts or Parts()
    network = _build_network(parts)
    if parts.pretrained:
        load_imagenet(network, ("", _KEPT))
    return _with_preprocessing(network, parts)


def network_of(model: keras.Model) -> keras.Model:
    """Return the part that is trained: squares around heads in, `logits` and `tissue` out.

    It takes float grey values of shape (n, size, size, 1). It is a view of its own: compiling it
    leaves nothing in the model's file.
    """
    network = model.get_layer(NETWORK_LAYER)
    return keras.Model(network.input, network.output, name=NETWORK_LAYER)


def learner_of(model: keras.Model) -> keras.Model:
    """Return what is trained: the network without its second reading, which is fitted afterwards.

    Until then both give the same `logits` and `tissue`.
    """
    network = network_of(model)
    tissue, kinds = network.output["tissue"], network.get_layer("kinds").output
    logits = layers.Identity(name="logits")(_join(strongest_evidence(tissue), kinds))
    outputs = {"logits": logits, "tissue": tissue}
    return keras.Model(network.input, outputs, name=NETWORK_LAYER)


def recalibrate(model: keras.Model, calibration: tuple[float, float, float]) -> keras.Model:
    """Return a model of the same weights with another calibration, as `CALIBRATION` has it."""
    network = network_of(model)
    return _with_preprocessing(network, Parts(size=network.input_shape[1]), calibration)


def draws_maps(model: keras.Model) -> bool:
    """Return whether a model outlines the tumour, as `with_maps` needs it."""
    return NETWORK_LAYER in [layer.name for layer in model.layers]


def build_cropper(size: int = IMAGE_SIZE, finds_head: bool = True) -> keras.Model:
    """Build what crops images and masks alike, as the model does, for training.

    Returns
    -------
    keras.Model
        Takes `pixels` and `masks` (n, height, width) and `jitter` (n, 3): the shift down and right
        in units of the side, and the factor of the side. Gives a list of the two squares, each
        (n, size, size).
    """
    pixels = keras.Input((None, None), name="pixels")
    masks = keras.Input((None, None), name="masks")
    jitter = keras.Input((3,), name="jitter")
    cleared = clear_ground(pixels) if finds_head else pixels
    centre, side = _field_of_view(cleared, finds_head)
    centre = centre + side * jitter[:, :2]
    side = side * jitter[:, 2:]
    squares = [crop(images, centre, side, size) for images in (pixels, masks)]
    if finds_head:
        squares[0] = hide_surroundings(squares[0], crop(cleared, centre, side, size))
    return keras.Model([pixels, masks, jitter], squares, name="cropper")


def with_maps(model: keras.Model) -> keras.Model:
    """Return the model with its maps beside its probabilities.

    Returns
    -------
    keras.Model
        Gives a dict of `probabilities` (n, 4); `outline` (n, 112, 112), the probability that a
        place lies in a tumour; `heat_map` (n, 112, 112), what each place adds to the logit of the
        kind of tumour that is likeliest, against the mean of the kinds, 0 where it speaks against
        it; `field_of_view` (n, 3), row and column of the centre and side of the square that both
        cover, in pixels of the image; and `features` (n, 224), mean and deviation of each channel
        of the backbone at a stride of 16, for out-of-distribution detection. The logits are sums
        over places (class activation mapping, Zhou et al., 2016); what each place adds is spread
        over a Gaussian, which leaves the sum as it is.
    """
    maps = _build_maps(network_of(model), calibration_of(model))
    outputs = dict(maps(model.get_layer("head").output))
    outputs["field_of_view"] = model.get_layer("field_of_view").output
    return keras.Model(model.input, outputs, name=f"{model.name}_maps")


def _with_preprocessing(
    network: keras.Model, parts: Parts, calibration: tuple[float, float, float] = CALIBRATION
) -> keras.Model:
    pixels = keras.Input((None, None, None), name="pixels")
    grey = to_grey(pixels)
    cleared = clear_ground(grey) if parts.find_head else grey
    centre, side = _field_of_view(cleared, parts.find_head)
    view = layers.Concatenate(name="field_of_view")([centre, side])
    square = crop(grey, view[:, :2], view[:, 2:], parts.size)
    if parts.find_head:
        square = hide_surroundings(square, crop(cleared, view[:, :2], view[:, 2:], parts.size))
    square = layers.Reshape((parts.size, parts.size, 1), name="head")(square)
    logits = _calibrate(network(square)["logits"], calibration)
    probabilities = layers.Softmax(name="probabilities")(logits)
    return keras.Model(pixels, probabilities, name="lesion_net")


def _field_of_view(
    grey: keras.KerasTensor, finds_head: bool
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    if finds_head:
        return find_head(grey)
    height, width = (
        ops.sum(ops.ones_like(line), axis=1, keepdims=True) for line in (grey[:, :, 0], grey[:, 0])
    )
    return ops.concatenate([height, width], axis=1) / 2, ops.maximum(height, width)


def _build_network(parts: Parts) -> keras.Model:
    square = keras.Input((parts.size, parts.size, 1), name="head")
    features = add_backbone(_with_local_contrast(_standardize(square)) * 0.5)
    features = {
        stride: layers.Identity(name=f"features{stride}")(features[stride])
        for stride in (4, 8, 16, 32)
    }
    tissue, drawn = _decode(features)
    lesion = ops.sigmoid(_lesion_logits(tissue))
    pooled = _pool_lesion(lesion, {4: drawn, 16: features[16], 32: features[32]}, "pooled")
    kinds = layers.Dense(len(KINDS), name="kinds")(layers.Dropout(_DROPOUT, name="dropout")(pooled))
    early = add_backbone(features[4], range(2, 4), _KEPT)
    late = add_backbone(early[16], range(4, 5), _KEPT)
    kept = {
        8: layers.Identity(name=KEPT[0])(early[8]),
        16: layers.Concatenate(name=KEPT[1])([early[16], late[16]]),
    }
    second = layers.Dense(len(KINDS), kernel_initializer="zeros", name=SECOND_READING)
    kinds = kinds + second(_pool_lesion(lesion, kept, f"{_KEPT}pooled"))
    fine, coarse = (
        layers.Conv2D(1, 1, use_bias=False, kernel_initializer="zeros", name=name)(features)
        for name, features in zip(SECOND_EVIDENCE, kept.values(), strict=True)
    )
    second = fine + _enlarge(coarse)
    # the mean of the image is left out: it tells the scanner
    second = second - ops.mean(second, axis=(1, 2), keepdims=True)
    evidence = strongest_evidence(tissue, second=_enlarge(second))
    logits = layers.Identity(name="logits")(_join(evidence, kinds))
    network = keras.Model(square, {"logits": logits, "tissue": tissue}, name=NETWORK_LAYER)
    for layer in network.layers:
        layer.trainable = not layer.name.startswith((_KEPT, SECOND_READING, *SECOND_EVIDENCE))
    return network


def _standardize(square: keras.KerasTensor) -> keras.KerasTensor:
    """Bring each square to mean 0 and variance 1, whatever the scale of its grey values."""
    highest = ops.max(ops.abs(square), axis=(1, 2, 3), keepdims=True)
    x = square / ops.maximum(highest, 1e-6)
    return layers.LayerNormalization(
        axis=[1, 2, 3], center=False, scale=False, epsilon=1e-5, name="standardized"
    )(x)


def _with_local_contrast(x: keras.KerasTensor) -> keras.KerasTensor:
    """Add two channels of local contrast normalisation (Jarrett et al., 2009), fine and coarse.

    Mean and deviation around each place are Gaussian-weighted: two matrix products.
    """
    plane = x[..., 0]
    extent = ops.ones_like(plane[:1, :, 0])
    places = ops.cumsum(extent, axis=1) / ops.sum(extent, axis=1, keepdims=True)
    distance = ops.expand_dims(places, 1) - ops.expand_dims(places, 2)
    channels = [plane]
    for width in SURROUNDINGS:
        # no smaller than e**-40: products of denormal numbers are slow
        weights = ops.exp(-ops.minimum(ops.square(distance / width) / 2, 40.0))
        # the kernel is symmetric, so none is transposed, which ONNX Runtime is slow with
        down, across = (weights / ops.sum(weights, axis=axis, keepdims=True) for axis in (2, 1))
        mean, power = (
            ops.matmul(down, ops.tensordot(part, across[0], 1))
            for part in (plane, ops.square(plane))
        )
        deviation = ops.sqrt(ops.relu(power - ops.square(mean)) + 0.04)
        channels.append((plane - mean) / deviation)
    # stacked last they would be written value by value
    return layers.Permute((2, 3, 1), name="contrasts")(ops.stack(channels, axis=1))


def _decode(features: dict[int, keras.KerasTensor]) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return tissue logits at half the size of the square, and the features they come from."""
    strides = sorted(features, reverse=True)
    x = layers.Conv2D(_PYRAMID, 1, name=f"lateral{strides[0]}")(features[strides[0]])
    for stride in strides[1:]:
        width = _PYRAMID if stride > 4 else _DRAWN
        skip = layers.Conv2D(_PYRAMID, 1, name=f"lateral{stride}")(features[stride])
        x = layers.Add()([_enlarge(x), skip])
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"smooth{stride}")(x)
        x = layers.BatchNormalization(momentum=0.95, name=f"smooth{stride}_norm")(x)
        x = layers.ReLU(name=f"drawn{stride}")(x)
    tissue = layers.Conv2DTranspose(len(TISSUES), 2, strides=2, name="tissue")(x)
    return tissue, x


def _enlarge(x: keras.KerasTensor, factor: int = 2) -> keras.KerasTensor:
    """Repeat each place down and across; ONNX Runtime is slower with `UpSampling2D`."""
    size = factor * x.shape[1], factor * x.shape[2]
    return ops.image.resize(x, size, interpolation="nearest")


def _lesion_logits(tissue: keras.KerasTensor) -> keras.KerasTensor:
    """Return the log odds of lesion against background, (n, size, size, 1)."""
    return ops.logsumexp(tissue[..., 1:], axis=-1, keepdims=True) - tissue[..., :1]


def strongest_evidence(
    tissue: keras.KerasTensor,
    ignored: keras.KerasTensor | None = None,
    second: keras.KerasTensor | None = None,
) -> keras.KerasTensor:
    """Return the logit of "there is a tumour" (n, 1): the mean log odds of the strongest regions.

    Parameters
    ----------
    tissue : tensor of shape (n, size, size, 4)
        Logits of the tissue map.
    ignored : tensor of shape (n, size, size, 1), optional
        1 where evidence does not count.
    second : tensor of shape (n, size / 2, size / 2, 1), optional
        Log odds of another reading, which are added.
    """
    odds = _lesion_logits(tissue)
    if ignored is not None:
        odds = odds * (1 - ignored) - _NEVER * ignored
    odds = ops.average_pool(odds, MAP_FACTOR, MAP_FACTOR)
    if second is not None:
        odds = odds + second
    regions = ops.average_pool(odds, _REGION, 1, "same")
    strongest = ops.top_k(ops.reshape(regions, (-1, regions.shape[1] * regions.shape[2])),
                          _STRONGEST)[0]  # fmt: skip
    return ops.mean(strongest, axis=1, keepdims=True)


_NEVER = 20.0


def _join(evidence: keras.KerasTensor, kinds: keras.KerasTensor) -> keras.KerasTensor:
    """Return log probabilities (n, 4) from the logit of a tumour and the logits of its kind."""
    kind = ops.log_softmax(kinds, axis=-1) - ops.softplus(-evidence)
    none = -ops.softplus(evidence)
    position = CLASS_NAMES.index("notumor")
    parts = [kind[:, :position], none, kind[:, position:]]
    return layers.Concatenate()(parts)


def _calibrate(
    logits: keras.KerasTensor, calibration: tuple[float, float, float]
) -> keras.KerasTensor:
    """Return calibrated log probabilities (n, 4) of those that a network was trained to give."""
    offset, temperature, kind_temperature = calibration
    position = CLASS_NAMES.index("notumor")
    kinds = ops.concatenate([logits[:, :position], logits[:, position + 1 :]], axis=1)
    tumor = ops.logsumexp(kinds, axis=1, keepdims=True)
    evidence = layers.Rescaling(1 / temperature, offset / temperature, name="evidence")(
        tumor - logits[:, position : position + 1]
    )
    return _join(evidence, layers.Rescaling(1 / kind_temperature, name="tempered")(kinds))


def calibration_of(model: keras.Model) -> tuple[float, float, float]:
    """Return the calibration that a model's file holds, as `CALIBRATION` has it."""
    evidence, kinds = (model.get_layer(name) for name in ("evidence", "tempered"))
    return evidence.offset / evidence.scale, 1 / evidence.scale, 1 / kinds.scale


def build_pooler(model: keras.Model) -> keras.Model:
    """Build what pools the features of the second reading inside given lesions.

    Returns
    -------
    keras.Model
        Takes squares around heads (n, size, size, 1) and the share of tumour in each place of the
        tissue map (n, size / 2, size / 2, 1); gives features (n, channels).
    """
    network = network_of(model)
    size = network.input_shape[1] // MAP_FACTOR
    lesion = keras.Input((size, size, 1), name="lesion")
    inside = keras.Model(network.inputs, [network.get_layer(name).output for name in KEPT])
    square = keras.Input(network.input_shape[1:], name="head")
    features = dict(zip(_KEPT_STRIDES, inside(square), strict=True))
    return keras.Model([square, lesion], _pool_lesion(lesion, features, "pooled"), name="pooler")


def _lesion_shares(
    lesion: keras.KerasTensor, strides: tuple[int, ...]
) -> dict[int, keras.KerasTensor]:
    """Return the share of the lesion in each place at some strides; each sums to less than 1."""
    finest = layers.AveragePooling2D(_FINEST // MAP_FACTOR)(lesion)
    total = ops.sum(finest, axis=(1, 2), keepdims=True) + 0.5
    steps = {stride: stride // _FINEST for stride in strides}
    return {
        stride: layers.AveragePooling2D(step)(finest) * step**2 / total
        for stride, step in steps.items()
    }


def _pool_lesion(
    lesion: keras.KerasTensor, features: dict[int, keras.KerasTensor], name: str
) -> keras.KerasTensor:
    """Return features pooled inside the lesion, one vector an image."""
    shares = _lesion_shares(lesion, tuple(features))
    pooled = [ops.sum(features[stride] * share, axis=(1, 2)) for stride, share in shares.items()]
    return layers.Concatenate(name=name)(pooled)


def _build_maps(
    network: keras.Model, calibration: tuple[float, float, float] = CALIBRATION
) -> keras.Model:
    """Build the part that draws the maps: a graph of its own, where names may repeat."""
    square = keras.Input(network.input_shape[1:], name="head")
    readings = {
        "kinds": {4: "drawn4", 16: "features16", 32: "features32"},
        SECOND_READING: dict(zip(_KEPT_STRIDES, KEPT, strict=True)),
    }
    sources = [name for features in readings.values() for name in features.values()]
    inside = {name: network.get_layer(name).output for name in ("logits", "tissue", *sources)}
    seen = keras.Model(network.inputs, inside, name="features")(square)
    logits, tissue = seen["logits"], seen["tissue"]
    position = CLASS_NAMES.index("notumor")
    kinds = ops.concatenate([logits[:, :position], logits[:, position + 1 :]], axis=1)
    # not ops.argmax: it looks at bits to tell 0 from -0, which ONNX cannot
    likeliest = ops.cast(ops.equal(kinds, ops.max(kinds, axis=1, keepdims=True)), "float32")
    total = 0
    for layer, features in readings.items():
        kernel, start = network.get_layer(layer).kernel, 0
        kernel = kernel - ops.mean(kernel, axis=1, keepdims=True)  # softmax sees differences only
        for stride, name in features.items():
            width = seen[name].shape[-1]
            evidence = ops.matmul(seen[name], kernel[start : start + width])
            start += width
            total = total + _enlarge(evidence, stride // _FINEST)
    lesion = ops.sigmoid(_lesion_logits(tissue))
    # a share of lesion at a coarse place is the mean of those at its fine places, so this is exact
    total = total * _lesion_shares(lesion, (_FINEST,))[_FINEST]
    total = ops.sum(total * likeliest[:, None, None, :], axis=-1)
    spread = _spread(total.shape[1])
    total = ops.matmul(ops.matmul(spread.T, total), spread)[..., None]
    step = _FINEST // MAP_FACTOR
    total = layers.UpSampling2D(step, interpolation="bilinear")(total)[..., 0] / step**2
    heat_map = ops.relu(total) / calibration[2]
    outputs = {
        "probabilities": layers.Softmax(name="probabilities")(_calibrate(logits, calibration)),
        "outline": lesion[..., 0],
        "heat_map": heat_map,
        "features": _summarise(seen["features16"]),
    }
    return keras.Model(square, outputs, name="maps")


def _spread(size: int) -> np.ndarray:
    """Return Gaussian weights (size, size), float32, of which each row sums to 1."""
    places = np.arange(size)
    weights = np.exp(-(((places[:, None] - places) / _BLUR) ** 2) / 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _summarise(features: keras.KerasTensor) -> keras.KerasTensor:
    """Return mean and standard deviation of each channel over the image, (n, 2 channels)."""
    mean = ops.mean(features, axis=(1, 2), keepdims=True)
    deviation = ops.sqrt(ops.mean(ops.square(features - mean), axis=(1, 2)))
    return ops.concatenate([mean[:, 0, 0], deviation], axis=1)
