"""The model as ONNX, which runs without TensorFlow.

It takes raw pixels, uint8, with a free number, height, width and number of channels, and is
compared with the Keras model before it is put in place. `brainlib.models.engines` runs them.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from brainlib import CLASS_NAMES, paths
from brainlib.models import engines
from brainlib.paths import BrainlibError

if TYPE_CHECKING:
    import tensorflow

TOLERANCE = 1e-4
"""Largest difference between the probabilities of a file and those of the Keras model."""

ONNX_OPSET = 17
"""Version of the operators of ONNX: every ONNX Runtime since 1.12 (2022) runs it."""

AXES = ("batch", "height", "width", "channels")
"""The names of the free dimensions."""

PROBE_SHAPES = ((1, 64, 64, 1), (5, 150, 90, 1), (2, 61, 233, 3))
"""Shapes of the noise on which a file must agree with the Keras model."""


def export_onnx(model: keras.Model, path: Path | str) -> None:
    """Write a model as an ONNX file.

    Its one input is `pixels`, uint8 `(batch, height, width, channels)`, all four free; its output
    is `probabilities`, float32 `(batch, 4)`, and for a network that outlines tumours those of
    `models.with_maps` too. The names of the classes are kept in its metadata under `classes`, with
    commas between them.

    Parameters
    ----------
    model : keras.Model
        One of ours, that gives the four probabilities of raw pixels.
    path : Path or str
        Where to write it, ending in `.onnx`; an older file there is replaced.

    Raises
    ------
    BrainlibError
        Where `tf2onnx` is not installed, Keras runs on another backend than TensorFlow, the model
        has an operation that ONNX lacks, or the file's answers differ from the model's.

    Examples
    --------
    >>> export_onnx(model, "model/brain.onnx")  # doctest: +SKIP
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise BrainlibError(f"{path} does not end in .onnx: give it a name that does")
    from brainlib import models

    model = models.with_maps(model) if models.draws_maps(model) else model
    expected = engines.wrap_keras(model)
    frozen = _freeze(model, expected.outputs)
    tensors = [tensor.name for tensor in (*frozen.inputs, *frozen.outputs)]
    with paths.needs_extra("export"):
        import onnx
        import tf2onnx
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel("ERROR")  # it warns that tf2onnx uses functions of its version 1
    try:
        onnx_model, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(), input_names=tensors[:1], output_names=tensors[1:],
            tensors_to_rename=dict(zip(tensors, ("pixels", *expected.outputs), strict=True)),
            opset=ONNX_OPSET,
        )  # fmt: skip
        onnx.checker.check_model(onnx_model)  # the converter passes on what it does not know
    except Exception as error:  # it tells only of an operation
        reason = str(error).partition("\n")[0]
        raise BrainlibError(
            f"the model {model.name} cannot be converted to ONNX: replace the operation that is "
            f"named here by others of keras.ops ({reason})"
        ) from error
    finally:
        logger.setLevel(level)
    for value in (*onnx_model.graph.input, *onnx_model.graph.output):
        axes = AXES if value.name == "pixels" else AXES[:1]
        for axis, name in zip(value.type.tensor_type.shape.dim, axes, strict=False):
            axis.dim_param = name
    for attribute in (entry for node in onnx_model.graph.node for entry in node.attribute):
        if attribute.s == b"tf_half_pixel_for_nn":  # the same for whole factors, and much faster
            attribute.s = b"asymmetric"
    onnx_model.metadata_props.add(key="classes", value=",".join(CLASS_NAMES))
    with paths.atomic_write(path) as temporary:
        temporary.write_bytes(onnx_model.SerializeToString())
        for shape in PROBE_SHAPES:
            noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            difference = largest_difference(engines.open_onnx(temporary)(noise), expected(noise))
            if not difference <= TOLERANCE:  # NaN is a difference too
                raise BrainlibError(
                    f"{path.name} was not written: for images of the shape {shape} it differs "
                    f"from the Keras model by {difference:.2g}, and {TOLERANCE} is allowed; please "
                    "report it with the model"
                )


def _freeze(
    model: keras.Model, outputs: tuple[str, ...]
) -> "tensorflow.types.experimental.ConcreteFunction":
    """Return the model as one TensorFlow function, in which the weights are constants.

    `model.export` is not used. Tensors that a model holds besides its weights, such as that of
    `ops.arange(…)`, become inputs of its ONNX file.
    """
    if keras.backend.backend() != "tensorflow":
        raise BrainlibError(
            f"Keras runs on {keras.backend.backend()}, and only TensorFlow can export: save the "
            "model, then load and export it in a process with KERAS_BACKEND=tensorflow"
        )
    probabilities = model.output["probabilities"] if len(outputs) > 1 else model.output
    is_ours = set(outputs) in engines.OUTPUTS
    if not is_ours or getattr(probabilities, "shape", ()) != (None, len(CLASS_NAMES)):
        raise BrainlibError(
            f"the model {model.name} has the outputs {model.output}: only the probabilities of "
            f"{', '.join(CLASS_NAMES)}, alone or with those of models.with_maps, are exported"
        )
    import tensorflow
    from tensorflow.python.framework import convert_to_constants

    signature = tensorflow.TensorSpec((None,) * 4, tensorflow.uint8, name="pixels")
    function = tensorflow.function(
        lambda pixels: model(pixels, training=False), input_signature=[signature]
    ).get_concrete_function()
    return convert_to_constants.convert_variables_to_constants_v2(function)


def largest_difference(answers: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return how far any output is from what is expected, in units of its highest value above 1."""
    return max(
        float(np.abs(answers[name] - values).max() / max(1.0, np.abs(values).max()))
        for name, values in expected.items()
    )
