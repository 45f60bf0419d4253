"""DICOM series to volumes.

pydicom reads headers, plain pixels and run lengths. JPEG of all kinds is decoded by dcm2niix (C.
Rorden) in a process of its own, which is given pixels and nothing that names a person; a damaged or
hostile file may end that process, but not this one.
"""

import gzip
import hashlib
import io
import logging
import math
import os
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby, islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dcm2niix
import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import as_pixel_options, get_expected_length, pixel_dtype

from brainlib import paths
from brainlib.imaging.errors import ImageError, reading
from brainlib.imaging.slices import GZIP_MAGIC, Scan, ScanSlice, header_facts, to_luma
from brainlib.imaging.volumes import Volume, along_numbers, draw, nearest_plane, require_size

MAX_INFLATED = 500_000_000  # bytes that a `.dcm.gz` may unpack to
MAX_DEFLATED = 1_000_000  # bytes of a deflated file, which pydicom unpacks a thousandfold
SECONDS = 10  # that dcm2niix may take for a file
MEMORY = 8 * 2**20  # kilobytes that it may address

_PERSON = ("PatientID", "PatientName", "StudyInstanceUID")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_DEFAULTS = {"samples_per_pixel": 1, "photometric_interpretation": "MONOCHROME2",
             "planar_configuration": 0, "pixel_representation": 0}  # fmt: skip
_DEFLATED = uid.DeflatedExplicitVRLittleEndian.encode()
_LPS = (-1, -1, 1)  # DICOM counts to the left and to the back
_NUMBER = re.compile(r"\s*([-+]?[\d.,]+(?:[eE][-+]?\d+)?)[A-Z]?[\s\0]*")
_THREADS = 2  # that decode; one waits for dcm2niix while the other reads
_MOST = 1000  # missing slices of a gap that are listed
_SAME_STEP = 0.05  # how far the steps of a regular volume may differ, as a share of the step

# pydicom logs the values that it doubts, which may name the patient; what is wrong is said anyway
logging.getLogger("pydicom").propagate = False


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice of a DICOM file: its series, where it lies, how it is shown; no pixels.

    Attributes
    ----------
    file : Path
    index : int
        Of several slices in a file, from 0.
    size : int
        Of the file, bytes.
    series : str
        Its number, the words of imaging in its description, a hash of patient, study and series.
    study, uid : str
        Hashes of patient and study, and of the series' UID alone.
    copy : tuple
        The same for copies of a slice.
    instance : int
        Its instance number, -1 where it has none.
    shape : tuple of 2 ints
        Height and width.
    affine : float array of shape (4, 4)
        From (column, row, slice) to millimetres, nibabel's axes; its position is not a number where
        that is unknown.
    directed : bool
        Whether it says which way its rows and columns lead.
    scale : dict
        How stored values become signal: `shift`, `slope`, `intercept`, `padding`.
    look : dict
        What it says of a `Volume`.
    facts : dict
        What it says of a `ScanSlice`.
    stack : tuple
        Of a sorted series: the pass, the directions and the shape that it has in common with others
        that lie one behind the other.
    place : float
        Of a sorted series: where it lies along its normal, mm.
    """

    file: Path
    index: int
    size: int
    series: str
    study: str
    uid: str
    copy: tuple
    instance: int
    shape: tuple[int, int]
    affine: np.ndarray
    directed: bool
    scale: dict[str, Any]
    look: dict[str, Any]
    facts: dict[str, Any]
    stack: tuple = ()
    place: float = math.nan


@reading()
def index_file(file: Path) -> list[Frame]:
    """Read the header of one file; no pixels.

    Raises
    ------
    ImageError
        Where the file is damaged, holds no image, or none to be shown (a localizer).
    """
    stream = _open(file)
    if not any(stream.read(200)[132:]):
        raise ImageError("nothing follows the start of its header; copy it again")
    stream.seek(0)
    header = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    count = int(_number(header, "NumberOfFrames", 1))
    _require_image(header, count)
    tags = Dataset(header)
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for element in (header.get(name) or [[]])[0]:  # of the first slice
            if element.VR == "SQ" and element.value:
                tags.update(element.value[0])

    def get(name: str) -> Any:
        with suppress(Exception):  # what an optional tag holds is no reason to refuse an image
            return tags.get(name)

    person, series = [str(get(name)) for name in _PERSON], str(get("SeriesInstanceUID") or "")
    number, facts = _numbers(header, "SeriesNumber"), header_facts(get)
    words = facts["facts"].get("description", "").split()
    # files that name no series are one with the others of their folder
    name = [*words, _hash(*person, series or os.fsencode(file.parent).hex())]
    name = [str(int(number[0])), *name] if number else name
    like = Frame(
        file, 0, file.stat().st_size, "-".join(name), _hash(*person), series and _hash(series), (),
        int(_number(tags, "InstanceNumber", -1)), (int(header.Rows), int(header.Columns)),
        *_affine(tags), *_scale(tags), facts,
    )  # fmt: skip
    frames, groups = [], header.get("PerFrameFunctionalGroupsSequence") or [tags]
    for index in range(count):
        group = groups[index] if index < len(groups) else Dataset()
        lies = (group.get("PlanePositionSequence") or [group])[0]
        affine = like.affine.copy()
        affine[:3, 3] = _numbers(lies, "ImagePositionPatient", 3) or np.nan
        affine[:3, 3] *= _LPS
        copy = _hash(get("SOPInstanceUID") or str(file)), index, like.instance, str(affine[:3, 3])
        frames.append(replace(like, index=index, affine=affine, copy=copy))
    return frames


def list_series(kinds: dict[Path, str]) -> dict[Path, Scan]:
    """Sort DICOM files into series, and return each by its first file.

    Parameters
    ----------
    kinds : dict of Path to str
        Files that are `dicom`, and others. What is wrong with a file takes the place of its kind.
    """
    series = defaultdict(list)
    for file in [file for file, kind in kinds.items() if kind == "dicom"]:
        try:
            frames = index_file(file)
            series[frames[0].series] += frames
        except ImageError as error:
            kinds[file] = str(error)
    shared, alike = defaultdict(list), defaultdict(list)
    for name, (frame, *others) in series.items():
        shared[frame.uid or name].append(name)
        if frame.uid and not others:
            alike[frame.study, name[:-8], frame.shape, str(frame.facts)].append(name)
    remarks = {
        names[0]: f"{len(names)} slices that look like one series each name a series of their own, "
        "and are answered one by one" for names in alike.values() if len(names) > 3
    } | {
        name: f"{len(names)} patients or studies share the UID of this series; they are kept apart:"
        " check who is who" for names in shared.values() if len(names) > 1 for name in names
    }  # fmt: skip
    scans = [Scan(frames[0].file, name, "dicom", tuple(frames), remark=remarks.get(name, ""))
             for name, frames in series.items()]  # fmt: skip
    return {scan.file: scan for scan in scans}


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
        Stack by stack (directions, echoes, times), then what is missing or a copy.

    Raises
    ------
    ImageError
        Where the series cannot be cut in the plane that was asked for, or shows no organ.
    """
    kept: dict[tuple, Frame] = {}
    for frame in sorted(frames, key=lambda frame: (-frame.size, frame.file)):
        kept.setdefault(frame.copy, frame)  # a copy that was cut short is smaller
    copies = {frame.file for frame in frames} - {frame.file for frame in kept.values()}
    frames = _in_order(kept.values())
    first, numbers = frames[0], _numbered(frames)
    with paths.temporary_folder() as folder:
        signals, errors = _decode(frames, folder)
        irregular = "a file of it cannot be read" if errors else _irregularity(frames)
        runs = [slice(row, row + 1) for row, frame in enumerate(frames) if frame.file not in errors]
        runs = runs if irregular else [slice(None)]
        volumes = [_volume(frames[run], signals[run], first.look) for run in runs]
        planes = [nearest_plane(volume.affine) for volume in volumes]
        cut_anew = plane != "acquired" and any(own != plane for own in planes)
        if cut_anew and irregular:
            raise ImageError(f"its series cannot be cut to {plane} slices, because {irregular}; "
                             "--plane acquired gives the slices as they were scanned")  # fmt: skip
        like = ScanSlice(first.file, series, irregular=irregular if len(frames) > 1 else "")
        slices = draw(volumes, [plane] if cut_anew else planes, replace(like, **first.facts))
        if cut_anew:
            frames, numbers = [], range(volumes[0].turned(plane)[0].shape[2])
            yield from slices
        for frame, number in zip(frames, numbers, strict=not cut_anew):
            if frame.file not in errors:
                yield replace(next(slices), file=frame.file, number=number)
            elif frame.index == 0:  # of a file that cannot be read, one slice says so
                yield replace(like, file=frame.file, number=number, error=errors[frame.file])
    for number in sorted({*range(numbers[-1])} - {*numbers}):
        error = "missing: its series has a gap at its place; copy the missing files as well"
        yield replace(like, number=number, error=error)
    for file in sorted(copies):
        error = "skipped: it is a second copy of another file of its series"
        yield replace(like, file=file, number=numbers[-1] + 1, error=error)


def _in_order(frames: Iterable[Frame]) -> list[Frame]:
    """Sort slices by position along the normal, or by instance where a position is missing."""
    located = all(frame.directed and np.isfinite(frame.affine).all() for frame in frames)
    ordered, passes = [], Counter()
    for frame in sorted(frames, key=lambda frame: (frame.instance, frame.file, frame.index)):
        way = (*(frame.affine[:3, :2].round(2) + 0.0).ravel().tolist(), *frame.shape)
        place = round(float(along_numbers(frame.affine) @ frame.affine[:3, 3]), 2)
        place = place if located else math.nan
        passes[way, place] += located  # slices at one place are of several echoes or times
        ordered.append(replace(frame, stack=(passes[way, place], *way), place=place))
    return sorted(ordered, key=lambda frame: (frame.stack, frame.place)) if located else ordered


def _numbered(frames: list[Frame]) -> list[int]:
    """Return the numbers of slices in order, those missing in a gap left out."""
    numbers = [-1]
    for _, stack in groupby(frames, lambda frame: frame.stack):
        steps = np.diff([frame.place for frame in stack])
        apart = steps / np.median(steps) if steps.size > 3 else steps * np.nan
        if not (np.abs(apart - np.rint(apart)) < _SAME_STEP).all() or apart.max(initial=0) > _MOST:
            apart = np.ones(steps.size)
        numbers += (numbers[-1] + 1 + np.cumsum([0, *np.rint(apart)])).astype(int).tolist()
    return numbers[1:]


def _irregularity(frames: list[Frame]) -> str:
    """Return why slices in order make no regular volume; empty where they do."""
    if len(frames) == 1:
        return "it has one slice only"
    steps = np.diff([frame.affine[:3, 3] for frame in frames], axis=0)
    step, normal = np.median(steps, axis=0), along_numbers(frames[0].affine)
    most = _SAME_STEP * np.linalg.norm(step)
    is_even = most > 0 and (np.linalg.norm(steps - step, axis=1) < most).all()
    is_tilted = np.linalg.norm(np.cross(normal, step)) > most
    is_one = len({frame.stack for frame in frames}) == 1 and not math.isnan(frames[0].place)
    if is_one and is_even and not is_tilted:
        return ""
    return ("its slices form no regular volume: some are missing, unevenly spaced, tilted or at the"
            " same place, or it does not say where they lie")  # fmt: skip


def _decode(frames: list[Frame], folder: Path) -> tuple[np.ndarray, dict[Path, str]]:
    """Write the signal of each slice as a row of a file; also return why files are left out."""
    longest = max(math.prod(frame.shape) for frame in frames)
    rows, errors, signals = defaultdict(list), {}, folder / "signals"
    for row, frame in enumerate(frames):
        rows[frame.file].append((frame.index, row, frame))

    def write(file: Path) -> None:
        try:
            with reading(), signals.open("r+b") as store:
                decoded = _signals(rows[file][0][-1], folder)
                for (_, row, frame), signal in zip(sorted(rows[file]), decoded, strict=True):
                    store.seek(4 * longest * row)
                    store.write(signal.reshape(frame.shape).tobytes())
        except ImageError as error:
            errors[file] = str(error)

    with signals.open("wb") as store:
        store.truncate(4 * longest * len(frames))
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(write, rows))
    return np.memmap(signals, np.float32, "r", shape=(len(frames), longest)), errors


def _volume(frames: list[Frame], signals: np.ndarray, look: dict[str, Any]) -> Volume:
    first, last, affine = frames[0], frames[-1], np.nan_to_num(frames[0].affine)
    if len(frames) > 1:
        affine[:3, 2] = (last.affine - first.affine)[:3, 3] / (len(frames) - 1)
    voxels = signals[:, : math.prod(first.shape)].reshape(-1, *first.shape).transpose(2, 1, 0)
    return Volume(voxels, affine, first.directed, **look)


def _signals(frame: Frame, folder: Path) -> Iterator[np.ndarray]:
    """Decode the slices of a file to float32, colours to luma, padding to not a number."""
    header = pydicom.dcmread(_open(frame.file), force=True)
    name = next((name for name in _PIXELS if name in header), None)
    if name is None:
        raise ImageError("it holds no pixel data; it has been cut short, or never had any")
    implicit = header.original_encoding[0]
    plain = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
    syntax = uid.UID(header.file_meta.get("TransferSyntaxUID") or plain)
    surplus = len(header[name].value) - get_expected_length(header)
    # a few bytes are padding; as much as a row or a column means that the sizes are wrong
    fits = 0 <= surplus < max(2, min(frame.shape) * header.BitsAllocated // 8)
    is_packed = header[name].is_undefined_length
    if syntax.is_encapsulated != is_packed or not (fits or is_packed):
        raise ImageError("its pixels are cut short or contradict its header; export it anew")
    if syntax.is_encapsulated and syntax != uid.RLELossless:
        images = _unpack(header, syntax, folder)
    else:
        options = {**_DEFAULTS, **as_pixel_options(header), "bits_stored": header.BitsAllocated}
        decoded = pydicom.pixels.get_decoder(syntax).iter_array(header, **options)
        images = (image for image, _ in decoded)
    for stored in images:
        if stored.ndim == 3:
            yield to_luma(stored)
            continue
        stored = stored >> frame.scale["shift"] if frame.scale["shift"] else stored
        with np.errstate(over="ignore"):
            signal = stored.astype(np.float32) * np.float32(frame.scale["slope"])
            signal += np.float32(frame.scale["intercept"])
        if frame.scale["padding"]:
            low, high = frame.scale["padding"]
            signal[(stored >= low) & (stored <= high)] = np.nan
        yield signal


def _unpack(header: Dataset, syntax: str, folder: Path) -> Iterator[np.ndarray]:
    """Let dcm2niix decode pixels, given what they need of a header and no more."""
    _, data = islice(pydicom.encaps.generate_fragments(header.PixelData), 2)  # after the offsets
    shown = said = header.Columns, header.Rows
    with suppress(Exception):  # Pillow does not know all that dcm2niix decodes
        shown = Image.open(io.BytesIO(data), formats=("JPEG", "JPEG2000")).size
    if shown != said:
        raise ImageError(f"its compressed slice is {shown} and not {said}; copy it again")
    bare = header.group_dataset(0x28)
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = syntax
    bare["PixelData"] = header["PixelData"]
    bare.BitsStored, bare.HighBit = header.BitsAllocated, header.BitsAllocated - 1
    bare.SOPClassUID, bare.SOPInstanceUID, bare.SeriesInstanceUID = uid.MRImageStorage, "1.1", "1.2"
    with TemporaryDirectory(dir=folder) as folder:
        bare.save_as(Path(folder, "a.dcm"), enforce_file_format=True)
        command = [dcm2niix.bin, "-g", "i", "-b", "n", "-z", "n", "-x", "i", "-d", "0", "-f", "a",
                   folder]  # fmt: skip
        if os.name == "posix":
            command = ["/bin/sh", "-c", f'ulimit -v {MEMORY} 2>&-; exec "$@"', "sh", *command]
        silent = dict.fromkeys(("stdout", "stderr", "stdin"), subprocess.DEVNULL)
        subprocess.run(command, timeout=SECONDS, cwd=folder, **silent)
        file = next(Path(folder).glob("*.nii"), None)
        if file is None:
            raise ImageError("dcm2niix cannot convert it: cut short, damaged or of a rare "
                             "compression; export it without compression")  # fmt: skip
        voxels = nibabel.load(file).dataobj.get_unscaled()
        images = voxels.reshape(*voxels.shape[:2], -1, order="F").T[:, ::-1]  # last row first
        for image in images:
            colours = np.ascontiguousarray(image).view(np.uint8).reshape(*image.shape, -1)
            yield colours if image.dtype.names else image.astype(pixel_dtype(header))


def _open(file: Path) -> mmap | io.BytesIO:
    """Open a file, unpacked; mapped, so that a damaged length of gigabytes takes no memory."""
    with file.open("rb") as plain:
        content = mmap(plain.fileno(), 0, access=ACCESS_READ)
    if content[:2] == GZIP_MAGIC:
        with gzip.open(file) as packed:
            content = packed.read(MAX_INFLATED + 1)
        if len(content) > MAX_INFLATED:
            raise ImageError(f"it unpacks to more than {MAX_INFLATED:,} bytes; unpack it yourself")
    if _DEFLATED in content[:1000] and len(content) > MAX_DEFLATED:
        raise ImageError(f"it is deflated to more than {MAX_DEFLATED:,} bytes; export it plainly")
    return io.BytesIO(content) if isinstance(content, bytes) else content


def _require_image(header: Dataset, frames: int) -> None:
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    # the value of a damaged tag may run into the next, which may name the patient
    name = kind.name if kind in uid.UID_dictionary else ""
    image_type = {*(header.get("ImageType") or [])}
    reasons = {
        f"it holds no image ({name})": name and "Image Storage" not in name,
        "it is a mosaic of slices; convert it with dcm2niix first":
            frames == 1 and "MOSAIC" in image_type,
        "it is a localizer, which shows where the other series lie":
            image_type & {"LOCALIZER", "SCOUT"},
        "its colours are those of a palette; export it in grey":
            header.get("PhotometricInterpretation") == "PALETTE COLOR",
    }  # fmt: skip
    for reason in filter(reasons.get, reasons):
        raise ImageError(f"skipped: {reason}")
    if not header.get("Rows") or not header.get("Columns"):
        raise ImageError("it is no DICOM image, or cut short; copy it again from where it came")
    require_size((header.Rows, header.Columns, frames))


def _scale(tags: Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a `Frame`'s scale, and what its tags say of black and white."""
    allocated = int(_number(tags, "BitsAllocated", 16))
    bits = int(_number(tags, "BitsStored", allocated))
    shift = int(_number(tags, "HighBit", bits - 1)) + 1 - bits
    padding, window = _numbers(tags, "PixelPaddingValue", 1), None
    if padding:  # whose tags may have been written without their sign
        padding += _numbers(tags, "PixelPaddingRangeLimit", 1) or padding
        dtype = f"{'ui'[_number(tags, 'PixelRepresentation', 0) == 1]}{max(1, allocated // 8)}"
        padding = sorted(np.array(padding, int).astype(dtype).tolist())
    centre, width = _numbers(tags, "WindowCenter"), _number(tags, "WindowWidth", 0)
    if centre and 1 < width < 1e9:  # DICOM PS3.3, C.11.2.1.2
        window = centre[0] - width / 2, centre[0] + width / 2 - 1
    scale = {"shift": shift if 0 < shift <= allocated - bits else 0, "padding": padding,
             "slope": _number(tags, "RescaleSlope", 1) or 1,
             "intercept": _number(tags, "RescaleIntercept", 0)}  # fmt: skip
    return scale, {"window": window, "bits": bits if allocated == 8 else 0,
                   "inverted": tags.get("PhotometricInterpretation") == "MONOCHROME1"}  # fmt: skip


def _affine(tags: Dataset) -> tuple[np.ndarray, bool]:
    """Return a `Frame`'s affine, and whether the file says which way it lies."""
    cosines = _numbers(tags, "ImageOrientationPatient", 6) or np.zeros(6)
    directions, affine = np.reshape(cosines, (2, 3)) * _LPS, np.eye(4)
    directed = np.allclose(directions @ directions.T, np.eye(2), atol=0.02)
    affine[:3, :2] = directions.T if directed else [[-1, 0], [0, -1], [0, 0]]
    affine[:3, 2] = np.cross(*affine[:3, :2].T)
    affine[:3, 2] = along_numbers(affine)
    rows, columns = _numbers(tags, "PixelSpacing", 2) or (1, 1)
    slices = _number(tags, "SpacingBetweenSlices", 0) or _number(tags, "SliceThickness", 1)
    affine[:3, :3] *= np.abs([columns, rows, slices]).clip(1e-9)
    return affine, directed


def _numbers(tags: Dataset, name: str, count: int = 0) -> tuple[float, ...] | None:
    """Return the numbers of a text tag, `1,5` and `1A` included; None where it is unusable."""
    with suppress(Exception):
        tags[name].value  # noqa: B018 - is converted, or stays as it is stored
    with suppress(Exception):  # absent, or damaged in one of many ways
        value = tags.get_item(name).value
        texts = value.decode().split("\\") if isinstance(value, bytes) else np.atleast_1d(value)
        numbers = tuple(float(_NUMBER.fullmatch(str(each))[1].replace(",", ".")) for each in texts)
        if len(numbers) == (count or len(numbers)):
            return numbers
    return None


def _number(tags: Dataset, name: str, otherwise: float) -> float:
    return (_numbers(tags, name) or [otherwise])[0]


def _hash(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(errors="replace"), digest_size=4).hexdigest()
