"""The series of DICOM files: one or several, in any order, single and multi-frame.

`decoding` reads the files; here their slices are put in order, turned, and made volumes of.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID_dictionary

from brainlib.imaging import geometry
from brainlib.imaging.codecs import open_dicom
from brainlib.imaging.decoding import SeriesRange, decode, frame_header, read_header
from brainlib.imaging.errors import ImageError, quietly
from brainlib.imaging.slices import Frame, ScanSlice

MAX_SLICE_PIXELS = 40_000_000
"""The largest DICOM slice that is decoded; to window it takes some thirty bytes a pixel."""

_NO_SLICES = {
    "LOCALIZER": "a localizer, which shows where the other series lie",
    "SCOUT": "a localizer, which shows where the other series lie",
    "MOSAIC": "a mosaic of many slices in one picture; convert it first, for instance by dcm2niix",
}
_MAX_FRAMES = 100_000
_MIN_FRAME_BYTES = 8  # compressed, each has at least a header of its own
_SAME_STEP = 0.05  # how far the steps of a regular volume may differ, as a share of the step


def index_file(file: Path) -> list[Frame]:
    """Read where the slices of one file lie, without decoding them.

    Raises
    ------
    ImageError
        Where the file is damaged, holds no picture, or none to be shown (a localizer).
    """
    with quietly(lambda: open_dicom(file)) as stream:
        header = read_header(stream)
        size = stream.seek(0, os.SEEK_END)
    return quietly(lambda: _index(file, header, size))


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
    frames = quietly(lambda: _in_order(frames))
    grey_range = SeriesRange(frames)
    if plane == "acquired" or all(_plane(frame)[0] == plane for frame in frames):
        yield from _acquired(frames, grey_range)
    else:
        yield from _cut_anew(frames, grey_range, plane)


def _index(file: Path, header: Dataset, size: int) -> list[Frame]:
    count = int(header.get("NumberOfFrames") or 1)
    _require_slices(header, count)
    if count > 1 and count * _MIN_FRAME_BYTES > size:
        raise ImageError(
            f"its header says {count:,} slices, and its {size:,} bytes cannot hold them; copy it "
            "again from where it came"
        )
    series = _series_name(header, file)
    return [_frame(file, index, series, header) for index in range(count)]


def _acquired(frames: list[Frame], grey_range: "SeriesRange") -> Iterator[ScanSlice]:
    seen = set()
    for number, (frame, pixels) in enumerate(decode(frames, grey_range)):
        name = _plane(frame)[1]
        identity = (frame.identity, frame.index, frame.instance, frame.position)
        try:
            if frame.identity and identity in seen:
                raise ImageError("it is a second copy of another file of its series")
            if isinstance(pixels, ImageError):
                raise pixels
            pixels = quietly(lambda: _shown(pixels, frame))  # noqa: B023
            seen.add(identity)  # only now: a damaged copy must not hide the whole one
            shown = ScanSlice(
                frame.file, frame.series, number, name, pixels, modality=frame.modality
            )
        except ImageError as error:
            shown = ScanSlice(frame.file, frame.series, number, name, error=str(error))
        yield shown
    for remark in filter(None, (_missing(frames), _doubtful_order(frames))):
        yield ScanSlice(frames[0].file, frames[0].series, len(frames), error=remark)


def _shown(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    if frame.orientation is None:
        return geometry.square(pixels, *frame.spacing)
    turned, spacing = geometry.turn(pixels[..., np.newaxis], frame.affine, _plane(frame)[0])
    return geometry.square(turned[..., 0], spacing[0], spacing[1])


def _cut_anew(frames: list[Frame], grey_range: "SeriesRange", plane: str) -> Iterator[ScanSlice]:
    affine = _volume_affine(frames, plane)
    volume = np.empty((*frames[0].shape, len(frames)), np.uint8)
    for number, (frame, pixels) in enumerate(decode(frames, grey_range)):
        if isinstance(pixels, ImageError):
            raise ImageError(
                f"it cannot be cut to {plane} slices, because {frame.file.name}: {pixels}"
            )
        volume[..., number] = pixels
    turned, spacing = geometry.turn(volume, affine, plane)
    like = ScanSlice(
        frames[0].file, frames[0].series, plane=geometry.plane_name(affine, plane),
        modality=frames[0].modality,
    )  # fmt: skip
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


def _missing(frames: list[Frame]) -> str:
    """Return how many slices are missing in a series that is regular but for gaps."""
    if not _located(frames) or len({_rounded(frame.orientation) for frame in frames}) > 1:
        return ""
    places = {round(_along(frame), 2) for frame in frames}  # of several echoes there is one
    steps = np.diff(sorted(places))
    if len(steps) < 4:
        return ""
    step = np.median(steps)
    gaps = np.rint(steps / step)
    if gaps.max() < 2 or np.abs(steps - gaps * step).max() > _SAME_STEP * step:
        return ""
    return (
        f"{int(gaps.sum()) - len(gaps)} slices are missing in its series: most are {step:.3g} mm "
        f"apart, some {steps.max():.3g} mm; what they show is in no answer, copy them as well"
    )


def _doubtful_order(frames: list[Frame]) -> str:
    """Say where files have the same instance number, and nothing else gives their order."""
    numbered = [(frame.instance, frame.index) for frame in frames if frame.instance >= 0]
    if _located(frames) or len(set(numbered)) == len(numbered):
        return ""
    return (
        "several of its slices have the same instance number, and no position; they come in the "
        "order of their names: look at the order before you trust a slice number"
    )


def _located(frames: list[Frame]) -> bool:
    return all(frame.orientation and frame.position for frame in frames)


def _along(frame: Frame) -> float:
    return float(geometry.along_numbers(frame.affine) @ frame.affine[:3, 3])


def _in_order(frames: list[Frame]) -> list[Frame]:
    """Sort by position along the normal, or by instance number where a position is missing."""
    located = _located(frames)

    def place(frame: Frame) -> tuple[Any, ...]:
        if not located:
            return frame.instance, frame.file, frame.index
        # orientations first, so that each stack of a series with several keeps together
        orientation = _rounded(frame.orientation)
        return orientation, round(_along(frame), 3), frame.instance, frame.file, frame.index

    return sorted(frames, key=place)


def _rounded(orientation: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(cosine, 2) + 0.0 for cosine in orientation)


def _plane(frame: Frame) -> tuple[str, str]:
    """Return the plane nearest to a frame, and the name that it goes by."""
    if frame.orientation is None:
        return "", ""
    nearest = geometry.nearest_plane(frame.affine)
    return nearest, geometry.plane_name(frame.affine, nearest)


def _require_slices(header: Dataset, frames: int) -> None:
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    # the value of a damaged tag may run into the next, which may name the patient
    name = kind.name if kind in UID_dictionary else ""
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
    if header.Rows * header.Columns > MAX_SLICE_PIXELS or not 0 < frames <= _MAX_FRAMES:
        raise ImageError(
            f"it has {frames} slices of {header.Columns} by {header.Rows} pixels, not 1 to "
            f"{_MAX_FRAMES:,} of at most {MAX_SLICE_PIXELS:,}; take it apart first"
        )


def _series_name(header: Dataset, file: Path) -> str:
    uid = header.get("SeriesInstanceUID")
    # files that name no series are one with the others of their folder
    identity = uid.encode() if uid else os.fsencode(file.parent)
    digest = hashlib.blake2b(identity, digest_size=4).hexdigest()
    number = header.get("SeriesNumber")
    # of a damaged file it could be any text
    return f"{int(number)}-{digest}" if isinstance(number, int) else digest


def _frame(file: Path, index: int, series: str, header: Dataset) -> Frame:
    tags = frame_header(header, index)
    return Frame(
        file, index, series, str(tags.get("SOPInstanceUID") or ""),
        int(tags.get("InstanceNumber") or -1), _orientation(tags),
        _numbers(tags, "ImagePositionPatient", 3), _spacing(tags),
        (int(tags.Rows), int(tags.Columns)), _modality(tags),
    )  # fmt: skip


def _modality(tags: Dataset) -> str:
    """Return the modality, where it looks like one: a damaged tag may hold anything."""
    value = str(tags.get("Modality") or "")
    return value if re.fullmatch("[A-Z]{2,6}", value) else ""


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
