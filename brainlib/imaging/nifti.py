"""The slices of a NIfTI volume."""

import gzip
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from brainlib.imaging import geometry
from brainlib.imaging.errors import ImageError, reason
from brainlib.imaging.slices import ScanSlice, robust_range, to_grey
from brainlib.imaging.threads import sharing_memory

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_RATIO = 1032  # deflate packs no tighter
_LONGEST_HEADER = nibabel.Nifti2Header.sizeof_hdr
_MAX_OFFSET = 100_000_000  # where the voxels start; extensions come before them
_SAMPLED_VOXELS = 40_000_000
_SILENT = logging.Logger("nifti", logging.CRITICAL + 1)  # nibabel's own writes to the terminal


def may_be_nifti(file: Path) -> bool:
    """Return whether a file starts with the header of a NIfTI volume, compressed or not."""
    with _open(file) as stream:
        return _kind_of(stream.read(_LONGEST_HEADER)) is not None


def read_volume(file: Path, plane: str, series: str) -> Iterator[ScanSlice]:
    """Give the slices of a volume, scaled by robust percentiles of all of it.

    Parameters
    ----------
    file : Path
    plane : str
        One of `PLANES`, or `acquired`: across the largest spacing, axial where all are the same.
    series : str
        What to call it.

    Raises
    ------
    ImageError
        Before the first slice: where the file is cut short or damaged, has another number of
        dimensions than three, colours, or nothing finite.
    """
    volume, affine, oriented = _load(file)
    chosen = geometry.acquired_plane(volume.shape, affine) if plane == "acquired" else plane
    name = geometry.plane_name(affine, chosen) if oriented else ""
    turned, spacing = geometry.turn(volume, affine, chosen)
    slices = (turned[:, :, number] for number in range(turned.shape[2]))
    yield from geometry.cut(slices, spacing, ScanSlice(file, series, plane=name))


def _load(file: Path) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return a volume in grey, its affine, and whether the file says how it lies."""
    try:
        with _open(file) as stream:
            header = _read_header(stream)
            _require_held(file, isinstance(stream, gzip.GzipFile), header)
            with sharing_memory(math.prod(header.get_data_shape())):
                grey = _to_grey(_read_voxels(stream, header))
        return grey, header.get_best_affine(), any((header["qform_code"], header["sform_code"]))
    except ImageError:
        raise
    except Exception as error:  # nibabel, gzip and zlib raise a dozen kinds on damaged files
        raise ImageError(f"{reason(error)}; copy or convert it again from where it came") from error


def _read_header(stream: BinaryIO) -> nibabel.Nifti1Header:
    """Read the header and no extensions, which may be endless; refuse what is no volume."""
    start = stream.read(_LONGEST_HEADER)
    kind = _kind_of(start)
    if kind is None:
        raise ImageError("it does not start as a NIfTI volume does; copy or convert it again")
    header = kind(start[: kind.sizeof_hdr], check=False)
    header.check_fix(logger=_SILENT)
    if header["magic"].item() not in (b"n+1", kind.single_magic):
        raise ImageError(
            "its voxels lie in another file, as those of .hdr and .img; save both as one .nii"
        )
    if header.get_data_dtype().kind not in "iuf":
        raise ImageError("its voxels are colours or complex numbers; save it as plain numbers")
    _require_volume(header.get_data_shape())
    if not kind.sizeof_hdr <= header.get_data_offset() <= _MAX_OFFSET:
        raise ImageError(
            "its header says that the voxels start inside of it, or after a hundred million bytes; "
            "convert it again"
        )
    return header


def _require_held(file: Path, compressed: bool, header: nibabel.Nifti1Header) -> None:
    """Refuse a header that says more than the file can hold, before memory is taken for it."""
    voxels = math.prod(header.get_data_shape())
    said = header.get_data_offset() + voxels * header.get_data_dtype().itemsize
    held = file.stat().st_size * (_GZIP_RATIO if compressed else 1)
    if said > held:
        raise ImageError(
            f"it holds at most {held:,} bytes, and its header says {said:,}; it is cut short or "
            "damaged: copy it again from where it came"
        )


def _read_voxels(stream: BinaryIO, header: nibabel.Nifti1Header) -> np.ndarray:
    """Read slice by slice: the numbers in the file may be wider than those that are kept."""
    shape = header.get_data_shape()
    stored = ArrayProxy(stream, header, mmap=False)
    volume = np.empty(shape[:3], np.float32, order="F")
    for number in range(shape[2]):
        # a trailing dimension of 1 says nothing
        volume[:, :, number] = stored[:, :, number].reshape(shape[:2])
    end = header.get_data_offset() + volume.size * header.get_data_dtype().itemsize
    stream.seek(end)
    # reading on to the end also makes gzip compare its checksum
    spare = volume.size // max(shape[:3]) * header.get_data_dtype().itemsize
    if len(stream.read(spare + 1)) >= spare:
        raise ImageError("it holds more voxels than its header says; convert it again")
    return volume


def _to_grey(volume: np.ndarray) -> np.ndarray:
    # of a large volume every so many voxels; an odd step meets every column in turn
    step = max(1, volume.size // _SAMPLED_VOXELS | 1)
    low, high = robust_range(volume.ravel(order="K")[::step])
    grey = np.empty(volume.shape, np.uint8, order="F")
    for number in range(volume.shape[2]):
        grey[:, :, number] = to_grey(volume[:, :, number], low, high)
    return grey


def _require_volume(shape: tuple[int, ...]) -> None:
    if len(shape) < 3 or any(length != 1 for length in shape[3:]):
        raise ImageError(
            f"it has {len(shape)} dimensions ({' by '.join(map(str, shape))}) and not three; save "
            "the one volume of it that is to be looked at (nibabel: image.slicer[..., 0])"
        )
    geometry.require_size(shape)


def _kind_of(start: bytes) -> type[nibabel.Nifti1Header] | None:
    kinds = (nibabel.Nifti1Header, nibabel.Nifti2Header)
    return next((kind for kind in kinds if kind.may_contain_header(start)), None)


def _open(file: Path) -> BinaryIO:
    with file.open("rb") as stream:
        compressed = stream.read(2) == _GZIP_MAGIC
    return gzip.open(file, "rb") if compressed else file.open("rb")
