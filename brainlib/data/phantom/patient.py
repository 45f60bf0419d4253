"""Simulated patients: an individual head with a lesion, and slices through it by a scanner."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from brainlib.data.phantom import anatomy
from brainlib.data.phantom.anatomy import Plane, Waves, edge, mix, rotation, sample

PLANES = ("axial", "coronal", "sagittal")

_AXES = {  # image axes as columns: right, down, from slice to slice
    "axial": np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1]]).T,
    "coronal": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]).T,
    "sagittal": np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]]).T,
}
_MIDDLES = {"axial": (0, -12, 0), "coronal": (0, 0, -6), "sagittal": (0, -8, -10)}
_VIEWS = {"axial": (205, 220), "coronal": (205, 220), "sagittal": (220, 235)}  # mm

_CENTRE = np.array([[0.0], [-17.0], [8.0]])  # the middle of the brain
_GREY_LEVELS = (0, 66, 166, 223, 255)  # of the template: nothing, CSF, grey and white matter


@dataclass(frozen=True)
class Slice:
    """One simulated image with the mask of its lesion.

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
        Number of images, distributed over the three planes; each one of a tumour patient cuts the
        tumour.
    size : int
        Height and width, pixels, at least 64.

    Examples
    --------
    >>> first = simulate_patient("pituitary", seed=1, slices=1, size=64)[0]
    >>> first.pixels.shape, first.pixels.dtype.name, bool(first.lesion.any())
    ((64, 64), 'uint8', True)
    """
    random = np.random.default_rng(seed)
    patient = Patient(label, random)
    images = []
    for turn, plane in enumerate(random.permutation(PLANES)):
        images += patient.series(str(plane), len(range(turn, slices, len(PLANES))), size)
    return images


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


class Patient:
    """An individual head, with its lesion."""

    def __init__(self, label: str, random: np.random.Generator) -> None:
        self.random = random
        self.anatomy = anatomy.grow_anatomy()
        # a healthy head is sliced where a tumour could be: position must not separate the classes
        likely = random.choice(["glioma", "meningioma", "pituitary"])
        self.target = anatomy.place_lesion(str(likely) if label == "notumor" else label, random)
        self.lesion = None if label == "notumor" else self.target
        self.pose = rotation(random.normal(0, 0.04, 3)) * random.normal(1, 0.025, 3)
        self.head = Waves(random, (130, 260), 2.5, channels=3)
        self.gyri = Waves(random, (25, 60), 1.0, channels=3)
        self.fluid, self.grey = random.uniform(0.22, 0.4), random.uniform(0.76, 0.88)
        self.fat, self.marrow = random.uniform(0.25, 0.5), random.uniform(0.3, 0.6)
        self.bone = random.uniform(4.5, 7)  # thickness of the skull, mm

    def series(self, plane: str, slices: int, size: int) -> list[Slice]:
        """Return the slices of one plane, distributed over the lesion."""
        scanner = Scanner(plane, size, self.random)
        centre = self.target.centre  # moves with the deformation of the head
        for _ in range(4):
            moved = self.pose @ (centre - _CENTRE[:, 0]) + _CENTRE[:, 0]
            centre = centre + self.target.centre - moved - self.head.at(moved[:, None])[:, 0]
        reach = 0.5 * self.target.radius * float(self.target.radii.min())
        steps = (np.arange(slices) + self.random.uniform(0.2, 0.8, slices)) / max(slices, 1) * 2 - 1
        return [self._slice(scanner, centre, reach * step) for step in steps]

    def _slice(self, scanner: Scanner, centre: np.ndarray, offset: float) -> Slice:
        for nearer in (offset, offset / 2, 0.0):
            plane = scanner.plane_at(centre, nearer).moved(self.pose, _CENTRE[:, 0])
            points = plane.points() + self.head.on(plane)
            skin = sample(self.anatomy.skin, points)
            head = skin < 1
            points = points[:, head]
            skull = sample(self.anatomy.skull, points)
            level = self.target.level(points, skull)
            if (level < 1).sum() > 0.0012 * len(head):
                break
        signal, tumour = np.zeros(head.shape, np.float32), np.zeros_like(head)
        signal[head] = self._signal(points, points + self.gyri.on(plane)[:, head], skull, level)
        signal[head] *= edge(-skin[head])
        tumour[head] = (level < 1) & (self.lesion is not None)
        shape = (scanner.size, scanner.size)
        pixels = scanner.acquired(signal.reshape(shape), self.random)
        return Slice(pixels, _largest(tumour.reshape(shape)), scanner.name)

    def _signal(
        self, points: np.ndarray, tissue: np.ndarray, skull: np.ndarray, level: np.ndarray
    ) -> np.ndarray:
        """Return the signal at points, whose tissue the deformation takes from `tissue`."""
        tissue = self.lesion.pushed_from(tissue) if self.lesion else tissue
        contrast = (self.fluid, self.fluid, self.grey, 1, 1.1)
        inside = skull < 2
        signal = np.interp(sample(self.anatomy.brain, tissue, inside), _GREY_LEVELS, contrast)
        signal = _enhanced_dura(signal, points, skull)
        if self.lesion is None:
            return self._covered(signal, points, skull)
        in_bone = self.lesion.label == "pituitary"  # its seat, the sella, is a hollow of the skull
        signal = self._covered(signal, points, skull) if in_bone else signal
        near = level < 3
        white = sample(self.anatomy.white, tissue[:, near])
        signal[near] = self.lesion.painted(signal[near], points[:, near], level[near], white)
        return signal if in_bone else self._covered(signal, points, skull)

    def _covered(self, signal: np.ndarray, points: np.ndarray, skull: np.ndarray) -> np.ndarray:
        """Return the signal with skull, scalp, face and air around the brain."""
        soft = sample(self.anatomy.soft, points, skull > 3)
        soft = np.where(soft > 1, 1 + (soft - 1) * self.fat, soft)
        signal = mix(signal, 0.1, edge(skull - 0.8))
        marrow = edge(skull - 1.8) * edge(self.bone - 1.2 - skull)
        signal = mix(signal, self.marrow, marrow)
        return mix(signal, soft, edge(skull - self.bone))


def _enhanced_dura(signal: np.ndarray, points: np.ndarray, skull: np.ndarray) -> np.ndarray:
    """Return the signal with contrast agent in the dura, the falx and the sagittal sinus."""
    x, y, z = points
    signal = mix(signal, 0.8, 0.6 * edge(skull + 1.2))
    falx = edge((anatomy.falx_level(y, z) - 1) * 45) * edge(0.7 - np.abs(x)) * (z > -10)
    signal = mix(signal, 1.0, 0.7 * falx)
    sinus = edge(3.5 - np.abs(x) + skull * 0.4) * edge(skull + 5) * ((z > 25) | (y < -85))
    return mix(signal, 1.6, sinus * (y < 45))


def _largest(mask: np.ndarray) -> np.ndarray:
    regions, count = ndimage.label(mask)
    return regions == 1 + np.bincount(regions.ravel())[1:].argmax() if count > 1 else mask
