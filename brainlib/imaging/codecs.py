"""What is looked at before a DICOM file is unpacked or decoded.

pydicom and its decoders believe what a file says of its size: a damaged or hostile file of a
kilobyte could take all memory, and one whose sizes contradict each other would be shown wrong.
"""

import io
import logging
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders import base, pillow, pylibjpeg
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.pixels.utils import get_expected_length, get_j2k_parameters
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from brainlib.imaging.errors import ImageError

MAX_INFLATED = 500_000_000
"""The most bytes that a deflated file may unpack to."""

_MAX_READS = 2_000_000  # of a header; a thousand frames with tags of their own take some 200,000

PLUGIN = "brainlib"
"""The name of this module among the decoders of pydicom."""

DECODER_DEPENDENCIES: dict[str, tuple[str, ...]] = {
    JPEGBaseline8Bit: (), JPEGExtended12Bit: (), JPEGLossless: (), JPEGLosslessSV1: (),
    JPEGLSLossless: (), JPEGLSNearLossless: (), JPEG2000Lossless: (), JPEG2000: (),
    HTJ2KLossless: (), HTJ2KLosslessRPCL: (), HTJ2K: (), RLELossless: (),
}  # fmt: skip
"""What pydicom asks of a plugin: the kinds of compression that it decodes, and what for."""

# pydicom logs the values that it doubts, which may name the patient; what is wrong is said anyway
logging.getLogger("pydicom").propagate = False

_JPEG_2000 = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
_JPEG_2000_START = b"\xff\x4f\xff\x51"
_META_START = 132
_UNDEFINED = 0xFFFFFFFF
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT")
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))  # markers of a JPEG that stand alone
_SIZES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers that a JPEG's size follows


class DicomStream(io.BufferedReader):
    """A file that pydicom reads in small pieces, and in a header in not too many of them.

    It would read everything at once only to inflate it, however large; and a gigabyte of zeros is
    a hundred million empty elements to it.
    """

    reads_left = _MAX_READS

    def __init__(self, raw: io.RawIOBase | io.BytesIO) -> None:
        super().__init__(raw)  # type: ignore[arg-type]
        self._size = raw.seek(0, os.SEEK_END)
        raw.seek(0)

    def read(self, size: int | None = -1) -> bytes:
        """Read as any file does, while there is a header or its pixels to be read."""
        if size is None or size < 0:
            raise ImageError("its header is damaged; copy it again from where it came")
        if not self.reads_left:
            raise ImageError("its header has no end; copy it again from where it came")
        self.reads_left -= 1
        # Python takes memory for as much as is asked for, which is what a damaged length says
        return super().read(min(size, self._size))


class _Inflated(io.BytesIO):
    """What a deflated file holds, with the name that pydicom asks a file for."""

    name = ""


def open_dicom(file: Path) -> DicomStream:
    """Open a DICOM file, inflated where it is deflated.

    Raises
    ------
    ImageError
        Where it inflates to more than 500 million bytes.
    OSError, zlib.error
    """
    stream = DicomStream(io.FileIO(file))
    try:
        start = _deflated_from(stream)
    except BaseException:
        stream.close()
        raise
    if start is None:
        stream.seek(0)
        return stream
    stream.close()
    return DicomStream(_inflated(file, start))


def _deflated_from(stream: BinaryIO) -> int | None:
    """Return where the deflated part of a file starts, or None where none is."""
    stream.seek(_META_START - 4)
    if stream.read(4) != b"DICM":
        return None
    deflated = False
    while True:
        start = stream.tell()
        head = stream.read(8)
        if head[:2] == b"\0\0":
            raise ImageError("nothing follows the start of its header; copy it again")
        if len(head) < 8 or head[:2] != b"\x02\x00":
            return start if deflated else None
        if head[4:6] in _LONG:
            length = struct.unpack("<I", stream.read(4).ljust(4, b"\0"))[0]
        else:
            length = struct.unpack("<H", head[6:])[0]
        if head[2:4] == b"\x10\x00":
            value = stream.read(min(length, 64)).rstrip(b" \0")
            deflated = value == DeflatedExplicitVRLittleEndian.encode()
        else:
            stream.seek(length, os.SEEK_CUR)


def _inflated(file: Path, start: int) -> _Inflated:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    with file.open("rb") as stream:
        stream.seek(start)
        content = inflater.decompress(stream.read(file.stat().st_size), MAX_INFLATED)
    if not inflater.eof:
        raise ImageError(
            f"it is deflated and cut short, or unpacks to more than {MAX_INFLATED:,} bytes; "
            "copy it again, or save it without compression"
        )
    meta = read_file_meta_info(file)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    whole = _Inflated()
    whole.write(bytes(_META_START - 4) + b"DICM")
    write_file_meta_info(whole, meta, enforce_standard=False)
    whole.write(content)
    whole.seek(0)
    return whole


def require_whole(stream: BinaryIO, header: Dataset, syntax: pydicom.uid.UID) -> None:
    """Refuse plain pixel data that are shorter, or a slice longer, than the header says.

    Parameters
    ----------
    stream : binary file
        At the tag of the pixel data, as `pydicom.dcmread` leaves it.
    header : Dataset
    syntax : UID

    Raises
    ------
    ImageError
    """
    order = "<" if syntax.is_little_endian else ">"
    head = stream.read(8)
    if len(head) < 8:
        raise ImageError("it holds no pixel data; it has been cut short, or never had any")
    length = struct.unpack(f"{order}I", head[4:] if syntax.is_implicit_VR else stream.read(4))[0]
    if syntax.is_encapsulated != (length == _UNDEFINED):
        raise ImageError("its header contradicts how its pixels are packed; copy it again")
    if syntax.is_encapsulated:
        return
    start = stream.tell()
    held = min(length, stream.seek(0, os.SEEK_END) - start)
    expected = get_expected_length(header)
    if header.PhotometricInterpretation == "YBR_FULL_422":
        return  # pydicom knows how long these are
    # a few bytes are padding; as much as a row or a column means that the sizes are wrong
    spare = max(2, min(header.Rows, header.Columns) * header.get("BitsAllocated", 8) // 8)
    if not expected <= held < expected + spare:
        raise ImageError(
            f"it holds {held:,} bytes of pixels, and its header says {expected:,}; it is cut short "
            "or damaged: copy it again from where it came"
        )


def is_available(uid: str) -> bool:
    """Tell pydicom whether this kind of compression can be decoded here."""
    return uid == RLELossless or pylibjpeg.is_available(uid) or pillow.is_available(uid)


def _decode_frame(src: bytes, runner: DecodeRunner) -> bytes | bytearray:
    """Decode one compressed frame; pydicom calls it, by this name."""
    syntax, said = runner.transfer_syntax, (runner.columns, runner.rows, runner.samples_per_pixel)
    if syntax == RLELossless:
        return _decode_rle(src, runner)
    held = _jpeg_2000_size(src) if syntax in _JPEG_2000 else _jpeg_size(src)
    if held != said:
        raise ImageError(f"the compressed slice is {held} and not {said}")
    first: Exception | None = None
    for way in (pylibjpeg, pillow):
        if way.is_available(syntax):
            try:
                return way._decode_frame(src, runner)
            except Exception as error:  # the next may know more
                first = first or error
    raise first or ImageError("there is nothing here that decodes it")


def _jpeg_size(src: bytes) -> tuple[int, ...]:
    """Return the width, the height and the samples that a JPEG or JPEG-LS stream will give."""
    if not src.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
        raise ImageError("the compressed slice is cut short")  # and would be shown grey from there
    place = src.find(b"\xff\xd8") + 2
    while 2 <= place < len(src) - 9:
        marker, length = src[place + 1], int.from_bytes(src[place + 2 : place + 4], "big")
        if src[place] != 0xFF:
            break
        if marker in _SIZES:
            height, width, samples = struct.unpack(">HHB", src[place + 5 : place + 10])
            return width, height, samples
        place += 1 if marker == 0xFF else 2 if marker in _WITHOUT_LENGTH else 2 + length
    raise ImageError("the compressed slice does not say its size")


def _jpeg_2000_size(src: bytes) -> tuple[int, ...]:
    """Return the width, the height and the samples that a JPEG 2000 stream will give."""
    place = src.find(_JPEG_2000_START)
    sizes = src[place + 8 : place + 42]
    if place < 0 or len(sizes) < 34:
        raise ImageError("the compressed slice does not say its size")
    right, bottom, left, top = struct.unpack(">4I", sizes[:16])
    return right - left, bottom - top, int.from_bytes(sizes[32:34], "big")


def _jpeg_2000_parameters(src: bytes) -> dict[str, Any]:
    """Find the stream as it is found above; pydicom goes from box to box, and never leaves one."""
    place = src.find(_JPEG_2000_START)
    return {} if place < 0 else get_j2k_parameters(src[place:])


def _decode_rle(src: bytes, runner: DecodeRunner) -> bytes:
    """Decode run lengths (DICOM PS3.5, annex G), and no more of them than the slice has pixels.

    The decoders at hand go on for as long as there are runs, or panic on damaged ones.
    """
    deep = runner.bits_allocated // 8
    count = deep * runner.samples_per_pixel
    pixels = runner.rows * runner.columns
    said, *starts = struct.unpack("<16I", src[:64].ljust(64, b"\0"))
    if said != count:
        raise ImageError(f"the compressed slice has {said} parts and not {count}")
    ends = [*starts[1:count], len(src)]
    parts = [
        _unpack_bits(src[start:end], pixels)
        for start, end in zip(starts[:count], ends, strict=True)
    ]
    runner.set_option("planar_configuration", 1)
    whole = bytearray(count * pixels)
    for number, part in enumerate(parts):
        sample, byte = divmod(number, deep)
        # the most significant byte comes first, and little endian is asked for
        first = sample * pixels * deep + deep - 1 - byte
        whole[first : (sample + 1) * pixels * deep : deep] = part
    return bytes(whole)


def _unpack_bits(part: bytes, length: int) -> bytes:
    whole = bytearray()
    place, end = 0, len(part) - 1
    while place < end and len(whole) < length:
        run = part[place]
        if run < 128:
            whole += part[place + 1 : place + 2 + run]
            place += 2 + run
        else:
            if run > 128:
                whole += part[place + 1 : place + 2] * (257 - run)
            place += 2 if run > 128 else 1
    if len(whole) != length or end - place > 1:
        raise ImageError(
            f"a part of the compressed slice unpacks to {len(whole)} of {length} bytes"
        )
    return bytes(whole)


base.get_j2k_parameters = _jpeg_2000_parameters
for _syntax in DECODER_DEPENDENCIES:
    _decoder = get_decoder(_syntax)
    if PLUGIN not in {*_decoder.available_plugins}:
        _decoder.add_plugin(PLUGIN, (__name__, "_decode_frame"))
