"""The slices of whatever lies at a path: images, DICOM, NIfTI, archives, or folders of these."""

import gzip
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from brainlib import paths
from brainlib.data.datasets import IMAGE_SUFFIXES
from brainlib.imaging.errors import ImageError, one_line, readable, reading
from brainlib.imaging.images import read_image
from brainlib.imaging.slices import GZIP_MAGIC, PLANES, ScanSlice, open_plain

if TYPE_CHECKING:
    from brainlib.imaging.dicom import Frame

SCAN_SUFFIXES = {
    ".dcm": "dicom", ".dicom": "dicom", ".ima": "dicom", ".dcm.gz": "dicom", ".nii": "nifti",
    ".nii.gz": "nifti", ".hdr": "nifti", ".mgz": "nifti", ".mgh": "nifti", ".zip": "archive",
    **dict.fromkeys((*IMAGE_SUFFIXES, ".webp"), "image"),
    **{end: f"it is a {end} file, which is not read; convert it to NIfTI, DICOM or PNG first"
       for end in (".nrrd", ".nhdr", ".mha", ".mhd", ".mnc", ".heic", ".jp2", ".gif", ".tar",
                   ".tar.gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")},
}  # fmt: skip
"""What a file claims to be by its name, or why it is not read; what it is, its content says."""

MAX_UNZIPPED = 4_000_000_000
"""The most bytes that an archive may unpack to."""

STARTS = {
    # with a preamble; or without one: a tag of group 2 or 8, explicit or implicit
    "dicom": re.compile(rb".{128}DICM|[\2\x08]\0.\0([A-Z]{2}|..\0\0)", re.DOTALL),
    # JPEG, PNG, TIFF, WebP, and BMP with the length of its header, for many a text starts with BM
    "image": re.compile(
        rb"\xff\xd8\xff|\x89PNG|II[*+]\0|MM\0[*+]|.{8}WEBP|"
        rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL,
    ),
    "nifti": re.compile(rb".{344}n[+i]1\0|.{4}n[+i]2\0", re.DOTALL),
    "archive": re.compile(rb"PK(\x03\x04|\x05\x06)"),
}  # fmt: skip
"""How files of each kind start: the first 512 bytes, unpacked, decide before the name does."""

_WITHOUT_START = (".hdr", ".img", ".mgh", ".json")  # of volumes, and what lies beside them


@dataclass(frozen=True)
class Scan:
    """One unit of reading: an image, a volume, a series, an archive, or an unreadable file.

    It holds no pixels, can be pickled, and is read by `read_scan`.

    Attributes
    ----------
    file : Path
        As it was named; of a series the first file.
    series : str
        The name of its slices, as in `ScanSlice`.
    root : Path
        What `list_scans` looked through, on disk.
    given : Path
        The same, as it was named.
    kind : str
        `image`, `dicom`, `nifti`, `archive` or `unreadable`.
    frames : tuple of Frame
        The files of a DICOM series, in any order; empty for others.
    error : str
        Why it is unreadable, without the name of the file; empty for others.
    remark : str
        What is odd about how its files name patient, study and series.
    """

    file: Path
    series: str
    root: Path
    given: Path
    kind: str = "unreadable"
    frames: tuple["Frame", ...] = ()
    error: str = ""
    remark: str = ""


def open_scans(path: Path | str, plane: str = "acquired") -> Iterator[ScanSlice]:
    """Give the slices of a scan, one after the other, in an order that does not change.

    A file that cannot be read, or a path at which nothing is a scan, gives a `ScanSlice` with its
    `error`, and the rest goes on; so does, as the last of its series, what is wrong with a series
    (slices are missing, its order is a guess, patients share its UID).
    In a folder, what is neither a scan nor named as one (`notes.txt`, a licence) is passed over, as
    are names that start with a dot; links to folders are followed once.

    Parameters
    ----------
    path : Path or str
        An image, a DICOM file, a NIfTI, Analyze or MGH volume, a `.zip` of these, or a folder,
        nested as deep as one likes; a relative one is taken from the project's root. Recognised by
        content.
    plane : str
        `acquired`, or one of `axial`, `coronal`, `sagittal`: volumes, and DICOM series that make a
        regular volume, are cut in it; an image shows what it shows.

    Returns
    -------
    iterator of ScanSlice
        Files in order of their names, a DICOM series at the place of its first file.

    Raises
    ------
    ImageError
        At once, where the plane is unknown, or there is nothing at the path.

    Examples
    --------
    >>> import tempfile, numpy, PIL.Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> PIL.Image.new("L", (3, 2)).save(folder / "slice.png")
    >>> [(each.series, each.pixels.shape) for each in open_scans(folder)]
    [('slice.png', (2, 3))]
    """
    scans = list_scans(path, plane)
    return (each for scan in scans for each in read_scan(scan, plane))


def list_scans(path: Path | str, plane: str = "acquired") -> list[Scan]:
    """Return what there is to read at a path, in the order of `open_scans`; no pixels are read.

    Of each file the first bytes are read, and of DICOM files the header. Each `Scan` can be read
    by itself, in another thread or process.

    Parameters
    ----------
    path : Path or str
        As `open_scans` takes it. A DICOMDIR stands for its folder.
    plane : str
        Looked at for being one that `read_scan` takes.

    Raises
    ------
    ImageError
        Where the plane is unknown, or there is nothing at the path.
    """
    require_plane(plane)
    try:
        root, given = paths.resolve(path), Path(path)
        there = path != "" and root.exists()  # of an empty name, the project itself
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, too long a name
        raise ImageError(f"{one_line(str(path))} is no path ({type(error).__name__})") from error
    if not there:
        raise ImageError(f"there is nothing at '{path}'; name an image, DICOM, NIfTI or folder")
    if root.name.upper() == "DICOMDIR" and root.is_file():
        root, given = root.parent, given.parent
    failures: dict[Path, str] = {}
    files = _list_files(root, failures) if root.is_dir() else [root]
    kinds = {file: kind for file in files if (kind := _kind(file))} | failures
    holds = "holds" if root.is_dir() else "is"
    kinds = kinds or {root: f"it {holds} no image, no DICOM and no NIfTI; name another"}
    return list(_units(dict(sorted(kinds.items())), root, given))


def require_plane(plane: str) -> None:
    """Refuse what is neither `acquired` nor one of `PLANES`, with an `ImageError`."""
    if plane not in ("acquired", *PLANES):
        raise ImageError(f"there is no plane {plane!r}; choose acquired, {', '.join(PLANES)}")


def read_scan(scan: Scan, plane: str = "acquired") -> Iterator[ScanSlice]:
    """Give the slices of one of the scans that `list_scans` found; what is wrong is their `error`.

    Several may be read at once, each in a thread of its own.

    Parameters
    ----------
    scan : Scan
    plane : str
        As `open_scans` takes it.
    """
    file, number = scan.root / scan.file.relative_to(scan.given), 0

    def named(each: ScanSlice) -> ScanSlice:
        name = scan.given / each.file.relative_to(scan.root)
        error = each.error and f"{name}: {each.error}".replace(str(each.file), str(name))
        return replace(each, file=name, error=one_line(error))

    try:
        with reading():
            for each in READERS[scan.kind](scan, file, plane):
                number = max(number, each.number + 1)
                yield named(each)
    except ImageError as error:
        yield named(ScanSlice(file, scan.series, number, error=str(error).removeprefix(f"{file} ")))
    if scan.remark:
        yield named(ScanSlice(file, scan.series, number, error=scan.remark))


def _units(kinds: dict[Path, str], root: Path, given: Path) -> Iterator[Scan]:
    series: dict[Path, dict] = {}
    if "dicom" in kinds.values():
        from brainlib.imaging import dicom

        series = dicom.list_series(kinds)
    for file, kind in kinds.items():
        below = file.relative_to(root)
        name = readable(below.as_posix() if below.name else file.name)
        scan = Scan(given / below, name, root, given, kind)
        if kind not in READERS:
            yield replace(scan, kind="unreadable", error=kind)
        elif kind != "dicom":
            yield scan
        elif file in series:
            yield replace(scan, **series[file])


def _read_volume(scan: Scan, file: Path, plane: str) -> Iterator[ScanSlice]:
    from brainlib.imaging import volumes  # nibabel is imported where there is a volume

    return volumes.read_volume(file, plane, scan.series)


def _read_series(scan: Scan, file: Path, plane: str) -> Iterator[ScanSlice]:
    from brainlib.imaging import dicom

    return dicom.read_series(scan.frames, plane, scan.series)


def _read_archive(scan: Scan, file: Path, plane: str) -> Iterator[ScanSlice]:
    """Unpack an archive and give the slices of all that it holds, as series of their own.

    Of a member that does not begin as a scan, no more than its start is unpacked.
    """
    with paths.temporary_folder() as inside, zipfile.ZipFile(file) as whole:
        for member in whole.infolist():
            with whole.open(member) as stream:
                head = stream.read(512)
            is_scan = head.startswith(GZIP_MAGIC) or _kind_by_start(head)
            if not is_scan and not member.filename.lower().endswith(_WITHOUT_START):
                member.file_size, member.CRC = len(head), None  # the rest is not unpacked
        if sum(member.file_size for member in whole.infolist()) > MAX_UNZIPPED:
            raise ImageError(f"it unpacks to more than {MAX_UNZIPPED:,} bytes; unpack it yourself")
        whole.extractall(inside)
        for each in open_scans(inside, plane):
            if each.file == inside:  # of which nothing is a scan
                raise ImageError(each.error.removeprefix(f"{inside}: "))
            error = each.error.replace(f"{inside}{os.sep}", "").replace(str(inside), "")
            yield replace(each, file=file, series=f"{scan.series}/{each.series}", error=error)


READERS: dict[str, Callable[[Scan, Path, str], Iterable[ScanSlice]]] = {
    "image": lambda scan, file, _: [ScanSlice(file, scan.series, pixels=read_image(file), total=1)],
    "nifti": _read_volume, "dicom": _read_series, "archive": _read_archive,
    "unreadable": lambda scan, file, _: [ScanSlice(file, scan.series, error=scan.error)],
}  # fmt: skip
"""Gives the slices of a file of each kind, cut in a plane."""


def _list_files(root: Path, failures: dict[Path, str]) -> Iterator[Path]:
    """Give all files below a folder; `os.walk` gives up where folders are nested too deep."""
    seen, waiting = set(), [root]
    while waiting:
        folder = waiting.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue  # a link to where we have been, perhaps in a circle
            seen.add((status.st_dev, status.st_ino))
            inside = [file for file in folder.iterdir()
                      if not file.name.startswith((".", "__MACOSX"))]  # fmt: skip
            folders = {file for file in inside if file.is_dir()}
        except OSError as error:
            failures[folder] = f"the folder cannot be opened ({error.strerror}); look at who may"
            continue
        waiting += folders
        yield from (file for file in inside if file not in folders)


def _kind_by_start(head: bytes) -> str:
    return next((kind for kind, start in STARTS.items() if start.match(head)), "")


def _kind(file: Path) -> str:
    """Return what a file is by its content, else by its name; empty where it is something else."""
    name = file.name.lower()
    claimed = next((kind for end, kind in SCAN_SUFFIXES.items() if name.endswith(end)), "")
    unnamed = not file.suffix or file.suffix[1:].isdigit()  # as many DICOM files are
    try:
        if not file.is_file():  # a pipe would be waited for, a broken link is said
            return "it is no regular file, or a link to nothing; remove it" if claimed else ""
        with open_plain(file) as stream:
            head = stream.read(512)
    except (EOFError, zlib.error, gzip.BadGzipFile):  # it will be said where it is opened
        head = GZIP_MAGIC
    except OSError as error:
        return f"it cannot be opened ({error.strerror}); look at who may read it"
    if kind := _kind_by_start(head):
        pair = kind == "nifti" and head[344:347] == b"ni1" and name.endswith((".img", ".img.gz"))
        document = kind == "archive" and not claimed and not unnamed  # .docx, .npz
        return "" if pair or document else kind
    if not head and claimed:
        return "it is empty; copy it again from where it came"
    if claimed == "dicom":  # to parse what is none could take for ever
        return "it is named as a DICOM file and does not begin as one; copy it again or remove it"
    if not claimed and unnamed and (not head or b"\0" in head):
        return "it is no image, no DICOM and no NIfTI, or damaged; copy it again or remove it"
    return claimed
