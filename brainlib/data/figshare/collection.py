"""Jun Cheng's collection on figshare: 3,064 slices with tumour, each with its patient and mask.

Most tumour pictures of the Kaggle collection are made of these slices. They are published as MATLAB
files in four archives, doi 10.6084/m9.figshare.1512427 (CC BY 4.0). Each slice is converted once
into an 8-bit grey PNG with its mask beside it; then the collection is a folder like any other.
"""

import io
import json
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlib import paths
from brainlib.data.datasets import Collection, DatasetError, open_folder

FIGSHARE_ADDRESS = "https://doi.org/10.6084/m9.figshare.1512427"
FIGSHARE_VERSION = "8"
LABELS = {1: "meningioma", 2: "glioma", 3: "pituitary"}
RETRIES = 3
"""How often a download that failed is tried again."""


@dataclass(frozen=True)
class Archive:
    """One published archive: where it is, its MD5, and the numbers of its slices."""

    url: str
    md5: str
    slices: range


_DOWNLOADS = "https://ndownloader.figshare.com/files"

ARCHIVES: dict[str, Archive] = {
    "brainTumorDataPublic_1-766.zip": Archive(
        f"{_DOWNLOADS}/3381290", "74b949ad33f042e6e103523091cd1428", range(1, 767)
    ),
    "brainTumorDataPublic_767-1532.zip": Archive(
        f"{_DOWNLOADS}/3381296", "7e8a875500d2c8a346f270538e29890e", range(767, 1533)
    ),
    "brainTumorDataPublic_1533-2298.zip": Archive(
        f"{_DOWNLOADS}/3381293", "8227bf6080cb71f15a88be8d25c79ae7", range(1533, 2299)
    ),
    "brainTumorDataPublic_2299-3064.zip": Archive(
        f"{_DOWNLOADS}/3381302", "b378a80d6174e5317d59eb28430c6652", range(2299, 3065)
    ),
}
"""The whole collection. The MD5s are those that figshare lists for version 8 of the article."""


@dataclass(frozen=True)
class FigshareSlice:
    """What one MATLAB file holds.

    Attributes
    ----------
    label : str
        `glioma`, `meningioma` or `pituitary`.
    patient : str
        The published id without a trailing letter.
    pixels : uint8 array of shape (height, width)
        As MATLAB shows it; the slice's lowest intensity is 0 and its highest 255.
    mask : bool array of shape (height, width)
        True inside the tumour.
    """

    label: str
    patient: str
    pixels: np.ndarray
    mask: np.ndarray


def open_figshare(
    folder: Path | None = None, archives: Mapping[str, Archive] = ARCHIVES
) -> Collection:
    """Open the figshare collection, downloading and converting it the first time.

    The `.mat` files or the archives that hold them may also be put into the folder by hand.
    A conversion that was stopped goes on from its last slice. No slice has a split; `outline` is
    in pixels of the slice itself, which is 512 × 512 except for a few of 256 × 256.

    Parameters
    ----------
    folder : Path, optional
        Where the files are or go: `figshare` in the cache folder by default.
    archives : mapping of str to Archive
        What the whole collection consists of.

    Raises
    ------
    DatasetError
        Where files are missing and cannot be downloaded, or a file is not what it should be.

    Examples
    --------
    >>> open_figshare().table["patient"].nunique()  # doctest: +SKIP
    209
    """
    folder = default_folder() if folder is None else folder
    pictures = folder / "pictures"
    if not (pictures / "images.csv").is_file():  # written last, so a folder that has it is whole
        download_figshare(folder, archives)
        _convert_all(_find_slices(folder), pictures)
    found = open_folder(pictures)
    numbers = {int(Path(path).stem) for path in found.table["path"]}
    _check_numbers(numbers, archives, pictures, "Delete that folder; it is made again.")
    return Collection("figshare", FIGSHARE_VERSION, pictures, found.table, found.groups_from)


def default_folder() -> Path:
    """Return the folder that holds the figshare files unless another one is named."""
    return paths.cache_folder() / "figshare"


def download_figshare(
    folder: Path | None = None, archives: Mapping[str, Archive] = ARCHIVES
) -> Path:
    """Download the archives whose slices are not in the folder yet, and check their MD5.

    Parameters
    ----------
    folder : Path, optional
        Where they go: `figshare` in the cache folder by default.
    archives : mapping of str to Archive
        The archives, by file name.

    Returns
    -------
    Path
        The folder, which now holds every slice, in archives or as `.mat` files.

    Raises
    ------
    DatasetError
        Where an archive cannot be downloaded, or slices are missing or too many.
    """
    folder = default_folder() if folder is None else folder
    present = set(_find_slices(folder))
    absent = [name for name, archive in archives.items() if not present.issuperset(archive.slices)]
    for name in absent:
        _download(name, folder, archives, len(present))
    advice = (
        f"Remove what does not belong, and put {', '.join(archives)} from {FIGSHARE_ADDRESS} there"
    )
    _check_numbers(set(_find_slices(folder)), archives, folder, advice)
    return folder


def _download(name: str, folder: Path, archives: Mapping[str, Archive], present: int) -> None:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    store = pooch.create(
        path=folder,
        base_url="",
        registry={name: f"md5:{archives[name].md5}"},
        urls={name: archives[name].url},
        retry_if_failed=RETRIES,
    )
    try:
        store.fetch(name, progressbar=True)
    except Exception as error:  # whatever the network, the server or the disk raised
        total = sum(len(archive.slices) for archive in archives.values())
        raise DatasetError(
            f"{folder} holds {present} of the {total} slices of the figshare collection, and "
            f"{name} could not be downloaded ({type(error).__name__}: {error}). Three ways on: "
            f"connect to the internet; or fetch {', '.join(archives)} from {FIGSHARE_ADDRESS} and "
            f"put these archives, or the .mat files in them, into {folder}; or choose another "
            "source, for instance 'kaggle' or 'phantom'."
        ) from error


def _find_slices(folder: Path) -> dict[int, tuple[Path, str]]:
    """Return, by slice number, the file that holds it and the member's name in an archive."""
    slices = {
        number: (archive, member)
        for archive in sorted(folder.rglob("*.zip"))
        for number, member in _members(archive)
    }
    slices |= {int(file.stem): (file, "") for file in folder.rglob("*.mat") if file.stem.isdigit()}
    return dict(sorted(slices.items()))


def _members(archive: Path) -> Iterator[tuple[int, str]]:
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [Path(name) for name in opened.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{archive} cannot be read as an archive ({error}). Delete it, so that it is "
            "downloaded again, or put a whole copy in its place."
        ) from error
    for name in names:
        if name.suffix == ".mat" and name.stem.isdigit():
            yield int(name.stem), name.as_posix()


def _check_numbers(
    found: set[int], archives: Mapping[str, Archive], folder: Path, advice: str
) -> None:
    expected = {number for archive in archives.values() for number in archive.slices}
    wrong = sorted(found ^ expected)
    if wrong:
        raise DatasetError(
            f"{folder} holds {len(found)} slices, not the {len(expected)} of the figshare "
            f"collection; missing or too many: {', '.join(map(str, wrong[:5]))}"
            f"{' …' if len(wrong) > 5 else ''}. {advice}"
        )


def read_slice(file: Path, member: str = "") -> FigshareSlice:
    """Read one MATLAB 7.3 file, which is HDF5, alone or as a member of an archive.

    MATLAB stores columns first, so HDF5 gives every array transposed; it is turned back here.
    Intensities are scaled linearly, the slice's own minimum to 0 and its maximum to 255.

    Parameters
    ----------
    file : Path
        A `.mat` file, or an archive.
    member : str
        The name in the archive; empty for a file of its own.

    Raises
    ------
    DatasetError
        Where the file is cut short, has no `cjdata` with the fields that are needed, or holds
        values that cannot be.
    """
    import h5py

    try:
        content = _member_bytes(file, member) if member else file
        with h5py.File(content, "r") as opened:
            fields = {name: np.asarray(value).T for name, value in opened["cjdata"].items()}
            return _interpreted(fields)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError,
            zipfile.BadZipFile) as error:  # fmt: skip
        where = f"{member} in {file}" if member else str(file)
        raise DatasetError(
            f"{where} is not a slice of the figshare collection ({type(error).__name__}: {error}). "
            f"Delete {file} and put a whole copy from {FIGSHARE_ADDRESS} in its place."
        ) from error


def _member_bytes(archive: Path, member: str) -> io.BytesIO:
    with zipfile.ZipFile(archive) as opened:
        return io.BytesIO(opened.read(member))


def _interpreted(fields: dict[str, np.ndarray]) -> FigshareSlice:
    absent = {"label", "PID", "image", "tumorMask"} - set(fields)
    if absent:
        raise ValueError(f"cjdata has no field {', '.join(sorted(absent))}")
    label = float(fields["label"].item())
    if label not in LABELS:
        raise ValueError(f"label {label:g} is unknown, known are {LABELS}")
    image, mask = fields["image"], fields["tumorMask"] > 0
    if image.ndim != 2 or image.shape != mask.shape:
        raise ValueError(f"an image of shape {image.shape} with a mask of shape {mask.shape}")
    if not mask.any():
        raise ValueError("the tumour mask is empty")
    patient = merge_patient("".join(map(chr, fields["PID"].ravel(order="F"))))
    return FigshareSlice(LABELS[int(label)], patient, _to_8_bits(image), mask)


def merge_patient(published: str) -> str:
    """Return a published patient id without its trailing letter, which marks another scan.

    Examples
    --------
    >>> merge_patient("MR051644B"), merge_patient("MR051644"), merge_patient("100360")
    ('MR051644', 'MR051644', '100360')
    """
    return re.sub(r"(?<=\d)[A-Za-z]$", "", published.strip("\0 "))


def _to_8_bits(image: np.ndarray) -> np.ndarray:
    values = image.astype(np.float64)
    low, high = values.min(), values.max()
    return ((values - low) * (255.0 / max(high - low, 1.0))).round().astype(np.uint8)


def _convert_all(slices: dict[int, tuple[Path, str]], pictures: Path) -> None:
    from tqdm import tqdm

    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=pictures) as scratch:
        progress = tqdm(slices.items(), "figshare slices", delay=2, leave=False)
        rows = [
            _existing_row(number, pictures)
            or _convert(number, read_slice(*place), pictures, Path(scratch))
            for number, place in progress
        ]
    with paths.atomic_write(pictures / "images.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")


def _convert(number: int, content: FigshareSlice, pictures: Path, scratch: Path) -> dict[str, str]:
    """Write the mask, then the picture with what `images.csv` says of it, each whole or absent."""
    from PIL import Image, PngImagePlugin

    row = {
        "path": f"{content.label}/{number}.png",
        "patient": content.patient,
        "group": f"fig_{content.patient}",
        "source": "figshare",
        "source_image": f"figshare:{number}.jpg",  # as the provenance of the Kaggle files names it
        "outline": _outline(content.mask),
    }
    text = PngImagePlugin.PngInfo()
    text.add_text("row", json.dumps(row))
    mask = Image.fromarray(content.mask.astype(np.uint8) * 255).convert("1")
    _save(mask, mask_file(pictures, number), scratch)
    _save(Image.fromarray(content.pixels), pictures / row["path"], scratch, pnginfo=text)
    return row


def _existing_row(number: int, pictures: Path) -> dict[str, str] | None:
    from PIL import Image

    for label in LABELS.values():
        file = pictures / label / f"{number}.png"
        if file.is_file():
            with Image.open(file) as picture:
                return json.loads(picture.text["row"])
    return None


def _save(picture: Any, target: Path, scratch: Path, **options: Any) -> None:
    # not through atomic_write: what a killed run leaves in a class folder would count as a picture
    temporary = scratch / target.name
    picture.save(temporary, "PNG", **options)
    target.parent.mkdir(exist_ok=True)
    temporary.replace(target)


def mask_file(pictures: Path, number: int | str) -> Path:
    """Return where the mask of a converted slice lies."""
    return pictures / "masks" / f"{number}.png"


def _outline(mask: np.ndarray) -> str:
    """Return the longest outline of a mask as a JSON list of [x, y].

    The published border traces the same curve, but counts pixels from one; the mask cannot be
    misread.
    """
    import contourpy

    lines = contourpy.contour_generator(z=np.pad(mask, 1).astype(float)).lines(0.5)
    longest = max(lines, key=len) - 1
    return json.dumps(np.round(longest[::2], 1).tolist())
