"""Slices of a study as one volume: other planes to look at, outlines as NIfTI and DICOM SEG."""

import gzip
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from nibabel.orientations import apply_orientation

from brainlib import __version__, imaging, paths
from brainlib.imaging.volumes import Volume, square
from brainlib.report import drawing

_LPS = np.diag([-1.0, -1, 1, 1])  # DICOM counts to the left and to the back
# what DICOM SEG needs of the images that it belongs to; nothing that names a person is read
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
    "FrameOfReferenceUID", "Rows", "Columns", "ImageOrientationPatient", "ImagePositionPatient",
    "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "NumberOfFrames", "ImageType",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence", "DimensionOrganizationSequence", "DimensionOrganizationType",
]  # fmt: skip
_PERSON = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Stack:
    """Values of all slices of a study, where they lie.

    Attributes
    ----------
    values : uint8 array of shape (height, width, n)
        0 where a slice is missing.
    affine : float array of shape (4, 4)
        From row, column and slice to millimetres, nibabel's axes.
    """

    values: np.ndarray
    affine: np.ndarray

    def cut(self, plane: str) -> "Stack":
        """Return the same values as displayed slices of another plane."""
        return Stack(*Volume(self.values, self.affine).turned(plane))

    def to_nifti(self) -> bytes:
        """Return the content of a `.nii`."""
        return nibabel.Nifti1Image(self.values, self.affine).to_bytes()

    def slice(self, place: int) -> np.ndarray:
        """Return a slice with square pixels."""
        spacing = nibabel.affines.voxel_sizes(self.affine)
        return square(np.ascontiguousarray(self.values[:, :, place]), *spacing[:2])

    def in_grid(self, shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
        """Return the values in another grid of the same extent, whatever its axes and pixels.

        Raises
        ------
        ValueError
            Where it lies elsewhere.
        """
        across = np.linalg.inv(affine) @ self.affine
        turn = nibabel.io_orientation(across)
        axes = turn[:, 0].astype(int)
        corner = np.where(turn[:, 1] < 0, np.array(shape)[axes] - 1, 0)
        if np.abs(across[axes, 3] - corner).max() > 1:
            raise ValueError("the grid lies elsewhere")
        height, width, count = (shape[axis] for axis in axes)
        resized = [drawing.resized(self.values[:, :, place], width, height)
                   for place in range(self.values.shape[2])]  # fmt: skip
        whole = np.zeros((height, width, count), np.uint8)
        whole[:, :, : len(resized)] = np.stack(resized[:count], axis=-1).round()
        return apply_orientation(whole, turn)


def stack(
    images: Mapping[int, imaging.ScanSlice], values: Mapping[int, np.ndarray]
) -> Stack | None:
    """Put slices into one volume; None where they do not lie on one grid, or it is not known.

    Parameters
    ----------
    images : mapping of int to ScanSlice
        The readable slices of a study, by their number.
    values : mapping of int to uint8 array of shape (height, width)
        What to put there, such as the pixels, for some or all of them.
    """
    first = next(iter(images.values()), None)
    if not images or any(
        one.affine is None or one.irregular or one.grid[1] is not first.grid[1]
        or one.pixels.shape != first.pixels.shape for one in images.values()
    ):  # fmt: skip
        return None
    shape, affine = first.grid
    across = np.linalg.inv(affine) @ first.affine  # from pixels to voxels
    axis = int(nibabel.io_orientation(across)[2, 0])
    start = first.affine.copy()  # of the first slice of the volume, whether it could be read or not
    backwards = across[axis, 2] < 0
    steps = (shape[axis] - 1 if backwards else 0) - across[axis, 3]
    start[:3, 3] += start[:3, 2] * steps / across[axis, 2]
    whole = np.zeros((*first.pixels.shape, shape[axis]), np.uint8)
    for number, value in values.items():
        place = (np.linalg.inv(start) @ images[number].affine)[2, 3]
        whole[:, :, round(place)] = value
    return Stack(whole, start)


def write_outline(
    stem: Path,
    outline: Stack,
    image: imaging.ScanSlice,
    files: Sequence[Path] = (),
    model: str = "",
) -> list[Path]:
    """Write an outline as a NIfTI mask and, of a DICOM series, as DICOM SEG.

    Parameters
    ----------
    stem : Path
        The names of the files without their endings.
    outline : Stack
        255 where a tumour is certain.
    image : ScanSlice
        One of the slices; the mask has the grid of its volume.
    files : sequence of Path
        Those of the DICOM series. Its SEG refers to them by their UIDs, and leaves empty what names
        a person; none is written without highdicom (the extra `seg`).
    model : str
        The name of the model that drew it.
    """
    mask, dicom = (stem.with_name(f"{stem.name}.outline.{kind}") for kind in ("nii.gz", "dcm"))
    with paths.atomic_write(mask) as temporary:
        temporary.write_bytes(nifti_mask(outline, image))
    if not files or not find_spec("highdicom"):
        return [mask]
    try:
        segmentation = _segmentation(outline, files, model)
    except (ValueError, AttributeError, TypeError) as error:  # of headers that are unusual
        logger.info("no DICOM SEG of %s: %s", stem.name, type(error).__name__)
        return [mask]
    with paths.atomic_write(dicom) as temporary:
        segmentation.save_as(temporary)
    return [mask, dicom]


def nifti_mask(outline: Stack, image: imaging.ScanSlice) -> bytes:
    """Return a mask, 1 inside the outline, as the content of a `.nii.gz` in the scan's own grid."""
    shape, affine = image.grid
    mask = nibabel.Nifti1Image(_inside(outline.in_grid(shape, affine)), affine)
    mask.header.set_xyzt_units("mm")
    return gzip.compress(mask.to_bytes(), mtime=0)


def _inside(values: np.ndarray) -> np.ndarray:
    return (values >= 255 * drawing.OUTLINE_THRESHOLD).astype(np.uint8)


def _segmentation(outline: Stack, files: Sequence[Path], model: str) -> pydicom.Dataset:
    import highdicom
    from highdicom.spatial import get_series_volume_positions
    from pydicom.sr.codedict import codes

    headers = [pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
               for file in files]  # fmt: skip
    for header in headers:
        for name in _PERSON:
            setattr(header, name, "")
    if len(headers) > 1:
        spacing, places = get_series_volume_positions(headers)
        if places is None:
            raise ValueError("the slices do not make a regular volume")
        headers = [headers[places.index(place)] for place in range(len(headers))]
        first = headers[0]
        geometry = highdicom.VolumeGeometry.from_attributes(
            image_position=first.ImagePositionPatient, rows=first.Rows, columns=first.Columns,
            image_orientation=first.ImageOrientationPatient, pixel_spacing=first.PixelSpacing,
            spacing_between_slices=spacing, number_of_frames=len(headers),
            coordinate_system="PATIENT", frame_of_reference_uid=first.FrameOfReferenceUID,
        )  # fmt: skip
    else:
        geometry = highdicom.Image.from_dataset(headers[0]).get_volume_geometry()
    mask = _inside(outline.in_grid(geometry.spatial_shape, _LPS @ geometry.affine))
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=f"brainlib {model}", version=__version__,
        family=codes.cid7162.ArtificialIntelligence,
    )  # fmt: skip
    segment = highdicom.seg.SegmentDescription(
        segment_number=1, segment_label="Tumour (outline of a network)",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type="AUTOMATIC", algorithm_identification=algorithm,
    )  # fmt: skip
    return highdicom.seg.Segmentation(
        source_images=headers, pixel_array=geometry.with_array(mask), segmentation_type="BINARY",
        segment_descriptions=[segment], series_instance_uid=highdicom.UID(), series_number=900,
        sop_instance_uid=highdicom.UID(), instance_number=1, manufacturer="brainlib",
        manufacturer_model_name=model, software_versions=__version__, device_serial_number="0",
        series_description="Research only: tumour outline of a network",
    )  # fmt: skip
