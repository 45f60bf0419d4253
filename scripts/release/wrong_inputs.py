"""Images that are no slice of a head MRI, of a dozen kinds, to fit the gate and to try it on.

Half of what there is serves to fit and the other half to try: `is_tried` says which, and no
photograph, page or drawing stands on both sides. Nothing of the healthy head that nilearn brings is
fitted on, or heads like it would be refused. Real things come from packages that are installed
with this one (scikit-image, scikit-learn, matplotlib, pydicom); what those lack is drawn, and its
kind then ends with `drawn`. Nothing is downloaded.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from brainlib import imaging

REASONS = {
    "CT of the head, drawn": "it looks like a CT of the head, not an MRI",
    "above or below the brain": "it looks like a slice above or below the brain",
}
"""What the gate says of these kinds; of all others, that they are no slice of a head MRI."""

VARIANTS = 12
"""Images made from one real thing: itself, and crops, some of them turned or mirrored."""

_SIZE = 224
_FITTED_PHOTOGRAPHS = ("astronaut", "coffee", "rocket", "coins", "stereo_motorcycle")
_TRIED_PHOTOGRAPHS = ("camera", "chelsea", "clock", "horse")
_FITTED_SURFACES = ("brick", "grass")
_TRIED_SURFACES = ("gravel", "binary_blobs", "checkerboard")
_FITTED_LENSES = ("immunohistochemistry", "moon", "microaneurysms")
_TRIED_LENSES = ("cell", "retina", "hubble_deep_field")
_SCANS = {  # of pydicom's own test files
    "CT of the head": ("693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"),
    "CT or MRI of another part": ("CT_small.dcm", "examples_overlay.dcm"),
    "ultrasound": ("examples_jpeg2k.dcm", "examples_ybr_color.dcm", "examples_palette.dcm"),
    "bone scan": ("JPEG2000.dcm", "JPGExtended.dcm"),
}


@dataclass(frozen=True, eq=False)
class WrongInput:
    """An image that the gate should refuse.

    Attributes
    ----------
    kind : str
        What it is, in words.
    origin : str
        The one thing it was made from; images of one origin are no independent evidence.
    is_tried : bool
        Whether it serves to try the gate; the others serve to fit it.
    pixels : uint8 array of shape (height, width)
    """

    kind: str
    origin: str
    is_tried: bool
    pixels: np.ndarray


def make_wrong_inputs(seed: int = 0) -> list[WrongInput]:
    """Return all wrong inputs, the same for the same seed and the same installed packages.

    A scan that the installed pydicom does not bring is left out.

    Parameters
    ----------
    seed : int
    """
    random = np.random.default_rng(seed)
    return [*_real_things(random), *_scans(random), *_drawn_things(random), *_heads(random)]


def _real_things(random: np.random.Generator) -> Iterator[WrongInput]:
    lists = (
        ("photograph", _FITTED_PHOTOGRAPHS, _TRIED_PHOTOGRAPHS),
        ("surface", _FITTED_SURFACES, _TRIED_SURFACES),
        ("microscope, eye or telescope", _FITTED_LENSES, _TRIED_LENSES),
        ("text", ("text",), ("page",)),
    )
    for kind, *names in lists:
        for is_tried, chosen in enumerate(names):
            for name in chosen:
                yield from _varied(kind, name, bool(is_tried), _of_skimage(name), random)
    for name, image in _other_photographs():
        yield from _varied("photograph", name, name != "flower", image, random)


def _of_skimage(name: str) -> np.ndarray:
    from skimage import data

    options = {"binary_blobs": {"length": 256, "rng": 0}}
    image = getattr(data, name)(**options.get(name, {}))
    return _grey(image[0] if isinstance(image, tuple) else image)


def _other_photographs() -> Iterator[tuple[str, np.ndarray]]:
    import matplotlib
    from sklearn import datasets

    for name in ("china", "flower"):
        yield name, _grey(datasets.load_sample_image(f"{name}.jpg"))
    folder = Path(matplotlib.get_data_path()) / "sample_data"
    yield "grace_hopper", np.asarray(Image.open(folder / "grace_hopper.jpg").convert("L"))


def _scans(random: np.random.Generator) -> Iterator[WrongInput]:
    from pydicom.data import get_testdata_file

    for kind, names in _SCANS.items():
        for name in names:
            file = get_testdata_file(name, download=False)
            if file is None:
                continue
            read = [one.pixels for one in imaging.open_scans(file) if one.pixels is not None]
            for pixels in read[::10]:
                yield from _varied(kind, name, True, pixels, random, least=0.75)


def _varied(
    kind: str,
    origin: str,
    is_tried: bool,
    image: np.ndarray,
    random: np.random.Generator,
    least: float = 0.3,
) -> Iterator[WrongInput]:
    """Yield an image, and crops of at least this share of its height and width."""
    yield WrongInput(kind, origin, is_tried, image)
    for _ in range(VARIANTS - 1):
        sizes = (random.uniform(least, 1, 2) * image.shape).astype(int).clip(8)
        row, column = (random.integers(0, np.subtract(image.shape, sizes) + 1)).clip(0)
        crop = image[row : row + sizes[0], column : column + sizes[1]]
        crop = np.rot90(crop, random.integers(0, 4) if least < 0.5 else 0)
        crop = crop[:, :: random.choice([-1, 1])]
        yield WrongInput(kind, origin, is_tried, np.ascontiguousarray(crop))


def _drawn_things(random: np.random.Generator) -> Iterator[WrongInput]:
    drawers: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
        "noise": _noise,
        "CT of the body, drawn": _body,
    }
    for kind, draw in drawers.items():
        for number in range(80):
            image = draw(random, number // 2)
            yield WrongInput(kind, f"drawn {number}", bool(number % 2), image)


def _noise(random: np.random.Generator, number: int) -> np.ndarray:
    """Draw noise of a colour: from white through pink and brown to clouds; or salt and pepper."""
    if number % 8 == 7:
        return (random.random((_SIZE, _SIZE)) < random.uniform(0.02, 0.5)).astype(np.uint8) * 255
    return _grey(_coloured(random, number % 8 * 0.4))


def _coloured(random: np.random.Generator, power: float) -> np.ndarray:
    """Return a field whose amplitudes fall with frequency to this power, from 0 to 1."""
    frequency = np.hypot(np.fft.fftfreq(_SIZE)[:, None], np.fft.rfftfreq(_SIZE))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(random.normal(size=(_SIZE, _SIZE))) / frequency**power
    field = np.fft.irfft2(spectrum)
    low, high = np.percentile(field, [1, 99])
    return (field - low) / (high - low)


def _body(random: np.random.Generator, number: int) -> np.ndarray:
    """Draw a CT across the chest or the belly: fat, muscle, spine, lungs or bowel."""
    rows, columns = np.mgrid[-1 : 1 : _SIZE * 1j, -1 : 1 : _SIZE * 1j]
    width, height = random.uniform(0.75, 0.97), random.uniform(0.5, 0.7)
    body = 1 - np.hypot(columns / width, rows / height)
    grey = 0.35 * _smooth(body, 0.01)
    grey = grey + 0.2 * _smooth(body - random.uniform(0.03, 0.15), 0.02)
    for _ in range(random.integers(4, 10)):
        place, size = random.uniform(-0.45, 0.45, 2) * (0.7, 1), random.uniform(0.06, 0.25, 2)
        organ = 1 - np.hypot((rows - place[0]) / size[0], (columns - place[1]) / size[1])
        grey = grey + random.uniform(-0.15, 0.2) * _smooth(organ, 0.1) * (body > 0.1)
    if number % 2:
        for side in (-1, 1):
            lung = 1 - np.hypot((columns - side * 0.38) / 0.3, (rows + 0.05) / 0.4)
            grey = grey * (1 - _smooth(lung, 0.05)) + 0.04 * _smooth(lung, 0.05)
    spine = 1 - np.hypot(columns / 0.13, (rows - height + 0.25) / 0.13)
    grey = np.maximum(grey, random.uniform(0.8, 1) * _smooth(spine, 0.1))
    ribs = (np.abs(body - 0.12) < 0.03) & (np.sin(np.arctan2(rows, columns) * 11) > 0.3)
    grey = np.where(ribs, 0.9, grey) + 0.03 * random.normal(size=grey.shape)
    table = np.abs(rows - height - 0.08 - 0.2 * columns**2) < 0.015
    return _grey(np.where(table, 0.5, grey))


def _heads(random: np.random.Generator) -> Iterator[WrongInput]:
    """Yield what is nearly a slice of a head MRI."""
    for number in range(60):
        yield WrongInput(
            "CT of the head, drawn", f"drawn {number}", bool(number % 2), _head_ct(random)
        )
        yield WrongInput(
            "above or below the brain", f"drawn {number}", bool(number % 2),
            _beyond_brain(random, is_above=number % 4 > 1),
        )  # fmt: skip
    for plane in imaging.PLANES:
        slices = [one.pixels for one in imaging.open_scans(_template_file(), plane)]
        shares = np.array([(one > 30).mean() for one in slices])
        for number in np.flatnonzero(shares < 0.04)[::3]:
            yield WrongInput("above or below the brain", f"template {plane}", True,
                             slices[number])  # fmt: skip
        whole = [slices[number] for number in np.flatnonzero(shares > 0.2)]
        for _ in range(12):
            yield WrongInput("several slices in one picture", f"template {plane}",
                             plane == "axial", _mosaic(whole, random))  # fmt: skip


def _template_file() -> Path:
    import nilearn

    name = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    return Path(nilearn.__file__).parent / "datasets" / "data" / name


def _mosaic(slices: list[np.ndarray], random: np.random.Generator) -> np.ndarray:
    rows, columns = random.integers(1, 5), random.integers(2, 6)
    chosen = random.integers(0, len(slices), (rows, columns))
    return np.block([[slices[one] for one in line] for line in chosen])


@functools.lru_cache(maxsize=1)
def _levels() -> dict[float, tuple[np.ndarray, ...]]:
    """Return axial cuts of the phantom's head: distances to skull and skin, brain, soft parts."""
    from brainlib.data.phantom import anatomy, fields

    head = anatomy.grow_anatomy()
    steps = ((np.arange(_SIZE) + 0.5) / _SIZE - 0.5) * 230
    axes = np.array([[1, 0], [0, -1], [0, 0]])
    cuts = {}
    for height in (*range(-124, -92, 4), *range(-64, 72, 8), *range(76, 100, 2)):
        points = fields.Plane(np.array([0, -12, height]), axes, steps).points()
        volumes = (head.skull, head.skin, head.brain, head.soft)
        cuts[height] = tuple(fields.sample(one, points).reshape(_SIZE, _SIZE) for one in volumes)
    return cuts


def _head_ct(random: np.random.Generator) -> np.ndarray:
    """Draw a CT of the head in a window for the brain or for bone: white skull, even brain."""
    levels = _levels()
    heights = [height for height in levels if -64 <= height < 72]
    skull, skin, brain, _ = levels[random.choice(heights)]
    bone, contrast = random.uniform(5, 9), random.uniform(0, 0.25)
    level = random.uniform(0.25, 0.5)
    tissue = level * (0.7 + contrast * (brain / 255 - 0.5) + 0.3 * _smooth(brain - 50, 20))
    inside = np.where(skull < 0, tissue, random.uniform(0.15, 0.45))
    grey = np.where((skull >= 0) & (skull < bone), random.uniform(0.9, 1), inside)
    grey = grey + random.uniform(0.005, 0.04) * random.normal(size=grey.shape)
    return _placed(np.maximum(np.where(skin < 0, grey, 0), _headrest(random)), random)


def _headrest(random: np.random.Generator) -> np.ndarray:
    """Draw the rest that the head lies in, which an MRI does not show; or, as often, none."""
    rows, columns = np.mgrid[-1 : 1 : _SIZE * 1j, -1 : 1 : _SIZE * 1j]
    reach = np.hypot(columns / random.uniform(0.75, 0.95), rows / random.uniform(0.9, 1))
    line = (np.abs(reach - 1) < random.uniform(0.008, 0.02)) & (rows > random.uniform(0, 0.6))
    return line * random.uniform(0.3, 1) * (random.random() < 0.5)


def _beyond_brain(random: np.random.Generator, is_above: bool) -> np.ndarray:
    """Draw a slice of an MRI through the scalp above the brain, or the neck below it."""
    levels = _levels()
    heights = [height for height, cut in levels.items()
               if (height > 75 if is_above else height < -90)
               and (cut[0] < -1).mean() < 0.004 and (cut[1] < 0).mean() > 0.004]  # fmt: skip
    skull, skin, _, soft = levels[random.choice(heights)]
    fat, bone = random.uniform(0.3, 1), random.uniform(4.5, 7)
    grey = np.where(soft > 1, 1 + (soft - 1) * fat, soft)
    if is_above:
        grey = np.where(skull < bone, random.uniform(0.2, 0.6), grey)
    grey = np.where(skin < 0, grey, 0) * random.uniform(0.4, 0.6)
    noise = random.uniform(0.005, 0.03) * random.normal(size=(2, *grey.shape))
    return _placed(np.hypot(grey + noise[0], noise[1]), random)


def _placed(grey: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Zoom and turn a slice a little, as another field of view would."""
    image = Image.fromarray(_grey(grey))
    turned = image.rotate(random.normal(0, 6), Image.Resampling.BILINEAR)
    margin = random.uniform(-15, 35)
    return np.asarray(turned.crop((margin, margin, _SIZE - margin, _SIZE - margin)))


def _smooth(values: np.ndarray, width: float) -> np.ndarray:
    """Return 0 where values are negative, 1 where they exceed the width, a ramp between."""
    return np.clip(values / width, 0, 1)


def _grey(values: np.ndarray) -> np.ndarray:
    """Return grey of 8 bits from colours, from fractions, or from black and white."""
    if values.dtype != np.uint8:
        values = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    return np.asarray(Image.fromarray(values).convert("L"))
