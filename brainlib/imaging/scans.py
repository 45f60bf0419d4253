"""The slices of whatever lies at a path: images, DICOM, NIfTI, archives, or folders of these."""

import dataclasses
import gzip
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from brainlib import paths
from brainlib.data.datasets import IMAGE_SUFFIXES
from brainlib.imaging.errors import ImageError, one_line, quietly
from brainlib.imaging.images import read_image
from brainlib.imaging.slices import PLANES, Scan, ScanSlice

SCAN_SUFFIXES = {
    ".dcm": "dicom", ".dicom": "dicom", ".ima": "dicom", ".dcm.gz": "dicom", ".nii": "nifti",
    ".nii.gz": "nifti", ".hdr": "nifti", ".mgz": "nifti", ".mgh": "nifti", ".zip": "archive",
    **dict.fromkeys((*IMAGE_SUFFIXES, ".webp"), "image"),
}  # fmt: skip
"""What a file claims to be by its name; what it is, its content says."""

MAX_UNZIPPED = 4_000_000_000
"""The most bytes that an archive may unpack to."""

_NOT_READ = (
    ".nrrd", ".nhdr", ".mha", ".mhd", ".mnc", ".heic", ".jp2", ".gif", ".tar", ".tar.gz", ".tgz",
    ".7z", ".rar", ".bz2", ".xz",
)  # fmt: skip
_HEAD = 512
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # lengths; many a text starts with BM


def open_scans(path: Path | str, plane: str = "acquired") -> Iterator[ScanSlice]:
    """Give the slices of a scan, one after the other, in an order that does not change.

    A file that cannot be read gives a `ScanSlice` with its `error`, and the rest goes on; so does,
    as the last of its series, what is wrong with a series (slices are missing, its order is a
    guess, patients share its UID).
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
        At once, where the plane is unknown, or there is nothing at the path that could be a scan.

    Examples
    --------
    >>> import tempfile, numpy, PIL.Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> PIL.Image.new("L", (3, 2)).save(folder / "slice.png")
    >>> [(found.series, found.pixels.shape) for found in open_scans(folder)]
    [('slice.png', (2, 3))]
    """
    scans = list_scans(path, plane)
    return (one for scan in scans for one in read_scan(scan, plane))


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
        Where the plane is unknown, or there is nothing at the path that could be a scan.
    """
    if plane not in ("acquired", *PLANES):
        raise ImageError(f"there is no plane {plane!r}; choose acquired, {', '.join(PLANES)}")
    try:
        root, given = paths.resolve(path), Path(path)
        there = root.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, too long a name
        raise ImageError(f"{one_line(str(path))} is no path ({type(error).__name__})") from error
    if not there:
        raise ImageError(f"there is nothing at {path}; name an image, DICOM, NIfTI or folder")
    if root.name.upper() == "DICOMDIR" and root.is_file():
        root, given = root.parent, given.parent
    kinds = _recognised(root)
    if not kinds:
        raise ImageError(
            f"the folder {path} holds nothing that could be a scan: no image, no DICOM and no "
            "NIfTI, whatever its name; choose another folder"
        )
    return list(_units(kinds, root, given))


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
    for found in _safely(_READERS[scan.kind](scan, file, plane), file, scan):
        named = scan.given / found.file.relative_to(scan.root)
        error = found.error and f"{named}: {found.error}".replace(str(found.file), str(named))
        yield dataclasses.replace(found, file=named, error=one_line(error))


def _units(kinds: dict[Path, str], root: Path, given: Path) -> Iterator[Scan]:
    series: dict = {}
    remarks: dict[str, str] = {}
    errors = {}
    files = [file for file, kind in kinds.items() if kind == "dicom"]
    if files:
        from brainlib.imaging import dicom

        for file in files:
            try:
                frame = dicom.index_file(file)
                series.setdefault(frame.series, []).append(frame)
            except ImageError as error:
                errors[file] = str(error)
        remarks = dicom.remarks(series)
    firsts = {frames[0].file: name for name, frames in series.items()}
    for file, kind in kinds.items():
        below = file.relative_to(root)
        name = below.as_posix() if below.name else file.name
        # a name that is not UTF-8 could not be stored in a table
        named = Scan(given / below, name.encode("utf-8", "backslashreplace").decode(), root, given)
        if kind in ("image", "nifti", "archive"):
            yield dataclasses.replace(named, kind=kind)
        elif file in errors or kind != "dicom":
            yield dataclasses.replace(named, error=errors.get(file, kind))
        elif name := firsts.get(file, ""):
            yield dataclasses.replace(
                named, series=name, kind="dicom", frames=tuple(series[name]),
                remark=remarks.get(name, ""),
            )  # fmt: skip


def _read_image(scan: Scan, file: Path, plane: str) -> Iterator[ScanSlice]:
    yield ScanSlice(file, scan.series, pixels=read_image(file), total=1)


def _read_volume(scan: Scan, file: Path, plane: str) -> Iterator[ScanSlice]:
    from brainlib.imaging import volumes  # nibabel is imported where there is a volume

    return volumes.read_volume(file, plane, scan.series)


def _read_series(scan: Scan, file: Path, plane: str) -> Iterator[ScanSlice]:
    from brainlib.imaging import dicom

    return dicom.read_series(list(scan.frames), plane)


def _read_archive(scan: Scan, file: Path, plane: str) -> Iterator[ScanSlice]:
    """Unpack a `.zip` and give the slices of all that it holds, as series of their own."""
    with tempfile.TemporaryDirectory(prefix="brainlib-") as folder, zipfile.ZipFile(file) as whole:
        if sum(member.file_size for member in whole.infolist()) > MAX_UNZIPPED:
            raise ImageError(f"it unpacks to more than {MAX_UNZIPPED:,} bytes; unpack it yourself")
        whole.extractall(folder)
        inside = Path(folder).resolve()
        try:
            slices = open_scans(inside, plane)
        except ImageError:  # which names a temporary folder
            raise ImageError("it holds nothing that could be a scan; choose another") from None
        for one in slices:
            error = one.error.replace(f"{inside}{os.sep}", "").replace(str(inside), "")
            series = f"{scan.series}/{one.series}"
            yield dataclasses.replace(one, file=file, series=series, error=error)


def _unreadable(scan: Scan, file: Path, plane: str) -> Iterator[ScanSlice]:
    yield ScanSlice(file, scan.series, error=scan.error)


_READERS: dict[str, Callable[[Scan, Path, str], Iterator[ScanSlice]]] = {
    "image": _read_image, "nifti": _read_volume, "dicom": _read_series,
    "archive": _read_archive, "unreadable": _unreadable,
}  # fmt: skip


def _safely(slices: Iterator[ScanSlice], file: Path, scan: Scan) -> Iterator[ScanSlice]:
    """Pass slices on; where no more can be had, end with a record that says why."""
    number = 0
    try:
        while (found := quietly(lambda: next(slices, None))) is not None:
            number = found.number + 1
            yield found
    except ImageError as error:
        yield ScanSlice(file, scan.series, number, error=str(error).removeprefix(f"{file} "))
    if scan.remark:
        yield ScanSlice(file, scan.series, number, error=scan.remark)


def _recognised(root: Path) -> dict[Path, str]:
    """Return what each file is: a kind of scan, or why it cannot be read."""
    if not root.is_dir():
        return {root: _kind(root) or "it is no image, no DICOM and no NIfTI; name another file"}
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
            if entry.name.startswith(".") or entry.name == "__MACOSX":
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
    name = file.name.lower()
    ends = sorted((end for end in SCAN_SUFFIXES if name.endswith(end)), key=len)
    claimed = SCAN_SUFFIXES[ends[-1]] if ends else ""
    other = next((end for end in _NOT_READ if name.endswith(end)), "")
    try:
        if not file.is_file():  # a pipe would be waited for, a broken link is said
            return "it is no regular file, or a link to nothing; remove it" if claimed else ""
        head = _head(file)
    except OSError as error:
        return f"it cannot be opened ({error.strerror}); look at who may read it"
    if head[128:132] == b"DICM" or _starts_without_preamble(head):
        return "dicom"
    if head.startswith(_IMAGE_STARTS) or head[8:12] == b"WEBP" or _is_bmp(head):
        return "image"
    if not head and claimed:
        return "it is empty; copy it again from where it came"
    if _is_nifti(file):
        pair = head[344:347] == b"ni1" and name.endswith((".img", ".img.gz"))
        return "" if pair else "nifti"
    if claimed == "dicom":  # to parse what is none could take for ever
        return "it is named as a DICOM file and does not begin as one; copy it again or remove it"
    if other:
        return f"it is a {other} file, which is not read; convert it to NIfTI, DICOM or PNG first"
    if not claimed and _may_be_damaged(file, head):
        return "it is no image, no DICOM and no NIfTI, or damaged; copy it again or remove it"
    return claimed


def _head(file: Path) -> bytes:
    """Return the first bytes of a file, unpacked where it is compressed."""
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
    if head[:2] == b"\x1f\x8b":
        try:
            with gzip.open(file) as stream:
                return stream.read(_HEAD)
        except (OSError, EOFError, zlib.error):  # it will be said where it is opened
            pass
    return head


def _is_bmp(head: bytes) -> bool:
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS


def _starts_without_preamble(head: bytes) -> bool:
    """Return whether the first bytes are a DICOM tag of group 2 or 8, explicit or implicit."""
    if head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3:4] != b"\0":
        return False
    return (head[4:6].isalpha() and head[4:6].isupper()) or head[6:8] == b"\0\0"


def _is_nifti(file: Path) -> bool:
    from brainlib.imaging import volumes

    try:
        return volumes.may_be_nifti(file)
    except (OSError, EOFError, zlib.error):
        return False


def _may_be_damaged(file: Path, head: bytes) -> bool:
    """Return whether a file has no ending, as many DICOM files, and is no text."""
    ending = file.suffix[1:]
    return (not ending or ending.isdigit()) and (not head or b"\0" in head)
