"""Bad input: whatever is wrong with a scan is one slice with a reason, and the rest is read."""

import gzip
import inspect
import io
import logging
import os
import pickle
import struct
import sys
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from brainlib import imaging
from brainlib.imaging import dicom, volumes

NAME = "Doe^Jane"
AXIAL = [1, 0, 0, 0, 1, 0]
MEGABYTE = 2**20
LIBTIFF = (
    "TIFF",
    "JPEG",
    "LZW",
    "Fax3",
    "ZIP",
    "Old",
    "_TIFF",
    "PixarLog",
    "LogL",
    "Thunder",
    "tempfile.tif",
)

quickly = settings(
    deadline=None, derandomize=True, max_examples=25, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def noise(shape, dtype=np.uint8, top=250):
    values = np.random.default_rng(5).uniform(0, top, shape)
    values.flat[: values.size // 4] = 0  # compressors find something to do
    return values.astype(dtype)


def dicom_bytes(pixels, syntax=ExplicitVRLittleEndian, **tags):
    """Return a DICOM file of an MR slice; a tag that is None is left out."""
    pixels = np.asarray(pixels)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    bits = 8 * pixels.dtype.itemsize
    values = {
        "SOPClassUID": MRImageStorage, "SOPInstanceUID": generate_uid(),
        "SeriesInstanceUID": "1.2.3", "SeriesNumber": 7, "PatientName": NAME,
        "PatientID": "ID-4711", "PatientBirthDate": "19620730", "AccessionNumber": "ACC-0815",
        "InstitutionName": "Saint Elsewhere", "SeriesDescription": "T1 of Jane", "Modality": "MR",
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": bits,
        "BitsStored": bits, "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"), "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1], "PixelData": pixels.tobytes(), **tags,
    }  # fmt: skip
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if bits == 8 or syntax.is_encapsulated else "OW"
        dataset["PixelData"].is_undefined_length = syntax.is_encapsulated
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def compressed_bytes(pixels, syntax, frame, **tags):
    return dicom_bytes(pixels, syntax, PixelData=encapsulate([frame]), **tags)


def rle_bytes(pixels):
    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(pixels)))
    dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def image_bytes(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def nifti_bytes(volume, kind=nibabel.Nifti1Image, affine=None):
    return kind(volume, np.eye(4) if affine is None else affine).to_bytes()


def valid_files():
    grey = Image.fromarray(noise((24, 20)))
    deep = Image.fromarray(noise((24, 20), np.uint16, 4000))
    slice_ = noise((24, 20), np.uint16, 900)
    volume = nifti_bytes(noise((7, 6, 5), np.int16, 900))
    return {
        "a.jpg": image_bytes(grey, "JPEG"),
        "cmyk.jpg": image_bytes(grey.convert("CMYK"), "JPEG"),
        "a.png": image_bytes(grey, "PNG"),
        "deep.png": image_bytes(deep, "PNG"),
        "palette.png": image_bytes(grey.quantize(9), "PNG", transparency=1),
        "a.tif": image_bytes(grey, "TIFF"),
        "deep.tif": image_bytes(deep, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": image_bytes(grey.convert("RGB"), "TIFF", compression="jpeg"),
        "a.bmp": image_bytes(grey.convert("RGB"), "BMP"),
        "plain.dcm": dicom_bytes(slice_, WindowCenter=400, WindowWidth=900,
                                 ImageOrientationPatient=AXIAL, ImagePositionPatient=[1, 2, 3],
                                 PixelSpacing=[1, 1], InstanceNumber=3),
        "implicit.dcm": dicom_bytes(slice_, ImplicitVRLittleEndian),
        "deflated.dcm": dicom_bytes(slice_, DeflatedExplicitVRLittleEndian),
        "frames.dcm": dicom_bytes(noise((3, 9, 8)), NumberOfFrames=3),
        "rle.dcm": rle_bytes(slice_),
        "jpeg.dcm": compressed_bytes(
            noise((24, 20)), JPEGBaseline8Bit, image_bytes(grey, "JPEG")
        ),
        "jpeg2000.dcm": compressed_bytes(
            noise((24, 20)), JPEG2000Lossless, image_bytes(grey, "JPEG2000", no_jp2=True)
        ),
        "a.nii": volume,
        "two.nii": nifti_bytes(noise((7, 6, 5), np.float64, 1.5), nibabel.Nifti2Image),
        "a.nii.gz": gzip.compress(volume, 1, mtime=0),
    }  # fmt: skip


VALID = valid_files()


def opened(path, plane="acquired"):
    return list(imaging.open_scans(path, plane))


def sound(found):
    """Assert that a slice is one that can be used, or says what is wrong; return whether it can."""
    if found.error:
        assert found.pixels is None and str(found.file) != "" and len(found.error) < 700
        assert found.error.isprintable()  # so it is one line, too
        return False
    assert found.pixels.dtype == np.uint8 and found.pixels.ndim == 2 and found.pixels.size
    return True


def refused(path, content, plane="acquired"):
    """Write a file and return the one reason for which it is not read."""
    path.write_bytes(content)
    (found,) = opened(path, plane)
    assert not sound(found)
    assert found.error.count(str(path)) == 1, found.error
    return found.error


@pytest.fixture(autouse=True)
def silence(capfd):
    """Nothing is printed, neither by Python nor by the decoders below it."""
    yield
    shown = capfd.readouterr()
    # libtiff, inside Pillow, writes to the terminal by itself
    lines = [line for line in shown.err.splitlines() if not line.startswith(LIBTIFF)]
    assert (shown.out, lines) == ("", [])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize("name", VALID)
def test_the_files_that_are_damaged_below_are_sound_before(tmp_path, name):
    (tmp_path / name).write_bytes(VALID[name])
    slices = opened(tmp_path)
    assert slices and all(sound(found) for found in slices)


@quickly
@given(st.data())
def damaged_files(name, place, data):
    content = bytearray(VALID[name])
    # half of the changes hit the header, where sizes and offsets are
    near = st.integers(0, len(content) - 1) | st.integers(0, min(700, len(content) - 1))
    for position, value in data.draw(
        st.lists(st.tuples(near, st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255)),
                 max_size=12)
    ):  # fmt: skip
        content[position] = value
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    file = place / name
    file.write_bytes(content)
    tracemalloc.start()
    try:
        for found in imaging.open_scans(file, data.draw(st.sampled_from(["acquired", "sagittal"]))):
            sound(found)
            assert not any(part in repr(found) for part in ("Doe", "Jane", "ID-4711", "ACC-0815"))
        assert tracemalloc.get_traced_memory()[1] < 300 * MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", VALID)
def test_no_damage_gives_anything_but_slices_and_reasons(place, name):
    damaged_files(name, place)


@pytest.mark.parametrize("name", VALID)
def test_a_file_cut_short_anywhere_gives_no_slice_that_it_does_not_hold(tmp_path, name):
    whole = VALID[name]
    (tmp_path / name).write_bytes(whole)
    right = opened(tmp_path / name)
    for part in np.linspace(0, len(whole) - 12, 14).astype(int):
        (tmp_path / name).write_bytes(whole[:part])
        slices = opened(tmp_path / name)
        assert slices
        for found, expected in zip(slices, right, strict=False):
            # a JPEG cut after its last row, and a TIFF before its last tag, are still whole
            assert not sound(found) or np.array_equal(found.pixels, expected.pixels)
        if part < len(whole) // 2:
            assert not any(sound(found) for found in slices)


@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a.dcm", "a.nii", "a.nii.gz", "a.ima", "a"])
def test_an_empty_file_is_said_to_be_empty_or_none(tmp_path, name):
    reason = refused(tmp_path / name, b"")
    assert "empty" in reason or "no image, no DICOM and no NIfTI" in reason


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("ending", [".png", ".dcm", ".nii.gz", ".txt", ""])
def test_a_wrong_ending_changes_nothing(tmp_path, name, ending):
    (tmp_path / name).write_bytes(VALID[name])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / f"renamed{ending}").write_bytes(VALID[name])
    right, renamed = opened(tmp_path / name), opened(tmp_path / "other")
    for one, other in zip(right, renamed, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("name", ["a.png", "a.dcm", "a.nii", "a.nii.gz", "a.tiff", "a.bmp"])
def test_what_is_no_scan_by_its_content_is_refused_by_its_name(tmp_path, name):
    for content in (b"BMW and other words", b"%PDF-1.7 " + bytes(900), os.urandom(3000)):
        assert "again" in refused(tmp_path / name, content)


def test_a_text_that_begins_as_a_bmp_is_passed_over(tmp_path):
    (tmp_path / "notes.txt").write_text("BMW, BMI and other words of a letter", encoding="utf-8")
    (tmp_path / "a.png").write_bytes(VALID["a.png"])
    assert [found.file.name for found in opened(tmp_path)] == ["a.png"]


def png_that_says(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize("size", [(1_000_000, 1), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_a_image_that_says_it_is_huge_is_refused(tmp_path, size):
    assert "scale it down first" in refused(tmp_path / "bomb.png", png_that_says(*size))


def test_a_image_a_million_pixels_wide_is_refused_though_it_is_sound(tmp_path):
    wide = image_bytes(Image.new("L", (1_000_000, 3)), "TIFF")
    assert "1000000 by 3 pixels" in refused(tmp_path / "wide.tif", wide)


def test_a_tiff_of_several_pages_is_not_shown_as_its_first(tmp_path):
    pages = [Image.new("L", (4, 4), grey) for grey in (10, 20, 30)]
    content = image_bytes(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert "several pages" in refused(tmp_path / "pages.tif", content)


def peak(path):
    tracemalloc.start()
    try:
        slices = opened(path)
        return slices, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_volume_that_unpacks_without_end_takes_no_memory(tmp_path):
    small = nibabel.Nifti1Image(noise((4, 4, 4), np.int16), np.eye(4))
    zeros = bytes(60 * MEGABYTE)
    for name, offset in (("offset", 50e6), ("far", 3e9), ("infinite", np.inf)):
        header = small.header.copy()
        header["vox_offset"] = offset
        file = tmp_path / f"{name}.nii.gz"
        file.write_bytes(gzip.compress(header.binaryblock + zeros, 1))
    del zeros
    slices, memory = peak(tmp_path)
    assert memory < 20 * MEGABYTE and len([found for found in slices if found.error]) >= 2


def test_a_volume_whose_header_says_more_than_it_holds_takes_no_memory(tmp_path):
    small = nibabel.Nifti1Image(noise((4, 4, 4), np.int16), np.eye(4))
    header = small.header.copy()
    header.set_data_shape((9000, 9000, 4))
    header["vox_offset"] = 352
    content = header.binaryblock + small.to_bytes()[348:]
    (tmp_path / "a.nii").write_bytes(content)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content))
    slices, memory = peak(tmp_path)
    assert memory < 20 * MEGABYTE and len(slices) == 2
    assert all("and its header says 648,000,352" in found.error for found in slices)


@pytest.mark.parametrize(
    "change",
    [{"Rows": 65535, "Columns": 65535}, {"NumberOfFrames": 2**31 - 1}, {"NumberOfFrames": 99_999},
     {"NumberOfFrames": -3}, {"Rows": 30_000}, {"SamplesPerPixel": 3}, {"BitsAllocated": 32},
     {"Rows": 0}, {"BitsAllocated": 7}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("kind", ["plain", "rle"])
def test_a_dicom_whose_header_says_more_than_it_holds_is_refused(tmp_path, kind, change):
    content = dicom_bytes(noise((8, 8), np.uint16)) if kind == "plain" else rle_bytes(
        noise((8, 8), np.uint16)
    )  # fmt: skip
    dataset = pydicom.dcmread(io.BytesIO(content))
    for name, value in change.items():
        setattr(dataset, name, value)
    dataset.save_as(tmp_path / "a.dcm")
    slices, memory = peak(tmp_path)
    assert len(slices) == 1 and not sound(slices[0]) and memory < 20 * MEGABYTE


@pytest.mark.parametrize("change", [{"Rows": 7}, {"Columns": 5}, {"SamplesPerPixel": 2}], ids=str)
@pytest.mark.parametrize("kind", ["plain.dcm", "jpeg.dcm", "jpeg2000.dcm"])
def test_a_dicom_that_holds_more_than_its_header_says_is_refused(tmp_path, kind, change):
    dataset = pydicom.dcmread(io.BytesIO(VALID[kind]))
    for name, value in change.items():
        setattr(dataset, name, value)
    dataset.save_as(tmp_path / "a.dcm")
    (found,) = opened(tmp_path)
    assert not sound(found)


def test_pixel_data_that_are_shorter_than_the_slice_are_refused(tmp_path):
    pixels = noise((8, 8), np.uint16)
    reason = refused(tmp_path / "a.dcm", dicom_bytes(pixels, PixelData=pixels.tobytes()[:-2]))
    assert "126 bytes of pixels, and its header says 128" in reason


@pytest.mark.parametrize("kind", [JPEGBaseline8Bit, JPEG2000Lossless])
def test_a_compressed_frame_of_another_size_is_not_unpacked(tmp_path, kind):
    huge = {
        JPEGBaseline8Bit: image_bytes(Image.new("L", (9000, 9000)), "JPEG"),
        JPEG2000Lossless: image_bytes(Image.new("L", (900, 900)), "JPEG2000", no_jp2=True),
    }[kind]
    (tmp_path / "a.dcm").write_bytes(compressed_bytes(noise((8, 8)), kind, huge))
    slices, memory = peak(tmp_path)
    assert "and not (8, 8)" in slices[0].error and memory < 20 * MEGABYTE


@pytest.mark.parametrize("length", [0, 1, 7, 2**32 - 1])
def test_a_jpeg_2000_box_that_leads_nowhere_does_not_hang(tmp_path, length):
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I", length) + b"ftyp" + bytes(30)
    reason = refused(tmp_path / "a.dcm", compressed_bytes(noise((8, 8)), JPEG2000Lossless, boxes))
    assert "dcm2niix cannot convert it" in reason


def test_a_deflated_dicom_is_read_and_a_deflated_bomb_is_not(tmp_path, monkeypatch):
    (tmp_path / "plain.dcm").write_bytes(VALID["plain.dcm"])
    deflated = dicom_bytes(
        noise((24, 20), np.uint16, 900), DeflatedExplicitVRLittleEndian,
        WindowCenter=400, WindowWidth=900,
    )  # fmt: skip
    (tmp_path / "deflated.dcm").write_bytes(deflated)
    plain, unpacked = opened(tmp_path / "plain.dcm"), opened(tmp_path / "deflated.dcm")
    np.testing.assert_array_equal(plain[0].pixels, unpacked[0].pixels)
    monkeypatch.setattr(dicom, "MAX_INFLATED", 10 * MEGABYTE)
    bomb = dicom_bytes(
        noise((8, 8)), DeflatedExplicitVRLittleEndian, PixelData=bytes(40 * MEGABYTE)
    )
    (tmp_path / "bomb.dcm").write_bytes(bomb)
    del bomb
    slices, memory = peak(tmp_path / "bomb.dcm")
    assert "unpacks to more than" in slices[0].error and memory < 40 * MEGABYTE


def test_a_long_file_of_zeros_is_refused_at_once(tmp_path):
    for name, start in (
        ("zeros.dcm", b""),
        ("empty.dcm", bytes(128) + b"DICM"),
        ("zeros.nii", b""),
    ):
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(2**31)  # nothing is stored
    slices, memory = peak(tmp_path)
    assert [sound(found) for found in slices] == [False] * 3 and memory < 20 * MEGABYTE


def test_not_every_file_of_a_damaged_series_is_tried(tmp_path, monkeypatch):
    tries = []
    run = dicom._run
    monkeypatch.setattr(dicom, "_run", lambda *args, **more: tries.append(1) or run(*args, **more))
    for number in range(60):
        content = compressed_bytes(noise((8, 8)), RLELossless, b"no run lengths")
        (tmp_path / f"{number}.dcm").write_bytes(content)
    slices = opened(tmp_path)
    assert len(slices) == 60 and not any(sound(found) for found in slices) and len(tries) < 20


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_and_pixels_without_any_finite_value_are_refused(tmp_path, value):
    for dtype in (np.float32, np.float64):
        reason = refused(tmp_path / "a.nii", nifti_bytes(np.full((4, 4, 4), value, dtype)))
        assert "no finite value" in reason
    content = image_bytes(Image.fromarray(np.full((4, 4), value, np.float32)), "TIFF")
    assert "no finite value" in refused(tmp_path / "a.tif", content)
    plain = np.full((4, 4), value, np.float32)
    content = dicom_bytes(
        plain, PixelData=None, FloatPixelData=plain.tobytes(), WindowCenter=5, WindowWidth=9,
        BitsStored=None, HighBit=None, PixelRepresentation=None,
    )  # fmt: skip
    assert "no finite value" in refused(tmp_path / "a.dcm", content)


def test_a_window_that_is_no_number_is_no_window(tmp_path):
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    for centre, width in (("nan", "20"), ("20", "nan"), ("inf", "20"), ("20", "inf")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = dicom_bytes(pixels, WindowCenter=centre, WindowWidth=width)
        (tmp_path / "a.dcm").write_bytes(content)
        for found in opened(tmp_path):
            assert not sound(found) or np.ptp(found.pixels) > 200


def test_four_dimensions_colours_and_half_pairs_are_refused_with_a_reason(tmp_path):
    series = nifti_bytes(noise((4, 5, 6, 3), np.int16))
    assert "4 by 5 by 6 by 3" in refused(tmp_path / "a.nii", series)
    colours = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
    assert "colours" in refused(tmp_path / "a.nii", nifti_bytes(colours))
    numbers = np.zeros((4, 4, 4), np.complex64)
    assert "complex" in refused(tmp_path / "a.nii", nifti_bytes(numbers))
    nibabel.save(nibabel.Nifti1Pair(noise((4, 4, 4), np.int16), np.eye(4)), tmp_path / "pair.hdr")
    (tmp_path / "pair.img").unlink()
    (found,) = opened(tmp_path / "pair.hdr")
    assert "its .img is missing" in found.error


def test_a_volume_that_holds_more_than_its_header_says_is_refused(tmp_path):
    volume = nibabel.Nifti1Image(noise((6, 6, 6), np.int16), np.eye(4))
    header = volume.header.copy()
    header.set_data_shape((6, 5, 6))
    header["vox_offset"] = 352
    content = header.binaryblock + volume.to_bytes()[348:]
    assert "its header says" in refused(tmp_path / "a.nii", content)
    assert "its header says" in refused(tmp_path / "a.nii.gz", gzip.compress(content))


@pytest.mark.parametrize("offset", [0, -8, 347])
def test_a_volume_whose_voxels_start_in_its_header_is_refused(tmp_path, offset):
    header = nibabel.Nifti1Image(noise((20, 20, 20), np.int16), np.eye(4)).header
    header["vox_offset"] = offset
    content = header.binaryblock + bytes(4) + noise((20, 20, 20), np.int16).tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    right = written(tmp_path / "right.nii", nifti_bytes(noise((20, 20, 20), np.int16)))
    slices = opened(tmp_path / "a.nii")
    # nibabel mends some of these; then the slices have to be the right ones
    assert all(
        not sound(found) or np.array_equal(found.pixels, whole.pixels)
        for found, whole in zip(slices, right, strict=False)
    )


def test_a_flipped_bit_in_a_compressed_volume_is_noticed(tmp_path):
    content = bytearray(gzip.compress(VALID["a.nii"], 0))  # stored, so nothing else would
    content[400] ^= 1
    assert "damaged" in refused(tmp_path / "a.nii.gz", content)


@pytest.mark.parametrize("spacing", [(1e-30, 1, 1), (1, 1, 1e9), (1e30, 1e-30, 1), (1, 1, 120)])
def test_a_spacing_that_no_scanner_has_is_refused(tmp_path, spacing):
    content = nifti_bytes(noise((4, 5, 6), np.int16), affine=np.diag([*spacing, 1]))
    slices = [
        found for plane in imaging.PLANES for found in written(tmp_path / "a.nii", content, plane)
    ]
    assert any("spacing" in found.error or "affine" in found.error for found in slices)


def written(path, content, plane="acquired"):
    path.write_bytes(content)
    slices = opened(path, plane)
    for found in slices:
        sound(found)
    return slices


def write_series(folder, heights, **tags):
    folder.mkdir(parents=True, exist_ok=True)
    for number, height in enumerate(heights):
        place = {"ImagePositionPatient": [0, 0, height], "InstanceNumber": number + 1}
        content = dicom_bytes(noise((8, 8)), ImageOrientationPatient=AXIAL, **{**place, **tags})
        (folder / f"IM{number:03d}").write_bytes(content)


def test_slices_that_are_missing_are_said_and_the_others_read(tmp_path):
    write_series(tmp_path / "whole", range(8), SeriesInstanceUID="1.1")
    write_series(tmp_path / "gap", [0, 3, 6, 9, 18, 21, 24], SeriesInstanceUID="1.2")
    slices = opened(tmp_path)
    (said,) = [found for found in slices if not sound(found)]
    assert "2 slices are missing in its series: most are 3 mm apart, some 9 mm" in said.error
    assert said.file == tmp_path / "gap" / "IM000" and len(slices) == 8 + 7 + 1
    assert said.series == slices[0].series and said.number == 7


@pytest.mark.parametrize("heights", [[0, 1, 2.5, 3, 7.2, 7.9], [0, 1, 1, 2, 2, 3], [5], [0, 9]])
def test_what_is_only_irregular_is_not_called_missing(tmp_path, heights):
    write_series(tmp_path, heights)
    slices = opened(tmp_path)
    assert all(sound(found) for found in slices) and len(slices) == len(heights)
    assert [found.number for found in slices] == list(range(len(heights)))


def test_the_same_instance_number_twice_is_said_where_nothing_else_gives_the_order(tmp_path):
    write_series(tmp_path / "placed", [0, 1, 2], InstanceNumber=4, SeriesInstanceUID="1.1")
    write_series(tmp_path / "not", [0, 1, 2], InstanceNumber=4, ImagePositionPatient=None)
    slices = opened(tmp_path)
    (said,) = [found for found in slices if not sound(found)]
    assert "same instance number" in said.error and len(slices) == 7
    assert said.file.parent.name == "not"


def test_a_tilted_gantry_is_shown_as_scanned_and_not_cut(tmp_path):
    for number in range(5):
        place = tmp_path / "tilted"
        write_series(place / str(number), [0], ImagePositionPatient=[0, 2 * number, 5 * number])
    assert [sound(found) for found in opened(tmp_path)] == [True] * 5
    (said,) = opened(tmp_path, "coronal")
    assert "tilted gantry" in said.error and "plane='acquired'" in said.error


def test_mixed_series_in_a_folder_are_each_read_in_their_order(tmp_path):
    for number in range(6):
        content = dicom_bytes(
            np.full((4, 4), 10 * number, np.uint8), SeriesInstanceUID=f"1.{number % 2}",
            InstanceNumber=9 - number,
        )  # fmt: skip
        (tmp_path / f"{number}.dcm").write_bytes(content)
    (tmp_path / "bad.dcm").write_bytes(VALID["plain.dcm"][:300])
    slices = opened(tmp_path)
    assert [int(found.pixels[0, 0]) for found in slices[:-1]] == [40, 20, 0, 50, 30, 10]
    assert slices[-1].file.name == "bad.dcm" and not sound(slices[-1])


def test_a_dicom_without_pixels_says_so(tmp_path):
    reason = refused(tmp_path / "a.dcm", dicom_bytes(noise((4, 4)), PixelData=None))
    assert "no pixel data" in reason


def test_plain_pixels_said_to_be_compressed_are_refused_and_the_other_way(tmp_path):
    plain = VALID["plain.dcm"].replace(
        ExplicitVRLittleEndian.encode() + b"\0", b"1.2.840.10008.1.2.5\0"
    )
    assert "contradicts" in refused(tmp_path / "a.dcm", plain)
    rle = VALID["rle.dcm"].replace(
        b"1.2.840.10008.1.2.5\0", ExplicitVRLittleEndian.encode() + b"\0"
    )
    assert rle != VALID["rle.dcm"] and "contradicts" in refused(tmp_path / "a.dcm", rle)


def denied(real, *names):
    """Return a function that is denied some files; tests may run as root, who is denied nothing."""

    def ask(path, *args, **kwargs):
        if Path(os.fspath(path)).name in names:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path, *args, **kwargs)

    return ask


def test_what_may_not_be_opened_is_said_and_the_rest_is_read(tmp_path, monkeypatch):
    for name in ("closed/a.png", "open/b.png", "open/secret.dcm", "open/unknown.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(VALID["a.png"])
    monkeypatch.setattr(Path, "iterdir", denied(Path.iterdir, "closed"))
    monkeypatch.setattr(Path, "open", denied(Path.open, "secret.dcm"))
    monkeypatch.setattr(Path, "is_file", denied(Path.is_file, "unknown.nii"))
    slices = opened(tmp_path)
    assert [sound(found) for found in slices] == [False, True, False, False]
    assert "the folder cannot be opened (Permission denied)" in slices[0].error
    assert all("look at who may" in slices[place].error for place in (0, 2, 3))


def test_a_file_that_goes_away_while_others_are_read_is_said(tmp_path):
    for name in ("a.png", "b.dcm", "c.nii"):
        source = {"a.png": "a.png", "b.dcm": "plain.dcm", "c.nii": "a.nii"}[name]
        (tmp_path / name).write_bytes(VALID[source])
    listed = imaging.list_scans(tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    slices = [found for scan in listed for found in imaging.read_scan(scan)]
    assert [sound(found) for found in slices] == [False] * 3
    assert all("No such file" in found.error for found in slices)


def test_links_in_circles_and_pipes_do_not_hang(tmp_path):
    (tmp_path / "a.png").write_bytes(VALID["a.png"])
    (tmp_path / "around").symlink_to(tmp_path)
    (tmp_path / "self.dcm").symlink_to(tmp_path / "self.dcm")
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    os.mkfifo(tmp_path / "pipe")
    slices = opened(tmp_path)
    assert [found.file.name for found in slices] == ["a.png", "pipe.nii.gz", "self.dcm"]
    assert [sound(found) for found in slices] == [True, False, False]
    for name in ("self.dcm", "one", "pipe"):
        try:
            assert not sound(opened(tmp_path / name)[0])
        except imaging.ImageError as error:
            assert len(str(error).splitlines()) == 1


def test_folders_may_be_nested_deeper_than_python_calls_itself(tmp_path):
    opened_before = tmp_path / "a.png"
    opened_before.write_bytes(VALID["a.png"])
    opened(opened_before)  # what is imported on the first use calls itself, too
    deep = tmp_path.joinpath(*["d"] * 150)
    deep.mkdir(parents=True)
    (deep / "deep.png").write_bytes(VALID["a.png"])
    limit = sys.getrecursionlimit()
    # a real tree of that depth would stop what removes it after the test
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        slices = opened(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert [found.file.name for found in slices] == ["a.png", "deep.png"]
    assert all(sound(found) for found in slices)


NAMES = [
    b"with a blank.png", b"it's \"quoted\" & <b>.png", b"two\nlines\r.png", b"-rf.png",
    "Jörg 頭 🧠.png".encode(), b"not \xff\xfe utf-8.png", b"\x1b[31mred.png",
    b"100%s{0}.png", b"a" * 251 + b".png",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=repr)
@pytest.mark.parametrize("content", ["a.png", "plain.dcm", "a.nii", "bad"])
def test_any_name_is_read_and_told_on_one_line_that_can_be_stored(tmp_path, name, content):
    file = tmp_path / os.fsdecode(name)
    file.write_bytes(VALID.get(content, b"\x89PNG and no more"))
    for path in (tmp_path, file):
        slices = opened(path)
        assert slices and {found.file for found in slices} == {file}
        for found in slices:
            assert sound(found) == (content != "bad")
            found.series.encode("utf-8")
            found.error.encode("utf-8")


@pytest.mark.parametrize("path", ["", "nothing\0here", "a" * 5000, "\udcff", "/dev/null/x"])
def test_a_path_that_is_none_is_refused_at_once_on_one_line(tmp_path, path):
    with pytest.raises(imaging.ImageError) as wrong:
        list(imaging.open_scans(tmp_path / "no" / path))
    assert len(str(wrong.value).splitlines()) == 1


GREY = noise((16, 12), np.uint8)


KINDS = {
    "JPEG": ("1", "L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
}


def drawn(mode):
    """Return an image of a mode, and the greys that it shows."""
    if mode == "1":
        grey = np.where(GREY > 100, 255, 0).astype(np.uint8)
        return Image.fromarray(grey).convert("1"), grey
    if mode == "I;16":  # 16 bit have a range of their own, here all of it
        wide = np.interp(GREY, (0, GREY.max()), (0, 65535)).astype(np.uint16)
        return Image.fromarray(wide), np.interp(GREY, (0, GREY.max()), (0, 255))
    if mode == "F":
        return Image.fromarray((GREY / 255).astype(np.float32)), GREY
    return Image.fromarray(GREY).convert(mode), GREY


@pytest.mark.parametrize(
    ("kind", "mode"), [(kind, mode) for kind, modes in KINDS.items() for mode in modes]
)
def test_images_of_every_kind_show_the_same_greys(tmp_path, kind, mode):
    image, grey = drawn(mode)
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    (tmp_path / "a").write_bytes(image_bytes(image, kind, **options))
    (found,) = opened(tmp_path / "a")
    assert sound(found)
    np.testing.assert_allclose(found.pixels, grey, atol=8 if kind == "JPEG" else 1)


def test_nothing_that_names_the_patient_reaches_a_slice(tmp_path):
    write_series(tmp_path / "a", [0, 1, 2, 5, 6, 7])
    (tmp_path / "b.dcm").write_bytes(dicom_bytes(noise((4, 4)), PixelData=None))
    (tmp_path / "c.dcm").write_bytes(VALID["plain.dcm"][:-40])
    (tmp_path / "d.dcm").write_bytes(dicom_bytes(noise((4, 4)), Rows=None))
    # of a damaged file the value of one tag may run into the next
    number = b"\x20\0\x11\0IS\x02\x007 "
    assert number in VALID["plain.dcm"]
    damaged = VALID["plain.dcm"].replace(number, b"\x20\0\x11\0LO\x02\0JD")
    (tmp_path / "e.dcm").write_bytes(damaged)
    shown = ""
    for plane in ("acquired", "coronal"):
        listed = imaging.list_scans(tmp_path, plane)
        shown += repr(listed) + repr(opened(tmp_path, plane))
    shown = shown.replace(str(tmp_path), "")
    for identifier in (
        "Doe",
        "Jane",
        "ID-4711",
        "ACC-0815",
        "19620730",
        "Elsewhere",
        "JD",
        "1.2.3",
    ):
        assert identifier not in shown


def test_scans_can_be_sent_away_and_read_in_many_threads(tmp_path):
    for number in range(6):
        write_series(tmp_path / f"s{number}", range(4), SeriesInstanceUID=f"1.2.{number}")
    for name, content in VALID.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"bad {name}").write_bytes(content[: len(content) // 2])
    expected = opened(tmp_path)
    listed = pickle.loads(pickle.dumps(imaging.list_scans(tmp_path)))
    with ThreadPoolExecutor(8) as threads:
        parts = list(threads.map(lambda scan: list(imaging.read_scan(scan)), listed * 3))
    found = [one for part in parts for one in part]
    assert len(found) == 3 * len(expected)
    for one, other in zip(found, expected * 3, strict=True):
        assert (one.file, one.series, one.number, one.plane, one.error) == (
            other.file, other.series, other.number, other.plane, other.error,
        )  # fmt: skip
        assert one.error or np.array_equal(one.pixels, other.pixels)


def test_scans_are_what_they_say(tmp_path):
    write_series(tmp_path / "series", range(3))
    for name in ("a.png", "a.nii"):
        (tmp_path / name).write_bytes(VALID[name])
    (tmp_path / "bad.dcm").write_bytes(b"")
    listed = imaging.list_scans(tmp_path)
    assert [scan.kind for scan in listed] == ["nifti", "image", "unreadable", "dicom"]
    assert [len(scan.frames) for scan in listed] == [0, 0, 0, 3]
    assert [bool(scan.error) for scan in listed] == [False, False, True, False]
    assert listed[0].series == "a.nii" and listed[0].file == tmp_path / "a.nii"


def test_the_longest_side_and_the_largest_slice_are_those_that_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom, "MAX_SLICE_PIXELS", 63)
    assert "too many" in refused(tmp_path / "a.dcm", dicom_bytes(noise((8, 8))))
    monkeypatch.setattr(volumes, "MAX_VOXELS", 63)
    assert "4 by 4 by 4 voxels" in refused(tmp_path / "a.nii", nifti_bytes(noise((4, 4, 4))))


def test_no_log_tells_what_a_damaged_file_holds(tmp_path):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger().addHandler(handler)
    try:
        refused(tmp_path / "a.dcm", VALID["jpeg.dcm"][:-60])
        tag = b"UI\x1a\x00" + MRImageStorage.encode()
        place = VALID["plain.dcm"].rindex(tag) + 2
        damaged = VALID["plain.dcm"][:place] + b"\x7f" + VALID["plain.dcm"][place + 1 :]
        assert "ACC-0815" not in refused(tmp_path / "b.dcm", damaged)
    finally:
        logging.getLogger().removeHandler(handler)
    assert not records
