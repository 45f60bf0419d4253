"""Bad input: whatever is wrong with a scan is one slice with a reason, and the rest is read."""

import gzip
import io
import itertools
import logging
import os
import pickle
import re
import struct
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate
from test_scans import AXIAL, dicom_bytes, image_bytes, opened, png_bytes, tag, write_series

from brainlib import imaging
from brainlib.imaging import dicom, scans

MEGABYTE = 2**20
LIBTIFF = (
    "TIFF", "JPEG", "LZW", "Fax3", "ZIP", "Old", "_TIFF", "PixarLog", "LogL", "Thunder",
    "tempfile.tif",
)  # fmt: skip
IDENTIFIERS = ("Doe", "Jane", "ID-4711", "ACC-0815", "19620730", "Elsewhere", "1.2.3")

quickly = settings(
    deadline=None, derandomize=True, max_examples=25, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def noise(shape, dtype=np.uint8, top=250):
    values = np.random.default_rng(5).uniform(0, top, shape)
    values.flat[: values.size // 4] = 0  # compressors find something to do
    return values.astype(dtype)


def compressed_bytes(pixels, syntax, frame, **tags):
    return dicom_bytes(pixels, syntax, PixelData=encapsulate([frame]), **tags)


def rle_bytes(pixels):
    dataset, file = pydicom.dcmread(io.BytesIO(dicom_bytes(pixels))), io.BytesIO()
    dataset.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    dataset.save_as(file)
    return file.getvalue()


def nifti_bytes(volume, kind=nibabel.Nifti1Image, affine=None):
    return kind(volume, np.eye(4) if affine is None else affine).to_bytes()


GREY = Image.fromarray(noise((24, 20)))
DEEP = Image.fromarray(noise((24, 20), np.uint16, 4000))
SLICE = noise((24, 20), np.uint16, 900)
VOLUME = nifti_bytes(noise((7, 6, 5), np.int16, 900))
VALID = {
    "a.jpg": image_bytes(GREY, "JPEG"),
    "cmyk.jpg": image_bytes(GREY.convert("CMYK"), "JPEG"),
    "a.png": image_bytes(GREY, "PNG"),
    "deep.png": image_bytes(DEEP, "PNG"),
    "palette.png": image_bytes(GREY.quantize(9), "PNG", transparency=1),
    "a.tif": image_bytes(GREY, "TIFF"),
    "deep.tif": image_bytes(DEEP, "TIFF", compression="tiff_lzw"),
    "jpeg.tif": image_bytes(GREY.convert("RGB"), "TIFF", compression="jpeg"),
    "a.bmp": image_bytes(GREY.convert("RGB"), "BMP"),
    "plain.dcm": dicom_bytes(SLICE, WindowCenter=400, WindowWidth=900,
                             ImageOrientationPatient=AXIAL, ImagePositionPatient=[1, 2, 3],
                             PixelSpacing=[1, 1], InstanceNumber=3),
    "implicit.dcm": dicom_bytes(SLICE, uid.ImplicitVRLittleEndian),
    "deflated.dcm": dicom_bytes(SLICE, uid.DeflatedExplicitVRLittleEndian),
    "frames.dcm": dicom_bytes(noise((3, 9, 8)), NumberOfFrames=3),
    "rle.dcm": rle_bytes(SLICE),
    "jpeg.dcm": compressed_bytes(GREY, uid.JPEGBaseline8Bit, image_bytes(GREY, "JPEG")),
    "jpeg2000.dcm": compressed_bytes(
        GREY, uid.JPEG2000Lossless, image_bytes(GREY, "JPEG2000", no_jp2=True)
    ),
    "a.nii": VOLUME,
    "two.nii": nifti_bytes(noise((7, 6, 5), np.float64, 1.5), nibabel.Nifti2Image),
    "a.nii.gz": gzip.compress(VOLUME, 1, mtime=0),
}  # fmt: skip


def sound(image):
    """Assert that a slice is one that can be used, or says what is wrong; return whether it can."""
    if image.error:
        assert image.pixels is None and str(image.file) != "" and len(image.error) < 700
        assert image.error.isprintable()  # so it is one line, too
        return False
    assert image.pixels.dtype == np.uint8 and image.pixels.ndim == 2 and image.pixels.size
    return True


def resident_peak():
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def peak(path):
    """Return the slices at a path, and the memory that reading them took."""
    tracemalloc.start()
    try:
        slices = opened(path)
        return slices, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(autouse=True)
def silence(capfd):
    """Nothing is printed or logged, neither by Python nor by the decoders below it."""
    records, handler = [], logging.Handler()
    handler.emit = records.append
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)
    shown = capfd.readouterr()
    # libtiff, inside Pillow, writes to the terminal by itself
    lines = [line for line in shown.err.splitlines() if not line.startswith(LIBTIFF)]
    assert (shown.out, lines, records) == ("", [], [])


@pytest.mark.parametrize("name", VALID)
@quickly
@given(data=st.data())
def test_no_damage_gives_anything_but_slices_and_reasons(tmp_path, name, data):
    content = bytearray(VALID[name])
    # half of the changes hit the header, where sizes and offsets are
    near = st.integers(0, len(content) - 1) | st.integers(0, min(700, len(content) - 1))
    value = st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255)
    for position, new in data.draw(st.lists(st.tuples(near, value), max_size=12)):
        content[position] = new
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    (tmp_path / name).write_bytes(content)
    # resident memory: Pillow reserves what a damaged PNG says, and does not touch it
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_peak()
    for image in opened(tmp_path / name, data.draw(st.sampled_from(["acquired", "sagittal"]))):
        sound(image)
        assert not any(part in repr(image) for part in IDENTIFIERS[:4])
    assert resident_peak() - before < 300 * MEGABYTE


@pytest.mark.parametrize("name", VALID)
def test_a_file_cut_short_is_named_and_the_rest_is_read(tmp_path, name):
    file, whole = tmp_path / name, VALID[name]
    file.write_bytes(whole)
    right = opened(file)
    for other in ("0.png", "z.png"):
        (tmp_path / other).write_bytes(VALID["a.png"])
    for part in np.linspace(0, len(whole) - 12, 14).astype(int):
        file.write_bytes(whole[:part])
        before, *slices, after = opened(tmp_path)
        assert slices and sound(before) and sound(after)
        for image, expected in zip(slices, right, strict=False):
            # a JPEG cut after its last row, and a TIFF before its last tag, are still whole
            assert not sound(image) or np.array_equal(image.pixels, expected.pixels)
            assert image.file == file and image.error.count(str(file)) == bool(image.error)
        if part < len(whole) // 2:
            assert not any(sound(image) for image in slices)


ODD_NAMES = (
    b"with a blank.png", b"it's \"quoted\" & <b>.dcm", b"two\nlines\r.nii.gz", b"-rf.txt",
    "Jörg 頭 🧠".encode(), b"not \xff\xfe utf-8.png", b"\x1b[31mred.dcm", b"100%s{0}.nii.gz",
    b"a" * 251 + b".png",
)  # fmt: skip


@pytest.mark.parametrize("name", VALID)
def test_a_wrong_ending_or_an_odd_name_changes_nothing(tmp_path, name):
    (tmp_path / name).write_bytes(VALID[name])
    right = opened(tmp_path / name)
    for number, odd in enumerate(ODD_NAMES):
        file = tmp_path / str(number) / os.fsdecode(odd)
        file.parent.mkdir()
        file.write_bytes(VALID[name])
        for image, expected in zip(opened(file.parent), right, strict=True):
            np.testing.assert_array_equal(image.pixels, expected.pixels)
            assert image.file == file and image.series.encode()  # it can be stored
        file.write_bytes(b"\x89PNG and no more")
        for path in (file, file.parent):
            (bad,) = opened(path)
            assert not sound(bad) and bad.file == file and (bad.series + bad.error).encode()


def dicom_that_says(content, **tags):
    dataset, file = pydicom.dcmread(io.BytesIO(content)), io.BytesIO()
    tag(dataset, **tags).save_as(file)
    return file.getvalue()


def nifti_that_says(shape=(6, 6, 6), offset=352):
    image = nibabel.Nifti1Image(noise((6, 6, 6), np.int16), np.eye(4))
    image.header.set_data_shape(shape)
    image.header["vox_offset"] = offset
    return image.header.binaryblock + bytes(4) + image.get_fdata().astype(np.int16).tobytes()


def boxes(length):
    box = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I", length) + b"ftyp" + bytes(30)
    return compressed_bytes(noise((8, 8)), uid.JPEG2000Lossless, box)


def refused_files():
    """Yield names, contents, and what the reason for refusing them must hold."""
    for name in ("a.jpg", "a.tif", "a.dcm", "a.nii", "a.nii.gz", "a.ima"):
        yield name, b"", "it is empty"
    yield "a", b"", "no image, no DICOM and no NIfTI"
    random = np.random.default_rng(1).bytes(3000)
    for name in ("a.png", "a.dcm", "a.nii", "a.nii.gz", "a.tiff", "a.bmp"):
        for content in (b"BMW and other words", b"%PDF-1.7 " + bytes(900), random):
            yield name, content, "again"
    for size in ((1_000_000, 1), (30_000, 30_000), (2**31 - 1, 2**31 - 1)):
        reason = "has 900,000,000 pixels, over" if size[0] == 30_000 else "scale it down first"
        yield "bomb.png", png_bytes(size, 8, 0, bytes(1000)), reason
    wide, page = Image.new("L", (1_000_000, 3)), Image.new("L", (4, 4))
    yield "wide.tif", image_bytes(wide, "TIFF"), "1000000 by 3 pixels"
    pages = image_bytes(page, "TIFF", save_all=True, append_images=[page, page])
    yield "pages.tif", pages, "several pages"
    yield "more.nii", nifti_that_says((6, 5, 6)), "and its header says 712"
    yield "more.nii.gz", gzip.compress(nifti_that_says((6, 5, 6))), "and its header says 712"
    less = nifti_that_says((6000, 6000, 9))
    yield "less.nii", less, "and its header says 648,000,352"
    yield "less.nii.gz", gzip.compress(less), "and its header says 648,000,352"
    yield "huge.nii.gz", gzip.compress(nifti_that_says((30_000,) * 3)), "30000 by 30000 voxels"
    for offset in (0, -8, 347):
        yield "offset.nii", nifti_that_says(offset=offset), "voxels start inside"
    flipped = bytearray(gzip.compress(VALID["a.nii"], 0))  # stored, so only the checksum tells
    flipped[400] ^= 1
    yield "flipped.nii.gz", flipped, "damaged"
    yield "4d.nii", nifti_bytes(noise((4, 5, 6, 3), np.int16)), "4 by 5 by 6 by 3"
    rgba = np.zeros((4, 4, 4), [(channel, "u1") for channel in "RGBA"])
    yield "rgba.nii", nifti_bytes(rgba), "colours"
    yield "complex.nii", nifti_bytes(np.zeros((4, 4, 4), np.complex64)), "complex"
    yield "pair.hdr", nibabel.nifti1.Nifti1PairHeader().binaryblock, "its .img is missing"
    for value in (np.nan, np.inf, -np.inf):
        plain = np.full((4, 4), value, np.float32)
        for dtype in (np.float32, np.float64):
            yield "a.nii", nifti_bytes(np.full((4, 4, 4), value, dtype)), "no finite value"
        yield "a.tif", image_bytes(Image.fromarray(plain), "TIFF"), "no finite value"
        yield "a.dcm", dicom_bytes(
            plain, PixelData=None, FloatPixelData=plain.tobytes(), WindowCenter=5, WindowWidth=9,
            BitsStored=None, HighBit=None, PixelRepresentation=None,
        ), "no finite value"  # fmt: skip
    small = noise((8, 8), np.uint16)
    short = dicom_bytes(small, PixelData=small.tobytes()[:-2])
    yield "short.dcm", short, "cut short or contradict its header"
    padded = dicom_bytes(small, PixelData=small.tobytes() + bytes(16))
    yield "padded.dcm", padded, "contradict its header"
    yield "none.dcm", dicom_bytes(small, PixelData=None), "no pixel data"
    plain, rle = uid.ExplicitVRLittleEndian.encode() + b"\0", b"1.2.840.10008.1.2.5\0"
    yield "packed.dcm", VALID["plain.dcm"].replace(plain, rle), "contradict"
    yield "plain.dcm", VALID["rle.dcm"].replace(rle, plain), "contradict"
    for length in (0, 1, 7, 2**32 - 1):
        yield "boxes.dcm", boxes(length), "dcm2niix cannot convert it"
    for content in (dicom_bytes(small), rle_bytes(small)):
        for tags in (
            {"Rows": 65535, "Columns": 65535}, {"NumberOfFrames": 2**31 - 1}, {"Rows": 0},
            {"NumberOfFrames": 99_999}, {"NumberOfFrames": -3}, {"Rows": 30_000},
            {"SamplesPerPixel": 3}, {"BitsAllocated": 32}, {"BitsAllocated": 7},
        ):  # fmt: skip
            yield "less.dcm", dicom_that_says(content, **tags), ""
    for name in ("plain.dcm", "jpeg.dcm", "jpeg2000.dcm"):
        for tags in ({"Rows": 7}, {"Columns": 5}, {"SamplesPerPixel": 2}):
            yield "more.dcm", dicom_that_says(VALID[name], **tags), ""
    huge = image_bytes(Image.new("L", (9000, 9000)), "JPEG")
    yield "huge.dcm", compressed_bytes(noise((8, 8)), uid.JPEGBaseline8Bit, huge), "and not (8, 8)"
    huge = image_bytes(Image.new("L", (900, 900)), "JPEG2000", no_jp2=True)
    yield "huge.dcm", compressed_bytes(noise((8, 8)), uid.JPEG2000Lossless, huge), "and not (8, 8)"
    yield "cut.dcm", VALID["jpeg.dcm"][:-60], ""
    length = bytearray(VALID["implicit.dcm"])
    length[length.index(b"\x28\0\x10\0") + 7] = 127  # of two gigabytes
    yield "length.dcm", length, ""
    before, _, after = VALID["plain.dcm"].rpartition(b"UI\x1a\0")
    yield "tag.dcm", before + b"UI\x7f\0" + after, ""


REFUSED = [(f"{number} {name}", *others) for number, (name, *others) in enumerate(refused_files())]


@pytest.mark.parametrize(("name", "content", "reason"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_wrong_is_one_reason_in_little_memory(tmp_path, name, content, reason):
    file = tmp_path / name.split()[1]
    file.write_bytes(content)
    (image,), memory = peak(file)
    assert not sound(image) and reason in image.error and memory < 20 * MEGABYTE
    assert image.error.count(str(file)) == 1
    assert not any(part in image.error for part in IDENTIFIERS)


def test_what_unpacks_without_end_takes_no_memory(tmp_path, monkeypatch):
    zeros = bytes(60 * MEGABYTE)
    header = nibabel.Nifti1Image(noise((4, 4, 4), np.int16), np.eye(4)).header
    for name, offset in (("offset", 50e6), ("far", 3e9), ("infinite", np.inf)):
        header["vox_offset"] = offset
        content = gzip.compress(header.binaryblock + zeros, 1)
        (tmp_path / f"{name}.nii.gz").write_bytes(content)
    for name, start in {"a.dcm": b"", "b.dcm": bytes(128) + b"DICM", "a.nii": b""}.items():
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(2**31)  # nothing is stored
    slices, memory = peak(tmp_path)
    assert memory < 20 * MEGABYTE and sum(not sound(image) for image in slices) >= 5
    with zipfile.ZipFile(tmp_path / "zeros.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("blob", "a.dcm", "a.nii", "b.png", "c.bin"):
            archive.writestr(name, zeros)
    monkeypatch.setattr(scans, "MAX_UNZIPPED", MEGABYTE)  # of which nothing reaches the disk
    monkeypatch.setattr(dicom, "MAX_INFLATED", 10 * MEGABYTE)
    monkeypatch.setattr(dicom, "MAX_DEFLATED", 10_000)
    bomb = dicom_bytes(noise((8, 8)), uid.DeflatedExplicitVRLittleEndian, PixelData=zeros)
    (tmp_path / "deflated.dcm").write_bytes(bomb)
    (tmp_path / "packed.dcm.gz").write_bytes(gzip.compress(VALID["plain.dcm"] + zeros))
    for name in ("deflated.dcm", "packed.dcm.gz", "zeros.zip"):
        slices, memory = peak(tmp_path / name)
        assert "to more than" in slices[0].error and memory < 40 * MEGABYTE


@pytest.mark.parametrize("spacing", [(1e-30, 1, 1), (1, 1, 1e9), (1e30, 1e-30, 1), (1, 1, 120)])
def test_a_spacing_that_no_scanner_has_is_refused(tmp_path, spacing):
    content = nifti_bytes(noise((4, 5, 6), np.int16), affine=np.diag([*spacing, 1]))
    (tmp_path / "a.nii").write_bytes(content)
    reasons = [image.error for plane in imaging.PLANES for image in opened(tmp_path, plane)]
    assert any("spacing" in reason or "affine" in reason for reason in reasons)


def test_slices_that_are_missing_are_said_and_the_others_are_read(tmp_path):
    write_series(tmp_path / "whole", range(8), SeriesInstanceUID="1.1")
    write_series(tmp_path / "gap", [0, 3, 6, 9, 18, 21, 24], SeriesInstanceUID="1.2")
    slices = opened(tmp_path)
    *_, said, last = [image for image in slices if not sound(image)]
    assert said.missing.startswith("its series has a gap at its place; copy the missing files")
    assert said.file == tmp_path / "gap" / "00_0" and len(slices) == 8 + 7 + 2
    assert said.series == slices[0].series and (said.number, last.number) == (4, 5)
    assert [image.number for image in slices[:7]] == [0, 1, 2, 3, 6, 7, 8]


def test_what_may_not_be_opened_or_goes_away_is_said_and_the_rest_is_read(tmp_path, monkeypatch):
    def deny(owner, method, denied):
        def ask(path, *args, **kwargs):  # tests may run as root, who is denied nothing
            if Path(path).name == denied:
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return real(path, *args, **kwargs)

        real = getattr(owner, method)
        monkeypatch.setattr(owner, method, ask)

    for name in ("closed/a.png", "open/b.png", "open/secret.dcm", "open/unknown.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(VALID["a.png"])
    deny(os, "scandir", "closed")
    deny(Path, "open", "secret.dcm")
    deny(Path, "is_file", "unknown.nii")
    listed = imaging.list_scans(tmp_path)
    slices = [image for scan in listed for image in imaging.read_scan(scan)]
    assert [sound(image) for image in slices] == [False, True, False, False]
    assert "the folder cannot be opened (Permission denied)" in slices[0].error
    assert all("look at who may" in slices[place].error for place in (0, 2, 3))
    (tmp_path / "open" / "b.png").unlink()
    assert "No such file" in next(imaging.read_scan(listed[1])).error


def test_links_in_circles_and_pipes_do_not_hang(tmp_path):
    (tmp_path / "a.png").write_bytes(VALID["a.png"])
    (tmp_path / "around").symlink_to(tmp_path)
    (tmp_path / "self.dcm").symlink_to(tmp_path / "self.dcm")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    os.mkfifo(tmp_path / "pipe")
    slices = {image.file.name: sound(image) for image in opened(tmp_path)}
    assert slices == {"a.png": True, "pipe.nii.gz": False, "self.dcm": False}
    assert not sound(opened(tmp_path / "pipe")[0])
    with pytest.raises(imaging.ImageError):
        opened(tmp_path / "self.dcm")


def test_folders_nested_too_deeply_are_one_reason(tmp_path, monkeypatch):
    def walk(*args, **kwargs):  # Python 3.11 does so a thousand levels down, later ones never
        raise RecursionError

    monkeypatch.setattr(os, "walk", walk)
    [image] = opened(tmp_path)
    assert not sound(image) and "nested too deeply" in image.error


@pytest.mark.parametrize("path", ["", "a\0b", "a" * 5000, "\udcff", "/dev/null/x"])
def test_a_path_that_is_none_is_refused_at_once_on_one_line(tmp_path, path):
    with pytest.raises(imaging.ImageError, match=r"^.*\Z"):
        imaging.open_scans(tmp_path / "no" / path)


KINDS = {
    "JPEG": ("1", "L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "WEBP": ("L", "RGB", "RGBA"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_show_the_same_greys(tmp_path, kind):
    values = noise((16, 12))
    whole = np.interp(values, (0, values.max()), (0, 255))  # 16 bits have a range of their own
    drawn = {
        "1": (Image.fromarray(values > 100), np.where(values > 100, 255, 0)),
        "I;16": (Image.fromarray((whole * 257).round().astype(np.uint16)), whole),
        "I": (Image.fromarray((whole * 16).round().astype(np.int32) - 1000), whole),
        "F": (Image.fromarray((values / 255).astype(np.float32)), values),
    }
    for mode in KINDS[kind]:
        image, grey = drawn.get(mode) or (Image.fromarray(values).convert(mode), values)
        options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
        options |= {"lossless": True} if kind == "WEBP" else {}
        (tmp_path / "a").write_bytes(image_bytes(image, kind, **options))
        (shown,) = opened(tmp_path / "a")
        assert sound(shown), (mode, shown.error)
        np.testing.assert_allclose(shown.pixels, grey, atol=8 if kind == "JPEG" else 1)


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
    assert not any(identifier in shown for identifier in (*IDENTIFIERS, "JD"))


def test_scans_can_be_sent_away_and_read_in_many_threads(tmp_path):
    for number in range(6):
        write_series(tmp_path / f"s{number}", range(4), SeriesInstanceUID=f"1.2.{number}")
    for name, content in VALID.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"bad {name}").write_bytes(content[: len(content) // 2])
    listed = pickle.loads(pickle.dumps(imaging.list_scans(tmp_path)))
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda scan: list(imaging.read_scan(scan)), listed * 3))
    for image, other in zip(itertools.chain(*read), opened(tmp_path) * 3, strict=True):
        assert repr(image) == repr(other)
        assert image.error or np.array_equal(image.pixels, other.pixels)
