"""The tags and the pixels of DICOM files, frame by frame.

Only the tags that are needed to show a slice are read, none that names a patient.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi,
    apply_windowing,
    iter_pixels,
)
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from brainlib.imaging.codecs import (
    DECODER_DEPENDENCIES,
    PLUGIN,
    DicomStream,
    open_dicom,
    require_whole,
)
from brainlib.imaging.errors import ImageError, quietly
from brainlib.imaging.slices import Frame, robust_range, to_grey
from brainlib.imaging.threads import sharing_memory

_PLACE_TAGS = (
    "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "ImagerPixelSpacing",
    "PixelAspectRatio", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_SIGNAL_TAGS = (
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction",
    "WindowCenter", "WindowWidth", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
)  # fmt: skip
_FILE_TAGS = (
    "Modality", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber",
    "InstanceNumber", "ImageType", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation",
)  # fmt: skip
_TAGS = [*_FILE_TAGS, *_PLACE_TAGS, *_SIGNAL_TAGS]

_FAILURES = 8  # after which the rest of a file is not tried
_SAMPLED_SLICES = 32  # the percentiles of a long series are taken from this many of its slices
_SAMPLED_PIXELS = 100_000  # of each of these slices
_EXTREMES = np.array([-1e30, 1e30])


def decode(
    frames: Iterable[Frame], grey_range: "SeriesRange"
) -> Iterator[tuple[Frame, np.ndarray | ImageError]]:
    """Give each frame with its grey pixels as stored (not turned), or with why there are none.

    Returns
    -------
    iterator of (Frame, uint8 array of shape (height, width) or ImageError)
    """
    for frame, header, values in _stored(frames):
        if isinstance(values, ImageError):
            yield frame, values
            continue
        try:
            yield frame, quietly(lambda: _grey(values, header, grey_range))  # noqa: B023
        except ImageError as error:
            yield frame, error


def _stored(
    frames: Iterable[Frame],
) -> Iterator[tuple[Frame, Dataset | None, np.ndarray | ImageError]]:
    """Decode frames one by one; neighbours in one file are read in one go."""
    for file, run in groupby(frames, key=lambda frame: frame.file):
        run = list(run)
        try:
            stream = quietly(lambda: open_dicom(file))  # noqa: B023
        except ImageError as error:
            yield from ((frame, None, error) for frame in run)
            continue
        with stream:
            yield from _stored_in(stream, run)


def _stored_in(
    stream: DicomStream, frames: list[Frame]
) -> Iterator[tuple[Frame, Dataset | None, np.ndarray | ImageError]]:
    error: ImageError | None = None
    try:
        header = read_header(stream)
        quietly(lambda: require_whole(stream, header, _syntax(header)))
    except ImageError as found:
        yield from ((frame, None, found) for frame in frames)
        return
    left, failures = deque(frames), 0
    while left and failures < _FAILURES:
        with closing(_iter_pixels(stream, header, [frame.index for frame in left])) as decoded:
            while left:
                frame = left.popleft()
                try:
                    values = quietly(lambda: next(decoded))
                    tags = quietly(lambda: frame_header(header, frame.index))  # noqa: B023
                except ImageError as found:  # a generator that failed gives nothing more
                    error, failures = found, failures + 1
                    yield frame, None, error
                    break
                yield frame, tags, values
    yield from ((frame, None, error) for frame in left)


def _syntax(header: Dataset) -> UID:
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None:  # a file without preamble is not compressed, and was read as one of these
        implicit, little_endian = header.original_encoding
        explicit = ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
        syntax = ImplicitVRLittleEndian if implicit else explicit
    return syntax


def _iter_pixels(stream: DicomStream, header: Dataset, indices: list[int]) -> Iterator[np.ndarray]:
    syntax = _syntax(header)
    plugin = PLUGIN if syntax in DECODER_DEPENDENCIES else ""
    return iter_pixels(stream, indices=indices, transfer_syntax_uid=syntax, decoding_plugin=plugin)


class SeriesRange:
    """The signals drawn black and white in a series without windows; found when first asked for."""

    def __init__(self, frames: list[Frame]) -> None:
        chosen = np.linspace(0, len(frames) - 1, min(len(frames), _SAMPLED_SLICES)).astype(int)
        self._frames = [frames[number] for number in sorted(set(chosen))]
        self._range: tuple[float, float] | None = None

    def __call__(self) -> tuple[float, float]:
        """Return the signals drawn black and white."""
        if self._range is None:
            samples = [
                # an odd step meets every column in turn
                apply_modality_lut(values, header).ravel()[:: values.size // _SAMPLED_PIXELS | 1]
                for _, header, values in _stored(self._frames)
                if not isinstance(values, ImageError) and values.ndim == 2
            ]
            self._range = robust_range(np.concatenate(samples))
        return self._range


def _grey(values: np.ndarray, header: Dataset, series_range: SeriesRange) -> np.ndarray:
    with sharing_memory(values.size):
        if header.PhotometricInterpretation == "PALETTE COLOR":
            values = apply_color_lut(values, header)
        if values.ndim == 3:
            bits = 8 * values.dtype.itemsize
            colours = to_grey(values[..., :3], 0, 2**bits - 1) if bits > 8 else values[..., :3]
            return np.asarray(Image.fromarray(np.ascontiguousarray(colours)).convert("L"))
        signal = apply_modality_lut(values, header)
        if not np.isfinite([signal.min(), signal.max()]).all() and not np.isfinite(signal).any():
            raise ImageError("it holds no finite value")
        grey = _windowed(signal, values, header)
    if grey is None:
        # outside of the block above, because other slices are decoded for it
        grey = to_grey(signal, *series_range())
    return 255 - grey if header.PhotometricInterpretation == "MONOCHROME1" else grey


def _windowed(signal: np.ndarray, values: np.ndarray, header: Dataset) -> np.ndarray | None:
    """Return the signal as the file says that it is shown; None where it does not say."""
    if header.get("VOILUTSequence"):
        bits = header.VOILUTSequence[0].LUTDescriptor[2]
        return to_grey(apply_voi(signal.astype(np.int64), header), 0, 2**bits - 1)
    if header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                # what the window makes of the extremes is what it calls black and white
                black, white = apply_windowing(_EXTREMES, header)
                if np.isfinite([black, white]).all() and black != white:
                    shown = apply_windowing(signal, header)
                    return to_grey((shown - black) / (white - black), 0, 1)
        except (ValueError, ZeroDivisionError):  # a width of zero is no window
            pass
    if values.dtype == np.uint8:
        full = np.array([0, 2**header.BitsStored - 1], np.uint8)
        return to_grey(signal, *sorted(apply_modality_lut(full, header)))
    return None


def read_header(stream: DicomStream) -> Dataset:
    """Read the tags that slices need; no pixels, no names.

    Parameters
    ----------
    stream : binary file
        As `open_dicom` gives it; it is left at the tag of the pixel data.

    Raises
    ------
    ImageError
        Where the file cannot be parsed.
    """

    def read() -> Dataset:
        # a file without the DICOM preamble is read as well, and refused below if it makes no sense
        stream.seek(0)
        header = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        stream.reads_left = -1  # pixels may take as many as they need
        for name in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"):
            if name in header and header[name].is_empty:
                del header[name]
        return header

    return quietly(read)


def frame_header(header: Dataset, index: int) -> Dataset:
    """Return the tags of one frame; enhanced files keep them in sequences, for all or for each."""
    groups = [*(header.get("SharedFunctionalGroupsSequence") or [])[:1]]
    groups += (header.get("PerFrameFunctionalGroupsSequence") or [])[index : index + 1]
    if not groups:
        return header
    tags = Dataset(header)
    tags.set_original_encoding(*header.original_encoding)
    tags.file_meta = header.file_meta
    for group in groups:
        for element in group:
            if element.VR == "SQ" and element.value:
                tags.update(element.value[0])
    return tags
