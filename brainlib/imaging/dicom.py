"""DICOM series, converted to volumes by dcm2niix in a process of its own.

pydicom reads the headers of the files, dcm2niix (C. Rorden) their pixels; what a damaged or hostile
file does to it ends at limits of time, memory and disk.
"""

import gzip
import hashlib
import io
import logging
import math
import os
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import UID, RLELossless, UID_dictionary

from brainlib.imaging.errors import ImageError, quietly
from brainlib.imaging.facts import header_facts
from brainlib.imaging.slices import ScanSlice
from brainlib.imaging.volumes import (
    GZIP_MAGIC,
    GZIP_RATIO,
    Volume,
    along_numbers,
    draw,
    map_volumes,
    nearest_plane,
    require_size,
)

MAX_SLICE_PIXELS = 40_000_000
"""The largest DICOM slice that is decoded."""

MAX_INFLATED = 500_000_000
"""The most bytes that a compressed file (`.dcm.gz`, deflated) may unpack to."""

MEMORY_BYTES = 8 * 2**30
"""The most memory that dcm2niix may address."""

SECONDS = 20
"""How long dcm2niix may take, and one more for every two million pixels."""

_PERSON = ["PatientID", "PatientName", "StudyInstanceUID"]
_TAGS = [
    *_PERSON, "Modality", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber",
    "InstanceNumber", "ImageType", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "ImageOrientationPatient",
    "ImagePositionPatient", "PixelSpacing", "WindowCenter", "WindowWidth", "SeriesDescription",
    "ScanningSequence", "MagneticFieldStrength", "ContrastBolusAgent", "ComplexImageComponent",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_DEFLATED, _EXPLICIT = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"
_BITS_STORED = re.compile(rb"(\x28\0\x01\x01(?:US\x02\0|\x02\0\0\0))..", re.DOTALL)
_HEADER_BYTES = 8_000_000  # an enhanced file of a thousand slices has some five million
_MAX_FRAMES = 100_000
_FAILURES = 8  # after which the other files of a damaged series are not tried one by one
_SAME_STEP = 0.05  # how far the steps of a regular volume may differ, as a share of the step

# pydicom logs the values that it doubts, which may name the patient; what is wrong is said anyway
logging.getLogger("pydicom").propagate = False


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One DICOM file: the series that it belongs to, where it lies, how it is shown; no pixels.

    Attributes
    ----------
    file : Path
    series : str
        The series number and a hash of patient, study and series.
    study, uid, identity : str
        Hashes of patient and study, of the series' UID alone and of the file's own UID.
    count : int
        Slices in the file; 0 where only dcm2niix can tell (a mosaic).
    instance : int
        Its instance number, -1 where it has none.
    orientation, position, spacing : tuple of float, or None
        Directions of a row and of a column, centre of the first pixel and distances, DICOM's axes.
    shape : tuple of 2 ints
        Height and width.
    packed : bool
        Whether dcm2niix cannot read the file before it is unpacked.
    look : dict
        What it says of a `Volume`.
    places : tuple of float
        Where the slices of a multi-frame file lie along their normal, mm, sorted.
    error : str
        Why it cannot be read.
    """

    file: Path
    series: str
    study: str
    uid: str
    identity: str
    count: int
    instance: int
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    shape: tuple[int, int]
    packed: bool
    look: dict[str, Any] = field(default_factory=dict)
    places: tuple[float, ...] = ()
    error: str = ""

    @property
    def affine(self) -> np.ndarray:
        """From (row, column, 0) to millimetres but for spacing, nibabel's axes."""
        along_row, along_column = np.reshape(self.orientation, (2, 3))
        affine = np.eye(4)
        affine[:3] = np.c_[along_column, along_row, np.cross(along_row, along_column),
                           self.position or (0, 0, 0)]  # fmt: skip
        affine[:2] *= -1  # DICOM counts to the left and to the back
        return affine

    @property
    def along(self) -> float:
        """Where it lies along its normal, mm."""
        return round(float(along_numbers(self.affine) @ self.affine[:3, 3]), 2)


def index_file(file: Path) -> Frame:
    """Read the header of one file; no pixels.

    Raises
    ------
    ImageError
        Where the file is damaged, holds no image, or none to be shown (a localizer).
    """
    content, size, packed = quietly(lambda: _content(file))
    stream = io.BytesIO(content)
    header = quietly(
        lambda: pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=_TAGS)
    )
    frame = quietly(lambda: _frame(file, header, packed))
    try:
        quietly(lambda: _require_pixels(stream, size, header, frame.count))
    except ImageError as error:
        return replace(frame, error=str(error))
    return frame


def read_series(frames: list[Frame], plane: str) -> Iterator[ScanSlice]:
    """Give the slices of one series in order of their positions, drawn as `volumes.draw` says.

    Parameters
    ----------
    frames : list of Frame
        In any order.
    plane : str
        `acquired`, or one of `PLANES`: a series in another plane is cut anew where its slices make
        a regular volume.

    Returns
    -------
    iterator of ScanSlice
        Volume by volume. The slices of a series that is one volume name their own files, all others
        the first of them.

    Raises
    ------
    ImageError
        Where the series cannot be cut in the plane that was asked for, or shows no organ.
    """
    frames = quietly(lambda: _in_order(frames))
    like = ScanSlice(frames[0].file, frames[0].series)
    with tempfile.TemporaryDirectory(prefix="brainlib-") as folder:
        volumes, errors = quietly(lambda: _volumes(frames, Path(folder)))
        planes = [nearest_plane(volume.affine) for volume in volumes]
        cut_anew = plane != "acquired" and any(own != plane for own in planes)
        if cut_anew:
            _require_regular(frames, volumes, errors, plane)
        whole = [number for number in range(len(frames)) if number not in errors]
        slices = draw(volumes, [plane] if cut_anew else planes, like) if volumes else iter(())
        # of several volumes (echoes, directions) it is not known which file a slice is
        single = len(volumes) == 1 and not cut_anew
        named = single and len(whole) == volumes[0].stored.shape[2]
        for one in slices:
            number = whole[one.number] if named else one.number
            for bad in [bad for bad in errors if named and bad < number]:
                yield replace(like, file=frames[bad].file, number=bad, error=errors.pop(bad))
            yield replace(one, number=number, file=frames[number].file if named else like.file)
    for bad, error in errors.items():
        yield replace(like, file=frames[bad].file, number=bad, error=error)
    for remark in (_missing(frames), _doubtful_order(frames)) if plane == "acquired" else ():
        if remark:
            yield replace(like, number=len(frames), error=remark)


def remarks(series: dict[str, list[Frame]]) -> dict[str, str]:
    """Return what is odd about how files name patients, studies and series, by series."""
    said: dict[str, str] = {}
    shared: dict[str, list[str]] = {}
    alike: dict[tuple, list[str]] = {}
    for name, (frame, *others) in series.items():
        shared.setdefault(frame.uid or name, []).append(name)
        if frame.uid and frame.count == 1 and not others:
            direction = frame.orientation and _rounded(frame.orientation)
            likeness = (frame.study, name[:-8], frame.shape, direction, str(frame.look["facts"]))
            alike.setdefault(likeness, []).append(name)
    for names in alike.values():
        if len(names) > 3:
            said[names[0]] = (
                f"{len(names)} slices that look like one series each name a series of their own, "
                "and are answered one by one; export the series again to have it judged as one"
            )
    for names in shared.values():
        if len(names) > 1:
            said |= dict.fromkeys(
                names, f"{len(names)} patients or studies share the UID of this series; they are "
                "kept apart: check who is who",
            )  # fmt: skip
    return said


def _volumes(frames: list[Frame], folder: Path) -> tuple[list[Volume], dict[int, str]]:
    """Convert a series; also return why files of it are left out."""
    errors = {number: frame.error for number, frame in enumerate(frames) if frame.error}
    seen = set()
    for number, frame in enumerate(frames):
        identity = (frame.identity, frame.instance, frame.position)
        if number not in errors and frame.identity and identity in seen:
            errors[number] = "it is a second copy of another file of its series"
        elif number not in errors:  # a damaged copy must not hide a whole one
            seen.add(identity)
    whole = [frame for number, frame in enumerate(frames) if number not in errors]
    try:
        return (quietly(lambda: _convert(whole, folder)) if whole else []), errors
    except ImageError as error:  # dcm2niix gives up on a series for one damaged file
        reason, failures = str(error), 0
        for number, frame in enumerate(frames):
            part = folder / str(number)
            try:
                if number not in errors and failures < _FAILURES and len(whole) > 1:
                    quietly(lambda: _convert([frame], part))  # noqa: B023
                    continue
            except ImageError as error:
                reason, failures = str(error), failures + 1
            errors.setdefault(number, reason)
        whole = [frame for number, frame in enumerate(frames) if number not in errors]
        return (_convert(whole, folder / "whole") if whole else []), errors


def _convert(frames: list[Frame], folder: Path) -> list[Volume]:
    """Let dcm2niix convert the files of a series, and map what it wrote."""
    source, target = folder / "in", folder / "out"
    for place in (source, target):
        place.mkdir(parents=True)
    for number, frame in enumerate(frames):
        link = source / f"{number:06d}.dcm"
        frame.file.stat()  # it may have gone away
        if frame.packed or frame.look["shift"]:
            content = _content(frame.file)[0] if frame.packed else frame.file.read_bytes()
            # dcm2niix takes the lowest bits, wherever those that are stored lie
            if frame.look["shift"]:
                content = _BITS_STORED.sub(b"\\g<1>\x10\0", content, count=1)
            link.write_bytes(content)
        else:
            try:
                link.symlink_to(frame.file.resolve())
            except OSError:  # Windows, where links are a privilege
                shutil.copyfile(frame.file, link)
    slices = sum(max(1, frame.count) for frame in frames)
    require_size((*frames[0].shape, slices))
    _run(source, target, math.prod(frames[0].shape) * slices)
    volumes = []
    for file in sorted(target.glob("*.nii")):
        if not re.search("_(Eq|Tilt)", file.stem):  # resampled, beside the volume itself
            with file.open("rb") as stream:
                header = nibabel.Nifti1Header(stream.read(348), check=False)
            require_size(header.get_data_shape())
            volumes += map_volumes(file, header, int(header["vox_offset"]))
    if sum(volume.stored.shape[2] for volume in volumes) < sum(frame.count for frame in frames):
        raise ImageError(
            "dcm2niix cannot convert it: cut short, damaged, or compressed in a rare way; copy it "
            "again, or export it without compression"
        )
    return [_directed(replace(volume, **frames[0].look), frames[0]) for volume in volumes]


def _run(source: Path, target: Path, pixels: int) -> None:
    import dcm2niix

    seconds = SECONDS + pixels // 2_000_000
    command = [dcm2niix.bin, "-g", "i", "-b", "n", "-z", "n", "-x", "i", "-d", "0", "-f", "v",
               "-o", str(target), str(source)]  # fmt: skip
    if os.name == "posix":
        limits = (
            f"ulimit -v {MEMORY_BYTES // 1024} 2>&-; ulimit -t {seconds}; ulimit -c 0; "
            f'ulimit -f {pixels // 32 + 2048}; exec "$@"'  # blocks of 512 bytes
        )
        command = ["/bin/sh", "-c", limits, "dcm2niix", *command]
    try:
        subprocess.run(
            command, cwd=target, timeout=seconds, stdin=subprocess.DEVNULL, check=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ImageError(f"dcm2niix took more than {seconds} s; copy it again") from None


def _directed(volume: Volume, frame: Frame) -> Volume:
    """Correct the step of a multi-frame file, and the directions of one without a position."""
    affine = volume.affine.copy()
    if volume.located and len(frame.places) > 2:
        # dcm2niix measures from the first slice to the second in the file, wherever these lie
        affine[:3, 2] *= np.median(np.diff(frame.places)) / np.linalg.norm(affine[:3, 2])
    elif not volume.located and frame.orientation is not None:
        affine = frame.affine[:, [1, 0, 2, 3]] * [1, -1, 1, 1]  # the last row is stored first
        affine[:3, :3] *= nibabel.affines.voxel_sizes(volume.affine)
    return replace(volume, affine=affine, located=volume.located or frame.orientation is not None)


def _content(file: Path) -> tuple[bytes, int, bool]:
    """Return the start of a file, or all of an unpacked one; its size, and whether it is packed."""
    with file.open("rb") as stream:
        content, size = stream.read(_HEADER_BYTES), os.fstat(stream.fileno()).st_size
    deflated = _DEFLATED in content[:1000]
    bare = content[:2] == b"\x02\0"  # without the preamble that dcm2niix asks for
    packed = deflated or bare or content[:2] == GZIP_MAGIC
    if packed:
        with gzip.open(file) if content[:2] == GZIP_MAGIC else file.open("rb") as stream:
            content = (bytes(128) + b"DICM") * bare + stream.read(
                min(MAX_INFLATED + 1, GZIP_RATIO * size)
            )
        if deflated:
            start = 144 + int.from_bytes(content[140:144], "little")
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            content = content[:start].replace(_DEFLATED, _EXPLICIT) + inflater.decompress(
                content[start:], MAX_INFLATED
            )
        size = len(content)
        if size > MAX_INFLATED or (deflated and not inflater.eof):
            raise ImageError(
                f"it is compressed and cut short, or unpacks to more than {MAX_INFLATED:,} bytes; "
                "copy it again, or save it without compression"
            )
    if len(content) > 200 and not any(content[132:200]):
        raise ImageError("nothing follows the start of its header; copy it again")
    return content, size, packed


def _require_pixels(stream: io.BytesIO, size: int, header: Dataset, frames: int) -> None:
    """Refuse pixel data that are absent, or contradict the header: dcm2niix may show them wrong."""
    syntax = _syntax(header)
    order = "little" if syntax.is_little_endian else "big"
    head = stream.read(8 if syntax.is_implicit_VR else 12)
    tags = [int.from_bytes(head[at : at + 2], order) for at in (0, 2)]
    length = int.from_bytes(head[-4:], order)
    held = min(length, size - stream.tell())
    if tags not in ([0x7FE0, 0x10], [0x7FE0, 8], [0x7FE0, 9]):
        raise ImageError("it holds no pixel data; it has been cut short, or never had any")
    if syntax.is_encapsulated != (length == 0xFFFFFFFF):
        raise ImageError("its header contradicts how its pixels are packed; copy it again")
    if not syntax.is_encapsulated:
        expected = get_expected_length(header)
        if header.get("PhotometricInterpretation") == "YBR_FULL_422":
            expected = expected * 2 // 3
        # a few bytes are padding; as much as a row or a column means that the sizes are wrong
        spare = max(2, min(header.Rows, header.Columns) * header.get("BitsAllocated", 8) // 8)
        if not expected <= held < expected + spare:
            raise ImageError(
                f"it holds {held:,} bytes of pixels, and its header says {expected:,}; it is cut "
                "short or damaged: copy it again from where it came"
            )
        return
    if 8 * frames > held:  # each has at least a header of its own
        raise ImageError(f"its header says {frames:,} slices, and its {held:,} bytes cannot hold "
                         "them; copy it again")  # fmt: skip
    stream.seek(int.from_bytes(stream.read(8)[4:], "little"), os.SEEK_CUR)  # the table of offsets
    data = stream.read(int.from_bytes(stream.read(8)[4:], "little"))
    said, found = (header.Columns, header.Rows), None
    if syntax == RLELossless:
        parts = [int.from_bytes(data[at : at + 4], "little") for at in range(0, 64, 4)]
        whole = parts[1] == 64 and parts[: parts[0] + 1] == sorted(parts[: parts[0] + 1])
        # runs pack no tighter than 64 times
        found = said if whole and math.prod(said) <= 64 * len(data) else "smaller"
    with suppress(Exception):  # Pillow does not know all that dcm2niix decodes
        found = Image.open(io.BytesIO(data), formats=("JPEG", "JPEG2000")).size
    if found not in (said, None):
        raise ImageError(f"its compressed slice is {found} and not {said}; copy it again")


def _syntax(header: Dataset) -> UID:
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None:  # a file without preamble is not compressed, and was read as one of these
        implicit, little_endian = header.original_encoding
        explicit = "1.2.840.10008.1.2.1" if little_endian else "1.2.840.10008.1.2.2"
        return UID("1.2.840.10008.1.2" if implicit else explicit)
    return syntax


def _frame(file: Path, header: Dataset, packed: bool) -> Frame:
    count = _whole_number(header, "NumberOfFrames", 1)
    _require_image(header, count)
    tags = _functional_groups(header)

    def get(name: str) -> Any:
        with suppress(Exception):  # what an optional tag holds is no reason to refuse an image
            return tags.get(name)

    number = _whole_number(header, "SeriesNumber", None)
    person, uid = [str(get(name)) for name in _PERSON], str(get("SeriesInstanceUID") or "")
    # files that name no series are one with the others of their folder
    name = _hash(*person, uid or os.fsencode(file.parent).hex())
    allocated = _whole_number(header, "BitsAllocated", 16)
    bits = _whole_number(header, "BitsStored", allocated)
    shift = _whole_number(header, "HighBit", bits - 1) + 1 - bits
    look = {
        "bits": bits, "shift": shift if 0 < shift <= allocated - bits else 0,
        "unsigned": get("PixelRepresentation") == 0,
        "window": _window(tags), "padding": _padding(get, allocated),
        "inverted": get("PhotometricInterpretation") == "MONOCHROME1", **header_facts(get),
    }  # fmt: skip
    orientation, position = _orientation(tags), _numbers(tags, "ImagePositionPatient", 3)
    places: set[float] = set()
    for group in header.get("PerFrameFunctionalGroupsSequence") or [] if orientation else []:
        with suppress(Exception):
            place = _numbers(group.PlanePositionSequence[0], "ImagePositionPatient", 3)
            places.add(round(float(np.cross(*np.reshape(orientation, (2, 3))) @ place), 2))
    mosaic = count == 1 and "MOSAIC" in (get("ImageType") or [])
    return Frame(
        file, name if number is None else f"{number}-{name}", _hash(*person), uid and _hash(uid),
        _hash(get("SOPInstanceUID")) if get("SOPInstanceUID") else "", 0 if mosaic else count,
        _whole_number(tags, "InstanceNumber", -1), orientation, position,
        _numbers(tags, "PixelSpacing", 2), (int(header.Rows), int(header.Columns)), packed, look,
        tuple(sorted(places)),
    )  # fmt: skip


def _require_image(header: Dataset, frames: int) -> None:
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    # the value of a damaged tag may run into the next, which may name the patient
    name = kind.name if kind in UID_dictionary else ""
    if "Directory" in name:
        raise ImageError("skipped: it is a DICOMDIR, a list of other files")
    if not header.get("Rows") or not header.get("Columns"):
        raise ImageError(
            f"skipped: it holds no image ({name})"
            if name and "Image Storage" not in name
            else "it is no DICOM image, or cut short; copy it again from where it came"
        )
    if "Segmentation" in name or "RT Dose" in name:
        raise ImageError(f"skipped: it is no scan ({name})")
    if {"LOCALIZER", "SCOUT"} & {*(header.get("ImageType") or [])}:
        raise ImageError("skipped: it is a localizer, which shows where the other series lie")
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise ImageError("skipped: its colours are those of a palette; export it in grey")
    if header.Rows * header.Columns > MAX_SLICE_PIXELS or not 0 < frames <= _MAX_FRAMES:
        raise ImageError(
            f"it has {frames} slices of {header.Columns} by {header.Rows} pixels, not 1 to "
            f"{_MAX_FRAMES:,} of at most {MAX_SLICE_PIXELS:,}; take it apart first"
        )


def _functional_groups(header: Dataset) -> Dataset:
    """Return the tags of the first slice; enhanced files keep them in sequences."""
    groups = [*(header.get("SharedFunctionalGroupsSequence") or [])[:1]]
    groups += (header.get("PerFrameFunctionalGroupsSequence") or [])[:1]
    tags = Dataset(header) if groups else header
    for group in groups:
        for element in group:
            if element.VR == "SQ" and element.value:
                tags.update(element.value[0])
    return tags


def _window(tags: Dataset) -> tuple[float, float] | None:
    """Return the lowest and highest signal of the first window (DICOM PS3.3, C.11.2.1.2)."""
    centre, width = _numbers(tags, "WindowCenter"), _numbers(tags, "WindowWidth")
    if not centre or not width or not 1 < width[0] < 1e9:
        return None
    return centre[0] - width[0] / 2, centre[0] + width[0] / 2 - 1


def _padding(get: Any, allocated: int) -> tuple[float, float] | None:
    value, limit = get("PixelPaddingValue"), get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return None
    ends = [value, limit if isinstance(limit, int) else value]
    if get("PixelRepresentation") == 1:  # the tag may have been written without its sign
        ends = [end - 2**allocated if end >= 2 ** (allocated - 1) else end for end in ends]
    return min(ends), max(ends)


def _orientation(tags: Dataset) -> tuple[float, ...] | None:
    cosines = _numbers(tags, "ImageOrientationPatient", 6)
    if cosines is None:
        return None
    directions = np.reshape(cosines, (2, 3))
    return cosines if np.allclose(directions @ directions.T, np.eye(2), atol=0.02) else None


def _numbers(tags: Dataset, name: str, count: int = 0) -> tuple[float, ...] | None:
    """Return the numbers of a tag, decimal commas included; None where it is unusable."""
    with suppress(Exception):  # absent, or damaged in one of many ways
        value = tags.get_item(name).value
        texts = value.decode().split("\\") if isinstance(value, bytes) else np.atleast_1d(value)
        numbers = tuple(float(str(text).strip(" \0").replace(",", ".")) for text in texts)
        if np.isfinite(numbers).all() and len(numbers) == (count or len(numbers)):
            return numbers
    return None


def _whole_number(tags: Dataset, name: str, otherwise: int | None) -> int | None:
    with suppress(Exception):
        item = tags.get_item(name)
        if isinstance(item.value, bytes) and item.VR in ("IS", None):
            return int(re.match(r"\s*-?\d+", item.value.decode())[0])  # `1A` is 1
        return int(tags.get(name))
    return otherwise


def _hash(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(errors="replace"), digest_size=4).hexdigest()


def _in_order(frames: list[Frame]) -> list[Frame]:
    """Sort by position along the normal, or by instance number where a position is missing."""
    located = _located(frames)

    def place(frame: Frame) -> tuple[Any, ...]:
        # directions first, so that each stack of a series with several keeps together
        where = (_rounded(along_numbers(frame.affine)), frame.along) if located else ()
        return *where, frame.instance, frame.file

    return sorted(frames, key=place)


def _require_regular(
    frames: list[Frame], volumes: list[Volume], errors: dict[int, str], plane: str
) -> None:
    """Refuse to cut a series in another plane where its slices do not make a regular volume."""
    problem = _irregularity(frames) if all(frame.count == 1 for frame in frames) else ""
    if errors and not problem:
        number, error = next(iter(errors.items()))
        problem = f"{frames[number].file.name} cannot be read: {error}"
    if not problem and (len(volumes) != 1 or not volumes[0].located):
        problem = "it is several volumes (echoes, times or directions), or does not say how it lies"
    if problem:
        raise ImageError(
            f"its series cannot be cut to {plane} slices, because {problem}; "
            "plane='acquired' gives the slices as they were scanned"
        )


def _irregularity(frames: list[Frame]) -> str:
    if not _located(frames):
        return "its files do not say where the slices lie"
    if len(frames) < 2:
        return "it has one slice only"
    if len({(frame.shape, frame.spacing, _rounded(frame.orientation)) for frame in frames}) > 1:
        return "its slices differ in size, spacing or orientation"
    steps = np.diff([frame.affine[:3, 3] for frame in frames], axis=0)
    normal = along_numbers(frames[0].affine)
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
    places = {place for frame in frames for place in frame.places or (frame.along,)}
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
    numbers = [frame.instance for frame in frames if frame.instance >= 0]
    if _located(frames) or len(set(numbers)) == len(numbers):
        return ""
    return (
        "several of its slices have the same instance number, and no position; they come in the "
        "order of their names: look at the order before you trust a slice number"
    )


def _located(frames: list[Frame]) -> bool:
    return all(frame.orientation and frame.position for frame in frames)


def _rounded(direction: Any) -> tuple[float, ...]:
    return tuple(round(float(cosine), 2) + 0.0 for cosine in direction)
