"""Run a saved model: ONNX Runtime, without TensorFlow, or Keras.

An ONNX file is one of `brainlib.models.export`: one input `pixels`, uint8, whose four dimensions
are all free, and the output `probabilities`, float32, in `CLASS_NAMES` order; LesionNet has those
of `models.with_maps` too.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brainlib import CLASS_NAMES, paths
from brainlib.models import manifest
from brainlib.paths import BrainlibError

if TYPE_CHECKING:
    import keras

CHUNK = 32
"""Images that are read, judged and classified at once: the one chunk on the way to the tables."""

BATCH = 8
"""Images that ONNX Runtime is given at once: more do not fit into the processor's cache."""

CHUNK_PIXELS = CHUNK * 512 * 512

MAPS = ("features", "field_of_view", "heat_map", "outline")
"""Outputs of a network that outlines the tumour, besides its `probabilities`."""

OUTPUTS = ({"probabilities"}, {"probabilities", *MAPS})
"""The outputs that a file may have."""


@dataclass(frozen=True, eq=False)
class Engine:
    """A model that is ready to classify; several threads may call it.

    Attributes
    ----------
    run : callable
        From uint8 `(n, height, width, 1 or 3)` to a dict of arrays of n rows.
    outputs : tuple of str
        Their names: `probabilities`, and `MAPS` for a network that outlines.
    """

    run: Callable[[np.ndarray], dict[str, np.ndarray]]
    outputs: tuple[str, ...]

    @property
    def draws_maps(self) -> bool:
        """Whether the model shows where it looks."""
        return set(MAPS) <= set(self.outputs)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run the model on images of one size.

        Parameters
        ----------
        images : uint8 array of shape (n, height, width, 1 or 3)
            Raw pixels, 0 to 255, grey or RGB.

        Returns
        -------
        dict of str to float32 arrays
            `probabilities` (n, 4) in `CLASS_NAMES` order, and what `models.with_maps` adds.

        Raises
        ------
        BrainlibError
            Where the model answers with anything but probabilities of the four classes.
        """
        outputs = self.run(images)
        answers = np.asarray(outputs["probabilities"])
        is_right = answers.shape == (len(images), len(CLASS_NAMES)) and (answers >= 0).all()
        if not is_right or not np.allclose(answers.sum(axis=1), 1, atol=1e-3):
            raise BrainlibError(
                f"the model does not give a probability for each of {', '.join(CLASS_NAMES)}: its "
                f"answer has the shape {answers.shape} and begins with {answers[:1].tolist()}"
            )
        return outputs


def open_engine(model: Path | str, engine: str = "onnx", threads: int = 0) -> Engine:
    """Load a model for an engine, from the file that this engine needs.

    Parameters
    ----------
    model : path of a model file
        Any of its copies, such as `model/lesion_net.keras`; the engine's own lies beside it.
    engine : str
        A name of `ENGINES`; the engine's file ends with it.
    threads : int
        Processor cores for ONNX Runtime; 0: all of them.

    Raises
    ------
    BrainlibError
        Where there is no such engine, its package is not installed, or its file is absent, damaged
        or of another model.

    Examples
    --------
    >>> open_engine("model/lesion_net.keras", "onnx")  # doctest: +SKIP
    """
    if engine not in ENGINES:
        raise BrainlibError(f"there is no engine {engine!r}: choose {', '.join(ENGINES)}")
    if Path(model).suffix[1:] not in ENGINES:  # of `net.v2`, the files of `net` would be taken
        raise BrainlibError(f"{model} is no model: name a .keras or .onnx file")
    file = Path(model).with_suffix(f".{engine}")
    if not (file.exists() or Path(model).exists() or manifest.beside(file)):
        raise BrainlibError(f"there is no file {model}: check the name")
    return ENGINES[engine](file, threads)


def open_keras(path: Path | str, threads: int = 0) -> Engine:
    """Load a Keras file; its backend spreads over the cores by itself."""
    from brainlib import models

    with paths.needs_extra("train"):
        return wrap_keras(models.load_model(path))


def wrap_keras(model: "keras.Model") -> Engine:
    """Return an engine that runs a Keras model, with its maps where it draws some."""
    from brainlib import models

    model = models.with_maps(model) if models.draws_maps(model) else model
    if isinstance(model.output, dict):
        return Engine(model.predict_on_batch, tuple(sorted(model.output)))
    return Engine(
        lambda images: {"probabilities": model.predict_on_batch(images)}, ("probabilities",)
    )


def open_onnx(path: Path | str, threads: int = 0) -> Engine:
    """Load an ONNX file, as `brainlib.models.export` writes it.

    Raises
    ------
    BrainlibError
        Where the file is absent, damaged or of another model.

    Examples
    --------
    >>> open_onnx("model/lesion_net.onnx")(np.zeros((5, 240, 200, 1), np.uint8))  # doctest: +SKIP
    """
    import onnxruntime

    path = paths.absolute(path)  # beside a link, and not beside its target, lies the manifest
    content = manifest.read_file(path)
    if content is None:
        raise BrainlibError(
            f"there is no file {path}: check the name, or write it with brainlib.models.export"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    # threads that wait by spinning cost a third of the speed where the cores have other work too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a dozen classes of its own, without a parent
        raise BrainlibError(
            f"{path} cannot be loaded as an ONNX model: write it again with "
            f"brainlib.models.export, or fetch it anew ({error})"
        ) from error
    inputs = [(entry.name, entry.type, len(entry.shape)) for entry in session.get_inputs()]
    names = tuple(output.name for output in session.get_outputs())
    if inputs != [("pixels", "tensor(uint8)", 4)] or set(names) not in OUTPUTS:
        raise BrainlibError(
            f"{path} holds another kind of model: one as brainlib.models.export writes it is "
            "needed, with the input pixels (uint8, four dimensions) and the output probabilities"
        )

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        parts = [session.run(names, {"pixels": batch}) for batch in batches]
        return dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True))

    return Engine(run, names)


ENGINES: dict[str, Callable[[Path, int], Engine]] = {"onnx": open_onnx, "keras": open_keras}
"""What can run a model, by the ending of the file that it needs."""


def chunks(items: Iterable) -> Iterator[list]:
    """Cut images, or what has `pixels`, into chunks of at most 32, fewer where they are large."""
    chunk, pixels = [], 0
    for item in items:
        chunk.append(item)
        pixels += np.size(getattr(item, "pixels", item))
        if len(chunk) == CHUNK or pixels >= CHUNK_PIXELS:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def run_chunk(run: Callable, images: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of a model, a row for each image; those of one size share a batch."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        by_size.setdefault(image.shape, []).append(row)
    results = []
    for rows in by_size.values():
        outputs = run(np.stack([images[row] for row in rows])[..., np.newaxis])
        results.append(outputs if isinstance(outputs, dict) else {"probabilities": outputs})
    order = np.argsort(np.concatenate(list(by_size.values())))
    return {name: np.concatenate([part[name] for part in results])[order] for name in results[0]}
