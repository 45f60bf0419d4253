"""Volumes: NIfTI, Analyze and MGH files, and the grey slices of any volume.

Affines are nibabel's: from array indices to millimetres, x to the patient's right, y to the front,
z to the head.
"""

import gzip
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from PIL import Image

from brainlib.imaging.errors import ImageError, quietly, sharing_memory
from brainlib.imaging.facts import header_facts
from brainlib.imaging.slices import ScanSlice, is_ct, refuse_derived, robust_range, to_grey

MAX_PIXELS = 100_000_000
"""The largest image that is decoded; a larger one would fill the memory."""

MAX_VOXELS = 400_000_000
"""The largest volume that is opened."""

MAX_SIDE = 65_535
"""The longest side, in pixels or voxels: the most that JPEG and DICOM can say."""

GZIP_MAGIC = b"\x1f\x8b"
GZIP_RATIO = 1032  # deflate packs no tighter
_KINDS = (nibabel.Nifti1Header, nibabel.Nifti2Header)
_LONGEST_HEADER = nibabel.Nifti2Header.sizeof_hdr
_LABEL_INTENT = 1002
_OBLIQUE_COSINE = 0.8  # D. Clunie's threshold, 37 degrees
_STRETCH = 100  # a slice of 10 mm at 0.1 mm a pixel; more is a damaged header
_ISOTROPIC = 1.01  # spacings that differ by less are the same up to rounding in the header
_SAMPLED_SLICES = 32
_SAMPLED_PIXELS = 40_000  # of each of these slices
_LUMA = {"R": 0.299, "G": 0.587, "B": 0.114}

_PLANE_OF_AXIS = ("sagittal", "coronal", "axial")  # cut by x, y and z
# where the rows, the columns and the numbers of displayed slices lead to, in nibabel's letters
_DISPLAY = {"axial": "PLS", "coronal": "ILP", "sagittal": "IPR"}
_ALONG_NUMBERS = {"axial": (0, 0, 1), "coronal": (0, -1, 0), "sagittal": (1, 0, 0)}


@dataclass(frozen=True)
class Volume:
    """Voxels as they are stored, in a file that is mapped and not read, and what they mean.

    Attributes
    ----------
    stored : array of shape (i, j, k)
        Numbers, or colours with the fields R, G and B.
    affine : float array of shape (4, 4)
    located : bool
        Whether the file says how it lies.
    slope, intercept : float
        Of the signal.
    shift, bits : int
        Empty bits below those that are stored, and the bits that are; 0 bits where unknown.
    unsigned : bool
        Whether numbers to be shifted have no sign.
    padding, window : tuple of 2 floats, or None
        Lowest and highest stored value of padding, and signals to be drawn black and white.
    inverted : bool
        Whether high signal is drawn black.
    modality, facts
        As for `ScanSlice`.
    """

    stored: np.ndarray
    affine: np.ndarray
    located: bool = True
    slope: float = 1.0
    intercept: float = 0.0
    shift: int = 0
    unsigned: bool = False
    bits: int = 0
    padding: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    inverted: bool = False
    modality: str = ""
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[tuple[int, ...], np.ndarray] | None:
        """Shape and affine of the voxels as stored, None where it is not said how they lie."""
        return (self.stored.shape, self.affine) if self.located else None

    def signal(self, stored: np.ndarray) -> np.ndarray:
        """Return what a part of the volume measured, as float32: colours as luma, no padding."""
        if stored.dtype.names:
            return np.sum([stored[name] * np.float32(w) for name, w in _LUMA.items()], axis=0)
        shifted = stored
        if self.shift:  # dcm2niix may have taken the highest bit for a sign
            shifted = stored.view(f"{'iu'[self.unsigned]}{stored.itemsize}") >> self.shift
        with np.errstate(over="ignore"):
            signal = shifted.astype(np.float32) * np.float32(self.slope) + np.float32(
                self.intercept
            )
        if self.padding is not None:
            signal[(shifted >= self.padding[0]) & (shifted <= self.padding[1])] = np.nan
        return signal

    def turned(self, plane: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a view whose last axis counts displayed slices, and its affine."""
        target = nibabel.orientations.axcodes2ornt(tuple(_DISPLAY[plane]))
        change = nibabel.orientations.ornt_transform(_orientation(self.affine), target)
        inverse = nibabel.orientations.inv_ornt_aff(change, self.stored.shape)
        return nibabel.apply_orientation(self.stored, change), self.affine @ inverse


def may_be_nifti(file: Path) -> bool:
    """Return whether a file starts with the header of a NIfTI volume, compressed or not."""
    with _open(file) as stream:
        start = stream.read(_LONGEST_HEADER)
    return any(kind.may_contain_header(start) for kind in _KINDS)


def read_volume(file: Path, plane: str, series: str) -> Iterator[ScanSlice]:
    """Give the slices of a NIfTI, Analyze or MGH file, compressed or not; of a pair its header.

    Parameters
    ----------
    file : Path
    plane : str
        One of `PLANES`, or `acquired`: across the largest spacing, axial where all are the same.
    series : str
        What to call it.

    Raises
    ------
    ImageError
        Before the first slice: where the file is cut short or damaged, has another number of
        dimensions than two or three, or as `draw` says.
    """
    with tempfile.TemporaryDirectory(prefix="brainlib-") as folder:
        volume = quietly(lambda: _open_volume(file, Path(folder)))
        chosen = acquired_plane(volume) if plane == "acquired" else plane
        yield from draw([volume], [chosen], ScanSlice(file, series))


def draw(volumes: list[Volume], planes: list[str], like: ScanSlice) -> Iterator[ScanSlice]:
    """Give the grey slices of volumes that are scaled as one.

    Signal is drawn by the window where that fits, 8-bit files are shown as they are, and others
    between robust percentiles.

    Parameters
    ----------
    volumes : list of Volume
    planes : list of str
        To cut each of them in.
    like : ScanSlice
        Whose file and series the slices take.

    Raises
    ------
    ImageError
        Where nothing is finite, or it is a label map, a phase or an imaginary image.
    """
    views = [volume.turned(plane) for volume, plane in zip(volumes, planes, strict=True)]
    places = [(part, number) for part, (view, _) in enumerate(views)
              for number in range(view.shape[2])]  # fmt: skip
    chosen = np.unique(np.linspace(0, len(places) - 1, _SAMPLED_SLICES).astype(int))
    sampled = [volumes[part].signal(views[part][0][:, :, number])
               for part, number in (places[place] for place in chosen)]  # fmt: skip
    # every so many columns, so that neighbours down a column stay neighbours
    sampled = [one[:, :: max(1, one.size // _SAMPLED_PIXELS)] for one in sampled]
    refuse_derived(sampled)
    values = np.concatenate([one.ravel() for one in sampled])
    limits = [_limits(volume, values) for volume in volumes]
    names = [plane_name(volume.affine, plane) if volume.located else ""
             for volume, plane in zip(volumes, planes, strict=True)]  # fmt: skip
    modality = volumes[0].modality or ("CT" if is_ct(values) else "")
    for order, (part, number) in enumerate(places):
        volume, (view, affine) = volumes[part], views[part]
        spacing = nibabel.affines.voxel_sizes(affine)
        with sharing_memory(view[:, :, 0].size):
            signal = volume.signal(view[:, :, number])
            grey = to_grey(signal, *limits[part])
            grey = np.where(np.isnan(signal), 0, 255 - grey) if volume.inverted else grey
            grey = square(grey.astype(np.uint8), spacing[0], spacing[1])
        yield replace(
            like, number=order, plane=names[part], pixels=grey, modality=modality,
            total=len(places), facts=volume.facts, grid=volume.grid,
            affine=_of_pixels(affine, number, view.shape, grey.shape) if volume.located else None,
        )  # fmt: skip


def _of_pixels(
    affine: np.ndarray, number: int, voxels: tuple[int, ...], pixels: tuple[int, ...]
) -> np.ndarray:
    """Return the affine of one slice of a view, resampled to other pixels."""
    scale = np.array([voxels[0] / pixels[0], voxels[1] / pixels[1], 1.0])
    start = [*(scale[:2] - 1) / 2, number]  # centres of the first pixel and the first voxel
    return affine @ nibabel.affines.from_matvec(np.diag(scale), start)


def _limits(volume: Volume, values: np.ndarray) -> tuple[float, float]:
    """Return the signals to be drawn black and white."""
    low, high = robust_range(values)
    if volume.stored.dtype.names:
        return 0, 255
    if volume.window is not None:  # it may be in other units, or of another file
        bottom, top = volume.window
        shown = np.clip([low, high], bottom, top)
        inside = ((values > bottom) & (values < top)).mean()
        if shown[1] - shown[0] > (top - bottom) / 8 and inside > 0.01:
            return volume.window
    if volume.bits and volume.stored.dtype == np.uint8:
        ends = volume.slope * np.array([0, 2**volume.bits - 1]) + volume.intercept
        return float(ends.min()), float(ends.max())
    return low, high


def map_volumes(file: Path, header: nibabel.Nifti1Header, offset: int) -> list[Volume]:
    """Map the voxels of a file that is not compressed: several volumes where it has four axes.

    Raises
    ------
    ImageError
        Where it holds fewer voxels than its header says, or colours of a rare kind.
    """
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    if dtype.kind not in "iuf" and dtype.names != ("R", "G", "B"):
        raise ImageError("its voxels are complex numbers, or colours of a rare kind; save it as "
                         "plain numbers")  # fmt: skip
    said, held = offset + math.prod(shape) * dtype.itemsize, file.stat().st_size
    if held < said:
        raise ImageError(
            f"it holds {held:,} bytes, and its header says {said:,}; it is cut short or damaged: "
            "copy it again from where it came"
        )
    count = math.prod(shape[3:])
    stored = np.memmap(file, dtype, "r", offset, (*(*shape, 1)[:3], count), order="F")
    scale = getattr(header, "get_slope_inter", lambda: (None, None))()
    usable = None not in scale and np.isfinite(scale).all() and scale[0] != 0
    affine, located = _affine(header)
    scale = tuple(float(part) for part in scale) if usable else (1.0, 0.0)
    return [Volume(stored[..., number], affine, located, *scale) for number in range(count)]


def acquired_plane(volume: Volume) -> str:
    """Return the plane that a volume was scanned in: across its only slice or its largest spacing.

    Axial where the voxels are cubes to within 1 %.
    """
    axes = _orientation(volume.affine)[:, 0].astype(int)
    single = [axis for axis, length in zip(axes, volume.stored.shape, strict=True) if length == 1]
    if len(single) == 1:
        return _PLANE_OF_AXIS[single[0]]
    spacing = nibabel.affines.voxel_sizes(volume.affine)
    if spacing.max() < _ISOTROPIC * spacing.min():
        return "axial"
    return _PLANE_OF_AXIS[axes[spacing.argmax()]]


def nearest_plane(affine: np.ndarray) -> str:
    """Return the plane that the first two axes of an array lie nearest to."""
    return _PLANE_OF_AXIS[int(_orientation(affine)[2, 0])]


def plane_name(affine: np.ndarray, plane: str) -> str:
    """Return `plane`, or `oblique` where the nearest slices of the array are far from it."""
    across = _orientation(affine)[:, 0] == _PLANE_OF_AXIS.index(plane)
    first, second = affine[:3, :3].T[~across]
    normal = np.cross(first, second)
    cosine = abs(normal @ _ALONG_NUMBERS[plane]) / np.linalg.norm(normal)
    return plane if cosine >= _OBLIQUE_COSINE else "oblique"


def along_numbers(affine: np.ndarray) -> np.ndarray:
    """Return the unit normal of an array's slices, in the direction in which they are numbered."""
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal = normal / np.linalg.norm(normal)
    return normal * np.sign(normal @ _ALONG_NUMBERS[nearest_plane(affine)])


def square(pixels: np.ndarray, row_spacing: float, column_spacing: float) -> np.ndarray:
    """Resample a slice to square pixels of the smaller of its two spacings.

    Parameters
    ----------
    pixels : uint8 array of shape (height, width)
    row_spacing, column_spacing : float
        Between the centres of neighbouring rows, and of neighbouring columns; any unit.

    Raises
    ------
    ImageError
        Where there would be more than 100 million pixels, or one spacing is a hundred times the
        other.
    """
    finest, coarsest = sorted((row_spacing, column_spacing))
    sides = f"{row_spacing:g} by {column_spacing:g}"
    if not 0 < coarsest <= _STRETCH * finest < np.inf:
        raise ImageError(f"its pixels are {sides} apart, which no scanner does; write it again "
                         "with its true spacing")  # fmt: skip
    height = max(1, round(pixels.shape[0] * float(row_spacing / finest)))
    width = max(1, round(pixels.shape[1] * float(column_spacing / finest)))
    if height * width > MAX_PIXELS:
        raise ImageError(f"it would have {width} by {height} square pixels, more than "
                         f"{MAX_PIXELS:,}; check its spacing of {sides}")  # fmt: skip
    if (height, width) == pixels.shape:
        return np.ascontiguousarray(pixels)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def require_size(shape: tuple[int, ...]) -> None:
    """Refuse a volume that would fill the memory.

    Raises
    ------
    ImageError
        Where it has more than 400 million voxels, more than 65,535 along a side, or none.
    """
    if not 0 < math.prod(shape) <= MAX_VOXELS or max(shape) > MAX_SIDE or min(shape) < 1:
        raise ImageError(
            f"it has {' by '.join(map(str, shape))} voxels, and a volume has between 1 and "
            f"{MAX_VOXELS:,}, at most {MAX_SIDE:,} along a side; crop it or scale it down first"
        )


def _open_volume(file: Path, folder: Path) -> Volume:
    with _open(file) as stream:
        header, offset, data = _header(stream.read(_LONGEST_HEADER), file)
    if header.get("intent_code", 0) == _LABEL_INTENT:
        raise ImageError("it is a label map; choose the image that it was drawn on")
    shape = header.get_data_shape()
    size = math.prod(shape) * header.get_data_dtype().itemsize
    # as much as a slice more means that the header is wrong; an MGH file has a footer
    most = offset + size + (size // max(shape) if isinstance(header, _KINDS) else MAX_SIDE)
    with _open(data) as stream:
        if isinstance(stream, gzip.GzipFile):
            data = folder / "volume"
            with data.open("wb") as plain:
                while (block := stream.read(2**20)) and plain.tell() < most:
                    plain.write(block)
    if data.stat().st_size >= most:
        raise ImageError("it holds more voxels than its header says; convert it again")
    (volume,) = map_volumes(data, header, offset)
    with suppress(OSError, ValueError):  # a sidecar is optional
        sidecar = file.with_name(file.name.removesuffix(".gz").removesuffix(".nii") + ".json")
        if sidecar.stat().st_size < MAX_SIDE:
            told = json.loads(sidecar.read_text(encoding="utf-8"))
            return replace(volume, **header_facts(told.get))
    return volume


def _header(start: bytes, file: Path) -> tuple[nibabel.Nifti1Header, int, Path]:
    """Return the header, and where in which file its voxels start; no extension is read."""
    kind = next((kind for kind in _KINDS if kind.may_contain_header(start)), None)
    if kind is None and file.suffix.lower() == ".hdr":
        kind = nibabel.AnalyzeHeader
    if kind is not None:
        header = kind(start[: kind.sizeof_hdr], check=False)
    elif file.suffix.lower() in (".mgz", ".mgh"):
        footer = bytes(MGHHeader._ftrdtype.itemsize)
        header = MGHHeader(start[: MGHHeader._hdrdtype.itemsize] + footer, check=False)
    else:
        raise ImageError("it does not start as a NIfTI volume does; copy or convert it again")
    shape = header.get_data_shape()
    if len(shape) < 2 or any(length != 1 for length in shape[3:]):
        raise ImageError(
            f"it has {len(shape)} dimensions ({' by '.join(map(str, shape))}) and not three; save "
            "the one volume of it that is to be looked at (nibabel: image.slicer[..., 0])"
        )
    require_size(shape)
    if kind is None:
        return header, 284, file
    offset = header["vox_offset"].item()
    if kind is nibabel.AnalyzeHeader or header["magic"].item() == kind.pair_magic:
        pair = [file.with_suffix(end) for end in (".img", ".IMG", ".img.gz")]
        data = next((other for other in pair if other.is_file()), None)
        if data is None:
            raise ImageError("its .img is missing; copy both files of the pair into one folder")
        return header, int(offset), data
    if not header.sizeof_hdr <= offset < MAX_PIXELS:
        raise ImageError("its header says that the voxels start inside of it, or too far behind; "
                         "convert it again")  # fmt: skip
    return header, int(offset), file


def _affine(header: nibabel.Nifti1Header) -> tuple[np.ndarray, bool]:
    """Return the sform where it is usable, else the qform, and whether there is either."""
    if isinstance(header, MGHHeader):
        return header.get_affine(), bool(header["goodRASFlag"])
    if not isinstance(header, _KINDS):
        return header.get_base_affine(), False  # Analyze leaves open which side is left
    for code, affine in (("sform_code", header.get_sform), ("qform_code", header.get_qform)):
        told = affine() if header[code] > 0 else np.zeros((4, 4))
        if np.isfinite(told).all() and np.linalg.matrix_rank(told[:3, :3]) == 3:
            return told, True
    said = header["sform_code"] > 0 or header["qform_code"] > 0
    return (header.get_best_affine() if said else header.get_base_affine()), bool(said)


def _open(file: Path) -> gzip.GzipFile:
    with file.open("rb") as stream:
        compressed = stream.read(2) == GZIP_MAGIC
    return gzip.open(file, "rb") if compressed else file.open("rb")


def _orientation(affine: np.ndarray) -> np.ndarray:
    if np.isfinite(affine).all():
        orientation = nibabel.io_orientation(affine)
        if np.isfinite(orientation).all():
            return orientation
    raise ImageError(
        "its header does not say how the voxels lie in space (the affine is not usable); "
        "write it again with an affine"
    )
