"""Scans: the slices of any file or folder, the right way up, and what cannot be read said."""

import io
import itertools
import shutil
import struct
import tracemalloc
import zlib

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from brainlib import imaging

AXIAL, CORONAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]
NUMBERS = itertools.count(10**9)  # of equal length, so that files are the same in each run
SIDES = {"R": 100, "L": 0, "A": 60, "P": 0, "S": 30, "I": 0}
"""Signal that each half of the marked head adds: the sum says where in the head a voxel lies."""


def tag(dataset, **tags):
    """Set tags, those of a nested dataset as a dict; one that is None is left out."""
    for name, value in tags.items():
        if isinstance(value, dict):
            value = [tag(Dataset(), **value)]
        if value is not None:
            setattr(dataset, name, value)
    return dataset


def dicom(pixels, syntax=uid.ExplicitVRLittleEndian, **tags):
    """Return the dataset of an MR slice."""
    pixels = np.asarray(pixels)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    bits, sides = 8 * pixels.dtype.itemsize, pixels.shape[-2:]
    tag(dataset, **{
        "SOPClassUID": uid.MRImageStorage, "SOPInstanceUID": f"2.25.{next(NUMBERS)}",
        "SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2", "SeriesNumber": 7,
        "PatientName": "Doe^Jane", "PatientID": "ID-4711", "PatientBirthDate": "19620730",
        "AccessionNumber": "ACC-0815", "InstitutionName": "Saint Elsewhere",
        "SeriesDescription": "T1 of Jane", "Modality": "MR", "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": bits, "BitsStored": bits,
        "HighBit": bits - 1, "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "Rows": sides[0], "Columns": sides[1], "PixelData": pixels.tobytes(), **tags,
    })  # fmt: skip
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if bits == 8 or syntax.is_encapsulated else "OW"
        dataset["PixelData"].is_undefined_length = syntax.is_encapsulated
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def dicom_bytes(pixels, *syntax, **tags):
    file = io.BytesIO()
    dicom(pixels, *syntax, **tags).save_as(file, enforce_file_format=True)
    return file.getvalue()


def write_dicom(file, pixels, **tags):
    """Write a DICOM file of an MR slice, or of colours, and return its dataset."""
    if tags.get("SamplesPerPixel") == 3:
        tags = {"Rows": pixels.shape[0], "Columns": pixels.shape[1], **tags}
    file.parent.mkdir(parents=True, exist_ok=True)
    dataset = dicom(pixels, **tags)
    dataset.save_as(file, enforce_file_format=True)
    return dataset


def png_bytes(size, bits, kind, rows):
    """Return a PNG of any width, height, bits, kind of colour and rows."""
    header = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def image_bytes(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def ramp(shape=(6, 8), dtype=np.uint16, top=1000):
    return np.linspace(0, top, shape[0] * shape[1]).reshape(shape).astype(dtype)


def write_series(folder, heights, orientation=AXIAL, normal=(0, 0, 1), **tags):
    """Write a series whose slice at a height has that signal, over a ramp that marks directions."""
    for number, height in enumerate(heights):
        placed = {
            "ImagePositionPatient": [height * part for part in normal], "PixelSpacing": [1, 1],
            "ImageOrientationPatient": orientation, "InstanceNumber": 99 - number,
        }  # fmt: skip
        pixels = ramp(top=100) + np.uint16(10 * height)
        write_dicom(folder / f"{(number * 7) % 13:02d}_{number}", pixels, **{**placed, **tags})


def opened(path, plane="acquired"):
    return list(imaging.open_scans(path, plane))


def only(path, plane="acquired"):
    (image,) = opened(path, plane)
    assert not image.error, image.error
    return image.pixels.astype(int)


def marked_head(codes="RAS", spacing=(1, 1, 1)):
    """Return a marked head as a NIfTI whose axes lead to `codes`."""
    x, y, z = np.indices((8, 10, 12))
    head = 20 + SIDES["R"] * (x >= 4) + SIDES["A"] * (y >= 5) + SIDES["S"] * (z >= 6)
    image = nibabel.Nifti1Image(head.astype(np.int16), np.diag([*spacing, 1]))
    image.set_sform(image.affine, 1)
    to = nibabel.orientations.axcodes2ornt(tuple(codes))
    return image.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), to)
    )


def brighter(pixels, first, second):
    return pixels[first].mean() > pixels[second].mean() + 5


ORDERS = [
    "".join(codes)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*axes)
]
TOP, BOTTOM = np.s_[:3], np.s_[-3:]
LEFT, RIGHT = np.s_[:, :3], np.s_[:, -3:]


@pytest.mark.parametrize("codes", ORDERS)
def test_a_volume_is_shown_as_radiologists_look_at_it_however_it_is_stored(tmp_path, codes):
    nibabel.save(marked_head(codes), tmp_path / "head.nii.gz")
    planes = axial, coronal, sagittal = [opened(tmp_path, plane) for plane in imaging.PLANES]
    assert [len(slices) for slices in planes] == [12, 10, 8]
    assert [slices[0].plane for slices in planes] == list(imaging.PLANES)
    assert [slices[0].pixels.shape for slices in planes] == [(10, 8), (12, 8), (12, 10)]
    for slices in planes:  # the right and the front are bright: right on the left, front on top
        assert brighter(slices[3].pixels, LEFT, RIGHT) and brighter(slices[3].pixels, TOP, BOTTOM)
    # numbers go up to the head, back, and to the patient's right
    assert axial[-1].pixels.mean() > axial[0].pixels.mean()
    assert coronal[-1].pixels.mean() < coronal[0].pixels.mean()
    assert sagittal[-1].pixels.mean() > sagittal[0].pixels.mean()


@pytest.mark.parametrize(
    ("spacing", "plane", "shape"),
    [((1, 1, 5), "axial", (10, 8)), ((1, 4, 1), "coronal", (12, 8)),
     ((3, 0.5, 1), "sagittal", (24, 10)), ((1, 1, 1.001), "axial", (10, 8))],
)  # fmt: skip
def test_the_acquired_plane_is_across_the_largest_spacing(tmp_path, spacing, plane, shape):
    nibabel.save(marked_head("SLP", spacing), tmp_path / "head.nii")
    slices = opened(tmp_path / "head.nii")
    assert {(image.plane, image.pixels.shape) for image in slices} == {(plane, shape)}
    assert [image.number for image in slices] == list(range(len(slices)))


def test_voxels_that_are_not_finite_or_far_brighter_do_not_spoil_the_others(tmp_path):
    volume = np.linspace(0, 1000, 1000, dtype=np.float32).reshape(10, 10, 10)
    for odd in ((np.nan, np.inf, -np.inf), (np.nan, 1e6, 1e6)):
        volume[0, 0, :3] = odd
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "odd.nii")
        shown = np.stack([image.pixels for image in opened(tmp_path / "odd.nii")])
        assert shown[0].min() == 0 and shown.max() == 255 and 120 < np.median(shown) < 135


@pytest.mark.parametrize(
    ("orientation", "normal", "plane"),
    [(AXIAL, (0, 0, 1), "axial"), (CORONAL, (0, 1, 0), "coronal"),
     (SAGITTAL, (-1, 0, 0), "sagittal")],
)  # fmt: skip
def test_a_series_is_sorted_by_position_whatever_its_files_are_called(
    tmp_path, orientation, normal, plane
):
    heights = [4, 1, 3, 0, 2, 5]
    write_series(tmp_path, heights, orientation, normal, WindowCenter=100, WindowWidth=200)
    slices = opened(tmp_path)
    means = [image.pixels.mean() for image in slices]
    assert means == sorted(means) and len(set(means)) == 6
    assert [image.number for image in slices] == list(range(6))
    assert {(image.plane, image.series[:2]) for image in slices} == {(plane, "7-")}


def test_mixed_series_without_positions_are_ordered_by_instance_and_frame(tmp_path):
    for number in (3, 10, 2, 1):
        pixels = np.full((4, 5), number, np.uint8)
        uid = f"1.{number // 3}"
        file = tmp_path / f"{number}.dcm"
        write_dicom(file, pixels, InstanceNumber=number, SeriesInstanceUID=uid)
    frames = np.stack([np.full((4, 5), grey, np.uint8) for grey in (30, 10, 20)])
    tags = {"NumberOfFrames": 3, "Rows": 4, "Columns": 5}
    write_dicom(tmp_path / "9.dcm", frames, SeriesInstanceUID="1.9", **tags)
    slices = opened(tmp_path)
    assert [image.pixels[0, 0] for image in slices] == [1, 2, 10, 3, 30, 10, 20]
    assert {(image.plane, image.pixels.shape) for image in slices} == {("", (4, 5))}


def test_a_slice_stored_upside_down_is_turned(tmp_path):
    write_dicom(tmp_path / "usual.dcm", ramp(dtype=np.uint8, top=255),
                ImageOrientationPatient=AXIAL, SeriesInstanceUID="1.1")  # fmt: skip
    usual = only(tmp_path / "usual.dcm")
    for number, (rows, columns) in enumerate([(-1, 1), (1, -1), (-1, -1)]):
        stored = ramp(dtype=np.uint8, top=255)[::rows, ::columns]
        file = tmp_path / f"{number}.dcm"
        write_dicom(file, stored, ImageOrientationPatient=[columns, 0, 0, 0, rows, 0])
        np.testing.assert_array_equal(only(file), usual)


@pytest.mark.parametrize(("spoil", "reason"), [
    ({"heights": [0, 1, 2, 5, 6]}, "slices are missing"),
    ({"heights": [0, 1, 1, 2]}, "same place"),
    ({"heights": [3]}, "one slice only"),
    ({"heights": [0, 1, 2], "normal": (0, 0.4, 1)}, "tilted gantry"),
])  # fmt: skip
def test_a_series_that_is_no_volume_is_not_cut_but_shown_as_acquired(tmp_path, spoil, reason):
    write_series(tmp_path, **spoil)
    (refused,) = opened(tmp_path, "coronal")
    assert reason in refused.error and "plane='acquired'" in refused.error
    acquired = opened(tmp_path)
    assert all(image.pixels is not None for image in acquired[: len(spoil["heights"])])


def test_the_window_of_the_file_is_used(tmp_path):
    window = {"WindowCenter": [1000, 7], "WindowWidth": [1000, 9]}
    write_dicom(tmp_path / "a.dcm", np.uint16([[0, 500, 1000, 1500, 4000]] * 2), **window)
    np.testing.assert_allclose(only(tmp_path / "a.dcm")[0], [0, 0, 127.5, 255, 255], atol=1)
    # the slope comes before the window
    tags = {"WindowCenter": -50, "WindowWidth": 400, "RescaleSlope": 2, "RescaleIntercept": -50}
    write_dicom(tmp_path / "b.dcm", np.int16([[-100, 0, 100]] * 2), **tags)
    np.testing.assert_allclose(only(tmp_path / "b.dcm")[0], [0, 127.5, 255], atol=1)


def test_colours_become_grey_and_pixels_square(tmp_path):
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, :10], pixels[:, 10:] = (110, 100, 70), (200, 200, 200)
    write_dicom(
        tmp_path / "a.dcm", pixels, SamplesPerPixel=3, PhotometricInterpretation="RGB",
        PlanarConfiguration=0, SOPClassUID=uid.SecondaryCaptureImageStorage, PixelSpacing=[2, 0.5],
    )  # fmt: skip
    grey = only(tmp_path / "a.dcm")
    assert grey.shape == (40, 20)
    np.testing.assert_allclose(grey[:, [0, -1]], [[100, 200]] * 40, atol=1)


def test_what_shows_no_slice_is_skipped_with_its_reason(tmp_path):
    write_dicom(tmp_path / "a.dcm", ramp(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_dicom(tmp_path / "b.dcm", ramp(), Rows=None, PixelData=None,
                SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")  # fmt: skip
    write_dicom(tmp_path / "c.dcm", ramp(), Rows=None, PixelData=None,
                SOPClassUID="1.2.840.10008.1.3.10")  # fmt: skip
    localizer, report, directory = opened(tmp_path)
    assert "a.dcm: skipped: it is a localizer" in localizer.error
    assert "skipped: it holds no image (Basic Text SR" in report.error
    assert "Directory" in directory.error


def test_a_slice_without_pixels_stops_neither_its_series_nor_its_copy(tmp_path):
    for number in range(3):
        tags = {"InstanceNumber": number, "SOPInstanceUID": f"1.2.{number}"}
        tags |= {"PixelData": None} if number == 1 else {}
        write_dicom(tmp_path / f"{number}.dcm", ramp(), **tags)
    first, bad, last = opened(tmp_path)
    assert "1.dcm: it holds no pixel data" in bad.error and bad.number == 1
    assert first.pixels is not None and last.pixels is not None
    write_dicom(tmp_path / "whole.dcm", ramp(), InstanceNumber=1, SOPInstanceUID="1.2.1")
    shutil.copy(tmp_path / "0.dcm", tmp_path / "copy.dcm")
    errors = [image.error for image in opened(tmp_path)]
    assert [bool(error) for error in errors[:5]] == [False, True, True, False, False]
    assert "second copy" in errors[1]


def test_what_lies_in_a_folder_is_found_by_content_and_in_a_stable_order(tmp_path):
    write_dicom(tmp_path / "b" / "IM 1", ramp())
    write_dicom(tmp_path / "b" / "named.jpg", ramp(), SeriesInstanceUID="1.9")
    nibabel.save(marked_head(), tmp_path / "x.nii")
    (tmp_path / "x.nii").rename(tmp_path / 'a volume\'s "name"\n.dat')
    Image.new("L", (4, 4)).save(tmp_path / "c é.dcm", format="PNG")
    (tmp_path / "notes.txt").write_text("BMW, BMI and other words", encoding="utf-8")
    (tmp_path / "LICENSE").write_text("not a scan", encoding="utf-8")
    (tmp_path / ".hidden.png").write_bytes(b"")
    slices = opened(tmp_path)
    assert len(slices) == 12 + 1 + 1 + 1 and not any(image.error for image in slices)
    assert slices[0].series == 'a volume\'s "name"\n.dat' and slices[-1].series == "c é.dcm"
    key = [(str(image.file), image.number) for image in opened(tmp_path)]
    assert key == [(str(image.file), image.number) for image in slices]


def test_a_plane_that_does_not_exist_and_a_folder_without_scans_are_refused_at_once(tmp_path):
    with pytest.raises(imaging.ImageError, match=r"'transverse'.*axial, coronal, sagittal"):
        imaging.open_scans(tmp_path, "transverse")
    for _ in range(2):
        with pytest.raises(imaging.ImageError, match=f"{tmp_path} .*could be a scan"):
            imaging.open_scans(tmp_path)
        (tmp_path / "notes.txt").write_text("not a scan", encoding="utf-8")
    with pytest.raises(imaging.ImageError, match="nothing at"):
        imaging.open_scans(tmp_path / "absent")


def test_memory_does_not_grow_with_the_number_of_slices(tmp_path):
    peaks = []
    for count in (5, 35, 90):  # the first imports and caches what the others use
        for number in range(count):
            tags = {"InstanceNumber": number, "WindowCenter": 500, "WindowWidth": 1000}
            write_dicom(tmp_path / str(count) / f"{number}.dcm", ramp((256, 256)), **tags)
        tracemalloc.start()
        assert all(image.pixels is not None for image in imaging.open_scans(tmp_path / str(count)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1]
