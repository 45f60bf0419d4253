"""DICOM series, converted to volumes by dcm2niix in a process of its own.

pydicom reads the headers of the files, dcm2niix (C. Rorden) their pixels; what a damaged or hostile
file does to it ends at limits of time, memory and disk.
"""

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
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import RLELossless, UID_dictionary

from brainlib import paths
from brainlib.imaging import volumes
from brainlib.imaging.errors import ImageError, reading
from brainlib.imaging.slices import GZIP_MAGIC, ScanSlice, header_facts, open_plain
from brainlib.imaging.volumes import Volume, along_numbers, nearest_plane, require_size

MAX_INFLATED = 500_000_000  # bytes that a compressed file (`.dcm.gz`, deflated) may unpack to
MEMORY_BYTES = 8 * 2**30  # that dcm2niix may address
SECONDS = 20  # that dcm2niix may take, and one more for every two million pixels

_PERSON = ("PatientID", "PatientName", "StudyInstanceUID")
_DEFLATED, _EXPLICIT = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"
_BITS_STORED = re.compile(rb"(\x28\0\x01\x01(?:US\x02\0|\x02\0\0\0))..", re.DOTALL)
_NUMBER = re.compile(r"\s*([-+]?[\d.,]+(?:[eE][-+]?\d+)?)[A-Z]?[\s\0]*")
_HEADER_BYTES = 16_000_000  # an enhanced file of a thousand slices has some five million
_GZIP_RATIO, _RLE_RATIO = 1032, 64  # deflate and run lengths pack no tighter
_FAILURES = 8  # after which the other files of a damaged series are not tried one by one
_MOST_ABSENT = 1000  # missing slices of a series that are listed
_SAME_STEP = 0.05  # how far the steps of a regular volume may differ, as a share of the step

# pydicom logs the values that it doubts, which may name the patient; what is wrong is said anyway
logging.getLogger("pydicom").propagate = False


@dataclass(frozen=True, eq=False)
class Frame:
    """One DICOM file: the series that it belongs to, where it lies, how it is shown; no pixels.

    Attributes
    ----------
    file : Path
    series : str
        The series number and a hash of patient, study and series.
    study, uid : str
        Hashes of patient and study, and of the series' UID alone.
    identity : tuple
        The same for copies of a file.
    count : int
        Slices in the file; 0 where only dcm2niix can tell (a mosaic).
    instance : int
        Its instance number, -1 where it has none.
    affine : float array of shape (4, 4), or None
        From (row, column, 0) to millimetres but for spacing, nibabel's axes.
    shape : tuple of 2 ints
        Height and width.
    look : dict
        What it says of a `Volume`.
    places : tuple of float
        Where its slices lie along their normal, mm, sorted; empty where it does not say.
    error : str
        Why it cannot be read.
    """

    file: Path
    series: str
    study: str
    uid: str
    identity: tuple
    count: int
    instance: int
    affine: np.ndarray | None
    shape: tuple[int, int]
    look: dict[str, Any] = field(default_factory=dict)
    places: tuple[float, ...] = ()
    error: str = ""

    @property
    def directions(self) -> tuple[float, ...] | None:
        """Of a column, a row and the normal; the same for slices of one stack."""
        if self.affine is None:
            return None
        return tuple((self.affine[:3, :3].round(2) + 0.0).ravel().tolist())


@reading()
def index_file(file: Path) -> Frame:
    """Read the header of one file; no pixels.

    Raises
    ------
    ImageError
        Where the file is damaged, holds no image, or none to be shown (a localizer).
    """
    unpacked = _unpack(file)
    with file.open("rb") as whole:  # of which a damaged length may ask for gigabytes
        content = unpacked or whole.read(_HEADER_BYTES)
    if not any(content[132:200]):
        raise ImageError("nothing follows the start of its header; copy it again")
    stream = io.BytesIO(content)
    header = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    frame = _frame(file, header)
    try:
        _require_pixels(stream, len(unpacked or "") or file.stat().st_size, header)
    except ImageError as error:
        return replace(frame, error=str(error))
    return frame


def read_series(frames: Iterable[Frame], plane: str, series: str) -> Iterator[ScanSlice]:
    """Give the slices of one series in order of their positions, drawn as `volumes.draw` says.

    Parameters
    ----------
    frames : iterable of Frame
        In any order.
    plane : str
        `acquired`, or one of `PLANES`: a series in another plane is cut anew where its slices make
        a regular volume.
    series : str
        What to call it.

    Returns
    -------
    iterator of ScanSlice
        Volume by volume, then what is missing or odd. The slices of a series that is one volume
        name their own files, all others the first of them.

    Raises
    ------
    ImageError
        Where the series cannot be cut in the plane that was asked for, or shows no organ.
    """
    frames = _in_order(frames)
    like = ScanSlice(frames[0].file, series)
    with paths.temporary_folder() as folder:
        stacks, errors = _volumes(frames, folder)
        planes = [nearest_plane(stack.affine) for stack in stacks]
        cut_anew = plane != "acquired" and any(own != plane for own in planes)
        irregular = _irregularity(frames, stacks, errors) if stacks else ""
        if cut_anew and (problem := "a file of it cannot be read" if errors else irregular):
            raise ImageError(f"its series cannot be cut to {plane} slices, because {problem}; "
                             "plane='acquired' gives the slices as they were scanned")  # fmt: skip
        if sum(stack.stored.shape[2] for stack in stacks) > 1:
            like = replace(like, irregular=irregular)
        slices = volumes.draw(stacks, [plane] if cut_anew else planes, like) if stacks else iter(())
        single = len(stacks) == 1 and not cut_anew
        total = sum(stack.stored.shape[2] for stack in stacks) + len(errors)
        absent, gap = _absent_before(frames)
        numbers = np.arange(max(total, len(frames)))
        if single and len(absent) == total:
            numbers += absent
        if single and total == len(frames):
            for number, frame in enumerate(frames):
                error = errors.pop(number, "")
                shown = replace(like, error=error) if error else next(slices)
                yield replace(shown, file=frame.file, number=int(numbers[number]))
        for each in slices:  # of several volumes (echoes, directions): of which file is not known
            yield replace(each, number=int(numbers[each.number])) if single else each
    for number, error in errors.items():
        yield replace(like, file=frames[number].file, number=number, error=error)
    for number in sorted({*range(len(numbers) + absent[-1])} - {*numbers.tolist()}):
        yield replace(like, number=number, error=gap)
    instances = [frame.instance for frame in frames if frame.instance >= 0]
    if not _located(frames) and len(set(instances)) < len(instances):
        yield replace(like, number=len(frames), error=(
            "several of its slices have the same instance number, and no position; they come in the"
            " order of their names: look at the order before you trust a number"
        ))  # fmt: skip


def remarks(series: dict[str, list[Frame]]) -> dict[str, str]:
    """Return what is odd about how files name patients, studies and series, by series."""
    said: dict[str, str] = {}
    shared, alike = defaultdict(list), defaultdict(list)
    for name, (frame, *others) in series.items():
        shared[frame.uid or name].append(name)
        if frame.uid and frame.count == 1 and not others:
            facts = str(frame.look["facts"])
            alike[frame.study, name[:-8], frame.shape, frame.directions, facts].append(name)
    for names in alike.values():
        if len(names) > 3:
            said[names[0]] = (f"{len(names)} slices that look like one series each name a series of"
                              " their own, and are answered one by one")  # fmt: skip
    for names in shared.values():
        if len(names) > 1:
            said |= dict.fromkeys(names, f"{len(names)} patients or studies share the UID of this "
                                  "series; they are kept apart: check who is who")  # fmt: skip
    return said


def _volumes(frames: list[Frame], folder: Path) -> tuple[list[Volume], dict[int, str]]:
    """Convert a series; also return why files of it are left out."""
    errors = {number: frame.error for number, frame in enumerate(frames) if frame.error}
    seen = set()
    for number, frame in enumerate(frames):
        if number not in errors and frame.identity[0]:  # a damaged copy hides no whole one
            if frame.identity in seen:
                errors[number] = "it is a second copy of another file of its series"
            seen.add(frame.identity)
    whole = [number for number in range(len(frames)) if number not in errors]
    try:
        return _convert([frames[number] for number in whole], folder), errors
    except ImageError as error:  # dcm2niix gives up on a series for one damaged file
        reason, failures = str(error), 0 if len(whole) > 1 else _FAILURES
    for number in whole:
        try:
            if failures < _FAILURES:
                _convert([frames[number]], folder)
                continue
        except ImageError as error:
            reason, failures = str(error), failures + 1
        errors[number] = reason
    return _convert([frames[number] for number in whole if number not in errors], folder), errors


@reading()
def _convert(frames: list[Frame], folder: Path) -> list[Volume]:
    """Let dcm2niix convert the files of a series, and map what it wrote."""
    if not frames:
        return []
    source, target = (Path(tempfile.mkdtemp(dir=folder)) for _ in range(2))
    for number, frame in enumerate(frames):
        link = source / f"{number:06d}.dcm"
        content = _unpack(frame.file)
        if frame.look["shift"]:  # dcm2niix takes the lowest bits, wherever those stored lie
            content = content or frame.file.read_bytes()
            content = _BITS_STORED.sub(b"\\g<1>\x10\0", content, count=1)
        try:
            link.symlink_to(frame.file.resolve()) if content is None else link.write_bytes(content)
        except OSError:  # Windows, where links are a privilege
            shutil.copyfile(frame.file, link)
    slices = sum(max(1, frame.count) for frame in frames)
    require_size((*frames[0].shape, slices))
    _run(source, target, math.prod(frames[0].shape) * slices)
    stacks = []
    for file in sorted(target.glob("*.nii")):
        if not re.search("_(Eq|Tilt)", file.stem):  # resampled, beside the volume itself
            header, offset, _ = volumes.read_header(file)
            require_size(header.get_data_shape())
            stacks += volumes.map_volumes(file, header, offset)
    if sum(stack.stored.shape[2] for stack in stacks) < sum(frame.count for frame in frames):
        raise ImageError("dcm2niix cannot convert it: cut short, damaged or of a rare compression; "
                         "copy it again, or export it without compression")  # fmt: skip
    return [_directed(replace(stack, **frames[0].look), frames[0]) for stack in stacks]


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
    subprocess.run(command, cwd=target, timeout=seconds, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip


def _directed(volume: Volume, frame: Frame) -> Volume:
    """Correct the step of a multi-frame file, and the directions of one without a position."""
    affine = volume.affine.copy()
    if volume.located and len(frame.places) > 2:
        # dcm2niix measures from the first slice to the second in the file, wherever these lie
        affine[:3, 2] *= np.median(np.diff(frame.places)) / np.linalg.norm(affine[:3, 2])
    elif not volume.located and frame.affine is not None:
        affine = frame.affine[:, [1, 0, 2, 3]] * [1, -1, 1, 1]  # the last row is stored first
        affine[:3, :3] *= nibabel.affines.voxel_sizes(volume.affine)
    return replace(volume, affine=affine, located=volume.located or frame.affine is not None)


def _unpack(file: Path) -> bytes | None:
    """Return a file without gzip or deflate and with a preamble; None where it is so already."""
    with file.open("rb") as stream:
        start = stream.read(1000)
    deflated = _DEFLATED in start
    if not deflated and start[:2] not in (GZIP_MAGIC, b"\x02\0"):
        return None
    with open_plain(file) as stream:
        content = stream.read(min(MAX_INFLATED, _GZIP_RATIO * file.stat().st_size) + 1)
    if content[:2] == b"\x02\0":
        content = bytes(128) + b"DICM" + content
    if deflated:
        start = 144 + int.from_bytes(content[140:144], "little")
        inflate = zlib.decompressobj(-zlib.MAX_WBITS).decompress
        plain = inflate(content[start:], MAX_INFLATED)
        content = content[:start].replace(_DEFLATED, _EXPLICIT) + plain
    if len(content) > MAX_INFLATED:
        raise ImageError(f"it unpacks to more than {MAX_INFLATED:,} bytes; unpack it yourself")
    return content


@reading()
def _require_pixels(stream: io.BytesIO, size: int, header: Dataset) -> None:
    """Refuse pixel data that are absent or contradict the header: dcm2niix may show them wrong."""
    implicit, little_endian = header.original_encoding
    head = stream.read(8 if implicit else 12)
    length = int.from_bytes(head[-4:], "little" if little_endian else "big")
    if head[:2] not in (b"\xe0\x7f", b"\x7f\xe0"):
        raise ImageError("it holds no pixel data; it has been cut short, or never had any")
    syntax = header.file_meta.get("TransferSyntaxUID")
    compressed = syntax is not None and syntax.is_encapsulated
    if compressed != (length == 0xFFFFFFFF):
        raise ImageError("its header contradicts how its pixels are packed; copy it again")
    if compressed:
        _, data = islice(generate_fragments(stream), 2)  # a table of offsets comes first
        said = shown = header.Columns, header.Rows
        with suppress(Exception):  # Pillow does not know all that dcm2niix decodes
            shown = Image.open(io.BytesIO(data), formats=("JPEG", "JPEG2000")).size
        if syntax == RLELossless:
            parts = np.frombuffer(data[:64], "<u4")  # how many segments, and where they start
            whole = parts[1] == 64 and (np.diff(parts[1 : parts[0] + 1].astype(int)) >= 0).all()
            shown = said if whole and math.prod(said) <= _RLE_RATIO * len(data) else "damaged"
        if shown != said:
            raise ImageError(f"its compressed slice is {shown} and not {said}; copy it again")
        return
    expected, held = get_expected_length(header), min(length, size - stream.tell())
    # a few bytes are padding; as much as a row or a column means that the sizes are wrong
    spare = max(2, min(header.Rows, header.Columns) * header.get("BitsAllocated", 8) // 8)
    if not expected <= held < expected + spare:
        raise ImageError(f"it holds {held:,} bytes of pixels, and its header says {expected:,};"
                         " copy it again from where it came")  # fmt: skip


def _frame(file: Path, header: Dataset) -> Frame:
    count = _whole_number(header, "NumberOfFrames", 1)
    _require_image(header, count)
    tags = Dataset(header)
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for element in (header.get(name) or [[]])[0]:  # of the first slice
            if element.VR == "SQ" and element.value:
                tags.update(element.value[0])

    def get(name: str) -> Any:
        with suppress(Exception):  # what an optional tag holds is no reason to refuse an image
            return tags.get(name)

    def whole(name: str, otherwise: int) -> int:
        return value if isinstance(value := get(name), int) else otherwise

    person, uid = [str(get(name)) for name in _PERSON], str(get("SeriesInstanceUID") or "")
    # files that name no series are one with the others of their folder
    name = _hash(*person, uid or os.fsencode(file.parent).hex())
    number, copy = _whole_number(header, "SeriesNumber", None), get("SOPInstanceUID")
    instance = _whole_number(tags, "InstanceNumber", -1)
    allocated = whole("BitsAllocated", 16)
    bits = whole("BitsStored", allocated)
    shift = whole("HighBit", bits - 1) + 1 - bits
    look = {
        "bits": bits, "shift": shift if 0 < shift <= allocated - bits else 0,
        "unsigned": get("PixelRepresentation") == 0,
        "window": _window(tags), "padding": _padding(get, allocated),
        "inverted": get("PhotometricInterpretation") == "MONOCHROME1", **header_facts(get),
    }  # fmt: skip
    groups = header.get("PerFrameFunctionalGroupsSequence") or [tags]
    positions = [_numbers((group.get("PlanePositionSequence") or [group])[0],
                          "ImagePositionPatient", 3) for group in groups]  # fmt: skip
    affine, places = _affine(tags, positions[0] or (0, 0, 0)), set()
    if affine is not None:
        along = along_numbers(affine) * (-1, -1, 1)  # DICOM counts to the left and to the back
        places = {round(float(along @ position), 2) for position in positions if position}
    mosaic = count == 1 and "MOSAIC" in (get("ImageType") or [])
    return Frame(
        file, name if number is None else f"{number}-{name}", _hash(*person), uid and _hash(uid),
        (copy and _hash(copy), instance, positions[0]), 0 if mosaic else count, instance, affine,
        (int(header.Rows), int(header.Columns)), look, tuple(sorted(places)),
    )  # fmt: skip


def _require_image(header: Dataset, frames: int) -> None:
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    # the value of a damaged tag may run into the next, which may name the patient
    name = kind.name if kind in UID_dictionary else ""
    if name and "Image Storage" not in name:
        raise ImageError(f"skipped: it holds no image ({name})")
    if not header.get("Rows") or not header.get("Columns"):
        raise ImageError("it is no DICOM image, or cut short; copy it again from where it came")
    if {"LOCALIZER", "SCOUT"} & {*(header.get("ImageType") or [])}:
        raise ImageError("skipped: it is a localizer, which shows where the other series lie")
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise ImageError("skipped: its colours are those of a palette; export it in grey")
    require_size((header.Rows, header.Columns, frames))


def _window(tags: Dataset) -> tuple[float, float] | None:
    """Return the lowest and highest signal of the first window (DICOM PS3.3, C.11.2.1.2)."""
    centre, width = _numbers(tags, "WindowCenter"), _numbers(tags, "WindowWidth")
    if not centre or not width or not 1 < width[0] < 1e9:
        return None
    return centre[0] - width[0] / 2, centre[0] + width[0] / 2 - 1


def _padding(get: Any, allocated: int) -> tuple[float, float] | None:
    with suppress(Exception):
        value, limit = get("PixelPaddingValue"), get("PixelPaddingRangeLimit")
        ends = np.array([value, value if limit is None else limit])
        # the tags may have been written without their sign
        ends = ends.astype(f"{'ui'[get('PixelRepresentation')]}{allocated // 8}")
        return int(ends.min()), int(ends.max())


def _affine(tags: Dataset, position: tuple[float, ...]) -> np.ndarray | None:
    cosines = _numbers(tags, "ImageOrientationPatient", 6)
    along_row, along_column = directions = np.reshape(cosines or np.zeros(6), (2, 3))
    if not np.allclose(directions @ directions.T, np.eye(2), atol=0.02):
        return None
    affine = np.eye(4)
    affine[:3] = np.c_[along_column, along_row, np.cross(along_row, along_column), position]
    affine[:2] *= -1
    return affine


def _numbers(tags: Dataset, name: str, count: int = 0) -> tuple[float, ...] | None:
    """Return the numbers of a text tag, `1,5` and `1A` included; None where it is unusable."""
    with suppress(Exception):  # absent, or damaged in one of many ways
        value = tags.get_item(name).value  # as it is stored, which pydicom may not take
        texts = value.decode().split("\\") if isinstance(value, bytes) else np.atleast_1d(value)
        numbers = tuple(float(_NUMBER.fullmatch(str(each))[1].replace(",", ".")) for each in texts)
        if len(numbers) == (count or len(numbers)):
            return numbers
    return None


def _whole_number(tags: Dataset, name: str, otherwise: int | None) -> int | None:
    numbers = _numbers(tags, name)
    return int(numbers[0]) if numbers else otherwise


def _hash(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(errors="replace"), digest_size=4).hexdigest()


def _in_order(frames: Iterable[Frame]) -> list[Frame]:
    """Sort by position along the normal, or by instance number where a position is missing."""
    # directions first, so that each stack of a series with several keeps together
    located = _located(frames)
    return sorted(frames, key=lambda frame: (
        *((frame.directions, frame.places[0]) if located else ()), frame.instance, frame.file,
    ))  # fmt: skip


def _irregularity(frames: list[Frame], stacks: list[Volume], errors: dict[int, str]) -> str:
    """Return why the slices that could be read make no regular volume; empty where they do."""
    frames = [frame for number, frame in enumerate(frames) if number not in errors]
    steps = _steps(frames)
    step = np.median(steps) if steps.size else 0.0
    several = len(stacks) > 1 or (steps.size and steps.min() <= _SAME_STEP * step)
    way = frames[-1].affine[:3, 3] - frames[0].affine[:3, 3] if step else np.zeros(3)
    sideways = np.linalg.norm(np.cross(way, along_numbers(stacks[0].affine)))
    problems = {
        "it does not say how its slices lie": not _located(frames) or not stacks[0].located,
        "several of its slices lie at the same place (echoes, times or copies)": several,
        "it has one slice only": stacks[0].stored.shape[2] < 2,
        "slices are missing or unevenly spaced":
            steps.size and np.abs(steps - step).max() > _SAME_STEP * step,
        "its slices are shifted against each other (a tilted gantry)":
            sideways > _SAME_STEP * step * steps.size,
    }  # fmt: skip
    return next(filter(problems.get, problems), "")


def _absent_before(frames: list[Frame]) -> tuple[np.ndarray, str]:
    """Return how many slices are missing before each one of a regular series, and what says so."""
    steps = _steps(frames)
    apart = steps[steps > 0]
    step = np.median(apart) if len(apart) > 3 else 1.0
    gaps = np.rint(steps / step).astype(int)
    if len(apart) <= 3 or np.abs(steps - gaps * step).max() >= _SAME_STEP * step:
        return np.zeros(len(steps) + 1, int), ""
    absent = np.cumsum([0, *(gaps - 1).clip(0)]).clip(max=_MOST_ABSENT)
    return absent, (f"missing: slices lie {step:.3g} mm apart, but up to {steps.max():.3g} mm at a "
                    "gap; copy the missing files as well")  # fmt: skip


def _steps(frames: list[Frame]) -> np.ndarray:
    """Return the distances of neighbouring slices of one stack, mm; none where it is not one."""
    if not _located(frames) or len({frame.directions for frame in frames}) > 1:
        return np.zeros(0)
    return np.diff(sorted(place for frame in frames for place in frame.places))


def _located(frames: list[Frame]) -> bool:
    return all(frame.places for frame in frames)
