"""Scans: the slices of any file or folder, the right way up, and what cannot be read said."""

import gzip
import io
import itertools
import json
import re
import shutil
import struct
import time
import tracemalloc
import zlib

import matplotlib
import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from scipy import ndimage

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


@pytest.mark.parametrize(("spacing", "plane", "shape"), [
    ((1, 1, 5), "axial", (10, 8)), ((1, 4, 1), "coronal", (12, 8)),
    ((3, 0.5, 1), "sagittal", (24, 10)), ((1, 1, 1.001), "axial", (10, 8)),
])  # fmt: skip
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
    normalized = (head() - head().mean()) / head().std()
    nibabel.save(nibabel.Nifti1Image(normalized, np.eye(4)), tmp_path / "odd.nii")
    assert max(image.pixels.max() for image in opened(tmp_path / "odd.nii")) == 255


@pytest.mark.parametrize(("lies", "normal", "plane"), [
    (AXIAL, (0, 0, 1), "axial"), (CORONAL, (0, 1, 0), "coronal"),
    (SAGITTAL, (-1, 0, 0), "sagittal"),
])  # fmt: skip
def test_a_series_is_sorted_by_position_whatever_its_files_are_named(tmp_path, lies, normal, plane):
    heights = [4, 1, 3, 0, 2, 5]
    write_series(tmp_path, heights, lies, normal, WindowCenter=100, WindowWidth=200)
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


@pytest.mark.parametrize("spoil", [
    {"heights": [0, 1, 2.5, 3, 7.2, 7.9]}, {"heights": [0, 1, 1, 2, 2, 3]}, {"heights": [3]},
    {"heights": [0, 1, 2], "normal": (0, 0.4, 1)}, {"heights": [0, 1, 2, 4, 5, 6]},
    {"heights": [0, 1, 2], "ImageOrientationPatient": None},
])  # fmt: skip
def test_a_series_that_is_no_volume_is_not_cut_but_shown_as_acquired(tmp_path, spoil):
    write_series(tmp_path, **spoil)
    (refused,) = opened(tmp_path, "coronal")
    assert re.search("(no regular volume|one slice only).*plane acquired", refused.error)
    acquired = [image for image in opened(tmp_path) if not image.missing]
    assert len({image.number for image in acquired}) == len(spoil["heights"])
    assert not any(image.error for image in acquired)


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
    colours = np.stack([head()[5] // 16] * 3, axis=-1).astype(np.uint8)
    colours[2:6, 2:6] = 255, 0, 0  # a mark is read
    Image.fromarray(colours).save(tmp_path / "a.png")
    assert only(tmp_path / "a.png")[3, 3] == 76


def test_a_slice_without_pixels_stops_neither_its_series_nor_its_copy(tmp_path):
    for number in range(3):
        tags = {"InstanceNumber": number, "SOPInstanceUID": f"1.2.{number}"}
        tags |= {"PixelData": None} if number == 1 else {}
        write_dicom(tmp_path / f"{number}.dcm", ramp(), **tags)
    first, bad, last = opened(tmp_path)
    assert "1.dcm: it holds no pixel data" in bad.error and bad.number == 1
    assert first.pixels is not None and last.pixels is not None
    write_dicom(tmp_path / "whole.dcm", ramp(), InstanceNumber=1, SOPInstanceUID="1.2.1")
    *slices, copy = opened(tmp_path)
    assert [image.file.name for image in slices] == ["0.dcm", "whole.dcm", "2.dcm"]
    assert not any(image.error for image in slices) and copy.file.name == "1.dcm"
    assert "skipped: it is a second copy" in copy.error and copy.number == 3


@pytest.mark.parametrize("plane", ["acquired", "sagittal"])
def test_a_copy_of_a_file_takes_nothing_from_its_series(tmp_path, truth, plane):
    expected = [image.pixels for image in opened(write_head(tmp_path), plane)]
    shutil.copy(tmp_path / "03.dcm", tmp_path / "copy.dcm")
    *slices, copy = opened(tmp_path, plane)
    np.testing.assert_array_equal([image.pixels for image in slices], expected)
    assert "copy.dcm: skipped: it is a second copy" in copy.error


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


def test_a_plane_or_path_that_does_not_exist_is_refused_at_once(tmp_path):
    with pytest.raises(imaging.ImageError, match=r"'transverse'.*axial, coronal, sagittal"):
        imaging.open_scans(tmp_path, "transverse")
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


SHAPE = (12, 24, 20)  # slices, rows, columns


def head(top=3000):
    """Return a textured head in air, as slices of rows of columns that lead to the left."""
    z, y, x = np.indices(SHAPE)
    inside = ((y - 12) / 11) ** 2 + ((x - 10) / 9) ** 2 < 1
    texture = np.random.default_rng(3).uniform(0.3, 0.7, SHAPE) + x / 70 + z / 60
    return np.where(inside, texture * top, 0).round().astype(np.int16)


def write_head(folder, values=None, change=None, **tags):
    """Write a head as a DICOM series; `change` spoils the dataset of each file."""
    for number, pixels in enumerate(head() if values is None else values):
        file = folder / f"{number:02d}.dcm"
        dataset = write_dicom(
            file, pixels, ImageOrientationPatient=AXIAL, InstanceNumber=number + 1,
            ImagePositionPatient=[0, 0, 2.5 * number], PixelSpacing=[1, 1], **tags,
        )  # fmt: skip
        if change is not None:
            change(dataset, file)
    return folder


def nifti(folder, name="a.nii", kind=nibabel.Nifti1Image, air=(0, 0)):
    """Write the head as a volume, with values for the air at its side and elsewhere."""
    voxels = head().transpose(2, 1, 0)[::-1, ::-1].copy()
    voxels[voxels == 0] = air[-1]
    voxels[:1] = air[0]
    nibabel.save(kind(voxels, np.diag([1, 1, 2.5, 1])), folder / name)
    return folder / name


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return shown(nifti(tmp_path_factory.mktemp("truth")))


def shown(path, plane="acquired"):
    slices = opened(path, plane)
    assert slices and not any(image.error for image in slices), [image.error for image in slices]
    return np.stack([image.pixels for image in slices]).astype(int)


def rewritten(syntax, then=lambda dataset, file: None):
    def change(dataset, file):
        if syntax == uid.RLELossless:
            dataset.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
        elif syntax == uid.JPEG2000Lossless:
            image = Image.fromarray(dataset.pixel_array)
            dataset.PixelData = encapsulate([image_bytes(image, "JPEG2000", no_jp2=True)])
            dataset["PixelData"].is_undefined_length = True
        elif syntax == uid.ExplicitVRBigEndian:
            dataset.PixelData = dataset.pixel_array.astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(file, enforce_file_format=True)
        then(dataset, file)

    return change


def gzipped(dataset, file):
    file.with_suffix(".dcm.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()


def bare(dataset, file):
    """Leave out the preamble and the group that names the syntax."""
    content = file.read_bytes()
    file.write_bytes(content[content.index(b"\x08\0\x16\0") :])


def floating(dataset, file):
    dataset.FloatPixelData = dataset.pixel_array.astype(np.float32).tobytes()
    dataset.BitsAllocated = 32
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, name)
    dataset.save_as(file)


def damaged(tag, old, new):
    def change(dataset, file):
        dataset.WindowCenter = 100
        setattr(dataset, tag, old)
        dataset.save_as(file)
        content, old_bytes = file.read_bytes(), "\\".join(np.atleast_1d(old)).encode()
        assert content.count(old_bytes) == 1 and len(old_bytes) == len(new)
        file.write_bytes(content.replace(old_bytes, new))

    return {"change": change}


UNSIGNED = head().astype(np.uint16)
VARIANTS = {
    "explicit": {},
    "unsigned": {"values": UNSIGNED},
    "implicit": {"values": UNSIGNED, "change": rewritten(uid.ImplicitVRLittleEndian)},
    "big endian": {"values": UNSIGNED, "change": rewritten(uid.ExplicitVRBigEndian)},
    "deflated": {"values": UNSIGNED, "change": rewritten(uid.DeflatedExplicitVRLittleEndian)},
    "run lengths": {"values": UNSIGNED, "change": rewritten(uid.RLELossless)},
    "JPEG 2000": {"values": UNSIGNED, "change": rewritten(uid.JPEG2000Lossless)},
    "gzip": {"change": gzipped},
    "no preamble": {"change": bare},
    "no preamble, implicit": {"change": rewritten(uid.ImplicitVRLittleEndian, then=bare)},
    "float": {"change": floating},
    "12 bits": {"values": UNSIGNED, "BitsStored": 12, "HighBit": 11},
    "left-justified": {"values": UNSIGNED << 4, "BitsStored": 12, "HighBit": 15},
    "left-justified with overlay": {"values": UNSIGNED << 4 | 5, "BitsStored": 12, "HighBit": 15},
    "left-justified with window": {
        "values": UNSIGNED << 4, "BitsStored": 12, "HighBit": 15,
        "WindowCenter": 1500, "WindowWidth": 3500,
    },
    "monochrome 1": {"values": 4000 - UNSIGNED, "PhotometricInterpretation": "MONOCHROME1"},
    "slope": {"RescaleSlope": 2, "RescaleIntercept": 0},
    "slope 0": {"RescaleSlope": 0, "RescaleIntercept": 0},
    "window in other units": {"RescaleSlope": 0.001, "WindowCenter": 1500, "WindowWidth": 3000},
    "bad window": damaged("WindowWidth", "12345678", b"1.#QNAN "),
    "bad spacing": damaged("PixelSpacing", ["1.0", "1.00"], b"1,0\\1,0 "),
    "bad instance": damaged("InstanceNumber", "87654321", b"A bad 1A"),
    "bad slope": damaged("RescaleSlope", "11112222", b"one     "),
    "bad series": damaged("SeriesNumber", "33334444", b"seven..."),
    "window of width 0": {"WindowCenter": 1500, "WindowWidth": 0},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_of_dicom_shows_the_same_head(tmp_path, truth, variant):
    images = shown(write_head(tmp_path, **VARIANTS[variant]))
    if "with window" in variant:
        assert np.corrcoef(images.ravel(), truth.ravel())[0, 1] > 0.995
    else:
        assert np.abs(images - truth).max() <= 1


@pytest.mark.parametrize("order", [range(12), [5, 3, 0, 1, 2, 4, 11, 10, 9, 8, 7, 6]])
@pytest.mark.parametrize("plane", ["acquired", *imaging.PLANES])
def test_a_series_an_enhanced_file_and_a_volume_show_the_same_slices(tmp_path, plane, order):
    write_head(tmp_path / "single")
    write_dicom(
        tmp_path / "enhanced" / "a.dcm", head()[list(order)], NumberOfFrames=12, Rows=24,
        Columns=20, SharedFunctionalGroupsSequence={
            "PlaneOrientationSequence": {"ImageOrientationPatient": AXIAL},
            "PixelMeasuresSequence": {"PixelSpacing": [1, 1], "SliceThickness": 2.5},
        }, PerFrameFunctionalGroupsSequence=[tag(
            Dataset(), PlanePositionSequence={"ImagePositionPatient": [0, 0, 2.5 * number]},
        ) for number in order],
    )  # fmt: skip
    expected = shown(nifti(tmp_path), plane)
    for name in ("single", "enhanced"):
        np.testing.assert_allclose(shown(tmp_path / name, plane), expected, atol=1)
        named = {image.plane for image in opened(tmp_path / name, plane)}
        assert named == {plane.replace("acquired", "axial")}


@pytest.mark.parametrize(("value", "wrapped", "limit"), [
    (-2000, False, None), (-2000, True, None), (-1024, True, None), (32767, False, None),
    (9000, False, 9020),
])  # fmt: skip
def test_padding_is_black_and_outside_the_grey_range(tmp_path, truth, value, wrapped, limit):
    values = head()
    values[:, :, :4], values[:, :, -4:] = value, value if limit is None else limit - 10
    write_head(tmp_path, values, PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
    if wrapped:  # written as if it had no sign
        for file in tmp_path.iterdir():
            file.write_bytes(file.read_bytes().replace(b"\x28\0\x20\x01SS", b"\x28\0\x20\x01US"))
    images = shown(tmp_path)
    assert not images[:, :, :4].any() and not images[:, :, -4:].any() and images.max() == 255
    inside = np.s_[:, :, 4:-4]
    assert np.corrcoef(images[inside].ravel(), truth[inside].ravel())[0, 1] > 0.99
    assert np.abs(images[inside] - truth[inside]).mean() < 8


@pytest.mark.parametrize("air", [(-1000,), (-2000, -1000), (-1,)])
def test_air_far_below_all_signal_is_left_out_of_the_grey_range(tmp_path, truth, air):
    images = shown(nifti(tmp_path, air=air))
    inside = truth > 20
    assert np.corrcoef(images[inside], truth[inside])[0, 1] > 0.99
    assert np.ptp(images[inside]) > 240 and not images[:, 0, 0].any()
    assert {image.modality for image in opened(tmp_path)} == {""}


def test_who_is_who_is_told_apart_and_what_is_odd_is_said(tmp_path):
    for patient in ("one", "two"):
        write_head(tmp_path / "shared" / patient, PatientID=patient)
    slices = opened(tmp_path / "shared")
    assert len({image.series for image in slices}) == 2
    assert sum(image.pixels is not None for image in slices) == 24
    said = [image.error for image in slices if image.error]
    assert len(said) == 2 and all("2 patients or studies share the UID" in text for text in said)
    for number, pixels in enumerate(head()):
        uid = f"1.2.{number}"
        write_dicom(tmp_path / "each" / f"{number}.dcm", pixels, SeriesInstanceUID=uid)
    (said,) = [image.error for image in opened(tmp_path / "each") if image.error]
    assert "12 slices that look like one series each name" in said


ORIGINAL = ["ORIGINAL", "PRIMARY"]
EMPTY = {"Rows": None, "PixelData": None}


@pytest.mark.parametrize(("tags", "reason"), [
    ({"ImageType": [*ORIGINAL, "LOCALIZER"]}, "it is a localizer"),
    ({"ImageType": [*ORIGINAL, "MOSAIC"]}, "it is a mosaic of slices"),
    ({"PhotometricInterpretation": "PALETTE COLOR"}, "its colours are those of a palette"),
    ({**EMPTY, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, "it holds no image (Basic Text SR"),
    ({**EMPTY, "SOPClassUID": "1.2.840.10008.1.3.10"}, "it holds no image (Media Storage Dir"),
    ({"ImageType": [*ORIGINAL, "P", "ND"]}, "it is a phase or imaginary"),
    ({"ImageType": [*ORIGINAL, "IMAGINARY"]}, "it is a phase or imaginary"),
    ({"ComplexImageComponent": "PHASE"}, "it is a phase or imaginary"),
])  # fmt: skip
def test_what_is_no_slice_by_what_it_says_is_skipped_with_its_reason(tmp_path, tags, reason):
    write_dicom(tmp_path / "a.dcm", head()[5], **tags)
    image = nibabel.Nifti1Image(head(), np.eye(4))
    image.header.set_intent("label")
    nibabel.save(image, tmp_path / "b.nii")
    refused, labels = opened(tmp_path)
    assert f"a.dcm: skipped: {reason}" in refused.error and "it is a label map" in labels.error


def ct():
    """Return a CT of a head in Hounsfield units: air, skin, bone and brain."""
    _, y, x = np.indices((28, 96, 96))
    radius = np.hypot((x - 48) / 40, (y - 48) / 45)
    edges, tissues = [0.2, 0.8, 0.92, 0.96, 1], np.array([8, 32, 1100, 50, -90, -1000])
    volume = ndimage.gaussian_filter(tissues[np.digitize(radius, edges)].astype(float), (0, 1, 1))
    return (volume + RANDOM.normal(0, 8, volume.shape)).astype(np.int16)


RANDOM = np.random.default_rng(2)
Z, Y, X = np.indices((16, 24, 20))
LABELS = {count: ((X // 5 + Y // 6 + Z // 4) % count).astype(np.int16) for count in (2, 5, 11)}


@pytest.mark.parametrize(("values", "reason"), [
    (ct(), "skipped: it looks like a CT"),
    *((labels, "looks like a label map") for labels in LABELS.values()),
    (RANDOM.uniform(-np.pi, np.pi, (20, 20, 20)).astype(np.float32), "phase or imaginary"),
    (RANDOM.normal(0, 9, (20, 20, 20)).astype(np.float32), "phase or imaginary"),
])  # fmt: skip
def test_a_volume_that_is_no_mri_is_refused_by_what_it_looks_like(tmp_path, values, reason):
    nibabel.save(nibabel.Nifti1Image(values.T, np.eye(4)), tmp_path / "a.nii.gz")
    if "label" in reason:
        write_head(tmp_path, values)
    errors = [image.error for image in opened(tmp_path)]
    assert all(reason in error for error in errors)  # one for all slices
    assert len(errors) == (2 if "label" in reason else 1)


def write_header(file, image):
    image.header["vox_offset"] = 352
    file.write_bytes(image.header.binaryblock + file.read_bytes()[348:])


def test_a_damaged_sform_qform_or_sidecar_costs_nothing(tmp_path, truth):
    file = nifti(tmp_path)
    image = nibabel.load(file)
    image.set_qform(image.affine, 1)
    image.header["sform_code"] = 1
    for row in ("srow_x", "srow_y", "srow_z"):
        image.header[row] = 0
    write_header(file, image)
    assert {image.plane for image in opened(file)} == {"axial"}
    np.testing.assert_array_equal(shown(file), truth)
    image.set_sform(image.affine, 1)
    for name in ("quatern_b", "quatern_c", "quatern_d"):
        image.header[name] = 9
    write_header(file, image)
    for sidecar in ("[]", "{", '{"Modality": 3, "SeriesDescription": [1]}'):
        file.with_suffix(".json").write_text(sidecar, encoding="utf-8")
        np.testing.assert_array_equal(shown(file), truth)
    image.header["sform_code"] = 0  # then nothing says how it lies
    write_header(file, image)
    assert shown(file).shape == truth.shape and {image.plane for image in opened(file)} == {""}


def test_pairs_mgh_and_two_dimensions_are_read(tmp_path, truth):
    np.testing.assert_array_equal(shown(nifti(tmp_path, "b.hdr", nibabel.Nifti1Pair)), truth)
    for name in ("c.mgz", "c.mgh"):
        np.testing.assert_array_equal(shown(nifti(tmp_path, name, nibabel.MGHImage)), truth)
    analyze = nifti(tmp_path, "d.hdr", nibabel.AnalyzeImage)
    assert shown(analyze).shape == truth.shape
    assert {image.plane for image in opened(analyze)} == {""}
    flat = nibabel.Nifti1Image(head()[5].T[::-1, ::-1], np.eye(4))
    nibabel.save(flat, tmp_path / "flat.nii")
    np.testing.assert_allclose(only(tmp_path / "flat.nii"), truth[5], atol=25)
    # a folder names each volume once: an .img goes with its .hdr
    assert {image.series for image in opened(tmp_path)} == {"b.hdr", "c.mgh", "c.mgz", "d.hdr",
                                                        "flat.nii"}  # fmt: skip


def test_an_archive_or_a_dicomdir_is_read_like_its_folder(tmp_path, truth):
    write_head(tmp_path / "in" / "series")
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "in" / "a.png")
    shutil.make_archive(tmp_path / "all", "zip", tmp_path / "in")
    slices = opened(tmp_path / "all.zip")
    assert len(slices) == 13 and {image.file for image in slices} == {tmp_path / "all.zip"}
    assert slices[0].series == "all.zip/a.png" and slices[1].series.startswith("all.zip/7-")
    np.testing.assert_array_equal(np.stack([image.pixels for image in slices[1:]]), truth)
    (tmp_path / "bad.zip").write_bytes((tmp_path / "all.zip").read_bytes()[:900])
    assert opened(tmp_path / "bad.zip")[0].error
    shutil.copy(tmp_path / "all.zip", tmp_path / "blob")
    shutil.copy(tmp_path / "all.zip", tmp_path / "in" / "text.docx")
    assert len(opened(tmp_path / "blob")) == len(opened(tmp_path / "in")) == 13
    directory = tmp_path / "in" / "series" / "DICOMDIR"
    directory.write_bytes((tmp_path / "in" / "series" / "00.dcm").read_bytes())
    assert sum(image.pixels is not None for image in opened(directory)) == 12


@pytest.mark.parametrize("name", ["a.nrrd", "b.mha", "c.tar.gz", "d.rar", "e.mnc"])
def test_containers_that_are_not_read_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"header\n" + bytes(900))
    Image.new("L", (4, 4)).save(tmp_path / "z.png")
    bad, good = opened(tmp_path)
    assert f"{name}: it is a .{name[2:]} file, which is not read; convert it" in bad.error
    assert good.pixels is not None


@pytest.mark.parametrize("name", ["jet", "hot", "viridis"])
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "dcm", "nii"])
def test_what_is_drawn_in_a_colour_map_is_refused(tmp_path, name, kind):
    file = tmp_path / f"a.{kind}"
    colours = matplotlib.colormaps[name](head()[5] / head()[5].max(), bytes=True)[..., :3].copy()
    if kind == "dcm":
        write_dicom(file, colours, SamplesPerPixel=3, PhotometricInterpretation="RGB",
                    PlanarConfiguration=0)  # fmt: skip
    elif kind == "nii":
        voxels = colours.view([("R", "u1"), ("G", "u1"), ("B", "u1")])
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), file)
    else:
        Image.fromarray(colours).save(file)
    (refused,) = opened(file)
    assert "skipped: it is drawn in colours" in refused.error


def test_16_bits_keep_their_contrast_or_are_refused_for_what_they_are(tmp_path):
    grey = np.linspace(0, 255, 1024).reshape(32, 32)
    white_is_zero = (60000 - grey * 235).astype(np.uint16)
    tifffile.imwrite(tmp_path / "inverted.tif", white_is_zero, photometric="miniswhite")
    np.testing.assert_allclose(only(tmp_path / "inverted.tif"), grey, atol=2)
    one_white_pixel = (4 * grey).astype(np.uint16)
    one_white_pixel[3, 3] = 65535
    Image.fromarray(one_white_pixel).save(tmp_path / "a.png")
    assert np.median(only(tmp_path / "a.png")) > 100
    for values in (grey * 16, grey * 257):  # of 48 bits, Pillow keeps the upper half
        colours = values.astype(np.uint16)[..., np.newaxis].repeat(3, axis=-1)
        tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
        (tmp_path / "a.png").write_bytes(png_bytes((32, 32), 16, 2, rows))
        for file in ("a.png", "a.tif"):
            assert ("48 bits" in opened(tmp_path / file)[0].error) == (values.max() < 5000)
    for file in ("a.png", "a.tif"):
        np.testing.assert_allclose(only(tmp_path / file), grey, atol=1)


def test_what_takes_too_long_to_decode_is_stopped_or_refused_beforehand(tmp_path, monkeypatch):
    endless, scan = tmp_path / "endless", tmp_path / "scan"
    endless.write_text("#!/bin/sh\nwhile true; do :; done\n", encoding="utf-8")
    endless.chmod(0o755)
    monkeypatch.setattr("dcm2niix.bin", str(endless))
    monkeypatch.setattr("brainlib.imaging.dicom.SECONDS", 1)
    write_head(scan, UNSIGNED[:1], rewritten(uid.JPEG2000Lossless))
    # a bitmap whose rows of one pixel each are filled up byte by byte, in Python
    body = b"\1\7\0\0" * 600 + b"\0\1"
    sizes = 54 + 1024, 40, 65_000, 600, 1, 8, 1, len(body), 0, 0, 256, 0
    header = b"BM" + struct.pack("<IIIIiiHHIIiiII", 1078 + len(body), 0, *sizes)
    (scan / "c.bmp").write_bytes(header + bytes(1024) + body)
    start = time.monotonic()
    compressed, bitmap = opened(scan)
    assert compressed.error and "compressed in a rare way" in bitmap.error
    assert time.monotonic() - start < 10


def test_slices_know_their_total_and_what_their_series_is(tmp_path):
    write_head(
        tmp_path / "a", SeriesDescription="Ax T1 SE post Gd, Jane Doe", ContrastBolusAgent="Gado 7",
        ScanningSequence=["SE", "IR"], MagneticFieldStrength=1.5,
    )  # fmt: skip
    slices = opened(tmp_path / "a")
    assert {image.total for image in slices} == {12}
    assert {image.modality for image in slices} == {"MR"}
    assert slices[0].facts == {
        "description": "Ax T1 SE post Gd", "contrast": "given", "sequence": "SE IR",
        "field strength": "1.5 T",
    }  # fmt: skip
    file = nifti(tmp_path)
    told = {"Modality": "MR", "SeriesDescription": "Smith FLAIR", "PatientName": "Smith"}
    file.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")
    (first, *_), text = opened(file), repr(opened(file))
    assert first.facts == {"description": "FLAIR"} and first.modality == "MR"
    assert "Smith" not in text
    assert {image.total for image in opened(tmp_path / "a", "coronal")} == {24}
    (ct,) = opened(pydicom.data.get_testdata_file("CT_small.dcm", download=False))
    assert ct.pixels is not None and ct.modality == "CT"  # for which it is refused


@pytest.mark.parametrize(("syntax", "damaged"), [
    (uid.RLELossless, {4}), (uid.JPEG2000Lossless, {*range(12)} - {4, 11}),
])  # fmt: skip
def test_a_damaged_file_costs_its_slice_and_not_its_series(tmp_path, syntax, damaged):
    write_head(tmp_path, UNSIGNED, rewritten(syntax))
    for number in damaged:
        dataset = pydicom.dcmread(tmp_path / f"{number:02d}.dcm")
        dataset.PixelData = encapsulate([b"\2\0\0\0" + bytes(600)])
        dataset.save_as(dataset.filename)
    slices = opened(tmp_path)
    assert [image.number for image in slices] == list(range(12))
    assert {image.number for image in slices if image.error} == damaged
    assert [image.file.name for image in slices] == [f"{number:02d}.dcm" for number in range(12)]


def test_echoes_and_directions_in_one_series_are_each_a_volume(tmp_path, truth):
    for echo in (1, 2):
        write_head(tmp_path / str(echo), head() // echo, EchoTime=10.0 * echo, EchoNumbers=echo)
    slices = opened(tmp_path)
    assert [image.number for image in slices] == list(range(24))
    assert slices[11].file == tmp_path / "1" / "11.dcm"
    assert slices[12].file == tmp_path / "2" / "00.dcm"
    np.testing.assert_allclose(
        np.stack([image.pixels for image in slices[:12]]).astype(int), truth, atol=8
    )
