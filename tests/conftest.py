"""Heads and a small network that several test files share."""

import keras
import numpy as np
import pytest
from stand_ins import write_model

from brainlib import CLASS_NAMES, inference
from brainlib.data import phantom
from brainlib.models import efficientnet, lesion_net

BLOCKS = (
    (1, 3, 1, 1, 16), (1, 3, 2, 6, 16), (1, 5, 2, 6, 24), (2, 3, 2, 6, 32), (1, 5, 1, 6, 32),
    (1, 5, 2, 6, 40),
)  # fmt: skip
"""A backbone that compiles in a third of the time, with every kind of block."""


@pytest.fixture(scope="session")
def heads():
    """Simulate slices of two phantom patients of each class."""
    return [
        slice_
        for label in CLASS_NAMES
        for seed in range(2)
        for slice_ in phantom.simulate_patient(label, seed, slices=1, size=128)
    ]


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory):
    """Write a phantom of a patient of each class; do not change it."""
    target = tmp_path_factory.mktemp("phantom") / "small"
    return phantom.write_phantom(target, patients=4, slices=4, size=64)


@pytest.fixture(scope="session")
def task(tmp_path_factory):
    """Return the classification by a model that goes by brightness."""
    return inference.Task(write_model(tmp_path_factory.mktemp("model") / "small.onnx"))


@pytest.fixture(scope="session")
def build_small():
    """Return a function that builds a narrow LesionNet for squares of 64 pixels."""

    def build(seed=1):
        keras.utils.set_random_seed(seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(efficientnet, "BLOCKS", BLOCKS)
            return lesion_net.build_lesion_net(lesion_net.Parts(size=64, pretrained=False))

    return build


@pytest.fixture(scope="session")
def small_network(build_small, heads):
    """Return an untrained LesionNet, normalised so that answers vary; do not change it."""
    model = build_small()
    pixels = np.stack([head.pixels for head in heads])[..., None]
    squares = keras.Model(model.input, model.get_layer("head").output)(pixels)
    network = model.get_layer(lesion_net.NETWORK_LAYER)
    normalizing = [
        layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in normalizing:
        layer.momentum = 0.0
    network(squares, training=True)
    for layer in normalizing:
        layer.momentum = 0.95
    names = ("kinds", lesion_net.SECOND_READING, *lesion_net.SECOND_EVIDENCE)
    kinds, *seconds = (network.get_layer(name) for name in names)
    kinds.kernel.assign(5 * kinds.kernel)
    for second in seconds:
        second.kernel.assign(np.random.default_rng(1).normal(0, 0.1, second.kernel.shape))
    kinds.bias.assign([0.3, -0.2, -0.1])
    network.get_layer("tissue").bias.assign([2.0, 0.2, 0.0, -0.2])
    return model
