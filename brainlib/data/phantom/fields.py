"""Smooth random fields, planes of points and volumes in MNI millimetres."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

Volume = tuple[np.ndarray, np.ndarray, float]  # voxels, MNI position of the first, spacing in mm


@dataclass(frozen=True)
class Plane:
    """A square grid of points: `middle + right * step + down * step`, in mm."""

    middle: np.ndarray  # (3,)
    axes: np.ndarray  # (3, 2): right, down
    steps: np.ndarray  # (size,)

    def moved(self, matrix: np.ndarray, centre: np.ndarray) -> "Plane":
        """Return the plane rotated and scaled about `centre`."""
        return Plane(matrix @ (self.middle - centre) + centre, matrix @ self.axes, self.steps)

    def points(self) -> np.ndarray:
        """Return the position of each point, (3, size * size)."""
        right, down = (axis[:, None, None] for axis in self.axes.T)
        grid = right * self.steps + down * self.steps[:, None] + self.middle[:, None, None]
        return grid.reshape(3, -1).astype(np.float32)


class Waves:
    """A smooth random field of one or more channels: a sum of plane waves."""

    def __init__(
        self,
        random: np.random.Generator,
        wavelengths: tuple[float, float],
        spread: float,
        channels: int = 1,
        count: int = 8,
    ) -> None:
        direction = random.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        self.frequency = 2 * np.pi * direction / random.uniform(*wavelengths, size=(count, 1))
        self.phase = random.uniform(0, 2 * np.pi, count)
        self.amplitude = random.normal(size=(channels, count)) * spread * np.sqrt(2 / count)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Return the field (channels, n) at `points` (3, n)."""
        angles = np.einsum("wx,xn->wn", self.frequency.astype(np.float32), points)
        waves = np.sin(angles + self.phase[:, None].astype(np.float32))
        return np.einsum("cw,wn->cn", self.amplitude.astype(np.float32), waves)

    def on(self, plane: Plane) -> np.ndarray:
        """Return the field on a plane, (channels, size * size), where waves are separable."""
        start = self.amplitude * np.exp(1j * (self.frequency @ plane.middle + self.phase))
        right, down = np.exp(1j * (self.frequency @ plane.axes).T[:, :, None] * plane.steps)
        down = start[:, :, None] * down
        halves = np.concatenate([down.real, down.imag], 1).astype(np.float32)
        others = np.concatenate([right.imag, right.real]).astype(np.float32)
        # einsum rather than matmul: as fast, and independent of the threads of a BLAS
        return np.einsum("cwd,wr->cdr", halves, others).reshape(len(halves), -1)


def sample(volume: Volume, points: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Return the values of a volume at `points` (3, n), zero outside `where`."""
    voxels, origin, spacing = volume
    chosen = points if where is None else points[:, where]
    coordinates = (chosen - column(origin)) / np.float32(spacing)
    values = ndimage.map_coordinates(voxels, coordinates, np.float32, order=1, mode="nearest")
    if where is None:
        return values
    everywhere = np.zeros(len(where), np.float32)
    everywhere[where] = values
    return everywhere


def edge(distance: np.ndarray, width: float = 1.0) -> np.ndarray:
    """Return 0 below zero and 1 above, with a linear transition of `width`."""
    return np.clip(distance / width + 0.5, 0, 1)


def mix(below: np.ndarray, above: np.ndarray | float, opacity: np.ndarray) -> np.ndarray:
    """Return `below` blended with `above` by opacity (alpha compositing)."""
    return below + (above - below) * opacity


def column(vector: np.ndarray) -> np.ndarray:
    """Return a vector as a float32 column, to broadcast over points (3, n)."""
    return vector[:, None].astype(np.float32)


def rotation(angles: np.ndarray) -> np.ndarray:
    """Return the rotation matrix of three Euler angles, radians."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("xyz", angles).as_matrix()
