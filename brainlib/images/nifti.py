"""The slices of a NIfTI volume."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np

from brainlib.images import geometry
from brainlib.images.pictures import ImageError
from brainlib.images.slices import ScanSlice, robust_range, to_grey

_GZIP_MAGIC = b"\x1f\x8b"
_KINDS = (nibabel.Nifti1Image, nibabel.Nifti2Image)


def may_be_nifti(file: Path) -> bool:
    """Return whether a file starts with the header of a NIfTI volume, compressed or not."""
    return _kind(file) is not None


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
    low, high = robust_range(volume)
    chosen = geometry.acquired_plane(volume.shape, affine) if plane == "acquired" else plane
    name = geometry.plane_name(affine, chosen) if oriented else ""
    turned, spacing = geometry.turn(volume, affine, chosen)
    slices = (to_grey(turned[:, :, number], low, high) for number in range(turned.shape[2]))
    yield from geometry.cut(slices, spacing, ScanSlice(file, series, plane=name))


def _load(file: Path) -> tuple[np.ndarray, np.ndarray, bool]:
    try:
        kind = _kind(file)
        if kind is None:
            raise ImageError("it does not start as a NIfTI volume does (.nii or .nii.gz)")
        with _open(file) as stream:
            image = kind.from_stream(stream)
            _require_volume(image.shape)
            # a trailing dimension of 1 says nothing; the data are read while the file is open
            volume = image.get_fdata(dtype=np.float32).reshape(image.shape[:3])
    except ImageError:
        raise
    except Exception as error:  # nibabel, gzip and zlib raise a dozen kinds on damaged files
        reason = f"{type(error).__name__}: {error}".replace(str(file), file.name)
        raise ImageError(
            f"it is cut short, damaged, or not made of plain numbers ({reason}); copy or convert "
            "it again from where it came"
        ) from error
    codes = image.header["qform_code"], image.header["sform_code"]
    return volume, image.affine, any(codes)


def _require_volume(shape: tuple[int, ...]) -> None:
    if len(shape) < 3 or any(length != 1 for length in shape[3:]):
        raise ImageError(
            f"it has {len(shape)} dimensions ({' by '.join(map(str, shape))}) and not three; save "
            "the one volume of it that is to be looked at (nibabel: image.slicer[..., 0])"
        )
    geometry.require_size(shape)


def _kind(file: Path) -> type[nibabel.Nifti1Image] | None:
    with _open(file) as stream:
        start = stream.read(nibabel.Nifti2Header.sizeof_hdr)
    for kind in _KINDS:
        if kind.header_class.may_contain_header(start):
            return kind
    return None


def _open(file: Path) -> gzip.GzipFile:
    with file.open("rb") as stream:
        compressed = stream.read(2) == _GZIP_MAGIC
    return gzip.open(file, "rb") if compressed else file.open("rb")
