"""The form in which a network is released: the same answers, from fewer operations.

Once training is over, batch normalisation is a scale and an offset for each channel. A convolution
before it can do that by itself (Jacob et al., 2018); where there is none, a convolution of each
channel by one weight does it, which every engine joins with the rectifier behind it.
"""

from collections import Counter
from itertools import chain
from typing import Any

import keras
import numpy as np
from keras import layers, tree


def fold_normalisation(network: keras.Model) -> keras.Model:
    """Return a copy of a network that does without batch normalisation.

    Parameters
    ----------
    network : keras.Model
        As `network_of` gives it; its batch normalisation has a scale and an offset.

    Returns
    -------
    keras.Model
        It answers as the network does outside training, and is not meant to be trained again.
    """
    scales, offsets, gone = {}, {}, set()
    for layer, convolutions in _normalisations(network).items():
        scale, offset = _scale_and_offset(layer)
        if convolutions:
            gone.add(layer.name)
            scales |= {convolution.name: scale for convolution in convolutions}
            offsets[convolutions[0].name] = offset
        else:
            scales[layer.name], offsets[layer.name] = scale, offset

    def copy(layer: layers.Layer) -> layers.Layer:
        if isinstance(layer, layers.BatchNormalization):
            return layers.DepthwiseConv2D(1, name=layer.name)
        bias = {"use_bias": True} if layer.name in offsets else {}
        return type(layer).from_config(layer.get_config() | bias)

    def call(layer: layers.Layer, *inputs: Any, **options: Any) -> keras.KerasTensor:
        options.pop("mask", None)  # there is none, and a convolution takes none
        return inputs[0] if layer.name in gone else layer(*inputs, **options)

    answering = keras.models.clone_model(network, clone_function=copy, call_function=call)
    for layer in answering.layers:
        trained = network.get_layer(layer.name)
        if isinstance(trained, layers.BatchNormalization):
            kernel = scales[layer.name].reshape(layer.kernel.shape)
            layer.set_weights([kernel, offsets[layer.name]])
            continue
        weights = [each * scales.get(layer.name, 1) for each in trained.get_weights()]
        if layer.name in offsets:
            kernel, *bias = weights
            weights = [kernel, sum(bias) + offsets[layer.name]]
        layer.set_weights(weights)
    return answering


def _normalisations(
    network: keras.Model,
) -> dict[layers.BatchNormalization, list[layers.Conv2D]]:
    """Return the convolutions whose sum each normalises, none where it is of anything else too."""
    makers = {id(one.output): one for one in network.layers}
    read = [one.input for one in network.operations if not isinstance(one, layers.InputLayer)]
    readers = Counter(map(id, tree.flatten([read, network.output])))

    def convolutions_in(tensor: keras.KerasTensor) -> list[layers.Conv2D]:
        maker = makers.get(id(tensor))
        if readers[id(tensor)] > 1:
            return []
        if isinstance(maker, layers.Conv2D) and maker.activation is keras.activations.linear:
            return [maker]
        if not isinstance(maker, layers.Add | layers.UpSampling2D):
            return []
        parts = [convolutions_in(part) for part in tree.flatten(maker.input)]
        return list(chain(*parts)) if all(parts) else []

    return {
        layer: convolutions_in(layer.input)
        for layer in network.layers
        if isinstance(layer, layers.BatchNormalization)
    }


def _scale_and_offset(layer: layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    gamma, beta, mean, variance = layer.get_weights()
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return scale, beta - mean * scale
