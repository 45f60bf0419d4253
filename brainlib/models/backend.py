"""Keras without the start-up notices of TensorFlow, which no variable turns off.

They would stand in red in the first output of a notebook. Import this before `keras`.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Send what compiled code writes to standard error nowhere."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


with _no_stderr():
    import keras  # noqa: F401
