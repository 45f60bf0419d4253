"""The slices of whatever lies at a path: pictures, DICOM, NIfTI, or folders of all of them."""

import dataclasses
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from brainlib import paths
from brainlib.data.datasets import PICTURE_SUFFIXES
from brainlib.imaging.errors import ImageError, one_line, quietly
from brainlib.imaging.pictures import read_picture
from brainlib.imaging.slices import PLANES, Frame, ScanSlice

SCAN_SUFFIXES = {".dcm": "dicom", ".dicom": "dicom", ".ima": "dicom", ".nii": "nifti",
                 ".nii.gz": "nifti", **dict.fromkeys(PICTURE_SUFFIXES, "picture")}  # fmt: skip
"""What a file claims to be by its name; what it is, its content says."""

_HEAD = 512
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # lengths; many a text starts with BM


@dataclass(frozen=True)
class Scan:
    """What is read in one go: a picture, a volume, a series, or a file that cannot be read.

    It holds no pixels, can be pickled, and is read by `read_scan`.

    Attributes
    ----------
    file : Path
        As it was named; of a series the first file.
    series : str
        What its slices are called by, as in `ScanSlice`.
    root : Path
        What `list_scans` looked through, on disk.
    given : Path
        The same, as it was named.
    kind : str
        `picture`, `dicom`, `nifti` or `unreadable`.
    frames : tuple of Frame
        Where the slices of a DICOM series are found, in any order; empty for others.
    error : str
        Why it is unreadable, without the name of the file; empty for others.
    """

    file: Path
    series: str
    root: Path
    given: Path
    kind: str = "unreadable"
    frames: tuple[Frame, ...] = ()
    error: str = ""


def open_scans(path: Path | str, plane: str = "acquired") -> Iterator[ScanSlice]:
    """Give the slices of a scan, one after the other, in an order that does not change.

    Nothing but the slice (or the one volume) at hand is held in memory, and a line for each DICOM
    file. A file that cannot be read gives a `ScanSlice` with its `error`, and the rest goes on; so
    does, as the last of its series, what is wrong with a series (slices are missing, or their order
    is a guess).
    In a folder, what is neither a scan nor named as one (`notes.txt`, a licence) is passed over, as
    are names that start with a dot; links to folders are followed once.

    Parameters
    ----------
    path : Path or str
        A picture, a DICOM file, a NIfTI volume, or a folder of these, nested as deep as one likes;
        a relative one is taken from the project's root. Recognised by content.
    plane : str
        `acquired`, or one of `axial`, `coronal`, `sagittal`: NIfTI volumes, and DICOM series that
        make a regular volume, are cut in it; a picture shows what it shows.

    Returns
    -------
    iterator of ScanSlice
        Files in order of their names, a DICOM series at the place of its first file.

    Raises
    ------
    ImageError
        At once, where the plane is unknown, or there is nothing at the path that could be a scan.

    Examples
    --------
    >>> import tempfile, numpy, PIL.Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> PIL.Image.new("L", (3, 2)).save(folder / "slice.png")
    >>> [(found.series, found.pixels.shape) for found in open_scans(folder)]
    [('slice.png', (2, 3))]
    """
    return _read_each(list_scans(path, plane), plane)


def list_scans(path: Path | str, plane: str = "acquired") -> list[Scan]:
    """Return what there is to read at a path, in the order of `open_scans`; no pixels are read.

    Of each file the first bytes are read, and of DICOM files the header. Each `Scan` can be read
    by itself, in another thread or process.

    Parameters
    ----------
    path : Path or str
        As `open_scans` takes it.
    plane : str
        Looked at for being one that `read_scan` takes.

    Raises
    ------
    ImageError
        Where the plane is unknown, or there is nothing at the path that could be a scan.
    """
    if plane not in ("acquired", *PLANES):
        raise ImageError(f"there is no plane {plane!r}; choose acquired, {', '.join(PLANES)}")
    try:
        root = paths.resolve(path)
        there = root.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, too long a name
        raise ImageError(f"{one_line(str(path))} is no path ({type(error).__name__})") from error
    if not there:
        raise ImageError(f"there is nothing at {path}; name a picture, DICOM, NIfTI or folder")
    kinds = _recognised(root)
    if not kinds:
        raise ImageError(
            f"the folder {path} holds nothing that could be a scan: no picture, no DICOM and no "
            "NIfTI, whatever its name; choose another folder"
        )
    return list(_units(kinds, root, Path(path)))


def read_scan(scan: Scan, plane: str = "acquired") -> Iterator[ScanSlice]:
    """Give the slices of one of the scans that `list_scans` found; what is wrong is their `error`.

    Several may be read at once, each in a thread of its own.

    Parameters
    ----------
    scan : Scan
    plane : str
        As `open_scans` takes it.
    """
    file = scan.root / scan.file.relative_to(scan.given)
    for found in _safely(_slices(scan, file, plane), file, scan.series):
        named = scan.given / found.file.relative_to(scan.root)
        error = found.error and f"{named}: {found.error}".replace(str(found.file), str(named))
        yield dataclasses.replace(found, file=named, error=one_line(error))


def _read_each(scans: list[Scan], plane: str) -> Iterator[ScanSlice]:
    for scan in scans:
        yield from read_scan(scan, plane)


def _units(kinds: dict[Path, str], root: Path, given: Path) -> Iterator[Scan]:
    series, errors = _index_dicom([file for file, kind in kinds.items() if kind == "dicom"])
    firsts: dict[Path, list[str]] = {}
    for name, frames in series.items():
        firsts.setdefault(frames[0].file, []).append(name)
    for file, kind in kinds.items():
        below = file.relative_to(root)
        name = below.as_posix() if below.name else file.name
        # a name that is not UTF-8 could not be stored in a table
        series_name = name.encode("utf-8", "backslashreplace").decode()
        named = Scan(given / below, series_name, root, given)
        if kind in ("picture", "nifti"):
            yield dataclasses.replace(named, kind=kind)
        elif kind != "dicom" or file in errors:
            yield dataclasses.replace(named, error=errors.get(file, kind))
        for name in firsts.get(file, []):
            yield dataclasses.replace(named, series=name, kind="dicom", frames=tuple(series[name]))


def _index_dicom(files: list[Path]) -> tuple[dict[str, list[Frame]], dict[Path, str]]:
    """Return the frames of each series, and why files belong to none."""
    series: dict[str, list[Frame]] = {}
    errors = {}
    for file in files:
        from brainlib.imaging import dicom

        try:
            for frame in dicom.index_file(file):
                series.setdefault(frame.series, []).append(frame)
        except ImageError as error:
            errors[file] = str(error)
    return series, errors


def _slices(scan: Scan, file: Path, plane: str) -> Iterator[ScanSlice]:
    if scan.kind == "picture":
        return _read_one(file, scan.series)
    if scan.kind == "nifti":
        from brainlib.imaging import nifti

        return nifti.read_volume(file, plane, scan.series)
    if scan.kind == "dicom":
        from brainlib.imaging import dicom

        return dicom.read_series(list(scan.frames), plane)
    return iter([ScanSlice(file, scan.series, error=scan.error)])


def _read_one(file: Path, series: str) -> Iterator[ScanSlice]:
    yield ScanSlice(file, series, pixels=read_picture(file))


def _safely(slices: Iterator[ScanSlice], file: Path, series: str) -> Iterator[ScanSlice]:
    """Pass slices on; where no more can be had, end with a record that says why."""
    number = 0
    while True:
        try:
            found = quietly(lambda: next(slices, None))
        except ImageError as error:
            yield ScanSlice(file, series, number, error=str(error).removeprefix(f"{file} "))
            return
        if found is None:
            return
        number = found.number + 1
        yield found


def _recognised(root: Path) -> dict[Path, str]:
    """Return what each file is: `picture`, `dicom`, `nifti`, or why it cannot be read."""
    if not root.is_dir():
        return {root: _kind(root) or "it is no picture, no DICOM and no NIfTI; name another file"}
    failures: dict[Path, str] = {}
    kinds = {file: _kind(file) for file in _list_files(root, failures)}
    kinds = {file: kind for file, kind in kinds.items() if kind}
    return dict(sorted({**kinds, **failures}.items()))


def _list_files(root: Path, failures: dict[Path, str]) -> Iterator[Path]:
    """Give all files below a folder; `os.walk` gives up where folders are nested too deep."""
    seen = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue  # a link to where we have been, perhaps in a circle
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            failures[folder] = f"the folder cannot be opened ({error.strerror}); look at who may"
            continue
        for entry in found:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                waiting.append(folder / entry.name)
            else:
                yield folder / entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # what it is will be said where it is opened
        return False


def _kind(file: Path) -> str:
    """Return what a file is by its content, else by its name; empty where it is something else."""
    ends = file.name.lower()
    claimed = next((kind for end, kind in SCAN_SUFFIXES.items() if ends.endswith(end)), "")
    try:
        if not file.is_file():  # a pipe would be waited for, a broken link is said
            return "it is no regular file, or a link to nothing; remove it" if claimed else ""
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        return f"it cannot be opened ({error.strerror}); look at who may read it"
    if head[128:132] == b"DICM" or _starts_without_preamble(head):
        return "dicom"
    if head.startswith(_PICTURE_STARTS) or _is_bmp(head):
        return "picture"
    if not head and claimed:
        return "it is empty; copy it again from where it came"
    if _is_nifti(file):
        return "nifti"
    if claimed == "dicom":  # to parse what is none could take for ever
        return "it is named as a DICOM file and does not begin as one; copy it again or remove it"
    if not claimed and _may_be_damaged(file, head):
        return "it is no picture, no DICOM and no NIfTI, or damaged; copy it again or remove it"
    return claimed


def _is_bmp(head: bytes) -> bool:
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS


def _starts_without_preamble(head: bytes) -> bool:
    """Return whether the first bytes are a DICOM tag of group 2 or 8, explicit or implicit."""
    if head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3:4] != b"\0":
        return False
    return (head[4:6].isalpha() and head[4:6].isupper()) or head[6:8] == b"\0\0"


def _is_nifti(file: Path) -> bool:
    from brainlib.imaging import nifti

    try:
        return nifti.may_be_nifti(file)
    except (OSError, EOFError, zlib.error):
        return False


def _may_be_damaged(file: Path, head: bytes) -> bool:
    """Return whether a file has no ending, as many DICOM files, and is no text."""
    ending = file.suffix[1:]
    return (not ending or ending.isdigit()) and (not head or b"\0" in head)
