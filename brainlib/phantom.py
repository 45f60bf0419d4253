"""A lesion simulator on real anatomy, and the small synthetic collection that it writes.

The anatomy is nilearn's MNI152 average with a skull, a scalp and a face grown around it; each
patient has a deformation, a contrast and a lesion of their own. Coordinates are MNI millimetres (x
to the right, y to the front, z to the top); signals are multiples of white matter's.
"""

import functools
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from brainlib import CLASS_NAMES

PHANTOM_VERSION = "1"
"""Changes whenever the pixels of a seed do."""

PLANES = ("axial", "coronal", "sagittal")
COLUMNS = ("path", "patient", "source", "source_image", "mirrored", "plane", "outline")

Volume = tuple[np.ndarray, np.ndarray, float]  # voxels, MNI position of the first, spacing in mm

_CENTRE = np.array([[0.0], [-17.0], [8.0]])  # the middle of the brain
_AXES = {  # of a picture, as columns: to its right, downwards, from slice to slice
    "axial": np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1]]).T,
    "coronal": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]).T,
    "sagittal": np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]]).T,
}
_MIDDLES = {"axial": (0, -12, 0), "coronal": (0, 0, -6), "sagittal": (0, -8, -10)}
_VIEWS = {"axial": (210, 235), "coronal": (205, 230), "sagittal": (220, 245)}  # mm
_GRID = 2.5  # mm, of all that is grown around the template
_GREY_LEVELS = (0, 66, 166, 223, 255)  # of the template: nothing, CSF, grey and white matter
_CAVITIES = (  # centre and radii of what holds air: sinuses, nose, pharynx, mastoid cells
    ((0, 15, -52), (12, 12, 8)),
    ((0, 72, 2), (14, 5, 10)),
    ((6, 62, -54), (4, 24, 17)),
    ((-6, 62, -54), (4, 24, 17)),
    ((28, 58, -66), (12, 14, 14)),
    ((-28, 58, -66), (12, 14, 14)),
    ((0, 6, -92), (9, 7, 32)),
    ((58, -33, -42), (7, 9, 12)),
    ((-58, -33, -42), (7, 9, 12)),
)


@dataclass(frozen=True)
class Slice:
    """One picture and where its lesion is.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (size, size)
        Grey levels.
    lesion : ndarray of bool, shape (size, size)
        True on the tumour (enhancing rim and necrotic core, no oedema); all False for `notumor`.
    plane : str
        One of `PLANES`.
    """

    pixels: np.ndarray
    lesion: np.ndarray
    plane: str


@dataclass(frozen=True)
class _Anatomy:
    brain: Volume  # grey levels of the template
    white: Volume  # probability of white matter
    skull: Volume  # mm outside the skull's inner table, negative inside
    skin: Volume  # mm outside the head, negative inside
    soft: Volume  # signal outside the skull: fat, muscle, eyes, air
    seats: dict[str, tuple[np.ndarray, np.ndarray]]  # points (n, 3) for a lesion, and the way in


@dataclass(frozen=True)
class _Plane:
    """A square grid of points: `middle + right * step + down * step`, in mm."""

    middle: np.ndarray  # (3,)
    axes: np.ndarray  # (3, 2): right, down
    steps: np.ndarray  # (size,)

    def moved(self, matrix: np.ndarray, centre: np.ndarray) -> "_Plane":
        return _Plane(matrix @ (self.middle - centre) + centre, matrix @ self.axes, self.steps)

    def points(self) -> np.ndarray:
        right, down = (axis[:, None, None] for axis in self.axes.T)
        grid = right * self.steps + down * self.steps[:, None] + self.middle[:, None, None]
        return grid.reshape(3, -1).astype(np.float32)


class _Waves:
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

    def on(self, plane: _Plane) -> np.ndarray:
        """Return the same on a plane, (channels, size * size), where waves are separable."""
        start = self.amplitude * np.exp(1j * (self.frequency @ plane.middle + self.phase))
        right, down = np.exp(1j * (self.frequency @ plane.axes).T[:, :, None] * plane.steps)
        down = start[:, :, None] * down
        halves = np.concatenate([down.real, down.imag], 1).astype(np.float32)
        others = np.concatenate([right.imag, right.real]).astype(np.float32)
        # einsum and not matmul: as fast, and threads of a BLAS cannot get in each other's way
        return np.einsum("cwd,wr->cdr", halves, others).reshape(len(halves), -1)


@dataclass(frozen=True)
class _Lesion:
    label: str
    centre: np.ndarray  # (3,), mm in the template
    radius: float  # mm
    radii: np.ndarray  # (3,), multiples of `radius`
    side: float  # of the falx that it sits on, -1 or 1; 0 elsewhere
    enhancement: float
    core: float  # how far out the necrosis of a glioma reaches
    surface: _Waves
    texture: _Waves

    def level(self, points: np.ndarray, skull: np.ndarray) -> np.ndarray:
        """Return how far out each point is: below 1 inside the tumour, 1 on its surface."""
        offset = (points - _column(self.centre)) / _column(self.radius * self.radii)
        level = np.sqrt((offset**2).sum(0))
        near = level < 3
        level[near] *= 1 + self.surface.at(points[:, near])[0]
        if self.side:
            level = np.maximum(level, 1 + (1 - self.side * points[0]) / self.radius)
        if self.label != "pituitary":
            level = np.maximum(level, 1 + (skull + 0.5) / self.radius)
        return level

    def pushed_from(self, points: np.ndarray) -> np.ndarray:
        """Return where the tissue now at `points` was before the lesion pushed it away."""
        offset = points - _column(self.centre)
        distance = np.maximum(np.sqrt((offset**2).sum(0)), 1e-3) / self.radius
        before = np.cbrt(np.maximum(distance**3 - 0.5, 0.5 * distance**3))
        return _column(self.centre) + offset * (before / distance)

    def painted(
        self, signal: np.ndarray, points: np.ndarray, level: np.ndarray, white: np.ndarray
    ) -> np.ndarray:
        """Return the signal of tissue with the lesion in it."""
        coarse, fine = self.texture.at(points)
        tumour = self.enhancement * (1 + 0.2 * coarse + 0.2 * fine)
        if self.label == "glioma":
            signal = signal * (1 - 0.5 * white * np.clip(2.2 - level + coarse, 0, 1))
            core = _step((self.core + 0.4 * coarse - level) * self.radius, 3.0)
            tumour = _mix(tumour * (1 + 0.4 * coarse), 0.4 + 0.15 * fine, core)
        else:  # a thin cleft of CSF
            signal = _mix(signal, 0.4, 0.6 * _step((1.08 - level) * self.radius))
        return _mix(signal, tumour, _step((1 - level) * self.radius))


def simulate_patient(
    label: str, seed: int | np.random.SeedSequence = 0, slices: int = 8, size: int = 224
) -> list[Slice]:
    """Simulate the slices of one patient.

    Parameters
    ----------
    label : str
        One of `CLASS_NAMES`.
    seed : int or SeedSequence
        The same seed gives the same pixels.
    slices : int
        Number of pictures, shared out over the three planes; each of a tumour patient cuts the
        tumour.
    size : int
        Height and width, pixels, at least 64.

    Raises
    ------
    ValueError
        For an unknown label, no slices, or pictures that are too small.

    Examples
    --------
    >>> first = simulate_patient("pituitary", seed=1, slices=1, size=64)[0]
    >>> first.pixels.shape, first.pixels.dtype.name, bool(first.lesion.any())
    ((64, 64), 'uint8', True)
    """
    if label not in CLASS_NAMES:
        raise ValueError(f"no label {label!r}: choose one of {', '.join(CLASS_NAMES)}")
    if slices < 1 or size < 64:
        raise ValueError(f"slices must be at least 1 and size at least 64, not {slices} and {size}")
    random = np.random.default_rng(seed)
    patient = _Patient(label, random)
    pictures = []
    for turn, plane in enumerate(random.permutation(PLANES)):
        pictures += patient.series(str(plane), len(range(turn, slices, len(PLANES))), size)
    return pictures


class _Patient:
    """A head of its own, with its lesion."""

    def __init__(self, label: str, random: np.random.Generator) -> None:
        self.random = random
        self.anatomy = _anatomy()
        # a healthy head is sliced where a tumour could have been: position must not tell them apart
        likely = random.choice(["glioma", "meningioma", "pituitary"], p=[0.6, 0.25, 0.15])
        self.target = _lesion(str(likely) if label == "notumor" else label, random)
        self.lesion = None if label == "notumor" else self.target
        self.pose = _rotation(random.normal(0, 0.04, 3)) * random.normal(1, 0.025, 3)
        self.head = _Waves(random, (130, 260), 2.5, channels=3)
        self.gyri = _Waves(random, (25, 60), 1.0, channels=3)
        self.fluid, self.grey = random.uniform(0.22, 0.4), random.uniform(0.76, 0.88)
        self.fat, self.marrow = random.uniform(0.35, 0.75), random.uniform(0.3, 0.8)
        self.bone = random.uniform(4.5, 7)  # thickness of the skull, mm

    def series(self, plane: str, slices: int, size: int) -> list[Slice]:
        """Return the slices of one plane, spread over the lesion."""
        scanner = _Scanner(plane, size, self.random)
        centre = self.target.centre  # becomes where the head's shape has taken it
        for _ in range(4):
            moved = self.pose @ (centre - _CENTRE[:, 0]) + _CENTRE[:, 0]
            centre = centre + self.target.centre - moved - self.head.at(moved[:, None])[:, 0]
        reach = 0.5 * self.target.radius * float(self.target.radii.min())
        steps = (np.arange(slices) + self.random.uniform(0.2, 0.8, slices)) / max(slices, 1) * 2 - 1
        return [self._slice(scanner, centre, reach * step) for step in steps]

    def _slice(self, scanner: "_Scanner", centre: np.ndarray, offset: float) -> Slice:
        for nearer in (offset, offset / 2, 0.0):
            plane = scanner.plane_at(centre, nearer).moved(self.pose, _CENTRE[:, 0])
            points = plane.points() + self.head.on(plane)
            skin = _sample(self.anatomy.skin, points)
            head = skin < 1
            points = points[:, head]
            skull = _sample(self.anatomy.skull, points)
            level = self.target.level(points, skull)
            if (level < 1).sum() > 0.0012 * len(head):
                break
        signal, tumour = np.zeros(head.shape, np.float32), np.zeros_like(head)
        signal[head] = self._signal(points, points + self.gyri.on(plane)[:, head], skull, level)
        signal[head] *= _step(-skin[head])
        tumour[head] = (level < 1) & (self.lesion is not None)
        shape = (scanner.size, scanner.size)
        pixels = scanner.acquired(signal.reshape(shape), self.random)
        return Slice(pixels, _largest(tumour.reshape(shape)), scanner.name)

    def _signal(
        self, points: np.ndarray, tissue: np.ndarray, skull: np.ndarray, level: np.ndarray
    ) -> np.ndarray:
        """Return the signal at points whose tissue comes from elsewhere in the template."""
        tissue = self.lesion.pushed_from(tissue) if self.lesion else tissue
        known = (self.fluid, self.fluid, self.grey, 1, 1.1)
        inside = skull < 2
        signal = np.interp(_sample(self.anatomy.brain, tissue, inside), _GREY_LEVELS, known)
        signal = _enhanced_dura(signal, points, skull)
        if self.lesion is None:
            return self._covered(signal, points, skull)
        in_bone = self.lesion.label == "pituitary"  # its seat, the sella, is a hollow of the skull
        signal = self._covered(signal, points, skull) if in_bone else signal
        near = level < 3
        white = _sample(self.anatomy.white, tissue[:, near])
        signal[near] = self.lesion.painted(signal[near], points[:, near], level[near], white)
        return signal if in_bone else self._covered(signal, points, skull)

    def _covered(self, signal: np.ndarray, points: np.ndarray, skull: np.ndarray) -> np.ndarray:
        """Return the signal with skull, scalp, face and air around the brain."""
        soft = _sample(self.anatomy.soft, points, skull > 3)
        soft = np.where(soft > 1, 1 + (soft - 1) * self.fat, soft)
        signal = _mix(signal, 0.1, _step(skull - 0.8))
        marrow = _step(skull - 1.8) * _step(self.bone - 1.2 - skull)
        signal = _mix(signal, self.marrow, marrow)
        return _mix(signal, soft, _step(skull - self.bone))


class _Scanner:
    """One series: a plane, a field of view, a window, a coil and its noise."""

    def __init__(self, plane: str, size: int, random: np.random.Generator) -> None:
        self.name, self.size = plane, size
        self.axes = _rotation(random.normal(0, 0.04, 3)) @ _AXES[plane]
        view = random.uniform(*_VIEWS[plane])
        self.steps = ((np.arange(size) + 0.5) / size - 0.5) * view  # mm
        self.middle = _MIDDLES[plane] + self.axes[:, :2] @ random.normal(0, 3, 2)
        self.white = random.uniform(80, 100)  # grey level
        self.noise = random.uniform(1.5, 4.5)  # grey levels
        self.bias = _Waves(random, (180, 400), 0.07)

    def plane_at(self, centre: np.ndarray, offset: float) -> _Plane:
        """Return the pixels' positions, `offset` mm beside `centre`."""
        across = self.axes[:, 2]
        middle = self.middle + across * (across @ (centre - self.middle) + offset)
        return _Plane(middle, self.axes[:, :2], self.steps)

    def acquired(self, signal: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the picture of a signal: bias field, Rician noise (Gudbjartsson 1995), window."""
        plane = _Plane(np.zeros(3), np.eye(3)[:, :2], self.steps)
        bright = signal * np.exp(self.bias.on(plane)[0].reshape(signal.shape)) * self.white
        real, imaginary = self.noise * random.standard_normal((2, *signal.shape), np.float32)
        return np.clip(np.rint(np.hypot(bright + real, imaginary)), 0, 255).astype(np.uint8)


def _lesion(kind: str, random: np.random.Generator) -> _Lesion:
    """Place a lesion in the template where its kind sits."""
    seat = "falx" if kind == "meningioma" and random.random() < 0.4 else kind
    points, inward = _anatomy().seats[seat]
    chosen = random.integers(len(points))
    sizes = {"glioma": (17, 27), "meningioma": (19, 27), "pituitary": (8.5, 13)}
    radius = random.uniform(*sizes[kind])
    depth = {"glioma": 0.0, "meningioma": 0.5, "falx": 0.5, "pituitary": 0.9}[seat] * radius
    side = float(random.choice([-1, 1])) if seat == "falx" else 0.0
    inwards = np.array([side, 0, 0]) if side else inward[chosen]
    rough = {"glioma": 0.17, "meningioma": 0.04, "pituitary": 0.07}[kind]
    return _Lesion(
        label=kind,
        centre=points[chosen] + depth * inwards,
        radius=radius,
        radii=random.uniform(0.88, 1.14, 3),
        side=side,
        enhancement=random.uniform(1.9, 2.3),
        core=random.uniform(0.4, 0.75),
        surface=_Waves(random, (0.7 * radius, 2.2 * radius), rough, count=16),
        texture=_Waves(random, (5, 20), 0.25, channels=2, count=24),
    )


def _enhanced_dura(signal: np.ndarray, points: np.ndarray, skull: np.ndarray) -> np.ndarray:
    """Return the signal with contrast agent in the dura, the falx and the sagittal sinus."""
    x, y, z = points
    signal = _mix(signal, 0.8, 0.6 * _step(skull + 1.2))
    falx = _step((_falx(y, z) - 1) * 45) * _step(0.7 - np.abs(x)) * (z > -10)
    signal = _mix(signal, 1.0, 0.7 * falx)
    sinus = _step(3.5 - np.abs(x) + skull * 0.4) * _step(skull + 5) * ((z > 25) | (y < -85))
    return _mix(signal, 1.6, sinus * (y < 45))


def _falx(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return how far out a point of the midline is: the lower edge of the falx is at 1."""
    return np.hypot((y + 18) / 66, (z + 2) / 45)


def _step(distance: np.ndarray, width: float = 1.0) -> np.ndarray:
    """Return 0 below zero and 1 above, with an edge `width` wide."""
    return np.clip(distance / width + 0.5, 0, 1)


def _mix(below: np.ndarray, above: np.ndarray | float, opacity: np.ndarray) -> np.ndarray:
    return below + (above - below) * opacity


def _column(vector: np.ndarray) -> np.ndarray:
    return vector[:, None].astype(np.float32)


def _rotation(angles: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("xyz", angles).as_matrix()


def _largest(mask: np.ndarray) -> np.ndarray:
    parts, count = ndimage.label(mask)
    return parts == 1 + np.bincount(parts.ravel())[1:].argmax() if count > 1 else mask


def _sample(volume: Volume, points: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Return a volume's values at `points` (3, n), zero outside `where`."""
    voxels, origin, spacing = volume
    chosen = points if where is None else points[:, where]
    places = (chosen - _column(origin)) / np.float32(spacing)
    values = ndimage.map_coordinates(voxels, places, np.float32, order=1, mode="nearest")
    if where is None:
        return values
    everywhere = np.zeros(len(where), np.float32)
    everywhere[where] = values
    return everywhere


@functools.lru_cache(maxsize=1)
def _anatomy() -> _Anatomy:
    """Grow a head around the template (Fonov et al. 2009)."""
    from nilearn import datasets

    template = datasets.load_mni152_template(resolution=1)
    levels = np.asarray(template.dataobj, np.float32)
    levels *= 255 / levels.max()
    levels += 0.7 * (levels - ndimage.gaussian_filter(levels, 1.5, truncate=2.5))
    brain = (np.pad(np.clip(levels, 0, 255), 1), template.affine[:3, 3] - 1, 1.0)
    white_image = datasets.load_mni152_wm_template(resolution=1)
    white = (np.asarray(white_image.dataobj, np.float32), white_image.affine[:3, 3], 1.0)
    points = np.stack(np.mgrid[-110:112:_GRID, -136:132:_GRID, -142:118:_GRID]).astype(np.float32)
    x, y, z = points
    inside = _sample(brain, points.reshape(3, -1)).reshape(x.shape) > 20
    skull = _closed(inside | ((np.hypot(x, y + 46) < 9) & (z < -60)), 16, 1.0)
    skin = _closed(_head(skull, points), 15, 2.5)
    shells = {"skull": skull, "skin": skin, "soft": _soft(skin, points)}
    volumes = {name: (voxels, points[:, 0, 0, 0], _GRID) for name, voxels in shells.items()}
    return _Anatomy(brain=brain, white=white, seats=_seats(skull, white, points), **volumes)


def _closed(mask: np.ndarray, reach: float, smoothing: float) -> np.ndarray:
    """Fill gaps narrower than twice `reach`; return the distance to the edge, negative inside."""
    grown = ndimage.distance_transform_edt(~mask, _GRID) < reach
    distance = reach - ndimage.distance_transform_edt(grown, _GRID).astype(np.float32)
    return ndimage.gaussian_filter(distance, smoothing)


def _ellipsoid(points: np.ndarray, centre: tuple, radii: tuple) -> np.ndarray:
    """Return how far out each point is: below 1 inside the ellipsoid."""
    offsets = [(p - c) / r for p, c, r in zip(points, centre, radii, strict=True)]
    return np.sqrt(sum(offset**2 for offset in offsets))


def _head(skull: np.ndarray, points: np.ndarray) -> np.ndarray:
    x, y, z = points
    face = _ellipsoid(points, (0, 38, -58), (64, 50, 66)) < 1
    nose = _ellipsoid(points, (0, 86, -54), (15, 20, 22)) < 1
    neck = (np.hypot(x / 58, (y + 22) / 60) < 1) & (z < -40)
    return (skull < 12) | face | nose | neck


def _soft(skin: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the signal outside the skull: fat between muscles, vertebrae, eyes, air."""
    noise = np.random.default_rng(20).normal(size=skin.shape).astype(np.float32)
    texture = ndimage.gaussian_filter(noise, (1.3, 1.5, 2.0))
    texture = (texture + texture[::-1]) / (1.4 * texture.std())
    sheets = _step(0.22 - np.abs(texture), 0.3) * 0.7
    fat = np.maximum(sheets, _step(skin + 5.5, 4.0))
    soft = _mix(0.62 + 0.1 * texture, 2.1, fat)
    x, y, z = points
    vertebra = _step(1 - np.hypot(x / 13, (y + 26) / 10), 0.1) * (z < -68)
    disc = np.abs((z + 70) % 18 - 9) < 2.5
    soft = _mix(soft, np.where(disc, 0.35, 0.95), vertebra)
    for side in (-32, 32):
        soft = _mix(
            soft, 1.9, _step(1 - _ellipsoid(points, (side * 0.85, 50, -36), (19, 26, 17)), 0.2)
        )
        soft = _mix(
            soft, 0.7, _step(1 - _ellipsoid(points, (side * 0.75, 36, -34), (3, 22, 3)), 0.5)
        )
        globe = _ellipsoid(points, (side, 61, -36), (12.5, 12.5, 12.5))
        soft = _mix(_mix(soft, 0.8, _step(1 - globe, 0.2)), 0.3, _step(0.85 - globe, 0.15))
    for centre, radii in _CAVITIES:
        soft = _mix(soft, 0.05, _step(1 - _ellipsoid(points, centre, radii), 0.2))
    return soft.astype(np.float32)


def _seats(
    depth: np.ndarray, white: Volume, points: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return where the lesions of each kind can sit, and which way is into the head from there."""
    x, y, z = points
    whiteness = _sample(white, points.reshape(3, -1)).reshape(x.shape)
    whiteness = ndimage.gaussian_filter(whiteness, 1.5)
    sella = (np.abs(x) < 18) & (y > -25) & (y < 30) & (z < 0)
    where = {
        "glioma": (whiteness > 0.6) & (depth < -14) & (np.abs(x) > 16) & (z > -8),
        "meningioma": (np.abs(depth) < 1.5) & (z > -25) & ~sella & (np.abs(x) > 14),
        "falx": (np.abs(x) < 1.5) & (depth < -12) & (_falx(y, z) > 1.1) & (z > 0),
        "pituitary": (np.abs(x) < 3) & (y > 1) & (y < 9) & (np.abs(z + 41) < 2),
    }
    slopes = np.stack(np.gradient(-depth))
    slopes /= np.linalg.norm(slopes, axis=0) + 1e-6
    slopes[:, where["pituitary"]] = np.array([[0], [0], [1]])  # up, out of the sella
    return {name: (points[:, mask].T, slopes[:, mask].T) for name, mask in where.items()}


def write_phantom(
    folder: Path | str, patients: int = 60, slices: int = 8, size: int = 224, seed: int = 0
) -> Path:
    """Write a synthetic collection, laid out like the Kaggle one and leaky like it.

    `<folder>/{Training,Testing}/<class>/` holds grey JPEG pictures, and `images.csv` names for each
    its `path` (relative to the folder), `patient`, `source` (`phantom`), `source_image` (the same
    for all pictures of one slice), `mirrored` (0 or 1), `plane`, and `outline`: a JSON list of
    [x, y], pixels of that picture, empty where there is no lesion. On purpose one slice in ten is
    there twice and one in ten as its mirror image too, every other one of them across the splits;
    the split is drawn by picture, so most patients are on both sides; and two pictures of
    Training/notumor are PNG behind a `.jpg` name, one with an alpha channel and one with a palette.

    Parameters
    ----------
    folder : Path or str
        Where to write; must be absent or empty.
    patients : int
        A multiple of four: each class has as many.
    slices : int
        Pictures a patient, before copies; at least four pictures for each class.
    size : int
        Height and width, pixels, at least 64.
    seed : int
        The same seed and `PHANTOM_VERSION` write the same bytes.

    Returns
    -------
    Path
        The folder. It appears whole or not at all.

    Raises
    ------
    ValueError
        For numbers that are not allowed.
    FileExistsError
        Where the folder holds something already.

    Examples
    --------
    >>> write_phantom("my-phantom", patients=8, slices=3)  # doctest: +SKIP
    PosixPath('my-phantom')
    """
    folder = Path(folder)
    _check_numbers(patients, slices, size)
    _check_absent(folder)
    *seeds, layout_seed = np.random.SeedSequence(seed).spawn(patients + 1)
    layout = _layout(patients, slices, np.random.default_rng(layout_seed))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        whole = Path(temporary) / folder.name
        for place in sorted({Path(path).parent for path in layout["path"]}):
            (whole / place).mkdir(parents=True)
        rows = _write_pictures(whole, layout, seeds, slices, size)
        rows.to_csv(whole / "images.csv", index=False, encoding="utf-8", lineterminator="\n")
        _check_absent(folder)  # another process may have been faster
        if folder.exists():
            folder.rmdir()
        whole.rename(folder)
    return folder


def _check_numbers(patients: int, slices: int, size: int) -> None:
    if patients < 4 or patients % 4:
        raise ValueError(f"patients must be a multiple of 4, as many for each class: {patients}")
    if slices < 1 or patients // 4 * slices < 4:
        raise ValueError(f"{patients} patients of {slices} slices: each class needs 4 slices")
    if size < 64:
        raise ValueError(f"size must be at least 64 pixels, not {size}")


def _check_absent(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists: delete it, or choose another folder")


def _layout(patients: int, slices: int, random: np.random.Generator) -> pd.DataFrame:
    """Return one row per file: patient, slice, label, form, path."""
    numbers = np.arange(patients * slices)
    table = pd.DataFrame({"patient": numbers // slices, "slice": numbers % slices, "form": "plain"})
    table["label"] = np.array(CLASS_NAMES)[table["patient"] % len(CLASS_NAMES)]
    place_in_class = table.groupby("label")["form"].transform(
        lambda rows: random.permutation(len(rows))
    )
    table["split"] = np.where(place_in_class % 5 == 0, "Testing", "Training")
    odd = table.index[(table["label"] == "notumor") & (table["split"] == "Training")][:2]
    table.loc[odd, "form"] = ["alpha", "palette"]
    copies = table.loc[random.permutation(numbers)[: 2 * max(1, round(len(table) / 10))]].copy()
    copies["form"] = np.resize(["duplicate", "mirror"], len(copies))
    across = np.arange(len(copies)) // 2 % 2 == 0
    other = np.where(copies["split"] == "Testing", "Training", "Testing")
    copies["split"] = copies["split"].where(~across, other)
    table = pd.concat([table, copies], ignore_index=True)
    table = table.loc[random.permutation(len(table))].reset_index(drop=True)
    number = (table.groupby(["split", "label"]).cumcount() + 1).map("{:04d}".format)
    name = table["split"].str[:2] + "-" + table["label"].str[:2] + "_" + number + ".jpg"
    table["path"] = table["split"] + "/" + table["label"] + "/" + name
    return table


def _write_pictures(
    folder: Path, layout: pd.DataFrame, seeds: list, slices: int, size: int
) -> pd.DataFrame:
    from joblib import Parallel, delayed
    from tqdm.auto import tqdm

    _anatomy()  # once, before the threads ask for it
    jobs = (
        delayed(_write_patient)(folder, files, seeds[patient], slices, size)
        for patient, files in layout.groupby("patient")
    )
    workers = Parallel(n_jobs=min(2, os.cpu_count() or 1), prefer="threads", return_as="generator")
    rows = list(tqdm(workers(jobs), total=len(seeds), desc="phantom", unit="patient", delay=2))
    table = pd.DataFrame([row for patient in rows for row in patient], columns=COLUMNS)
    return table.sort_values("path")


def _write_patient(
    folder: Path, files: pd.DataFrame, seed: np.random.SeedSequence, slices: int, size: int
) -> list[tuple]:
    pictures = simulate_patient(str(files["label"].iloc[0]), seed, slices, size)
    rows = []
    for file in files.itertuples():
        picture, patient = pictures[file.slice], f"phantom-{file.patient + 1:04d}"
        mirrored = file.form == "mirror"
        _encode(
            picture.pixels[:, ::-1] if mirrored else picture.pixels, file.form, folder / file.path
        )
        outline = _outline(picture.lesion[:, ::-1] if mirrored else picture.lesion)
        original = f"{patient}-{file.slice + 1:02d}"
        rows.append(
            (file.path, patient, "phantom", original, int(mirrored), picture.plane, outline)
        )
    return rows


def _encode(pixels: np.ndarray, form: str, path: Path) -> None:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if form == "alpha":
        image.convert("RGBA").save(path, "PNG")
    elif form == "palette":  # back to front, so that an index taken for a grey level shows
        reversed_image = Image.frombytes("P", pixels.shape[::-1], (255 - pixels).tobytes())
        reversed_image.putpalette(np.repeat(np.arange(255, -1, -1), 3).astype(np.uint8).tobytes())
        reversed_image.save(path, "PNG")
    else:
        image.save(path, "JPEG", quality=85 if form == "duplicate" else 90)


def _outline(lesion: np.ndarray) -> str:
    """Return the longest outline of a mask as JSON, empty where there is none."""
    import contourpy

    if not lesion.any():
        return ""
    field = np.pad(lesion, 1).astype(float)
    lines = contourpy.contour_generator(z=field).lines(0.5)
    longest = max(lines, key=len) - 1
    return json.dumps(np.round(longest[::2], 1).tolist())
