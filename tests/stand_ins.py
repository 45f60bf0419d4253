"""A model by brightness, and scans whose brightness says their class."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

BAND = 64
"""Grey values that the model by brightness gives to each class."""


def write_model(file):
    """Write a model that is sure of class 0 below grey 64, of class 1 below 128, and so on."""
    steps = np.arange(4, dtype=np.float32)
    constants = {"scale": 50 * steps[np.newaxis] / BAND, "offset": -25 * steps * (steps + 1)}
    nodes = [
        helper.make_node("Cast", ["pixels"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["grey"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Gemm", ["mean", "scale", "offset"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "by_brightness",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", "h", "w", "c"])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), file)
    return file.with_suffix(".keras")


def grey_of(number):
    return number % 4 * BAND + BAND // 2


def contents(folder):
    """Return the bytes of each file below a folder."""
    return {file.relative_to(folder): file.read_bytes()
            for file in folder.rglob("*") if file.is_file()}  # fmt: skip


def draw(place, names):
    """Write images, or as many whose names say their order, one of each class after the other."""
    place.mkdir(parents=True, exist_ok=True)
    names = [f"{number:05d}.png" for number in range(names)] if isinstance(names, int) else names
    for number, name in enumerate(names):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 8 + number % 8), grey_of(number)).save(place / name)
    return place
