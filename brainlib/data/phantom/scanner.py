"""Simulated scanner: plane, field of view, window, coil sensitivity and noise."""

import numpy as np

from brainlib.data.phantom.fields import Plane, Waves, rotation

PLANES = ("axial", "coronal", "sagittal")

_AXES = {  # image axes as columns: right, down, from slice to slice
    "axial": np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1]]).T,
    "coronal": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]).T,
    "sagittal": np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]]).T,
}
_MIDDLES = {"axial": (0, -12, 0), "coronal": (0, 0, -6), "sagittal": (0, -8, -10)}
_VIEWS = {"axial": (205, 220), "coronal": (205, 220), "sagittal": (220, 235)}  # mm


class Scanner:
    """The settings of one series."""

    def __init__(self, plane: str, size: int, random: np.random.Generator) -> None:
        self.name, self.size = plane, size
        self.axes = rotation(random.normal(0, 0.04, 3)) @ _AXES[plane]
        view = random.uniform(*_VIEWS[plane])
        self.steps = ((np.arange(size) + 0.5) / size - 0.5) * view  # mm
        self.middle = _MIDDLES[plane] + self.axes[:, :2] @ random.normal(0, 2, 2)
        self.white = random.uniform(90, 102)  # grey level
        self.noise = random.uniform(1.5, 3.5)  # grey levels
        self.bias = Waves(random, (180, 400), 0.07)

    def plane_at(self, centre: np.ndarray, offset: float) -> Plane:
        """Return the positions of the pixels of a slice `offset` mm from `centre`."""
        across = self.axes[:, 2]
        middle = self.middle + across * (across @ (centre - self.middle) + offset)
        return Plane(middle, self.axes[:, :2], self.steps)

    def acquired(self, signal: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the image of a signal: bias field, Rician noise (Gudbjartsson 1995), window."""
        plane = Plane(np.zeros(3), np.eye(3)[:, :2], self.steps)
        bright = signal * np.exp(self.bias.on(plane)[0].reshape(signal.shape)) * self.white
        real, imaginary = self.noise * random.standard_normal((2, *signal.shape), np.float32)
        return np.clip(np.rint(np.hypot(bright + real, imaginary)), 0, 255).astype(np.uint8)
