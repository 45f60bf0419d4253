"""Simulated patients: an individual head with a lesion, and slices through it by a scanner.

The head is the MNI152 template with a skull, a scalp, a face and tumours grown in and around it.
Smooth random fields, planes of points and volumes, in MNI millimetres, are what it is made of.
Tumours have a typical site, shape and appearance: glioma, meningioma and pituitary tumour.
"""

import functools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from brainlib.paths import needs_extra

Volume = tuple[np.ndarray, np.ndarray, float]  # voxels, MNI position of the first, spacing in mm

_GRID = 2.5  # mm, resolution of everything around the template
_CAVITIES = (  # centre and radii of air spaces: sinuses, nose, pharynx, mastoid cells
    ((0, 15, -52), (12, 12, 8)), ((0, 72, 2), (14, 5, 10)), ((0, 6, -92), (9, 7, 32)),
    *(((side * x, y, z), radii) for side in (1, -1) for (x, y, z), radii in (
        ((6, 62, -54), (4, 24, 17)), ((28, 58, -66), (12, 14, 14)), ((58, -33, -42), (7, 9, 12)),
    )),
)  # fmt: skip

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
        self, random: np.random.Generator, wavelengths: tuple[float, float], spread: float,
        channels: int = 1, count: int = 8,
    ) -> None:  # fmt: skip
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


@dataclass(frozen=True)
class Anatomy:
    """Volumes from which every head is deformed."""

    brain: Volume  # grey levels of the template
    white: Volume  # probability of white matter
    skull: Volume  # mm outside the skull's inner table, negative inside
    skin: Volume  # mm outside the head, negative inside
    soft: Volume  # signal outside the skull: fat, muscle, eyes, air
    seats: dict[str, tuple[np.ndarray, np.ndarray]]  # lesion sites (n, 3) and inward normals


@functools.lru_cache(maxsize=1)
def grow_anatomy() -> Anatomy:
    """Grow a head around the template (Fonov et al. 2009)."""
    with needs_extra("notebooks"):
        from nilearn import datasets
    template = datasets.load_mni152_template(resolution=1)
    levels = np.array(template.dataobj, np.float32)  # nilearn gives the same image to all
    levels *= 255 / levels.max()
    levels += 0.7 * (levels - ndimage.gaussian_filter(levels, 1.5, truncate=2.5))
    brain = (np.pad(np.clip(levels, 0, 255), 1), template.affine[:3, 3] - 1, 1.0)
    white_image = datasets.load_mni152_wm_template(resolution=1)
    white = (np.asarray(white_image.dataobj, np.float32), white_image.affine[:3, 3], 1.0)
    points = np.stack(np.mgrid[-110:112:_GRID, -136:132:_GRID, -142:118:_GRID]).astype(np.float32)
    x, y, z = points
    inside = sample(brain, points.reshape(3, -1)).reshape(x.shape) > 20
    skull = _closed(inside | ((np.hypot(x, y + 46) < 9) & (z < -60)), 16, 1.0)
    skin = _closed(_head(skull, points), 15, 2.5)
    shells = {"skull": skull, "skin": skin, "soft": _soft(skin, points)}
    volumes = {name: (voxels, points[:, 0, 0, 0], _GRID) for name, voxels in shells.items()}
    return Anatomy(brain=brain, white=white, seats=_seats(skull, white, points), **volumes)


def _closed(mask: np.ndarray, reach: float, smoothing: float) -> np.ndarray:
    """Fill gaps narrower than twice `reach`; return the distance to the edge, negative inside."""
    grown = ndimage.distance_transform_edt(~mask, _GRID) < reach
    distance = reach - ndimage.distance_transform_edt(grown, _GRID).astype(np.float32)
    return ndimage.gaussian_filter(distance, smoothing)


def _ellipsoid(points: np.ndarray, centre: tuple, radii: tuple) -> np.ndarray:
    """Return the normalised distance from the centre: below 1 inside the ellipsoid."""
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
    sheets = edge(0.22 - np.abs(texture), 0.3) * 0.7
    fat = np.maximum(sheets, edge(skin + 5.5, 4.0))
    soft = mix(0.62 + 0.1 * texture, 2.1, fat)
    x, y, z = points
    vertebra = edge(1 - np.hypot(x / 13, (y + 26) / 10), 0.1) * (z < -68)
    disc = np.abs((z + 70) % 18 - 9) < 2.5
    soft = mix(soft, np.where(disc, 0.35, 0.95), vertebra)
    for side in (-32, 32):
        orbit = _ellipsoid(points, (side * 0.85, 50, -36), (19, 26, 17))
        soft = mix(soft, 1.9, edge(1 - orbit, 0.2))
        soft = mix(soft, 0.7, edge(1 - _ellipsoid(points, (side * 0.75, 36, -34), (3, 22, 3)), 0.5))
        globe = _ellipsoid(points, (side, 61, -36), (12.5, 12.5, 12.5))
        soft = mix(mix(soft, 0.8, edge(1 - globe, 0.2)), 0.3, edge(0.85 - globe, 0.15))
    for centre, radii in _CAVITIES:
        soft = mix(soft, 0.05, edge(1 - _ellipsoid(points, centre, radii), 0.2))
    return soft.astype(np.float32)


def _seats(depth: np.ndarray, white: Volume, points: np.ndarray) -> dict[str, tuple]:
    """Return the sites and inward normals of each kind of lesion."""
    x, y, z = points
    whiteness = sample(white, points.reshape(3, -1)).reshape(x.shape)
    whiteness = ndimage.gaussian_filter(whiteness, 1.5)
    sella = (np.abs(x) < 18) & (y > -25) & (y < 30) & (z < 0)
    where = {
        "glioma": (whiteness > 0.6) & (depth < -14) & (np.abs(x) > 16) & (z > -8),
        "meningioma": (np.abs(depth) < 1.5) & (z > -25) & ~sella & (np.abs(x) > 14),
        "falx": (np.abs(x) < 1.5) & (depth < -12) & (falx_level(y, z) > 1.1) & (z > 0),
        "pituitary": (np.abs(x) < 3) & (y > 1) & (y < 9) & (np.abs(z + 41) < 2),
    }
    slopes = np.stack(np.gradient(-depth))
    slopes /= np.linalg.norm(slopes, axis=0) + 1e-6
    slopes[:, where["pituitary"]] = np.array([[0], [0], [1]])  # up, out of the sella
    return {name: (points[:, mask].T, slopes[:, mask].T) for name, mask in where.items()}


def falx_level(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the level of a midline point: the lower edge of the falx is at 1."""
    return np.hypot((y + 18) / 66, (z + 2) / 45)


@dataclass(frozen=True)
class Lesion:
    """A tumour in the template, before the patient's head is deformed."""

    label: str
    centre: np.ndarray  # (3,), mm in the template
    radius: float  # mm
    radii: np.ndarray  # (3,), multiples of `radius`
    side: float  # of the falx for a falx meningioma, -1 or 1; otherwise 0
    enhancement: float
    core: float  # level to which the necrosis of a glioma reaches
    surface: Waves
    texture: Waves

    def level(self, points: np.ndarray, skull: np.ndarray) -> np.ndarray:
        """Return the level set of the tumour at points: below 1 inside, 1 on its surface."""
        offset = (points - column(self.centre)) / column(self.radius * self.radii)
        level = np.sqrt((offset**2).sum(0))
        near = level < 3
        level[near] *= 1 + self.surface.at(points[:, near])[0]
        if self.side:
            level = np.maximum(level, 1 + (1 - self.side * points[0]) / self.radius)
        if self.label != "pituitary":
            level = np.maximum(level, 1 + (skull + 0.5) / self.radius)
        return level

    def pushed_from(self, points: np.ndarray) -> np.ndarray:
        """Return the original positions of the tissue displaced to `points` (mass effect)."""
        offset = points - column(self.centre)
        distance = np.maximum(np.sqrt((offset**2).sum(0)), 1e-3) / self.radius
        before = np.cbrt(np.maximum(distance**3 - 0.5, 0.5 * distance**3))
        return column(self.centre) + offset * (before / distance)

    def painted(
        self, signal: np.ndarray, points: np.ndarray, level: np.ndarray, white: np.ndarray
    ) -> np.ndarray:
        """Return the signal of tissue with the lesion in it."""
        coarse, fine = self.texture.at(points)
        tumour = self.enhancement * (1 + 0.2 * coarse + 0.2 * fine)
        if self.label == "glioma":
            oedema = np.clip(2.5 * (1.9 + coarse - level), 0, 1)
            signal = signal * (1 - 0.45 * (0.4 + 0.6 * white) * oedema)
            core = edge((self.core + 0.4 * coarse - level) * self.radius, 3.0)
            tumour = mix(tumour * (0.95 + 0.5 * fine), 0.35 + 0.15 * fine, core)
        else:  # a thin cleft of CSF
            signal = mix(signal, 0.4, 0.6 * edge((1.08 - level) * self.radius))
        blur = 3.0 if self.label == "glioma" else 1.0  # mm: a glioma infiltrates
        return mix(signal, tumour, edge((1 - level) * self.radius, blur))


def place_lesion(kind: str, random: np.random.Generator) -> Lesion:
    """Place a lesion in the template at a typical site of its kind."""
    seat = "falx" if kind == "meningioma" and random.random() < 0.4 else kind
    points, inward = grow_anatomy().seats[seat]
    chosen = random.integers(len(points))
    sizes = {"glioma": (21, 30), "meningioma": (21, 29), "pituitary": (10, 14)}
    radius = random.uniform(*sizes[kind])
    depth = {"glioma": 0.0, "meningioma": 0.5, "falx": 0.5, "pituitary": 0.9}[seat] * radius
    side = float(random.choice([-1, 1])) if seat == "falx" else 0.0
    inwards = np.array([side, 0, 0]) if side else inward[chosen]
    rough = {"glioma": 0.17, "meningioma": 0.04, "pituitary": 0.07}[kind]
    return Lesion(
        label=kind,
        centre=points[chosen] + depth * inwards,
        radius=radius,
        radii=random.uniform(0.88, 1.14, 3),
        side=side,
        enhancement=random.uniform(1.95, 2.25),
        core=random.uniform(0.6, 0.78),
        surface=Waves(random, (0.7 * radius, 2.2 * radius), rough, count=16),
        texture=Waves(random, (5, 20), 0.25, channels=2, count=24),
    )


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
        self.anatomy = grow_anatomy()
        # a healthy head is sliced where a tumour could be: position must not separate the classes
        likely = random.choice(["glioma", "meningioma", "pituitary"])
        self.target = place_lesion(str(likely) if label == "notumor" else label, random)
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
    falx = edge((falx_level(y, z) - 1) * 45) * edge(0.7 - np.abs(x)) * (z > -10)
    signal = mix(signal, 1.0, 0.7 * falx)
    sinus = edge(3.5 - np.abs(x) + skull * 0.4) * edge(skull + 5) * ((z > 25) | (y < -85))
    return mix(signal, 1.6, sinus * (y < 45))


def _largest(mask: np.ndarray) -> np.ndarray:
    regions, count = ndimage.label(mask)
    return regions == 1 + np.bincount(regions.ravel())[1:].argmax() if count > 1 else mask
