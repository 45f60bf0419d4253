"""Scans and their slices: what their headers say, what they show, the greys they are drawn with."""

import gzip
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from brainlib.imaging.errors import ImageError

PLANES = ("axial", "coronal", "sagittal")
"""The planes that a volume can be cut in."""

PERCENTILES = (0.5, 99.5)  # that are drawn black and white where no window says otherwise
MAX_PIXELS = 40_000_000  # of an image; a larger one would fill the memory or take minutes
MAX_SIDE = 65_535  # the most that JPEG and DICOM can say
GZIP_MAGIC = b"\x1f\x8b"

_FEW_VALUES = 16  # an image of an organ has more
_MOST_LABELS = 300
_ENOUGH = 4096  # pixels, below which nothing is said about their distribution
_HOUNSFIELD = (-np.inf, -900, -200, 0, 100, 300, np.inf)
_LIT, _COLOURFUL, _MOST_COLOURS = 40, 48, 0.25  # of 255; a marked MRI of the collection has 0.05
# of what people typed, only these are kept: a description may name the patient
_WORDS = re.compile(
    r"\b(t[12]w?|t2\*|pd|flair|mp2?rage|spgr|bravo|space|cube|vibe|dwi|adc|swi|se|tse|fse|gre|ge|"
    r"ir|stir|fs|fat|sat|ax\w{0,5}|cor\w{0,5}|sag\w{0,7}|tra|3d|2d|iso|pre|post|gd|gado\w*|km|"
    r"contrast|c|brain|head|native|mr|mri|wip|dark|fluid|hr|highres)(?![a-z])", re.IGNORECASE,
)  # fmt: skip
_CODES = re.compile(r"(SE|IR|GR|EP|RM)(\W+(SE|IR|GR|EP|RM))*")
_COMPLEX = {"P", "PHASE", "PHASE MAP", "I", "IMAGINARY"}
_PHASE = "it is a phase or imaginary image; choose the magnitude image"


@dataclass(frozen=True)
class Scan:
    """One unit of reading: an image, a volume, a series, an archive, or an unreadable file.

    It holds no pixels, can be pickled, and is read by `read_scan`.

    Attributes
    ----------
    file : Path
        Of a series the first file.
    series : str
        The name of its slices, as in `ScanSlice`.
    kind : str
        `image`, `dicom`, `nifti`, `archive` or `unreadable`.
    frames : tuple of dicom.Frame
        The slices of a DICOM series, in any order; empty for others.
    error : str
        Why it is unreadable, without the name of the file; empty for others.
    remark : str
        What is odd about how its files name patient, study and series.
    """

    file: Path
    series: str
    kind: str = "unreadable"
    frames: tuple[Any, ...] = ()
    error: str = ""
    remark: str = ""


@dataclass(frozen=True, eq=False)
class ScanSlice:
    """One slice, ready to look at or to classify; or what was wrong with it.

    Attributes
    ----------
    file : Path
        Where it comes from, as it was named. A slice cut through several DICOM files names the
        first of them.
    series : str
        The series that it belongs to, the same for all its slices and free of patient identifiers:
        the series number, the words of imaging in its description and a hash
        (`401-T1w-9f86d081`); for an image or a NIfTI volume, its path below the folder that was
        opened.
    number : int
        Its place in the series, from 0, in order of position: from the feet to the head, from the
        front to the back, from the patient's left to the right.
    plane : str
        `axial`, `coronal`, `sagittal`, `oblique` (more than 37 degrees from all three), or empty
        where the file does not say.
    pixels : uint8 array of shape (height, width), or None
        Square pixels as radiologists look at them: the patient's right on the left of axial and
        coronal slices, the face on top of axial and on the left of sagittal ones.
    error : str
        Empty, or why there are no pixels and what to do about it, on one line.
    modality : str
        What the file says or shows that it was taken with, such as `MR` or `CT`; empty if unknown.
    total : int
        The slices of its series in this plane; 0 where that is unknown.
    facts : mapping of str to str
        `description`, `sequence`, `contrast` and `field strength`, as far as the file says; only
        words of imaging are kept of what people typed.
    affine : float array of shape (4, 4), or None
        From row, column and 0 of `pixels` to millimetres, nibabel's axes; the third column leads to
        the next slice. None where the file does not say how it lies.
    grid : pair of shape and affine, or None
        Of the voxels of its volume as they are stored.
    irregular : str
        Why the slices of its series form no regular volume; empty for others.
    """

    file: Path
    series: str = ""
    number: int = 0
    plane: str = ""
    pixels: np.ndarray | None = None
    error: str = ""
    modality: str = ""
    total: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)
    affine: np.ndarray | None = None
    grid: tuple[tuple[int, ...], np.ndarray] | None = None
    irregular: str = ""

    @property
    def skipped(self) -> str:
        """Why an undamaged file is passed over, such as a localizer; empty for other slices."""
        return self.error.partition("skipped: ")[2]

    @property
    def missing(self) -> str:
        """What says that this slice of a series is missing; empty for other slices."""
        return self.error.partition("missing: ")[2]


def open_plain(file: Path) -> BinaryIO:
    """Open a file, unpacked where it is compressed, whatever its name."""
    with file.open("rb") as stream:
        is_packed = stream.read(2) == GZIP_MAGIC
    return gzip.open(file) if is_packed else file.open("rb")


def robust_range(values: np.ndarray) -> tuple[float, float]:
    """Return the signals to be drawn black and white: percentiles 0.5 and 99.5.

    A negative value that many pixels share and that lies far below all others (padding, air set to
    -1000) is left out. Where both percentiles are the same, as in a volume that is nearly all
    background, the lowest and highest are returned.

    Parameters
    ----------
    values : numeric array of any shape
        Values that are not finite are left out.

    Raises
    ------
    ImageError
        Where no value is finite.

    Examples
    --------
    >>> robust_range(np.r_[np.full(100, -2000), np.arange(1000)])
    (4.995, 994.005)
    """
    kept = values[np.isfinite(values)]
    if not kept.size:
        raise ImageError("it holds no finite value; save it again from where it came")
    low, high = (float(limit) for limit in np.percentile(kept, PERCENTILES))
    while low < 0 and (rest := kept[kept > kept.min()]).size:
        shared = 1 - rest.size / kept.size
        start, end = (float(limit) for limit in np.percentile(rest, PERCENTILES))
        far = rest.min() - kept.min() > 0.2 * (end - start)
        if shared < 0.005 or not far or len(np.unique(rest)) <= _FEW_VALUES:
            break
        kept, low, high = rest, start, end
    return (low, high) if high > low else (float(kept.min()), float(kept.max()))


def to_grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale signal to grey, `low` and below to 0, `high` and above to 255.

    Parameters
    ----------
    values : numeric array of any shape
        Not-a-number is drawn black.
    low, high : float
        All is black where they are the same.

    Returns
    -------
    uint8 array of the same shape

    Examples
    --------
    >>> to_grey(np.array([-np.inf, 0, 50, np.nan, np.inf]), 0, 100).tolist()
    [0, 0, 128, 0, 255]
    """
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    with np.errstate(over="ignore"):
        known = np.nan_to_num(values, nan=low, posinf=high, neginf=low).clip(low, high)
        return np.rint((known - low) / (high - low) * 255).astype(np.uint8)


def header_facts(get: Callable[[str], Any]) -> dict[str, Any]:
    """Return modality and facts, as `ScanSlice` has them, of a DICOM header or a BIDS sidecar.

    Parameters
    ----------
    get : callable
        Gives the value of a tag by its DICOM keyword, or None.

    Raises
    ------
    ImageError
        Where it says that it is a phase or imaginary image.

    Examples
    --------
    >>> header_facts({"Modality": "MR", "SeriesDescription": "Ax T1 of Jane +C"}.get)
    {'modality': 'MR', 'facts': {'description': 'Ax T1 C'}}
    """
    if _COMPLEX & {*_texts(get("ImageType"))[2:], *_texts(get("ComplexImageComponent"))}:
        raise ImageError(f"skipped: {_PHASE}")
    modality = str(get("Modality") or "")
    sequence = " ".join(_texts(get("ScanningSequence")))
    strength = re.match(r"\d\.?\d*", str(get("MagneticFieldStrength") or ""))
    facts = {
        "description": " ".join(word[0] for word in _WORDS.finditer(str(get("SeriesDescription")))),
        "sequence": sequence if _CODES.fullmatch(sequence) else "",
        "contrast": "given" if get("ContrastBolusAgent") or get("ContrastBolusIngredient") else "",
        "field strength": f"{float(strength[0]):.2g} T" if strength else "",
    }
    # a damaged tag may hold anything
    return {"modality": modality if re.fullmatch("[A-Z]{2,6}", modality) else "",
            "facts": {name: fact for name, fact in facts.items() if fact}}  # fmt: skip


def _texts(value: Any) -> list[str]:
    return value.split("\\") if isinstance(value, str) else [str(part) for part in value or []]


def refuse_colours(colours: np.ndarray) -> None:
    """Refuse what is drawn in colours, such as jet: grey made of them would not be the signal.

    Parameters
    ----------
    colours : uint8 array of shape (..., 3)
        Red, green and blue. Marks on up to a quarter of what is not black are no reason.

    Raises
    ------
    ImageError
    """
    brightest = colours.max(axis=-1).astype(int)
    lit = brightest > _LIT
    colourful = lit & (brightest - colours.min(axis=-1) > _COLOURFUL)
    if colourful.sum() > _MOST_COLOURS * lit.sum():
        raise ImageError("skipped: it is drawn in colours, of a colour map or a photograph; "
                         "export it in grey")  # fmt: skip


def to_luma(colours: np.ndarray) -> np.ndarray:
    """Return the grey of 8-bit red, green and blue, float32, unless `refuse_colours` does."""
    if colours.dtype != np.uint8:
        raise ImageError("its colours have more than 8 bits; save it in grey")
    refuse_colours(colours)
    return colours @ np.array([0.299, 0.587, 0.114], np.float32)


def refuse_signal(slices: list[np.ndarray], modality: str) -> None:
    """Refuse by their values label maps, phase and imaginary MR, and CT that does not say so.

    A label map holds few values, or nearly all neighbours in it are equal; phase and imaginary
    parts lie evenly around zero. A CT of the head, in Hounsfield units, has air below -900, skin
    half in air, bone above 300, and a third of the rest between water and blood; of an MRI whose
    background is -1000, nothing lies between that and the signal.

    Parameters
    ----------
    slices : list of float arrays of shape (height, width)
    modality : str
        That the file states, or empty.

    Raises
    ------
    ImageError
    """
    values = np.concatenate([each.ravel() for each in slices])
    values = values[np.isfinite(values)]
    distinct, counts = np.unique(values, return_counts=True)
    if values.size < _ENOUGH or len(distinct) < 2:
        return
    if len(distinct) <= _MOST_LABELS and (distinct == np.rint(distinct)).all():
        pairs = np.concatenate([np.stack([each[:-1], each[1:]], -1).reshape(-1, 2)
                                for each in slices])  # fmt: skip
        pairs = pairs[(pairs != distinct[counts.argmax()]).any(axis=1)]  # not in the background
        if len(distinct) <= _FEW_VALUES or (pairs[:, 0] == pairs[:, 1]).mean() > 0.8:
            raise ImageError(
                "skipped: it looks like a label map or a mask; choose the image that it was made of"
            )
    air, skin, _, tissue, _, bone = np.histogram(values, _HOUNSFIELD)[0] / values.size
    is_ct = air > 0.05 and skin > 0.001 and bone > 0.005 and tissue > (1 - air - skin) / 3
    if is_ct and not modality:
        raise ImageError("skipped: it looks like a CT (Hounsfield units), not an MRI")
    low, high = np.percentile(values, PERCENTILES)
    negative = (values < 0).sum() / max(1, (values != 0).sum())
    is_mr = modality in ("", "MR") and not is_ct
    if is_mr and abs(low + high) < 0.1 * (high - low) and 0.4 < negative < 0.6:
        raise ImageError(f"skipped: by its values {_PHASE}")
