"""The released network: a small residual body that finds the tumour, and reads the class from it.

A decoder draws the tumour at half the size of the picture, one channel for each kind of tissue. The
class is read from the features pooled over that drawing beside those pooled over the whole picture,
so the lesion decides and not the scanner; only training needs an outline. Inspired by the
segmentation-driven classifiers of Díaz-Pernas et al. (2021) and the feature pyramid of Lin et al.
(2017); the blocks are the bottlenecks of He et al. (2016), normalised once a block, and the first
convolution not at all, because normalisation is what is slow on processors.
"""

from dataclasses import dataclass

import keras
from keras import layers, ops

from brainlib import CLASS_NAMES
from brainlib.models.folding import fold_normalisation

PICTURE_SIZE = 128
"""Height and width to which the released model scales its pictures, pixels."""

MAP_FACTOR = 2
"""How many pixels of the scaled picture one pixel of the tumour's map is wide."""

AROUND = (0.04, 0.16)
"""Standard deviation of what lies around a place, near and far, share of the picture's width."""

TISSUES = ("background", *(name for name in CLASS_NAMES if name != "notumor"))
"""The channels of the tumour's map."""

NETWORK_LAYER = "network"
_WIDTHS, _DEPTHS, _DECODER, _MAP_FEATURES = (64, 128, 256), (2, 3, 3), 64, 48
_DROPOUT = 0.2


@dataclass(frozen=True)
class Parts:
    """Parts of the network that can be left out, to study what each brings.

    Attributes
    ----------
    normalisation : bool
        Each picture is normalised; without it all are scaled alike.
    local_contrast : bool
        Each picture is seen twice more, each place held against what lies around it, near and far.
    lesion_pooling : bool
        The class is read from the lesion too; without it from the whole picture alone. `with_maps`
        knows only networks that have this part.
    """

    normalisation: bool = True
    local_contrast: bool = True
    lesion_pooling: bool = True


def build_brain_tumor(parts: Parts | None = None) -> keras.Model:
    """Build the released network, untrained: raw pixels in, probabilities out.

    Pictures become grey, are scaled to 128 by 128 with their proportions kept, and are normalised
    to mean 0 and variance 1 each, so that a scanner's window matters less; two more channels have
    each place normalised by what lies around it, near and far.

    Parameters
    ----------
    parts : Parts, optional
        All of them, unless something is to be left out.
    """
    return _with_preprocessing(_build_network(parts or Parts()))


def network_of(model: keras.Model) -> keras.Model:
    """Return the part that is trained: grey pictures in, `logits` and `tissue` logits out.

    It takes float grey values, 0 to 255, of shape (n, size, size, 1) for any size that 16 divides.
    It is a view of its own: compiling it leaves nothing in the model's file.
    """
    network = model.get_layer(NETWORK_LAYER)
    return keras.Model(network.inputs, network.output, name=NETWORK_LAYER)


def for_release(model: keras.Model, temperature: float) -> keras.Model:
    """Return a trained model as it is released: softened, and in fewer operations.

    Its logits are divided by a temperature, which leaves the classes the same, and its batch
    normalisation is folded into its convolutions.
    """
    return _with_preprocessing(fold_normalisation(network_of(model)), temperature)


def with_maps(model: keras.Model) -> keras.Model:
    """Return the model with its maps beside its probabilities.

    Returns
    -------
    keras.Model
        Gives a dict of `probabilities` (n, 4); `outline` (n, 64, 64), the probability that a pixel
        lies in a tumour; and `heat_map` (n, 64, 64), what each place adds to the logit of the
        class that is answered, 0 where it speaks against it. The map is exact: the logits are sums
        over places, so no gradient is needed (class activation mapping, Zhou et al., 2016). Both
        cover the square that the picture is scaled into, centred, its longer side filling it.
    """
    maps = _build_maps(network_of(model), model.get_layer("temperature").scale)
    outputs = maps(model.get_layer("grey_square").output)
    return keras.Model(model.inputs, outputs, name=f"{model.name}_maps")


def _build_maps(network: keras.Model, scale: float) -> keras.Model:
    """Build what draws the maps, a graph of its own: names in it may stand in the network too."""
    grey = keras.Input((None, None, 1), name="grey")
    logits, tissue, evidence = _evidence(network, grey)
    scaled = layers.Rescaling(scale)(logits)
    probabilities = layers.Softmax(name="probabilities")(scaled)
    # not ops.argmax: it looks at bits to tell 0 from -0, which ONNX cannot
    highest = ops.max(probabilities, axis=-1, keepdims=True)
    answered = ops.cast(ops.equal(probabilities, highest), "float32")
    heat_map = ops.relu(ops.sum(evidence * answered[:, None, None, :], axis=-1))
    outline = 1 - layers.Softmax(name="tissue_shares")(tissue)[..., 0]
    outputs = {"probabilities": probabilities, "outline": outline, "heat_map": heat_map}
    return keras.Model(grey, outputs, name="maps")


def _with_preprocessing(network: keras.Model, temperature: float = 1.0) -> keras.Model:
    pixels = keras.Input((None, None, None), name="pixels")
    scaled = _scale_to_square(ops.cast(pixels, "float32"), PICTURE_SIZE)
    square = layers.Reshape((PICTURE_SIZE, PICTURE_SIZE, 1), name="grey_square")(scaled)
    logits = network(square)["logits"]
    softened = layers.Rescaling(1 / temperature, name="temperature")(logits)
    probabilities = layers.Softmax(name="probabilities")(softened)
    return keras.Model(pixels, probabilities, name="brain_tumor")


def _scale_to_square(pixels: keras.KerasTensor, size: int) -> keras.KerasTensor:
    """Scale pictures (n, height, width, colours) into grey ones (n, size, size).

    They are centred, their proportions kept. Antialiased bilinear resampling as Pillow does it,
    written as two matrix products, because every backend and file format knows those for pictures
    of any size. The first takes the mean over the colours too.
    """
    rows, columns = ops.ones_like(pixels[:1, :, 0, 0]), ops.ones_like(pixels[:1, 0, :, 0])
    lengths = [ops.sum(extent, axis=1, keepdims=True) for extent in (rows, columns)]
    longest = ops.maximum(*lengths)
    down = _resampling(rows, longest, size)
    across = ops.transpose(_resampling(columns, longest, size), (2, 0, 1))
    colours = ops.ones_like(pixels[0, 0, 0])
    shares = ops.expand_dims(colours / ops.sum(colours), 1)
    return ops.matmul(down, ops.tensordot(pixels, across * shares, 2))


def _resampling(
    extent: keras.KerasTensor, longest: keras.KerasTensor, size: int
) -> keras.KerasTensor:
    """Return the weights (1, size, n) with which the n places of one axis make `size` new ones.

    `extent` is a tensor (1, n) of ones: its shape is known only when the model runs.
    """
    scale = longest / size
    middle = ops.sum(extent, axis=1, keepdims=True) / 2
    places = ops.cumsum(extent, axis=1) - 0.5
    # scale first: a JAX array asks what it is multiplied with to be one too
    centres = scale * (ops.arange(size, dtype="float32") + (0.5 - size / 2)) + middle
    # not places[:, None]: LiteRT has no slice that adds an axis before one of unknown length
    distance = ops.abs(ops.expand_dims(places, 1) - ops.expand_dims(centres, 2))
    weights = ops.relu(1 - distance / ops.expand_dims(ops.maximum(scale, 1.0), 2))
    return weights / ops.maximum(ops.sum(weights, axis=2, keepdims=True), 1e-6)


def _build_network(parts: Parts) -> keras.Model:
    grey = keras.Input((None, None, 1), name="grey")
    x = _normalise_pictures(parts)(grey)
    x = _with_local_contrast(x) if parts.local_contrast else x
    x = layers.ReLU()(_convolution(24, 5, 2, bias=True)(x))
    levels = []
    for width, depth in zip(_WIDTHS, _DEPTHS, strict=True):
        x = _convolution(width, 3, 2)(_normalised(x) if levels else x)
        for _ in range(depth):
            x = _bottleneck(x)
        levels.append(x)
    fine, middle, coarse = (
        _normalised(level, f"features_{name}")
        for level, name in zip(levels, ("fine", "middle", "coarse"), strict=True)
    )
    tissue, drawn = _decode(fine, middle, coarse)
    levels = {"drawn": drawn, "middle": middle, "coarse": coarse}
    pooled = _pool_by_lesion(tissue, levels) if parts.lesion_pooling else _pool_whole(coarse)
    dropped = layers.Dropout(_DROPOUT, name="dropout")(pooled)
    logits = layers.Dense(len(CLASS_NAMES), name="logits")(dropped)
    return keras.Model(grey, {"logits": logits, "tissue": tissue}, name=NETWORK_LAYER)


def _normalise_pictures(parts: Parts) -> layers.Layer:
    if not parts.normalisation:
        return layers.Rescaling(1 / 64, offset=-1.0)
    return layers.LayerNormalization(
        axis=[1, 2, 3], center=False, scale=False, epsilon=1.0, name="normalised"
    )


def _with_local_contrast(x: keras.KerasTensor) -> keras.KerasTensor:
    """Add channels in which each place is normalised by the places near it, and by those far off.

    Bright fat and vessels leave little of a picture's range to the brain; here a faint tumour
    stands out (local contrast normalisation, Jarrett et al., 2009). What lies around a place are
    the places that the picture, a square, has, weighted by a Gaussian: two matrix products, because
    pooling a single channel over wide windows is slow.
    """
    plane = x[..., 0]
    extent = ops.ones_like(plane[:1, :, 0])
    places = ops.cumsum(extent, axis=1) / ops.sum(extent, axis=1, keepdims=True)
    distance = ops.expand_dims(places, 1) - ops.expand_dims(places, 2)
    channels = [plane]
    for width in AROUND:
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


def _convolution(filters: int, size: int, strides: int = 1, bias: bool = False) -> layers.Conv2D:
    return layers.Conv2D(
        filters, size, strides, "same", use_bias=bias, kernel_initializer="he_normal"
    )


def _normalised(x: keras.KerasTensor, name: str | None = None) -> keras.KerasTensor:
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-4)(x)
    return layers.ReLU(name=name)(x)


def _bottleneck(x: keras.KerasTensor) -> keras.KerasTensor:
    width = x.shape[-1]
    h = _normalised(_convolution(width // 2, 1)(x))
    h = layers.ReLU()(_convolution(width // 2, 3, bias=True)(h))
    return layers.Add()([x, _convolution(width, 1, bias=True)(h)])


def _decode(
    fine: keras.KerasTensor, middle: keras.KerasTensor, coarse: keras.KerasTensor
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return tissue logits at half the size of the picture, and the features they come from."""
    x = _convolution(_DECODER, 1)(coarse)
    for skip, width in ((middle, _DECODER), (fine, _MAP_FEATURES)):
        x = layers.Add()([layers.UpSampling2D()(x), _convolution(_DECODER, 1)(skip)])
        x = _convolution(width, 3)(_normalised(x))
    drawn = _normalised(x, "features_drawn")
    return layers.Conv2DTranspose(len(TISSUES), 2, strides=2, name="tissue")(drawn), drawn


def _lesion_shares(tissue: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
    """Return the share of lesion in each place of the three levels, as weights with sum below 1."""
    # a softmax by hand: that of TensorFlow is slow where channels are few
    shares = ops.exp(tissue - ops.max(tissue, axis=-1, keepdims=True))
    lesion = 1 - shares[..., :1] / ops.sum(shares, axis=-1, keepdims=True)
    drawn = layers.AveragePooling2D(2)(lesion)
    total = ops.sum(drawn, axis=(1, 2), keepdims=True) + 0.5
    middle, coarse = (layers.AveragePooling2D(step)(drawn) for step in (2, 4))
    return {"drawn": drawn / total, "middle": middle * 4 / total, "coarse": coarse * 16 / total}


def _pool_by_lesion(
    tissue: keras.KerasTensor, features: dict[str, keras.KerasTensor]
) -> keras.KerasTensor:
    shares = _lesion_shares(tissue)
    pooled = [ops.sum(features[name] * share, axis=(1, 2)) for name, share in shares.items()]
    return layers.Concatenate(name="pooled")([*pooled, _pool_whole(features["coarse"])])


def _pool_whole(features: keras.KerasTensor) -> keras.KerasTensor:
    return layers.GlobalAveragePooling2D()(features)


def _evidence(network: keras.Model, grey: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Return logits, tissue logits, and what each place adds to each logit (n, size, size, 4)."""
    levels = {"drawn": 2, "middle": 4, "coarse": 8}
    names = ["logits", "tissue", *(f"features_{level}" for level in levels)]
    inside = [network.get_layer(name).output for name in names]
    logits, tissue, *features = keras.Model(network.inputs, inside, name="features")(grey)
    shares = _lesion_shares(tissue)
    kernel = network.get_layer("logits").kernel
    total, start = 0, 0
    for (level, step), feature in zip(levels.items(), features, strict=True):
        width = feature.shape[-1]
        added = ops.matmul(feature * shares[level], kernel[start : start + width])
        start += width
        if level == "coarse":
            places = ops.sum(ops.ones_like(added[..., :1]), axis=(1, 2), keepdims=True)
            added = added + ops.matmul(feature, kernel[start:]) / places
        # the bilinear spread keeps the sum too, and a place's share reaches where it looks
        total = total + layers.UpSampling2D(step, interpolation="bilinear")(added) / step**2
    return [logits, tissue, total]
