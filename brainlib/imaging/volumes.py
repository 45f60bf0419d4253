"""Volumes: NIfTI, Analyze and MGH files, and the grey slices of any volume.

Affines are nibabel's: from array indices to millimetres, x to the patient's right, y to the front,
z to the head.
"""

import gzip
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from PIL import Image

from brainlib import paths
from brainlib.imaging.errors import ImageError
from brainlib.imaging.slices import (
    MAX_PIXELS,
    MAX_SIDE,
    ScanSlice,
    header_facts,
    open_plain,
    refuse_signal,
    robust_range,
    to_grey,
    to_luma,
)

MAX_VOXELS = 400_000_000  # of a volume that is opened
_KINDS = (nibabel.Nifti1Header, nibabel.Nifti2Header, nibabel.AnalyzeHeader)
_CODES = ("sform_code", "qform_code", "goodRASFlag")
_LABEL_INTENT = 1002
_OBLIQUE_COSINE = 0.8  # D. Clunie's threshold, 37 degrees
_STRETCH = 100  # a slice of 10 mm at 0.1 mm a pixel; more is a damaged header
_ISOTROPIC = 1.01  # spacings that differ by less are the same up to rounding in the header
_SAMPLED_SLICES = 32
_SAMPLED_PIXELS = 40_000  # of each of these slices

_PLANE_OF_AXIS = ("sagittal", "coronal", "axial")  # cut by x, y and z
# where the rows, the columns and the numbers of displayed slices lead to, in nibabel's letters
_DISPLAY = {"axial": "PLS", "coronal": "ILP", "sagittal": "IPR"}
_ALONG_NUMBERS = {"axial": (0, 0, 1), "coronal": (0, -1, 0), "sagittal": (1, 0, 0)}


@dataclass(frozen=True, eq=False)
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
    bits : int
        Of values that are shown as they are, from 0; 0 for others.
    window : tuple of 2 floats, or None
        Signals to be drawn black and white.
    inverted : bool
        Whether high signal is drawn black.
    """

    stored: np.ndarray
    affine: np.ndarray
    located: bool = True
    slope: float = 1.0
    intercept: float = 0.0
    bits: int = 0
    window: tuple[float, float] | None = None
    inverted: bool = False

    def signal(self, stored: np.ndarray) -> np.ndarray:
        """Return what a part of the volume measured, as float32: colours as luma."""
        if stored.dtype.names:
            return to_luma(np.stack([stored[name] for name in "RGB"], axis=-1))
        with np.errstate(over="ignore"):
            signal = stored.astype(np.float32) * np.float32(self.slope)
            return signal + np.float32(self.intercept)

    def turned(self, plane: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a view whose last axis counts displayed slices, and its affine."""
        target = nibabel.orientations.axcodes2ornt(tuple(_DISPLAY[plane]))
        change = nibabel.orientations.ornt_transform(nibabel.io_orientation(self.affine), target)
        inverse = nibabel.orientations.inv_ornt_aff(change, self.stored.shape)
        return nibabel.apply_orientation(self.stored, change), self.affine @ inverse


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
    with paths.temporary_folder() as folder:
        volume = _open_volume(file, folder)
        chosen = acquired_plane(volume) if plane == "acquired" else plane
        yield from draw([volume], [chosen], ScanSlice(file, series, **_facts(file)))


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
        Where nothing is finite, or as `refuse_signal` and `refuse_colours` say.
    """
    places = []
    for volume, plane in zip(volumes, planes, strict=True):
        view, affine = volume.turned(plane)
        is_near = along_numbers(affine) @ _ALONG_NUMBERS[plane] >= _OBLIQUE_COSINE
        name = "" if not volume.located else plane if is_near else "oblique"
        places += [(volume, view, affine, name, number) for number in range(view.shape[2])]
    sampled = []
    for index in np.unique(np.linspace(0, len(places) - 1, _SAMPLED_SLICES).astype(int)):
        volume, view, *_, number = places[index]
        signal = volume.signal(view[:, :, number])
        # every so many columns, so that neighbours down a column stay neighbours
        sampled.append(signal[:, :: max(1, signal.size // _SAMPLED_PIXELS)])
    refuse_signal(sampled, like.modality)
    limits = _limits(volumes[0], np.concatenate([signal.ravel() for signal in sampled]))
    for order, (volume, view, affine, name, number) in enumerate(places):
        signal = volume.signal(view[:, :, number])
        grey = to_grey(signal, *limits)
        if volume.inverted:
            grey = np.where(np.isnan(signal), 0, 255 - grey).astype(np.uint8)
        grey = square(grey, *nibabel.affines.voxel_sizes(affine)[:2])
        shown = replace(like, number=order, total=len(places), plane=name, pixels=grey)
        if volume.located:
            scale = np.divide(view.shape[:2], grey.shape)
            start = [*(scale - 1) / 2, number]  # centres of the first pixel and the first voxel
            to_voxels = nibabel.affines.from_matvec(np.diag([*scale, 1]), start)
            grid = volume.stored.shape, volume.affine
            shown = replace(shown, affine=affine @ to_voxels, grid=grid)
        yield shown


def _limits(volume: Volume, values: np.ndarray) -> tuple[float, float]:
    """Return the signals to be drawn black and white."""
    low, high = robust_range(values)
    if volume.window is not None:  # it may be in other units, or of another file
        bottom, top = volume.window
        inside = ((values > bottom) & (values < top)).mean()
        if np.ptp(np.clip([low, high], bottom, top)) > (top - bottom) / 8 and inside > 0.01:
            return volume.window
    bits = 8 if volume.stored.dtype.names else volume.bits
    return (0, 2**bits - 1) if bits else (low, high)


def acquired_plane(volume: Volume) -> str:
    """Return the plane that a volume was scanned in: across its only slice or its largest spacing.

    Axial where the voxels are cubes to within 1 %.
    """
    axes = nibabel.io_orientation(volume.affine)[:, 0].astype(int)
    flat = np.equal(volume.stored.shape, 1)
    spacing = nibabel.affines.voxel_sizes(volume.affine)
    spacing = np.where(flat & (flat.sum() == 1), np.inf, spacing)
    if spacing.max() < _ISOTROPIC * spacing.min():
        return "axial"
    return _PLANE_OF_AXIS[axes[spacing.argmax()]]


def nearest_plane(affine: np.ndarray) -> str:
    """Return the plane that the first two axes of an array lie nearest to."""
    return _PLANE_OF_AXIS[int(nibabel.io_orientation(affine)[2, 0])]


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
        Where one spacing is a hundred times the other, or there would be more than 40 million
        pixels.
    """
    spacing = np.array([row_spacing, column_spacing])
    finest, coarsest = spacing.min(), spacing.max()
    if (not 0 < coarsest <= _STRETCH * finest < np.inf
            or pixels.size * (coarsest / finest) > MAX_PIXELS):  # fmt: skip
        raise ImageError(f"its pixels are {row_spacing:g} by {column_spacing:g} apart, as of no "
                         "scanner; write it again with its true spacing")  # fmt: skip
    height, width = np.rint(pixels.shape * spacing / finest).astype(int).clip(1).tolist()
    if (height, width) == pixels.shape:
        return np.ascontiguousarray(pixels)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def require_size(shape: tuple[int, ...]) -> None:
    """Refuse a volume that would fill the memory.

    Raises
    ------
    ImageError
        Where it has more than 400 million voxels, more than 40 million in a slice, more than
        65,535 along a side, or none.
    """
    *_, second, longest = sorted((1, *shape))
    if not (0 < math.prod(shape) <= MAX_VOXELS and second * longest <= MAX_PIXELS
            and longest <= MAX_SIDE and min(shape) > 0):  # fmt: skip
        sides = " by ".join(map(str, shape))
        raise ImageError(f"it has {sides} voxels, more than {MAX_VOXELS:,} or {MAX_SIDE:,} along a "
                         "side, or none; crop it or scale it down first")  # fmt: skip


def _open_volume(file: Path, folder: Path) -> Volume:
    header, offset, data = _read_header(file)
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    require_size(shape)
    if len(shape) < 2 or math.prod(shape[3:]) != 1:
        raise ImageError(f"it has {len(shape)} dimensions ({' by '.join(map(str, shape))}) and not "
                         "three; save the one volume that is to be looked at")  # fmt: skip
    if dtype.kind not in "iuf" and dtype.names != ("R", "G", "B"):
        raise ImageError("its voxels are complex or rare colours; save it as plain numbers")
    least = offset + math.prod(shape) * dtype.itemsize
    # as much as a slice more means that the header is wrong; an MGH file has a footer
    spare = max(1, (least - offset) // max(shape)) if isinstance(header, _KINDS) else MAX_SIDE
    with open_plain(data) as stream:
        if isinstance(stream, gzip.GzipFile):
            data = folder / "volume"
            with data.open("wb") as plain:
                while (block := stream.read(2**20)) and plain.tell() < least + spare:
                    plain.write(block)
    held = data.stat().st_size
    if not least <= held < least + spare:
        raise ImageError(f"it holds {held:,} bytes, and its header says {least:,}; it is cut short "
                         "or damaged: copy it again from where it came")  # fmt: skip
    scale = getattr(header, "get_slope_inter", lambda: (None, None))()
    usable = None not in scale and np.isfinite(scale).all() and scale[0] != 0
    stored = np.memmap(data, dtype, "r", offset, (*shape, 1)[:3], "F")
    return Volume(stored, *_affine(header), *(scale if usable else ()))


def _facts(file: Path) -> dict:
    """Return what the sidecar of a volume says, if there is one."""
    sidecar = file.with_name(file.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    with suppress(OSError, ValueError, AttributeError):  # it is optional
        if sidecar.stat().st_size < MAX_SIDE:
            return header_facts(json.loads(sidecar.read_text(encoding="utf-8")).get)
    return {}


def _read_header(file: Path) -> tuple[nibabel.Nifti1Header, int, Path]:
    """Return the header of a volume, and where in which file its voxels start."""
    with open_plain(file) as stream:
        start = stream.read(nibabel.Nifti2Header.sizeof_hdr)  # no extension is read
    if file.suffix.lower() in (".mgz", ".mgh"):
        footer = bytes(MGHHeader._ftrdtype.itemsize)
        return MGHHeader(start[: MGHHeader._hdrdtype.itemsize] + footer, check=False), 284, file
    kind = next((kind for kind in _KINDS if kind.may_contain_header(start)), None)
    if kind is None:
        raise ImageError("it does not start as a NIfTI volume does; copy or convert it again")
    header = kind(start[: kind.sizeof_hdr], check=False)
    if header.get("intent_code", 0) == _LABEL_INTENT:
        raise ImageError("skipped: it is a label map; choose the image that it was drawn on")
    offset = header["vox_offset"].item()
    if kind is nibabel.AnalyzeHeader or header["magic"].item() == kind.pair_magic:
        pair = (file.with_suffix(end) for end in (".img", ".IMG", ".img.gz"))
        file = next((other for other in pair if other.is_file()), None)
        if file is None:
            raise ImageError("its .img is missing; copy both files of the pair into one folder")
    elif not header.sizeof_hdr <= offset < MAX_PIXELS:
        raise ImageError("its voxels start inside its header, or too far behind; convert it again")
    return header, int(offset), file


def _affine(header: nibabel.Nifti1Header) -> tuple[np.ndarray, bool]:
    """Return the first affine that is usable, sform before qform, and whether the file gives it."""
    for code in (*_CODES, ""):
        with suppress(Exception):  # none, infinite or damaged
            affine = header.get_best_affine()
            if np.linalg.matrix_rank(affine[:3, :3]) == 3:
                return affine, any(header.get(name, 0) > 0 for name in _CODES)
        if header.get(code, 0):
            header[code] = 0
    raise ImageError("its affine is not usable: it does not say how the voxels lie; write it again")
