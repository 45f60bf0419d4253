"""Keras without the start-up notices of TensorFlow, which no variable turns off.

They would stand in red in the first output of a notebook. Import this before `keras`.
"""

import os
import sys

sys.stderr.flush()
_kept, _nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
os.dup2(_nowhere, 2)  # compiled code writes to the file descriptor
try:
    import keras  # noqa: F401
finally:
    os.dup2(_kept, 2)
    os.close(_kept)
    os.close(_nowhere)
