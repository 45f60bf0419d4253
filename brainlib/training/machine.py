"""What the machine that trains can do."""

import os
from pathlib import Path

import keras

from brainlib.paths import BrainlibError
from brainlib.training.schedules import Schedule

PRECISION_VARIABLE = "BRAINLIB_PRECISION"
PRECISIONS = ("float32", "bfloat16")

_PROCESSOR = Path("/proc/cpuinfo")
_MATRIX_UNIT = "amx_bf16"


class PrecisionError(BrainlibError):
    """A precision that does not exist."""


def precision_for(schedule: Schedule, asked: str | None = None) -> str:
    """Return what this machine computes the convolutions of a fit in.

    It is float32 for a schedule without sizes. For the others it is what is asked for, here or else
    in `BRAINLIB_PRECISION`; otherwise bfloat16 with TensorFlow on a processor that multiplies
    matrices of it (Intel's AMX), and float32 elsewhere: without such a unit bfloat16 is slower.

    Parameters
    ----------
    schedule : Schedule
    asked : {"float32", "bfloat16"}, optional

    Raises
    ------
    PrecisionError
        Where something else is asked for.
    """
    asked = asked or os.environ.get(PRECISION_VARIABLE, "")
    if asked and asked not in PRECISIONS:
        raise PrecisionError(
            f"there is no precision {asked!r}: set {PRECISION_VARIABLE} to one of "
            f"{', '.join(PRECISIONS)}, or leave it out"
        )
    if not schedule.sizes:
        return "float32"
    is_fast = keras.backend.backend() == "tensorflow" and _has_matrix_unit()
    return asked or ("bfloat16" if is_fast else "float32")


def _has_matrix_unit() -> bool:
    return _PROCESSOR.is_file() and _MATRIX_UNIT in _PROCESSOR.read_text("utf-8").split()
