"""Run an exported model without TensorFlow: ONNX Runtime, NumPy, and nothing else.

The files are those of `brainlib.models.export`: one input `pixels`, uint8, whose four dimensions
are all free, and one output `probabilities`, float32, in `CLASS_NAMES` order.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from brainlib import CLASS_NAMES, paths
from brainlib.paths import BrainlibError

BATCH_SIZE = 64
BATCH_PIXELS = BATCH_SIZE * 512 * 512
"""Images and pixels that an engine is given at once; its memory grows with them."""

Engine = Callable[[np.ndarray], np.ndarray]
"""From uint8 `(n, height, width, 1 or 3)` to float32 `(n, 4)`."""

MapsEngine = Callable[[np.ndarray], dict[str, np.ndarray]]
"""The same with maps: `probabilities`, `outline`, `heat_map` and `field_of_view`, as
`models.with_maps` gives them."""

MAPS = ("field_of_view", "heat_map", "outline")


class EngineError(BrainlibError):
    """An engine that is not installed, or a file that it cannot run."""


def open_engine(model: Path | str, engine: str = "onnx", threads: int = 0) -> Engine:
    """Load a model for the engine that is asked for, from the file that this engine needs.

    Parameters
    ----------
    model : path of a model file
        Any of its copies, such as `model/lesion_net.keras`; the engine's own lies beside it.
    engine : str
        A name of `ENGINES`; the engine's file ends with it.
    threads : int
        Processor cores for ONNX Runtime; 0: all of them.

    Returns
    -------
    Engine

    Raises
    ------
    EngineError
        Where there is no such engine, its package is not installed, or its file is absent, damaged
        or of another model.

    Examples
    --------
    >>> open_engine("model/lesion_net.keras", "onnx")  # doctest: +SKIP
    """
    if engine not in ENGINES:
        raise EngineError(f"there is no engine {engine!r}: choose {', '.join(ENGINES)}")
    return ENGINES[engine](Path(model).with_suffix(f".{engine}"), threads)


def open_keras(path: Path, threads: int = 0) -> Engine:
    """Load a Keras file; its backend spreads over the cores by itself."""
    from brainlib import models

    try:
        return models.load_model(path).predict_on_batch
    except models.ModelError as error:
        raise EngineError(str(error)) from error


def batches(images: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Give neighbours of one size together, as many as fit into the memory.

    Parameters
    ----------
    images : iterable of arrays of shape (height, width)
    """
    batch: list[np.ndarray] = []
    for image in images:
        most = max(1, min(BATCH_SIZE, BATCH_PIXELS // image.size))
        if batch and (image.shape != batch[0].shape or len(batch) >= most):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def predict_onnx(path: Path | str, images: np.ndarray) -> np.ndarray:
    """Classify images with an ONNX file.

    Parameters
    ----------
    path : path of an `.onnx` file
        As `brainlib.models.export.export_onnx` writes it.
    images : uint8 array of shape (n, height, width, 1 or 3)
        Raw pixels, 0 to 255, grey or RGB, of any size.

    Returns
    -------
    float32 array of shape (n, 4)
        Probabilities in `CLASS_NAMES` order.

    Raises
    ------
    EngineError
        Where `onnxruntime` is not installed, the file is absent, damaged or of another model, or
        the images have another shape or type.

    Examples
    --------
    >>> predict_onnx("model/brain.onnx", np.zeros((5, 240, 200, 1), np.uint8))  # doctest: +SKIP
    """
    return open_onnx(path)(images)


def open_onnx(path: Path | str, threads: int | None = None) -> Engine:
    """Load an ONNX file once, to classify many times.

    Parameters
    ----------
    path : path of an `.onnx` file
    threads : int, optional
        Processor cores to use; all of them if it is left out.

    Returns
    -------
    Engine
        A function from images to probabilities, as `predict_onnx` takes and gives them. Several
        threads may call it.

    Raises
    ------
    EngineError
        Where `onnxruntime` is not installed, or the file is absent, damaged or of another model.
    """
    session = _open_session(path, threads, ["probabilities"])
    return _in_batches(lambda batch: session.run(["probabilities"], {"pixels": batch})[0])


ENGINES: dict[str, Callable[[Path, int], Engine]] = {"onnx": open_onnx, "keras": open_keras}
"""What can run a model, by the ending of the file that it needs."""

SUFFIXES = {name: f".{name}" for name in ENGINES}
"""The ending of the file of each engine."""


def open_maps(path: Path | str, threads: int | None = None) -> MapsEngine:
    """Load the ONNX file of a model with maps, as `open_onnx` does one without.

    Parameters
    ----------
    path : path of an `.onnx` file
        Such as `model/lesion_net_maps.onnx`.
    threads : int, optional
        Processor cores to use; all of them if it is left out.

    Returns
    -------
    MapsEngine
        For at most 64 images of 512 by 512 at a time: `explain.draw_maps` sees to that.

    Raises
    ------
    EngineError
        As `open_onnx`.
    """
    names = [*MAPS, "probabilities"]
    session = _open_session(path, threads, names)

    def draw(images: np.ndarray) -> dict[str, np.ndarray]:
        _require_images(images)
        return dict(zip(names, session.run(names, {"pixels": images}), strict=True))

    return draw


def _open_session(path: Path | str, threads: int | None, outputs: list[str]) -> Any:
    path = _require_file(path)
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError("onnxruntime is not installed: `pip install onnxruntime`") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    # threads that wait by spinning cost a third of the speed where the cores have other work too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a dozen classes of its own, without a parent
        raise EngineError(_damaged(path, error)) from error
    is_ours = [(one.name, one.type, len(one.shape)) for one in session.get_inputs()] == [
        ("pixels", "tensor(uint8)", 4)
    ] and sorted(one.name for one in session.get_outputs()) == sorted(outputs)
    _require_ours(is_ours, path, outputs)
    return session


def _in_batches(predict: Engine) -> Engine:
    def predict_all(images: np.ndarray) -> np.ndarray:
        _require_images(images)
        starts = range(0, len(images), BATCH_SIZE)
        answers = [predict(images[start : start + BATCH_SIZE]) for start in starts]
        return np.concatenate([np.empty((0, len(CLASS_NAMES)), np.float32), *answers])

    return predict_all


def _require_images(images: Any) -> None:
    shape, dtype = getattr(images, "shape", ()), getattr(images, "dtype", None)
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] not in (1, 3) or 0 in shape[1:]:
        raise EngineError(
            f"images of shape {tuple(shape)} and type {dtype} cannot be classified: give a uint8 "
            "array (n, height, width, 1 or 3) of raw pixels, 0 to 255"
        )


def _require_file(path: Path | str) -> Path:
    path = paths.resolve(path)
    if not path.is_file():
        raise EngineError(f"there is no file {path}: write it with brainlib.models.export")
    return path


def _require_ours(is_ours: bool, path: Path, outputs: list[str]) -> None:
    if not is_ours:
        raise EngineError(
            f"{path} holds another kind of model: one with the input pixels (uint8, four "
            f"dimensions) and the output {', '.join(outputs)} is needed, as "
            "brainlib.models.export writes it"
        )


def _damaged(path: Path, error: Exception) -> str:
    return (
        f"{path} cannot be loaded as an ONNX model; write it again with brainlib.models.export, or "
        f"fetch it anew ({error})"
    )
