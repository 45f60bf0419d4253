"""The slices of DICOM files: one or several series, in any order, single and multi-frame.

Only the tags that are needed to show a slice are read, none that names a patient.
"""

import hashlib
import os
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi,
    apply_windowing,
    iter_pixels,
)
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from brainlib.images import geometry, pictures
from brainlib.images.pictures import ImageError
from brainlib.images.slices import ScanSlice, robust_range, to_grey

_PLACE_TAGS = (
    "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "ImagerPixelSpacing",
    "PixelAspectRatio", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_SIGNAL_TAGS = (
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction",
    "WindowCenter", "WindowWidth", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
)  # fmt: skip
_FILE_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SeriesNumber",
    "InstanceNumber", "ImageType", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation",
)  # fmt: skip
_TAGS = [*_FILE_TAGS, *_PLACE_TAGS, *_SIGNAL_TAGS]

_NO_SLICES = {
    "LOCALIZER": "a localizer, which shows where the other series lie",
    "SCOUT": "a localizer, which shows where the other series lie",
    "MOSAIC": "a mosaic of many slices in one picture; convert it first, for instance by dcm2niix",
}
_MAX_FRAMES = 100_000
_SAMPLED_SLICES = 32  # the percentiles of a long series are taken from this many of its slices
_SAMPLED_PIXELS = 100_000  # of each of these slices
_SAME_STEP = 0.05  # how far the steps of a regular volume may differ, as a share of the step
_REASON_LENGTH = 300  # decoders answer with pages
_EXTREMES = np.array([-1e30, 1e30])

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Frame:
    """Where one slice is found, and where it lies; no pixels.

    Attributes
    ----------
    file : Path
    index : int
        Its place in a multi-frame file, 0 in others.
    series : str
        The series number and a hash of the series' UID.
    identity : str
        The file's own UID, empty where it has none.
    instance : int
        Its instance number, -1 where it has none.
    orientation : tuple of 6 floats, or None
        Directions of a row and of a column in the patient, DICOM's axes.
    position : tuple of 3 floats, or None
        Centre of the first pixel, mm, DICOM's axes.
    spacing : tuple of 2 floats
        Between rows and between columns, mm where the file says.
    shape : tuple of 2 ints
        Height and width.
    """

    file: Path
    index: int
    series: str
    identity: str
    instance: int
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    spacing: tuple[float, float]
    shape: tuple[int, int]

    @property
    def affine(self) -> np.ndarray:
        """From (row, column, 0) to millimetres, nibabel's axes; for frames with an orientation."""
        along_row, along_column = np.reshape(self.orientation, (2, 3))
        affine = np.eye(4)
        affine[:3, 0] = along_column * self.spacing[0]
        affine[:3, 1] = along_row * self.spacing[1]
        affine[:3, 2] = np.cross(along_row, along_column)
        affine[:3, 3] = self.position or (0, 0, 0)
        affine[:2] *= -1  # DICOM counts to the left and to the back
        return affine


def index_file(file: Path) -> list[Frame]:
    """Read where the slices of one file lie, without decoding them.

    Raises
    ------
    ImageError
        Where the file is damaged, holds no picture, or none to be shown (a localizer).
    """
    header = _read_header(file)
    return _quietly(lambda: _index(file, header))


def read_series(frames: list[Frame], plane: str) -> Iterator[ScanSlice]:
    """Give the slices of one series in order of their positions.

    Grey values follow the file's modality and VOI transforms (the first window where it offers
    several). Where it has none, 8-bit files are shown as they are, and others between the robust
    percentiles of the whole series.

    Parameters
    ----------
    frames : list of Frame
        In any order.
    plane : str
        `acquired`, or one of `PLANES`: a series in another plane is cut anew where its slices make
        a regular volume.

    Raises
    ------
    ImageError
        Where the series cannot be cut in the plane that was asked for.
    """
    frames = _quietly(lambda: _in_order(frames))
    grey_range = _SeriesRange(frames)
    if plane == "acquired" or all(_plane(frame)[0] == plane for frame in frames):
        yield from _acquired(frames, grey_range)
    else:
        yield from _cut_anew(frames, grey_range, plane)


def _index(file: Path, header: Dataset) -> list[Frame]:
    count = int(header.get("NumberOfFrames") or 1)
    _require_slices(header, count)
    series = _series_name(header, file)
    return [_frame(file, index, series, header) for index in range(count)]


def _acquired(frames: list[Frame], grey_range: "_SeriesRange") -> Iterator[ScanSlice]:
    seen = set()
    for number, (frame, pixels) in enumerate(_decoded(frames, grey_range)):
        name = _plane(frame)[1]
        identity = (frame.identity, frame.index, frame.instance, frame.position)
        try:
            if frame.identity and identity in seen:
                raise ImageError("it is a second copy of another file of its series")
            seen.add(identity)
            if isinstance(pixels, ImageError):
                raise pixels
            pixels = _quietly(lambda: _shown(pixels, frame))  # noqa: B023
            shown = ScanSlice(frame.file, frame.series, number, name, pixels)
        except ImageError as error:
            shown = ScanSlice(frame.file, frame.series, number, name, error=str(error))
        yield shown


def _shown(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    if frame.orientation is None:
        return geometry.square(pixels, *frame.spacing)
    turned, spacing = geometry.turn(pixels[..., np.newaxis], frame.affine, _plane(frame)[0])
    return geometry.square(turned[..., 0], spacing[0], spacing[1])


def _cut_anew(frames: list[Frame], grey_range: "_SeriesRange", plane: str) -> Iterator[ScanSlice]:
    affine = _volume_affine(frames, plane)
    volume = np.empty((*frames[0].shape, len(frames)), np.uint8)
    for number, (frame, pixels) in enumerate(_decoded(frames, grey_range)):
        if isinstance(pixels, ImageError):
            raise ImageError(
                f"it cannot be cut to {plane} slices, because {frame.file.name}: {pixels}"
            )
        volume[..., number] = pixels
    turned, spacing = geometry.turn(volume, affine, plane)
    like = ScanSlice(frames[0].file, frames[0].series, plane=geometry.plane_name(affine, plane))
    slices = (turned[:, :, number] for number in range(turned.shape[2]))
    yield from geometry.cut(slices, spacing, like)


def _volume_affine(frames: list[Frame], plane: str) -> np.ndarray:
    """Return the affine of the volume that frames in order make, or say why they make none."""
    problem = _irregularity(frames)
    if problem:
        raise ImageError(
            f"its series cannot be cut to {plane} slices, because {problem}; "
            "plane='acquired' gives the slices as they were scanned"
        )
    geometry.require_size((*frames[0].shape, len(frames)))
    affine = frames[0].affine
    first, last = frames[0].affine[:3, 3], frames[-1].affine[:3, 3]
    affine[:3, 2] = (last - first) / (len(frames) - 1)
    return affine


def _irregularity(frames: list[Frame]) -> str:
    if any(frame.orientation is None or frame.position is None for frame in frames):
        return "its files do not say where the slices lie"
    if len(frames) < 2:
        return "it has one slice only"
    if len({(frame.shape, frame.spacing, _rounded(frame.orientation)) for frame in frames}) > 1:
        return "its slices differ in size, spacing or orientation"
    steps = np.diff([frame.affine[:3, 3] for frame in frames], axis=0)
    normal = geometry.along_numbers(frames[0].affine)
    advances = steps @ normal
    step = np.median(advances)
    if step <= 0 or (advances < _SAME_STEP * step).any():
        return "several of its slices lie at the same place (echoes, times or copies)"
    if np.abs(advances - step).max() > _SAME_STEP * step:
        return f"slices are missing: most are {step:.3g} mm apart, some {advances.max():.3g} mm"
    if np.linalg.norm(steps - advances[:, np.newaxis] * normal, axis=1).max() > _SAME_STEP * step:
        return "its slices are shifted against each other (a tilted gantry)"
    return ""


def _in_order(frames: list[Frame]) -> list[Frame]:
    """Sort by position along the normal, or by instance number where a position is missing."""
    located = all(frame.orientation and frame.position for frame in frames)

    def place(frame: Frame) -> tuple[Any, ...]:
        if not located:
            return frame.instance, frame.file, frame.index
        # orientations first, so that each stack of a series with several keeps together
        along = float(geometry.along_numbers(frame.affine) @ frame.affine[:3, 3])
        orientation = _rounded(frame.orientation)
        return orientation, round(along, 3), frame.instance, frame.file, frame.index

    return sorted(frames, key=place)


def _rounded(orientation: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(cosine, 2) + 0.0 for cosine in orientation)


def _plane(frame: Frame) -> tuple[str, str]:
    """Return the plane nearest to a frame, and the name that it goes by."""
    if frame.orientation is None:
        return "", ""
    nearest = geometry.nearest_plane(frame.affine)
    return nearest, geometry.plane_name(frame.affine, nearest)


def _decoded(
    frames: Iterable[Frame], grey_range: "_SeriesRange"
) -> Iterator[tuple[Frame, np.ndarray | ImageError]]:
    for frame, header, values in _stored(frames):
        if isinstance(values, ImageError):
            yield frame, values
            continue
        try:
            yield frame, _quietly(lambda: _grey(values, header, grey_range))  # noqa: B023
        except ImageError as error:
            yield frame, error


def _stored(
    frames: Iterable[Frame],
) -> Iterator[tuple[Frame, Dataset | None, np.ndarray | ImageError]]:
    """Decode frames one by one; neighbours in one file are read in one go."""
    for file, run in groupby(frames, key=lambda frame: frame.file):
        run = list(run)
        try:
            header = _read_header(file)
            decoded = _iter_pixels(file, header, [frame.index for frame in run])
        except ImageError as error:
            yield from ((frame, None, error) for frame in run)
            continue
        for frame in run:
            try:
                values = _quietly(lambda: next(decoded))  # noqa: B023
                tags = _quietly(lambda: _frame_header(header, frame.index))  # noqa: B023
            except ImageError as error:  # a generator that failed gives nothing more
                values, tags = error, None
                rest = [later.index for later in run if later.index > frame.index]
                decoded = _iter_pixels(file, header, rest)
            yield frame, tags, values


def _iter_pixels(file: Path, header: Dataset, indices: list[int]) -> Iterator[np.ndarray]:
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None:  # a file without preamble is not compressed, and was read as one of these
        implicit, little_endian = header.original_encoding
        explicit = ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
        syntax = ImplicitVRLittleEndian if implicit else explicit
    return iter_pixels(file, indices=indices, transfer_syntax_uid=syntax)


class _SeriesRange:
    """The signals drawn black and white in a series without windows; found when first asked for."""

    def __init__(self, frames: list[Frame]) -> None:
        chosen = np.linspace(0, len(frames) - 1, min(len(frames), _SAMPLED_SLICES)).astype(int)
        self._frames = [frames[number] for number in sorted(set(chosen))]
        self._range: tuple[float, float] | None = None

    def __call__(self) -> tuple[float, float]:
        if self._range is None:
            samples = [
                # an odd step meets every column in turn
                apply_modality_lut(values, header).ravel()[:: values.size // _SAMPLED_PIXELS | 1]
                for _, header, values in _stored(self._frames)
                if not isinstance(values, ImageError) and values.ndim == 2
            ]
            self._range = robust_range(np.concatenate(samples))
        return self._range


def _grey(values: np.ndarray, header: Dataset, series_range: _SeriesRange) -> np.ndarray:
    if header.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, header)
    if values.ndim == 3:
        bits = 8 * values.dtype.itemsize
        colours = to_grey(values[..., :3], 0, 2**bits - 1) if bits > 8 else values[..., :3]
        return np.asarray(Image.fromarray(np.ascontiguousarray(colours)).convert("L"))
    grey = _windowed(values, header, series_range)
    return 255 - grey if header.PhotometricInterpretation == "MONOCHROME1" else grey


def _windowed(values: np.ndarray, header: Dataset, series_range: _SeriesRange) -> np.ndarray:
    signal = apply_modality_lut(values, header)
    if header.get("VOILUTSequence"):
        bits = header.VOILUTSequence[0].LUTDescriptor[2]
        return to_grey(apply_voi(signal.astype(np.int64), header), 0, 2**bits - 1)
    if header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        try:
            with np.errstate(over="ignore"):
                # what the window makes of the extremes is what it calls black and white
                black, white = apply_windowing(_EXTREMES, header)
                shown = apply_windowing(signal, header)
            return to_grey((shown - black) / (white - black), 0, 1)
        except (ValueError, ZeroDivisionError):  # a width of zero is no window
            pass
    if values.dtype == np.uint8:
        full = np.array([0, 2**header.BitsStored - 1], np.uint8)
        return to_grey(signal, *sorted(apply_modality_lut(full, header)))
    return to_grey(signal, *series_range())


def _read_header(file: Path) -> Dataset:
    def read() -> Dataset:
        # a file without the DICOM preamble is read as well, and refused below if it makes no sense
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        for name in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"):
            if name in header and header[name].is_empty:
                del header[name]
        return header

    return _quietly(read)


def _require_slices(header: Dataset, frames: int) -> None:
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    name = kind.name if kind else ""
    if "Directory" in name:
        raise ImageError("skipped: it is a DICOMDIR, a list of other files")
    if not header.get("Rows") or not header.get("Columns"):
        raise ImageError(
            f"skipped: it holds no picture ({name})"
            if name and "Image Storage" not in name
            else "it is no DICOM image, or cut short; copy it again from where it came"
        )
    if "Segmentation" in name or "RT Dose" in name:
        raise ImageError(f"skipped: it is no scan ({name})")
    for word in header.get("ImageType") or []:
        if word in _NO_SLICES:
            raise ImageError(f"skipped: it is {_NO_SLICES[word]}")
    if header.Rows * header.Columns > pictures.MAX_PICTURE_PIXELS or frames > _MAX_FRAMES:
        raise ImageError(
            f"it has {frames} slices of {header.Columns} by {header.Rows} pixels, more than "
            f"{_MAX_FRAMES:,} or {pictures.MAX_PICTURE_PIXELS:,}; take it apart first"
        )


def _series_name(header: Dataset, file: Path) -> str:
    uid = header.get("SeriesInstanceUID")
    # files that name no series are one with the others of their folder
    identity = uid.encode() if uid else os.fsencode(file.parent)
    digest = hashlib.blake2b(identity, digest_size=4).hexdigest()
    number = header.get("SeriesNumber")
    return digest if number is None else f"{number}-{digest}"


def _frame(file: Path, index: int, series: str, header: Dataset) -> Frame:
    tags = _frame_header(header, index)
    return Frame(
        file, index, series, str(tags.get("SOPInstanceUID") or ""),
        int(tags.get("InstanceNumber") or -1), _orientation(tags),
        _numbers(tags, "ImagePositionPatient", 3), _spacing(tags),
        (int(tags.Rows), int(tags.Columns)),
    )  # fmt: skip


def _frame_header(header: Dataset, index: int) -> Dataset:
    """Return the tags of one frame; enhanced files keep them in sequences, for all or for each."""
    groups = [*(header.get("SharedFunctionalGroupsSequence") or [])[:1]]
    groups += (header.get("PerFrameFunctionalGroupsSequence") or [])[index : index + 1]
    if not groups:
        return header
    tags = Dataset(header)
    tags.set_original_encoding(*header.original_encoding)
    tags.file_meta = header.file_meta
    for group in groups:
        for element in group:
            if element.VR == "SQ" and element.value:
                tags.update(element.value[0])
    return tags


def _orientation(tags: Dataset) -> tuple[float, ...] | None:
    cosines = _numbers(tags, "ImageOrientationPatient", 6)
    if cosines is None:
        return None
    directions = np.reshape(cosines, (2, 3))
    right = np.allclose(directions @ directions.T, np.eye(2), atol=0.02)
    return cosines if right else None


def _spacing(tags: Dataset) -> tuple[float, float]:
    for name in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        spacing = _numbers(tags, name, 2)
        if spacing is not None and min(spacing) > 0:
            return spacing
    return 1.0, 1.0


def _numbers(tags: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    value = tags.get(name)
    if value is None or isinstance(value, str) or np.size(value) != count:
        return None
    numbers = tuple(float(number) for number in value)
    return numbers if np.isfinite(numbers).all() else None


def _quietly(read: Callable[[], Result]) -> Result:
    """Call what reads a file; whatever it raises or warns of becomes one kind of error, or none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read()
    except (ImageError, KeyboardInterrupt, SystemExit):
        raise
    except StopIteration:
        raise ImageError("it holds fewer slices than it says; copy it again") from None
    except BaseException as error:  # the RLE decoder panics (no Exception) on damaged files
        raise ImageError(f"{_reason(error)}; copy it again from where it came") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, AttributeError) and "Pixel Data" in str(error):
        return "it holds no pixel data"
    text = textwrap.shorten(f"{type(error).__name__}: {error}", _REASON_LENGTH)
    return f"it cannot be decoded, cut short or damaged ({text})"
