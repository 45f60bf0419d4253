"""The slices of whatever lies at a path: images, DICOM, NIfTI, archives, or folders of these."""

import gzip
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from brainlib import paths
from brainlib.data.datasets import IMAGE_SUFFIXES
from brainlib.imaging.errors import ImageError, one_line, readable, reading
from brainlib.imaging.images import read_image
from brainlib.imaging.slices import PLANES, Scan, ScanSlice, open_plain

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


def open_scans(path: Path | str, plane: str = "acquired") -> Iterator[ScanSlice]:
    """Give the slices of a scan, one after the other, in an order that does not change.

    A file that cannot be read, or a path at which nothing is a scan, gives a `ScanSlice` with its
    `error`, and the rest goes on; so does, as the last of its series, what is wrong with a series
    (slices are missing, patients share its UID).
    In a folder, what is neither a scan nor named as one (`notes.txt`, a licence) is passed over, as
    are names that start with a dot; links to folders are followed once.

    Parameters
    ----------
    path : Path or str
        An image, a DICOM file, a NIfTI, Analyze or MGH volume, a `.zip` of these, or a folder,
        nested or not; a relative one is taken from the project's root. Recognised by
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
    root = paths.absolute(path)
    if not path or not os.path.exists(root):  # noqa: PTH110 (pathlib raises errors of odd names)
        raise ImageError(
            one_line(f"there is nothing at '{path}'; name an image, DICOM, NIfTI or folder")
        )
    if root.name.upper() == "DICOMDIR" and root.is_file():
        root = root.parent
    kinds = _kinds(root) if root.is_dir() else {root: _kind(root)}
    kinds = {file: kind for file, kind in sorted(kinds.items()) if kind}
    if not kinds:
        holds = "holds" if root.is_dir() else "is"
        kinds = {root: f"it {holds} no image, no DICOM and no NIfTI; name another"}
    series: dict[Path, Scan] = {}
    if "dicom" in kinds.values():
        from brainlib.imaging import dicom

        series = dicom.list_series(kinds)
    scans = []
    for file, kind in kinds.items():
        below = file.relative_to(root)
        name = readable(below.as_posix() if below.name else file.name)
        if kind not in READERS:
            scans.append(Scan(file, name, error=kind))
        elif kind != "dicom":
            scans.append(Scan(file, name, kind))
        elif file in series:
            scans.append(series[file])
    return scans


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
    number = 0
    try:
        with reading():
            for each in READERS[scan.kind](scan, plane):
                number = each.number + 1
                yield replace(each, error=_told(each.file, each.error))
    except ImageError as error:
        yield ScanSlice(scan.file, scan.series, number, error=_told(scan.file, str(error)))
    if scan.remark:
        yield ScanSlice(scan.file, scan.series, number, error=_told(scan.file, scan.remark))


def _told(file: Path, error: str) -> str:
    """Return an error, if there is one, as a line that names the file."""
    named = error if error.startswith(str(file)) else f"{file}: {error}"
    return error and one_line(named)


def _read_volume(scan: Scan, plane: str) -> Iterator[ScanSlice]:
    from brainlib.imaging import volumes  # nibabel is imported where there is a volume

    return volumes.read_volume(scan.file, plane, scan.series)


def _read_series(scan: Scan, plane: str) -> Iterator[ScanSlice]:
    from brainlib.imaging import dicom

    return dicom.read_series(scan.frames, plane, scan.series)


def _read_archive(scan: Scan, plane: str) -> Iterator[ScanSlice]:
    """Unpack an archive and give the slices of all that it holds, as series of their own."""
    with paths.temporary_folder() as inside, zipfile.ZipFile(scan.file) as whole:
        if any(member.flag_bits & 1 for member in whole.infolist()):
            raise ImageError("it is encrypted; unpack it with its password")
        if sum(member.file_size for member in whole.infolist()) > MAX_UNZIPPED:
            raise ImageError(f"it unpacks to more than {MAX_UNZIPPED:,} bytes; unpack it yourself")
        whole.extractall(inside)
        for each in open_scans(inside, plane):
            error = each.error.replace(f"{inside}: ", "").replace(f"{inside}{os.sep}", "")
            series = scan.series if each.file == inside else f"{scan.series}/{each.series}"
            yield replace(each, file=scan.file, series=series, error=error)


READERS: dict[str, Callable[[Scan, str], Iterable[ScanSlice]]] = {
    "image": lambda scan, _: [
        ScanSlice(scan.file, scan.series, pixels=read_image(scan.file), total=1)
    ],
    "nifti": _read_volume, "dicom": _read_series, "archive": _read_archive,
    "unreadable": lambda scan, _: [ScanSlice(scan.file, scan.series, error=scan.error)],
}  # fmt: skip
"""Gives the slices of a file of each kind, cut in a plane."""


def _kinds(root: Path) -> dict[Path, str]:
    """Return what the files below a folder are, and which folders cannot be opened."""
    kinds, seen = {}, set()

    def fail(error: OSError) -> None:
        problem = f"the folder cannot be opened ({error.strerror}); look at who may"
        kinds[Path(error.filename)] = problem

    with suppress(RecursionError):  # os.walk calls itself before Python 3.12
        for folder, folders, files in os.walk(root, onerror=fail, followlinks=True):
            here = Path(folder).resolve()
            if here in seen:  # a link to where we have been, perhaps in a circle
                folders.clear()
                continue
            seen.add(here)
            for names in (folders, files):
                names[:] = [name for name in names if not name.startswith((".", "__MACOSX"))]
            kinds |= {file: _kind(file) for file in map(Path(folder).joinpath, files)}
        return kinds
    kinds[root] = "its folders are nested too deeply to be read; move the scans up"
    return kinds


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
        head = b"damaged"
    except OSError as error:
        return f"it cannot be opened ({error.strerror}); look at who may read it"
    kind = next((kind for kind, start in STARTS.items() if start.match(head)), "")
    if kind:
        pair = kind == "nifti" and head[344:347] == b"ni1" and name.endswith((".img", ".img.gz"))
        document = kind == "archive" and not claimed and not unnamed  # .docx, .npz
        return "" if pair or document else kind
    if claimed and (not head or claimed == "dicom"):  # to parse what is none could take for ever
        return "it is empty, or named as a DICOM file and none; copy it again or remove it"
    if unnamed and not claimed and (not head or b"\0" in head):
        return "it is no image, no DICOM and no NIfTI, or damaged; copy it again or remove it"
    return claimed
