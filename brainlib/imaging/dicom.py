"""DICOM series to volumes.

pydicom reads headers, plain pixels and run lengths. JPEG of all kinds is decoded by dcm2niix (C.
Rorden) in a process of its own, which is given pixels and nothing that names a person; what a
damaged or hostile file does to it ends at limits of time, memory and disk.
"""

import hashlib
import io
import logging
import math
import os
import re
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import groupby, islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, NamedTuple

import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import as_pixel_options, get_expected_length, pixel_dtype

from brainlib import paths
from brainlib.imaging import limits
from brainlib.imaging.errors import ImageError, reading
from brainlib.imaging.slices import GZIP_MAGIC, ScanSlice, header_facts, open_plain, to_luma
from brainlib.imaging.volumes import Volume, along_numbers, draw, nearest_plane, require_size

MAX_INFLATED = 500_000_000  # bytes that a compressed file (`.dcm.gz`, deflated) may unpack to
SECONDS = 20  # that dcm2niix may take for the failures of a series, and for each file

_PERSON = ("PatientID", "PatientName", "StudyInstanceUID")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_DEFAULTS = {"samples_per_pixel": 1, "photometric_interpretation": "MONOCHROME2",
             "planar_configuration": 0, "pixel_representation": 0, "pixel_vr": "OW"}  # fmt: skip
_DEFLATED, _EXPLICIT = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"
_LPS = (-1, -1, 1)  # DICOM counts to the left and to the back
_NUMBER = re.compile(r"\s*([-+]?[\d.,]+(?:[eE][-+]?\d+)?)[A-Z]?[\s\0]*")
_LONGEST = 16_000_000  # bytes of a tag; an enhanced file of a thousand slices has five million
_GZIP_RATIO = 1032  # deflate packs no tighter
_MOST = 1000  # missing slices of a gap that are listed
_THREADS = 2  # that decode; one waits for dcm2niix while the other reads
_SAME_STEP = 0.05  # how far the steps of a regular volume may differ, as a share of the step

# pydicom logs the values that it doubts, which may name the patient; what is wrong is said anyway
logging.getLogger("pydicom").propagate = False


@dataclass(frozen=True, eq=False)
class Frame:
    """One DICOM file: the series that it belongs to, where it lies, how it is shown; no pixels.

    Attributes
    ----------
    file : Path
    size : int
        Bytes.
    series : str
        The series number and a hash of patient, study and series.
    study, uid : str
        Hashes of patient and study, and of the series' UID alone.
    copy : tuple
        The same for copies of a file.
    instance : int
        Its instance number, -1 where it has none.
    shape : tuple of 2 ints
        Height and width.
    affine : float array of shape (4, 4)
        From (column, row, slice) to millimetres but for its position, nibabel's axes.
    directed : bool
        Whether it says which way its rows and columns lead.
    positions : float array of shape (n, 3)
        Of its slices, nibabel's axes; not a number where that is unknown.
    scale : dict
        How stored values become signal: `shift`, `slope`, `intercept`, `padding`; their `dtype`.
    look : dict
        What it says of a `Volume`.
    facts : dict
        What it says of a `ScanSlice`.
    """

    file: Path
    size: int
    series: str
    study: str
    uid: str
    copy: tuple
    instance: int
    shape: tuple[int, int]
    affine: np.ndarray
    directed: bool
    positions: np.ndarray
    scale: dict[str, Any]
    look: dict[str, Any]
    facts: dict[str, Any]


class _Page(NamedTuple):
    """One slice of a file: the stack that it belongs to, and where along its normal, mm."""

    stack: tuple
    place: float
    frame: Frame
    index: int
    position: np.ndarray


@reading()
def index_file(file: Path) -> Frame:
    """Read the header of one file; no pixels.

    Raises
    ------
    ImageError
        Where the file is damaged, holds no image, or none to be shown (a localizer).
    """
    with _open(file) as stream:
        if not any(stream.read(200)[132:]):
            raise ImageError("nothing follows the start of its header; copy it again")
        stream.seek(0)
        header = pydicom.dcmread(stream, _LONGEST, stop_before_pixels=True, force=True)
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
    # files that name no series are one with the others of their folder
    name = _hash(*person, series or os.fsencode(file.parent).hex())
    number, instance = _numbers(header, "SeriesNumber"), int(_number(tags, "InstanceNumber", -1))
    groups = [*(header.get("PerFrameFunctionalGroupsSequence") or [tags])][:count]
    positions = np.full((count, 3), np.nan)
    for position, group in zip(positions, groups, strict=False):
        lies = (group.get("PlanePositionSequence") or [group])[0]
        position[:] = _numbers(lies, "ImagePositionPatient", 3) or np.nan
    scale, look = _scale(tags)
    return Frame(
        file, file.stat().st_size, f"{int(number[0])}-{name}" if number else name, _hash(*person),
        series and _hash(series),
        (_hash(get("SOPInstanceUID") or str(file)), instance, str(positions[0])), instance,
        (int(header.Rows), int(header.Columns)), *_affine(tags), positions * _LPS, scale,
        look | {"inverted": get("PhotometricInterpretation") == "MONOCHROME1"}, header_facts(get),
    )  # fmt: skip


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
        Stack by stack (directions, echoes, times), then what is missing or odd.

    Raises
    ------
    ImageError
        Where the series cannot be cut in the plane that was asked for, or shows no organ.
    """
    kept: dict[tuple, Frame] = {}
    for frame in sorted(frames, key=lambda frame: (-frame.size, frame.file)):
        kept.setdefault(frame.copy, frame)  # a copy that was cut short is smaller
    pages = _in_order(kept.values())
    first = pages[0].frame
    with paths.temporary_folder() as folder:
        signals, errors = _decode(pages, folder)
        whole = [row for row, page in enumerate(pages) if page.frame not in errors]
        irregular = _irregularity([pages[row] for row in whole]) if whole else ""
        runs = [slice(row, row + 1) for row in whole]
        if runs and not irregular:
            runs = [slice(whole[0], whole[-1] + 1)]
        volumes = [_volume(pages[run], signals[run], first.look) for run in runs]
        planes = [nearest_plane(volume.affine) for volume in volumes]
        cut_anew = plane != "acquired" and any(own != plane for own in planes)
        if cut_anew and (problem := "a file of it cannot be read" if errors else irregular):
            raise ImageError(f"its series cannot be cut to {plane} slices, because {problem}; "
                             "plane='acquired' gives the slices as they were scanned")  # fmt: skip
        like = ScanSlice(first.file, series, irregular=irregular if len(whole) > 1 else "")
        planes = [plane] if cut_anew else planes
        slices = draw(volumes, planes, replace(like, **first.facts)) if volumes else iter(())
        # of a file that cannot be read, one slice says so
        pages = [page for page in pages if page.index == 0 or page.frame not in errors]
        numbers, gap = _numbered(pages)
        if cut_anew:
            pages, numbers = [], range(volumes[0].turned(plane)[0].shape[2])
            yield from slices
        for page, number in zip(pages, numbers, strict=not cut_anew):
            error = errors.get(page.frame, "")
            each = replace(like, error=error) if error else next(slices)
            yield replace(each, file=page.frame.file, number=number)
    end = numbers[-1] + 1
    for number in sorted({*range(end)} - {*numbers}):
        yield replace(like, number=number, error=gap)
    for frame in sorted({*frames} - {*kept.values()}, key=lambda frame: frame.file):
        error = "skipped: it is a second copy of another file of its series"
        yield replace(like, file=frame.file, number=end, error=error)
    instances = [frame.instance for frame in kept.values() if frame.instance >= 0]
    if pages and math.isnan(pages[0].place) and len(set(instances)) < len(instances):
        yield replace(like, number=end, error=(
            "several of its slices have the same instance number, and no position; they come in the"
            " order of their names: look at the order before you trust a number"
        ))  # fmt: skip


def list_series(kinds: dict[Path, str]) -> dict[Path, dict[str, Any]]:
    """Sort DICOM files into series: return what a `Scan` says of each, by its first file.

    Parameters
    ----------
    kinds : dict of Path to str
        Files that are `dicom`, and others. What is wrong with a file takes the place of its kind.
    """
    series = defaultdict(list)
    for file in [file for file, kind in kinds.items() if kind == "dicom"]:
        try:
            frame = index_file(file)
            series[frame.series].append(frame)
        except ImageError as error:
            kinds[file] = str(error)
    remarks, shared, alike = {}, defaultdict(list), defaultdict(list)
    for name, (frame, *others) in series.items():
        shared[frame.uid or name].append(name)
        if frame.uid and len(frame.positions) == 1 and not others:
            alike[frame.study, name[:-8], frame.shape, str(frame.facts)].append(name)
    for names in alike.values():
        if len(names) > 3:
            remarks[names[0]] = (f"{len(names)} slices that look like one series each name a series"
                                 " of their own, and are answered one by one")  # fmt: skip
    for names in shared.values():
        for name in names[1:] and names:
            remarks[name] = (f"{len(names)} patients or studies share the UID of this series; they "
                             "are kept apart: check who is who")  # fmt: skip
    scans = {}
    for name, (frame, *others) in series.items():
        number, _, digest = name.rpartition("-")
        words = frame.facts["facts"].get("description", "").split()
        told = "-".join(filter(None, (number, *words, digest)))
        frames, remark = (frame, *others), remarks.get(name, "")
        scans[frame.file] = {"series": told, "frames": frames, "remark": remark}
    return scans


def _in_order(frames: Iterable[Frame]) -> list[_Page]:
    """Sort slices by position along the normal, or by instance where a position is missing."""
    located = all(frame.directed and np.isfinite(frame.positions).all() for frame in frames)
    pages, passes = [], Counter()
    for frame in sorted(frames, key=lambda frame: (frame.instance, frame.file)):
        normal = along_numbers(frame.affine)
        way = (*(frame.affine[:3, :2].round(2) + 0.0).ravel().tolist(), *frame.shape)
        for index, position in enumerate(frame.positions):
            place = round(float(normal @ position), 2) if located else math.nan
            passes[way, place] += located  # slices at one place are of several echoes or times
            pages.append(_Page((passes[way, place], *way), place, frame, index, position))
    return sorted(pages, key=lambda page: page[:2]) if located else pages


def _decode(pages: list[_Page], folder: Path) -> tuple[np.ndarray, dict[Frame, str]]:
    """Write the signal of each slice as a row of a file; also return why files are left out."""
    rows = {(page.frame, page.index): row for row, page in enumerate(pages)}
    longest = max(math.prod(page.frame.shape) for page in pages)
    scales = {repr(page.frame.scale): page.frame.scale["dtype"] for page in pages}
    dtype = np.dtype("f4" if len(scales) > 1 else max(scales.values()))
    file, frames, lost = folder / "signals", dict.fromkeys(page.frame for page in pages), []

    def write(frame: Frame) -> str:
        start = monotonic()
        try:
            if sum(lost) > SECONDS:
                raise ImageError("damaged files of its series took too long; remove them first")
            with reading(), file.open("r+b") as store:
                signals = zip(range(len(frame.positions)), _signals(frame, folder), strict=True)
                for index, signal in signals:
                    store.seek(dtype.itemsize * longest * rows[frame, index])
                    store.write(signal.astype(dtype).reshape(frame.shape).tobytes())
        except ImageError as error:
            lost.append(monotonic() - start)
            return str(error)
        return ""

    with file.open("wb") as store:
        store.truncate(dtype.itemsize * longest * len(rows))
    with ThreadPoolExecutor(_THREADS) as threads:
        told = zip(frames, threads.map(write, frames), strict=True)
        errors = {frame: error for frame, error in told if error}
    return np.memmap(file, dtype, "r", shape=(len(rows), longest)), errors


def _volume(pages: list[_Page], signals: np.ndarray, look: dict[str, Any]) -> Volume:
    (first, *_), last, shape = pages, pages[-1], pages[0].frame.shape
    affine = first.frame.affine.copy()
    affine[:3, 3] = np.nan_to_num(first.position)
    if len(pages) > 1:
        affine[:3, 2] = (last.position - first.position) / (len(pages) - 1)
    voxels = signals[:, : math.prod(shape)].reshape(-1, *shape).transpose(2, 1, 0)
    return Volume(voxels, affine, first.frame.directed, **look)


def _signals(frame: Frame, folder: Path) -> Iterator[np.ndarray]:
    """Decode the slices of a file, colours to luma, padding to values that are not finite."""
    with _open(frame.file) as stream:
        header = pydicom.dcmread(stream, _LONGEST, force=True)
        name = next((name for name in _PIXELS if name in header), None)
        if name is None:
            raise ImageError("it holds no pixel data; it has been cut short, or never had any")
        pixels, (implicit, _) = header.get_item(name, keep_deferred=True), header.original_encoding
        plain = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        syntax = uid.UID(header.file_meta.get("TransferSyntaxUID") or plain)
        fits = syntax.is_encapsulated == (pixels.length == 0xFFFFFFFF)
        if not syntax.is_encapsulated:
            stream.seek(0, os.SEEK_END)
            held = min(pixels.length, stream.tell() - pixels.value_tell)
            # a few bytes are padding; as much as a row or a column means that the sizes are wrong
            spare = max(2, min(frame.shape) * header.BitsAllocated // 8)
            surplus = held - get_expected_length(header)
            if surplus >= spare:
                raise ImageError(f"its pixels are {surplus} bytes longer than its header says: "
                                 "padded, or of other rows or columns; export it anew")  # fmt: skip
            fits = fits and surplus >= 0
        if not fits:
            raise ImageError("its pixels are cut short or contradict its header; copy it again")
        stream.seek(pixels.value_tell)
        if syntax.is_encapsulated and syntax != uid.RLELossless:
            images = _unpack(header, syntax, stream.read(), folder)
        else:
            options = {**_DEFAULTS, **as_pixel_options(header), "pixel_keyword": name}
            options["bits_stored"] = header.BitsAllocated
            decoded = pydicom.pixels.get_decoder(syntax).iter_array(stream, **options)
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


def _unpack(header: Dataset, syntax: str, pixels: bytes, folder: Path) -> Iterator[np.ndarray]:
    """Let dcm2niix decode pixels, given what they need of a header and no more."""
    import dcm2niix

    _, data = islice(pydicom.encaps.generate_fragments(pixels), 2)  # a table of offsets is first
    shown = said = header.Columns, header.Rows
    with suppress(Exception):  # Pillow does not know all that dcm2niix decodes
        shown = Image.open(io.BytesIO(data), formats=("JPEG", "JPEG2000")).size
    if shown != said:
        raise ImageError(f"its compressed slice is {shown} and not {said}; copy it again")
    bare = header.group_dataset(0x28)
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = syntax
    bare.add_new("PixelData", "OB", pixels)
    bare["PixelData"].is_undefined_length = True
    bare.BitsStored, bare.HighBit = header.BitsAllocated, header.BitsAllocated - 1
    bare.SOPClassUID, bare.SOPInstanceUID, bare.SeriesInstanceUID = uid.MRImageStorage, "1.1", "1.2"
    count = math.prod(said) * int(_number(header, "NumberOfFrames", 1))
    with tempfile.TemporaryDirectory(dir=folder) as folder:
        bare.save_as(Path(folder, "a.dcm"), enforce_file_format=True)
        command = [dcm2niix.bin, "-g", "i", "-b", "n", "-z", "n", "-x", "i", "-d", "0", "-f", "a",
                   folder]  # fmt: skip
        limits.run(command, SECONDS + count // 2_000_000, 16 * count + 2**20, cwd=folder)
        file = next(Path(folder).glob("*.nii"), None)
        if file is None:
            raise ImageError("dcm2niix cannot convert it: cut short, damaged or of a rare "
                             "compression; export it without compression")  # fmt: skip
        voxels = nibabel.load(file).dataobj.get_unscaled()
        images = voxels.reshape(*voxels.shape[:2], -1, order="F").T[:, ::-1]  # last row first
        for image in images:
            colours = np.ascontiguousarray(image).view(np.uint8).reshape(*image.shape, -1)
            yield colours if image.dtype.names else image.astype(pixel_dtype(header))


@contextmanager
def _open(file: Path) -> Iterator[BinaryIO]:
    """Open a file, without gzip or deflate; mapped, for a damaged length may ask for gigabytes."""
    with file.open("rb") as plain, mmap(plain.fileno(), 0, access=ACCESS_READ) as mapped:
        start = mapped[:1000]
        if start[:2] != GZIP_MAGIC and _DEFLATED not in start:
            yield mapped
            return
    with open_plain(file) as stream:
        content = stream.read(min(MAX_INFLATED, _GZIP_RATIO * file.stat().st_size) + 1)
    if _DEFLATED in start:
        body = 144 + int.from_bytes(content[140:144], "little")
        inflate = zlib.decompressobj(-zlib.MAX_WBITS).decompress
        plain = inflate(content[body:], MAX_INFLATED)
        content = content[:body].replace(_DEFLATED, _EXPLICIT) + plain
    if len(content) > MAX_INFLATED:
        raise ImageError(f"it unpacks to more than {MAX_INFLATED:,} bytes; unpack it yourself")
    yield io.BytesIO(content)


def _require_image(header: Dataset, frames: int) -> None:
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    # the value of a damaged tag may run into the next, which may name the patient
    name = kind.name if kind in uid.UID_dictionary else ""
    if name and "Image Storage" not in name:
        raise ImageError(f"skipped: it holds no image ({name})")
    if not header.get("Rows") or not header.get("Columns"):
        raise ImageError("it is no DICOM image, or cut short; copy it again from where it came")
    if frames == 1 and "MOSAIC" in (header.get("ImageType") or []):
        raise ImageError("skipped: it is a mosaic of slices; convert it with dcm2niix first")
    if {"LOCALIZER", "SCOUT"} & {*(header.get("ImageType") or [])}:
        raise ImageError("skipped: it is a localizer, which shows where the other series lie")
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise ImageError("skipped: its colours are those of a palette; export it in grey")
    require_size((header.Rows, header.Columns, frames))


def _scale(tags: Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a `Frame`'s scale, and what its tags say of black and white."""
    allocated = int(_number(tags, "BitsAllocated", 16))
    bits = int(_number(tags, "BitsStored", allocated))
    shift = int(_number(tags, "HighBit", bits - 1)) + 1 - bits
    slope, intercept = _number(tags, "RescaleSlope", 1) or 1, _number(tags, "RescaleIntercept", 0)
    dtype = f"{'ui'[_number(tags, 'PixelRepresentation', 0) == 1]}{max(1, allocated // 8)}"
    padding, window = _numbers(tags, "PixelPaddingValue", 1), None
    if padding:  # whose tags may have been written without their sign
        padding += _numbers(tags, "PixelPaddingRangeLimit", 1) or padding
        padding = sorted(np.array(padding, int).astype(dtype).tolist())
    as_stored = (slope, intercept, _number(tags, "SamplesPerPixel", 1)) == (1, 0, 1)
    if padding or allocated > 16 or not as_stored:
        dtype = "f4"
    centre, width = _numbers(tags, "WindowCenter"), _number(tags, "WindowWidth", 0)
    if centre and 1 < width < 1e9:  # DICOM PS3.3, C.11.2.1.2
        window = centre[0] - width / 2, centre[0] + width / 2 - 1
    shift = shift if 0 < shift <= allocated - bits else 0
    return {"shift": shift, "slope": slope, "intercept": intercept, "padding": padding,
            "dtype": dtype}, {"window": window, "bits": bits if allocated == 8 else 0}  # fmt: skip


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


def _irregularity(pages: list[_Page]) -> str:
    """Return why slices make no regular volume; empty where they do."""
    places = np.array([page.place for page in pages])
    steps = np.diff(places)
    step = np.median(steps) if steps.size else 0.0
    way = pages[-1].position - pages[0].position if step > 0 else np.zeros(3)
    problems = {
        "it does not say how its slices lie": np.isnan(places).any(),
        "several of its slices lie at the same place (echoes, times or copies)":
            len({page.stack for page in pages}) > 1,
        "it has one slice only": steps.size < 1,
        "slices are missing or unevenly spaced":
            steps.size and np.abs(steps - step).max() > _SAME_STEP * step,
        "its slices are shifted against each other (a tilted gantry)":
            way @ way - np.ptp(places) ** 2 > (_SAME_STEP * step * steps.size) ** 2 + 0.01,
    }  # fmt: skip
    return next(filter(problems.get, problems), "")


def _numbered(pages: list[_Page]) -> tuple[list[int], str]:
    """Return the numbers of slices, those missing left out, and what says of them that they are."""
    numbers, gap = [-1], ""
    for _, stack in groupby(pages, lambda page: page.stack):
        steps = np.diff([page.place for page in stack])
        step = np.median(steps) if steps.size > 3 else np.nan
        apart = np.rint(steps / step)
        if np.abs(steps - apart * step).max(initial=0) < _SAME_STEP * step and apart.max() < _MOST:
            if apart.max() > 1:
                gap = (f"missing: slices lie {step:.3g} mm apart, but up to {steps.max():.3g} mm at"
                       " a gap; copy the missing files as well")  # fmt: skip
        else:
            apart = np.ones(steps.size)
        numbers += (numbers[-1] + 1 + np.cumsum([0, *apart])).astype(int).tolist()
    return numbers[1:], gap
