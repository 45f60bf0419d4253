"""Images that are no slice of a head MRI, of ten kinds, to fit the gate and to try it on.

Half of the photographs, surfaces and pages serve to fit and the other half to try: `is_tried` says
which, and no thing stands on both sides. Scans are only tried, and so is all that is made of the
healthy head that nilearn brings, or heads like it would be refused. All come from packages that are
installed with this one (scikit-image, scikit-learn, pydicom, nilearn), but for slices
above and below the brain, which are cut from the phantom's head. Nothing is downloaded.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from brainlib import imaging
from brainlib.data.phantom import anatomy

BEYOND_BRAIN = "above or below the brain"

VARIANTS = 12
"""Images made from one real thing: itself, and crops, some of them turned or mirrored."""

_SIZE = 224
_SKIMAGE = (  # kind, those to fit the gate on, those to try it on
    ("photograph", ("astronaut", "coffee", "rocket", "coins", "stereo_motorcycle"),
     ("camera", "chelsea", "clock", "horse")),
    ("surface", ("brick", "grass"), ("gravel", "binary_blobs", "checkerboard")),
    ("microscope, eye or telescope", ("immunohistochemistry", "moon", "microaneurysms"),
     ("cell", "retina", "hubble_deep_field")),
    ("text", ("text",), ("page",)),
)  # fmt: skip
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
    return [*_real_things(random), *_scans(random), *_beyond_brain(random), *_template(random)]


def _real_things(random: np.random.Generator) -> Iterator[WrongInput]:
    from sklearn import datasets

    for kind, *names in _SKIMAGE:
        for is_tried, chosen in zip((False, True), names, strict=True):
            for name in chosen:
                yield from _varied(WrongInput(kind, name, is_tried, _of_skimage(name)), random)
    for name in ("china", "flower"):
        image = _grey(datasets.load_sample_image(f"{name}.jpg"))
        yield from _varied(WrongInput("photograph", name, name != "flower", image), random)


def _of_skimage(name: str) -> np.ndarray:
    from skimage import data

    options = {"binary_blobs": {"length": 256, "rng": 0}}
    image = getattr(data, name)(**options.get(name, {}))
    return _grey(image[0] if isinstance(image, tuple) else image)


def _scans(random: np.random.Generator) -> Iterator[WrongInput]:
    from pydicom.data import get_testdata_file

    for kind, names in _SCANS.items():
        for name in names:
            file = get_testdata_file(name, download=False)
            if file is None:
                continue
            read = [cut.pixels for cut in imaging.open_scans(file) if cut.pixels is not None]
            for pixels in read[::10]:
                yield from _varied(WrongInput(kind, name, True, pixels), random, least=0.75)


def _varied(
    whole: WrongInput, random: np.random.Generator, least: float = 0.3
) -> Iterator[WrongInput]:
    """Yield an image, and crops of at least this share of its height and width."""
    yield whole
    image = whole.pixels
    for _ in range(VARIANTS - 1):
        sizes = (random.uniform(least, 1, 2) * image.shape).astype(int).clip(8)
        row, column = (random.integers(0, np.subtract(image.shape, sizes) + 1)).clip(0)
        crop = image[row : row + sizes[0], column : column + sizes[1]]
        crop = np.rot90(crop, random.integers(0, 4) if least < 0.5 else 0)
        crop = crop[:, :: random.choice([-1, 1])]
        yield replace(whole, pixels=np.ascontiguousarray(crop))


def _template(random: np.random.Generator) -> Iterator[WrongInput]:
    """Yield slices of the healthy head at its very ends, and mosaics of others."""
    import nilearn

    name = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    file = Path(nilearn.__file__).parent / "datasets" / "data" / name
    for plane in imaging.PLANES:
        slices = [cut.pixels for cut in imaging.open_scans(file, plane)]
        shares = np.array([(pixels > 30).mean() for pixels in slices])
        for index in np.flatnonzero(shares < 0.04)[::3]:
            yield WrongInput(BEYOND_BRAIN, f"template {plane}", True, slices[index])
        whole = [slices[index] for index in np.flatnonzero(shares > 0.2)]
        for _ in range(12):
            rows, columns = random.integers(1, 5), random.integers(2, 6)
            chosen = random.integers(0, len(whole), (rows, columns))
            mosaic = np.block([[whole[index] for index in line] for line in chosen])
            yield WrongInput("several slices in one image", f"template {plane}", True, mosaic)


def _beyond_brain(random: np.random.Generator) -> Iterator[WrongInput]:
    """Yield slices of an MRI through the scalp above the brain, and the neck below it."""
    head, axes = anatomy.grow_anatomy(), np.array([[1, 0], [0, -1], [0, 0]])
    steps = ((np.arange(_SIZE) + 0.5) / _SIZE - 0.5) * 230
    cuts: tuple[list, list] = ([], [])
    for height in (*range(-124, -92, 4), *range(76, 100, 2)):
        points = anatomy.Plane(np.array([0, -12, height]), axes, steps).points()
        skull, skin, soft = (anatomy.sample(volume, points).reshape(_SIZE, _SIZE)
                             for volume in (head.skull, head.skin, head.soft))  # fmt: skip
        if (skull < -1).mean() < 0.004 < (skin < 0).mean():
            cuts[height > 0].append((skull, skin, soft))
    for number in range(60):
        is_above = number % 4 > 1
        skull, skin, soft = cuts[is_above][random.integers(len(cuts[is_above]))]
        grey = np.where(soft > 1, 1 + (soft - 1) * random.uniform(0.3, 1), soft)
        if is_above:
            is_bone = skull < random.uniform(4.5, 7)
            grey = np.where(is_bone, random.uniform(0.2, 0.6), grey)
        grey = np.where(skin < 0, grey, 0) * random.uniform(0.4, 0.6)
        noise = random.uniform(0.005, 0.03) * random.normal(size=(2, *grey.shape))
        image = Image.fromarray(_grey(np.hypot(grey + noise[0], noise[1])))
        turned = image.rotate(random.normal(0, 6), Image.Resampling.BILINEAR)
        margin = random.uniform(-15, 35)
        field = turned.crop((margin, margin, _SIZE - margin, _SIZE - margin))
        yield WrongInput(BEYOND_BRAIN, f"drawn {number}", bool(number % 2), np.asarray(field))


def _grey(values: np.ndarray) -> np.ndarray:
    """Return grey of 8 bits from colours, from fractions, or from black and white."""
    if values.dtype != np.uint8:
        values = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    return np.asarray(Image.fromarray(values).convert("L"))
