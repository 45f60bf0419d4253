"""Images to grey pixels, image tables to one cached array, and outlines to masks.

Images are recognised by their content, whatever their name ends with.
"""

import hashlib
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from brainlib import paths
from brainlib.data.datasets import Collection
from brainlib.imaging.errors import ImageError, reading
from brainlib.imaging.slices import MAX_PIXELS, MAX_SIDE, refuse_colours, robust_range, to_grey

CACHE_VERSION = "1"  # to be raised when the same file would decode to other pixels
UNREADABLE_LIMIT = 0.01  # share of unreadable images above which a collection is refused
MAX_BYTES = 30_000_000  # of a file, which bounds the tables that it may hold
MAX_DECODED = 1e9  # pixels times scans of a progressive JPEG: each scan decodes all of it again
MAX_TILES = 10_000  # of a TIFF

_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")  # no reader that starts programs (EPS)
_DARK = 32  # of 255: 48 bits a pixel that are darker have their signal where Pillow does not look
_FINER = 4  # a mask is drawn this much larger and averaged, so that its border has shares
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


def read_image(path: Path | str) -> np.ndarray:
    """Decode one image to grey, at its own size.

    Alpha is flattened onto black, palettes are expanded, values of more than 8 bits are scaled from
    their lowest and highest to 0 and 255 (from robust percentiles where few pixels lie far out,
    fractions from 0 and 1), and the orientation that a camera noted is applied.

    Parameters
    ----------
    path : Path or str
        A JPEG, PNG, TIFF, WebP or BMP file, recognised by content.

    Returns
    -------
    uint8 array of shape (height, width)

    Raises
    ------
    ImageError
        Where the file is absent, no image, cut short, larger than 40 million pixels or than
        65,535 along a side, holds several pages, is drawn in colours, or takes too long to decode.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "named.jpg"
    >>> Image.new("P", (3, 2)).save(file, format="PNG")
    >>> read_image(file).shape
    (2, 3)
    """
    try:
        with reading():
            if Path(path).stat().st_size > MAX_BYTES:
                raise ImageError(f"it has more than {MAX_BYTES:,} bytes; scale it down first")
            with Image.open(path, formats=_FORMATS) as image:
                _require_one_slice(image)
                return _to_grey(image)
    except ImageError as error:
        reason = error
        if isinstance(error.__cause__, UnidentifiedImageError):
            reason = "it is no JPEG, PNG, TIFF, WebP or BMP, or its start is damaged; save it again"
        elif isinstance(error.__cause__, Image.DecompressionBombError):
            count = int(re.search(r"\d+", str(error.__cause__))[0])
            reason = f"it has {count:,} pixels, over {MAX_PIXELS:,}; scale it down first"
        raise ImageError(f"{path}: {reason}") from error


def _require_one_slice(image: Image.Image) -> None:
    """Refuse what is no single image, and what would take Pillow more than seconds to decode."""
    width, height = image.size
    tags = getattr(image, "tag_v2", {})  # of a TIFF, whose tiles may be larger than the image
    decoded = max(width * height, int(tags.get(322, 0)) * int(tags.get(323, 0)))
    if not 0 < decoded <= MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(f"it has {width} by {height} pixels, over {MAX_PIXELS:,} to decode or "
                         f"over {MAX_SIDE:,} along a side; scale it down first")  # fmt: skip
    # to count the pages takes Pillow minutes where they are many
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise ImageError("it holds several pages; save each as an image of its own")
    coding, scans = str(image.tile[:1]), 0
    if "jpeg" in coding:
        scans = Path(image.filename).read_bytes().count(b"\xff\xda")
    is_slow = scans > 1 and scans * width * height > MAX_DECODED
    if is_slow or len(image.tile) > MAX_TILES or "rle" in coding:
        raise ImageError("it is compressed in a rare way, or in too many scans or tiles; save it as"
                         " an 8-bit PNG")  # fmt: skip


def _to_grey(image: Image.Image) -> np.ndarray:
    white_is_zero = getattr(image, "tag_v2", {}).get(262) == 0
    is_deep = image.mode == "RGB" and "16" in str(image.tile)  # of which Pillow keeps 8 bits
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        inverted = white_is_zero and values.dtype.kind in "iu"
        return _to_8_bits(values.max() - values if inverted else values)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    if image.mode not in ("1", "L"):
        sample = image.resize([max(1, side // 4) for side in image.size], Image.Resampling.NEAREST)
        refuse_colours(np.asarray(sample.convert("RGB")))
    grey = np.asarray((image.convert("RGB") if image.mode == "P" else image).convert("L"))
    if is_deep and grey.max() < _DARK:
        raise ImageError("its 48 bits a pixel use the lower half only; save it as 16-bit grey")
    return grey


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    bottom, top = robust_range(values)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low >= 0 and high <= 1 and values.dtype.kind == "f":
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    elif not high - low <= 2 * (top - bottom):  # few pixels far out would leave the rest black
        low, high = bottom, top
    return to_grey(values, low, high)


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
    table = collection.table
    pixels, reasons = _load([collection.root / path for path in table["path"]], size)
    is_unreadable = np.array(reasons) != ""
    unreadable = dict(zip(table["path"][is_unreadable], filter(None, reasons), strict=True))
    for name, reason in unreadable.items():
        logger.warning("left out %s: %s", name, reason)
    if len(unreadable) > UNREADABLE_LIMIT * len(table):
        name, reason = next(iter(unreadable.items()))
        raise ImageError(f"{len(unreadable)} of {len(table)} images in {collection.root} cannot be "
                         f"read, more than {UNREADABLE_LIMIT:.0%}. The first is {name}: {reason}. "
                         "Restore or remove them.")  # fmt: skip
    if unreadable:
        pixels, table = pixels[~is_unreadable], table[~is_unreadable]
    return LoadedImages(pixels, table.reset_index(drop=True), unreadable)


def file_formats(collection: Collection) -> pd.DataFrame:
    """Return how many files have which ending, content and colour mode, from their headers.

    Returns
    -------
    DataFrame
        `ending, format, mode, files`: `.jpg, PNG, RGBA, 3` are three PNG files with an alpha
        channel behind names that end with `.jpg`. An unreadable file has the format `unreadable`.
    """
    rows = []
    for path in collection.table["path"]:
        kind = "unreadable", ""
        with suppress(Exception), Image.open(collection.root / path) as image:
            kind = image.format, image.mode
        rows.append((Path(path).suffix.lower(), *kind))
    table = pd.DataFrame(rows, columns=["ending", "format", "mode"])
    return table.value_counts().rename("files").reset_index()


def sample_images(loaded: LoadedImages, count: int, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Draw some images of each class at random: uint8 arrays of shape (height, width)."""
    rows = loaded.table.groupby("label").sample(count, replace=True, random_state=seed)
    return {
        label: list(loaded.pixels[part.index, :, :, 0]) for label, part in rows.groupby("label")
    }


def grey_histograms(loaded: LoadedImages, bins: int = 64) -> pd.DataFrame:
    """Return the share of pixels at each grey value, a column for each class.

    Parameters
    ----------
    loaded : LoadedImages
    bins : int
        A divisor of 256.

    Returns
    -------
    DataFrame of shape (bins, classes)
        Indexed by the grey value at the middle of each bin.
    """
    shares = {}
    for label, part in loaded.table.groupby("label"):
        counts = np.bincount(loaded.pixels[part.index].ravel(), minlength=256)
        shares[label] = counts.reshape(bins, -1).sum(axis=1) / counts.sum()
    middles = (np.arange(bins) + 0.5) * 256 / bins
    return pd.DataFrame(shares, index=pd.Index(middles, name="grey value"))


def _load(files: list[Path], size: int) -> tuple[np.ndarray, list[str]]:
    """Return the pixels of images, and why some could not be read, from the cache if they are."""

    def content_hash(file: Path) -> str:
        with suppress(OSError):  # it will be named as unreadable when it is decoded
            return paths.file_hash(file)
        return ""

    def decode(row: int) -> str:
        try:
            pixels[row, :, :, 0] = resize(read_image(files[row]), size)
        except ImageError as error:
            return str(error).replace(str(files[row]), files[row].name)
        return ""

    with ThreadPoolExecutor(_THREADS) as threads:
        told = " ".join([CACHE_VERSION, *threads.map(content_hash, files)]).encode()
        digest = hashlib.blake2b(told, digest_size=16).hexdigest()
        cache = paths.cache_folder() / f"pixels-{size}-{digest}.npz"
        # absent, or damaged in a dozen ways; numpy does not close a file that it finds damaged
        with suppress(Exception), cache.open("rb") as file, np.load(file) as stored:
            return stored["pixels"], stored["reasons"].tolist()
        pixels = np.zeros((len(files), size, size, 1), dtype=np.uint8)
        decoded = threads.map(decode, range(len(files)))
        reasons = list(tqdm(decoded, "images", len(files), delay=2, leave=False))
    try:
        with paths.atomic_write(cache) as temporary:
            np.savez(temporary, pixels=pixels, reasons=np.array(reasons, dtype=str))
    except OSError as error:  # a full disk costs the next run some seconds, and this run nothing
        logger.warning("the decoded images could not be cached in %s: %s", cache.parent, error)
    return pixels, reasons


def draw_outlines(table: pd.DataFrame, root: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the outlined tumour of each image of an image table.

    Parameters
    ----------
    table : DataFrame
        An image table of n images, with `outline` and `outline_frame`.
    root : Path
        The folder that its paths are relative to; only the headers of images whose outline is in
        their own pixels are read.
    size : int
        Height and width of the masks, pixels.

    Returns
    -------
    masks : uint8 array of shape (n, size, size)
        255 where a pixel lies wholly inside the tumour, 0 outside, the share between.
    known : bool array of shape (n,)
        Whether it is known where the tumour is: there is an outline, or no tumour.
    """
    masks = np.zeros((len(table), size, size), np.uint8)
    outlined = table["outline"] != ""
    for row in np.flatnonzero(outlined):
        image = table.iloc[row]
        frame = image["outline_frame"]  # the side of a square, where it is not the image itself
        if frame in ("", None):
            with Image.open(root / image["path"]) as header:
                frame = header.size
        points = np.array(json.loads(image["outline"])) * size / np.array(frame, float)
        masks[row] = draw_polygon(points, size)
    return masks, (outlined | (table["label"] == "notumor")).to_numpy()


def draw_polygon(points: np.ndarray, size: int) -> np.ndarray:
    """Fill a polygon of shape (n, 2), x and y in pixels of the result: uint8 of (size, size)."""
    canvas = Image.new("L", (size * _FINER, size * _FINER))
    if len(points) > 2:
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in points * _FINER], fill=255)
    return np.asarray(canvas.reduce(_FINER))
