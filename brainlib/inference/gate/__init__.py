"""Is an image a slice like those that the network was trained on? If not, it is refused.

`model` holds the gate: NumPy and Pillow, nothing else, so that one image is answered at once.
`wrong_inputs` makes the images it is fitted against and tried on; that needs more packages and is
imported only by those who do so.
"""

from brainlib.inference.gate.model import (
    Gate,
    GateError,
    describe,
    fit_gate,
    fit_gate_to,
    read_gate,
    refuse,
    refuse_plainly,
    refused_described,
    write_gate,
)

__all__ = [
    "Gate",
    "GateError",
    "describe",
    "fit_gate",
    "fit_gate_to",
    "read_gate",
    "refuse",
    "refuse_plainly",
    "refused_described",
    "write_gate",
]
