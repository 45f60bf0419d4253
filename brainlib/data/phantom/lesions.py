"""Tumour models: site, shape and appearance of glioma, meningioma and pituitary tumour."""

from dataclasses import dataclass

import numpy as np

from brainlib.data.phantom.anatomy import grow_anatomy
from brainlib.data.phantom.fields import Waves, column, edge, mix


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
