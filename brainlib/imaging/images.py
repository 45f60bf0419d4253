"""From a path to grey 8-bit pixels, and from an image table to one cached array.

Images are recognised by their content, whatever their name ends with.
"""

import hashlib
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from brainlib import paths
from brainlib.data.datasets import Collection
from brainlib.imaging.errors import ImageError, sharing_memory, silenced
from brainlib.imaging.slices import robust_range, to_grey

CACHE_VERSION = "1"
"""Part of every cache key: to be raised when the same file would decode to other pixels."""

UNREADABLE_LIMIT = 0.01
"""The share of unreadable images above which a collection is refused."""

MAX_IMAGE_PIXELS = 100_000_000
"""The largest image that is decoded; a larger one would fill the memory."""

MAX_SIDE = 65_535
"""The longest side, in pixels or voxels: the most that JPEG and DICOM can say."""

MAX_DECODED = 1_000_000_000
"""Pixels times scans of a progressive JPEG: each scan decodes all of it again, some 10 s in all."""

_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")  # no reader that starts programs (EPS)
_BAND = 256  # rows that are made grey at once: the temporaries of a large image would be larger
_LUMA = (0.299, 0.587, 0.114)
_DARK = 32  # of 255: a 48-bit PNG that is darker has its signal where Pillow does not look
_THREADS = 8  # Pillow lets go of the interpreter while it decodes; reading waits for the disk

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedImages:
    """The pixels of a collection, and the table of exactly those images.

    Attributes
    ----------
    pixels : uint8 array of shape (n, size, size, 1)
        Row i shows the image in row i of `table`.
    table : DataFrame
        The image table without the unreadable images.
    unreadable : dict of str to str
        What was wrong with each image that was left out.
    """

    pixels: np.ndarray
    table: pd.DataFrame
    unreadable: dict[str, str]


def read_image(path: Path | str | BinaryIO) -> np.ndarray:
    """Decode one image to grey, at its own size.

    Alpha is flattened onto black, palettes are expanded, values of more than 8 bits are scaled from
    their lowest and highest to 0 and 255 (from robust percentiles where few pixels lie far out,
    fractions from 0 and 1), and the orientation that a camera noted is applied.

    Parameters
    ----------
    path : Path, str or binary file
        A JPEG, PNG, TIFF, WebP or BMP file, recognised by content.

    Returns
    -------
    uint8 array of shape (height, width)

    Raises
    ------
    ImageError
        Where the file is absent, no image, cut short, larger than 100 million pixels or than
        65,535 along a side, holds several pages, or is a JPEG of so many scans that decoding it
        would take minutes.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "named.jpg"
    >>> Image.new("P", (3, 2)).save(file, format="PNG")
    >>> read_image(file).shape
    (2, 3)
    """
    name = path if isinstance(path, Path | str) else "the upload"
    try:
        with silenced(), Image.open(path, formats=_FORMATS) as image:
            _require_one_slice(image)
            with sharing_memory(image.width * image.height):
                return _to_grey(image)
    except Exception as error:  # Pillow's readers raise a dozen different kinds on bad files
        reason = _reason(error).replace(f" {str(name)!r}", "")
        raise ImageError(f"{name} cannot be read as an image ({reason})") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_IMAGE_PIXELS:,} pixels; scale it down first"
    if isinstance(error, UnidentifiedImageError):
        return "it is no JPEG, PNG, TIFF, WebP or BMP, or its start is damaged; save it again"
    text = f"{type(error).__name__}: {error}"
    return f"it is cut short, damaged or of a rare kind; save it again. {text}"


def _require_one_slice(image: Image.Image) -> None:
    width, height = image.size
    tags = getattr(image, "tag_v2", {})  # of a TIFF, whose tiles may be larger than the image
    tile = [int(tags.get(tag, 0)) for tag in (322, 323)]
    decoded = max(width * height, math.prod(tile))
    if not 0 < decoded <= MAX_IMAGE_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"it has {width} by {height} pixels, and more than {MAX_IMAGE_PIXELS:,} to decode or "
            f"{MAX_SIDE:,} along a side; scale it down first"
        )
    # to count the pages takes Pillow minutes where they are many
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise ImageError("it holds several pages; save each as an image of its own")
    if image.format in ("JPEG", "MPO"):
        image.fp.seek(0)
        scans = image.fp.read().count(b"\xff\xda")
        if scans * width * height > MAX_DECODED and scans > 1:
            raise ImageError(f"it is a JPEG of {scans:,} scans, too slow to decode; "
                             "save it again, not progressive")  # fmt: skip


def _to_grey(image: Image.Image) -> np.ndarray:
    tags = getattr(image, "tag_v2", {})
    if image.mode == "RGB" and max(tags.get(258, (8,))) > 8:  # of which Pillow keeps 8 bits
        import tifffile

        image.fp.seek(0)
        colours = tifffile.imread(image.fp, key=0)[..., :3]
        return _to_8_bits((colours @ np.array(_LUMA)).astype(np.float32))
    deep_png = image.format == "PNG" and image.tile and image.tile[0].args == "RGB;16B"
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        white_is_zero = tags.get(262) == 0 and values.dtype.kind in "iu"
        return _to_8_bits(values.max() - values if white_is_zero else values)
    grey = np.empty((image.height, image.width), np.uint8)
    for top in range(0, image.height, _BAND):
        box = (0, top, image.width, min(top + _BAND, image.height))
        grey[box[1] : box[3]] = _band_to_grey(image.crop(box))
    if deep_png and grey.max() < _DARK:
        raise ImageError("its 48 bits a pixel use the lower half only; save it as 16-bit grey")
    return grey


def _band_to_grey(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    elif image.mode == "P":
        image = image.convert("RGB")
    return image.convert("L")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())  # not a number where one of them is
    if not np.isfinite([low, high]).all():
        raise ImageError("it holds values that are not finite; save it again without them")
    if low >= 0 and high <= 255 and not (values.dtype.kind == "f" and high <= 1):
        return values.astype(np.uint8)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    else:
        bottom, top = robust_range(values)
        if high - low > 2 * (top - bottom):  # a few pixels far out would leave the rest black
            low, high = bottom, top
    grey = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _BAND):
        grey[start : start + _BAND] = to_grey(values[start : start + _BAND], low, high)
    return grey


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize a grey image to a square, antialiased (Pillow's area-aware bilinear filter).

    Parameters
    ----------
    pixels : uint8 array of shape (height, width)
    size : int
        Height and width of the result, pixels.

    Returns
    -------
    uint8 array of shape (size, size)
    """
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def load_images(collection: Collection, size: int = 150) -> LoadedImages:
    """Decode a whole collection into one array, or take it from the cache.

    The cache is keyed by the content of every file, so a changed image is decoded again; it is
    written under a temporary name and its checksum is verified when it is read.

    Parameters
    ----------
    collection : Collection
    size : int
        Height and width of the images in the array, pixels.

    Raises
    ------
    ImageError
        Where more than one image in a hundred cannot be read.
    """
    files = [collection.root / path for path in collection.table["path"]]
    cache = _cache_file(files, size)
    cached = _read_cache(cache)
    if cached is None:
        cached = _decode_all(files, size)
        _write_cache(cache, *cached)
    pixels, reasons = cached
    readable = np.array([not reason for reason in reasons], dtype=bool)
    names = collection.table["path"].tolist()
    unreadable = {name: reason for name, reason in zip(names, reasons, strict=True) if reason}
    _refuse_too_many(unreadable, len(names), collection.root)
    table = collection.table[readable].reset_index(drop=True)
    return LoadedImages(pixels[readable] if unreadable else pixels, table, unreadable)


def file_formats(collection: Collection) -> pd.DataFrame:
    """Return how many files have which ending, content and colour mode, from their headers.

    Returns
    -------
    DataFrame
        `ending, format, mode, files`: `.jpg, PNG, RGBA, 3` are three PNG files with an alpha
        channel behind names that end with `.jpg`. An unreadable file has the format `unreadable`.
    """
    rows = [(Path(path).suffix.lower(), *_header(collection.root / path))
            for path in collection.table["path"]]  # fmt: skip
    table = pd.DataFrame(rows, columns=["ending", "format", "mode"])
    return table.value_counts().rename("files").reset_index()


def _header(path: Path) -> tuple[str, str]:
    try:
        with Image.open(path) as image:
            return image.format or "", image.mode
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "unreadable", ""


def sample_images(loaded: LoadedImages, count: int, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Draw some images of each class at random: uint8 arrays of shape (height, width)."""
    rows = loaded.table.groupby("label").sample(count, replace=True, random_state=seed)
    return {
        label: list(loaded.pixels[part.index, :, :, 0]) for label, part in rows.groupby("label")
    }


def grey_histograms(loaded: LoadedImages, bins: int = 64) -> pd.DataFrame:
    """Return the share of pixels at each grey value, a column for each class.

    Returns
    -------
    DataFrame of shape (bins, classes)
        Indexed by the grey value at the middle of each bin.
    """
    edges = np.linspace(0, 256, bins + 1)
    columns = {}
    for label, part in loaded.table.groupby("label"):
        counts = np.bincount(loaded.pixels[part.index].ravel(), minlength=256)
        columns[label] = np.histogram(np.arange(256), edges, weights=counts)[0] / counts.sum()
    return pd.DataFrame(columns, index=pd.Index(edges[:-1] + 128 / bins, name="grey value"))


def _refuse_too_many(unreadable: dict[str, str], total: int, root: Path) -> None:
    for name, reason in unreadable.items():
        logger.warning("left out %s: %s", name, reason)
    if len(unreadable) > UNREADABLE_LIMIT * total:
        name, reason = next(iter(unreadable.items()))
        raise ImageError(
            f"{len(unreadable)} of {total} images in {root} cannot be read, more than "
            f"{UNREADABLE_LIMIT:.0%}. The first is {name}: {reason}. Restore or remove them."
        )


def _decode_all(files: list[Path], size: int) -> tuple[np.ndarray, list[str]]:
    pixels = np.zeros((len(files), size, size, 1), dtype=np.uint8)

    def decode(row: int) -> str:
        try:
            pixels[row, :, :, 0] = resize(read_image(files[row]), size)
        except ImageError as error:
            return str(error).replace(str(files[row]), files[row].name)
        return ""

    with ThreadPoolExecutor(_THREADS) as threads:
        progress = tqdm(
            threads.map(decode, range(len(files))), "pictures", len(files), delay=2, leave=False
        )
        return pixels, list(progress)


def _cache_file(files: list[Path], size: int) -> Path:
    with ThreadPoolExecutor(_THREADS) as threads:
        contents = threads.map(_content_hash, files)
        digest = hashlib.blake2b(f"{CACHE_VERSION} {size}".encode(), digest_size=16)
        for content in contents:
            digest.update(content)
    return paths.cache_folder() / f"pixels-{size}-{digest.hexdigest()}.npz"


def _content_hash(file: Path) -> bytes:
    try:
        return hashlib.blake2b(file.read_bytes(), digest_size=16).digest()
    except OSError:  # it will be named as unreadable when it is decoded
        return bytes(16)


def _read_cache(cache: Path) -> tuple[np.ndarray, list[str]] | None:
    if not cache.is_file():
        return None
    try:
        # opened here, because numpy does not close a file that it finds damaged
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return stored["pixels"], stored["reasons"].tolist()
    except Exception as error:  # a damaged archive fails in a dozen ways
        logger.warning("decoding again, the cache %s is damaged: %s", cache, error)
        return None


def _write_cache(cache: Path, pixels: np.ndarray, reasons: list[str]) -> None:
    try:
        with paths.atomic_write(cache) as temporary:
            np.savez(temporary, pixels=pixels, reasons=np.array(reasons, dtype=str))
    except OSError as error:  # a full disk costs the next run some seconds, and this run nothing
        logger.warning("the decoded images could not be cached in %s: %s", cache.parent, error)
