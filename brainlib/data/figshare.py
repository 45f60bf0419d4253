"""Jun Cheng's collection on figshare: 3,064 tumour slices with patient and outline.

Most tumour images of the Kaggle collection were made from these slices. They are published as
MATLAB files in four archives, doi 10.6084/m9.figshare.1512427 (CC BY 4.0). They are converted once
to 8-bit grey PNG files; then the collection is a folder like any other.
"""

import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from brainlib import paths
from brainlib.data.datasets import Collection, open_cached, trace_outline
from brainlib.paths import BrainlibError

FIGSHARE_ADDRESS = "https://doi.org/10.6084/m9.figshare.1512427"
FIGSHARE_VERSION = "8"
LABELS = {1: "meningioma", 2: "glioma", 3: "pituitary"}
RETRIES = 3
_FILES = "https://ndownloader.figshare.com/files"

ARCHIVES = {
    "brainTumorDataPublic_1-766.zip": (f"{_FILES}/3381290", "74b949ad33f042e6e103523091cd1428"),
    "brainTumorDataPublic_767-1532.zip": (f"{_FILES}/3381296", "7e8a875500d2c8a346f270538e29890e"),
    "brainTumorDataPublic_1533-2298.zip": (f"{_FILES}/3381293", "8227bf6080cb71f15a88be8d25c79ae7"),
    "brainTumorDataPublic_2299-3064.zip": (f"{_FILES}/3381302", "b378a80d6174e5317d59eb28430c6652"),
}
"""Address and MD5 of each archive, as figshare lists them for version 8 of the article."""


def open_figshare(
    folder: Path | None = None, archives: Mapping[str, tuple[str, str]] = ARCHIVES
) -> Collection:
    """Open the figshare collection, downloading and converting it the first time.

    The archives may also be put into the folder by hand. No slice has a split; `outline` is in
    pixels of the slice itself, which is 512 × 512 except for a few of 256 × 256.

    Parameters
    ----------
    folder : Path, optional
        Folder of the archives: `figshare` in the cache folder by default.
    archives : mapping of str to (str, str)
        Address and MD5 of each archive.

    Raises
    ------
    BrainlibError
        If an archive cannot be downloaded, or a file is not what it should be.

    Examples
    --------
    >>> open_figshare().table["patient"].nunique()  # doctest: +SKIP
    209
    """
    folder = paths.cache_folder() / "figshare" if folder is None else folder
    collection = open_cached(
        folder / "pictures", lambda target: _convert(_download(folder, archives), target)
    )
    return replace(collection, name="figshare", version=FIGSHARE_VERSION)


def _download(folder: Path, archives: Mapping[str, tuple[str, str]]) -> list[Path]:
    """Return the archives; those that are missing or damaged are downloaded."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    hashes = {name: f"md5:{md5}" for name, (_, md5) in archives.items()}
    urls = {name: url for name, (url, _) in archives.items()}
    store = pooch.create(folder, "", registry=hashes, urls=urls, retry_if_failed=RETRIES)
    try:
        return [Path(store.fetch(name, progressbar=True)) for name in archives]
    except Exception as error:  # whatever the network, the server or the disk raised
        raise BrainlibError(
            f"the figshare collection could not be downloaded ({type(error).__name__}: {error}). "
            f"Connect to the internet; or fetch {', '.join(archives)} from {FIGSHARE_ADDRESS} and "
            f"put these archives into {folder}; or choose another source, for instance 'kaggle' "
            "or 'phantom'."
        ) from error


def read_slice(content: bytes, name: str) -> tuple[str, str, np.ndarray, np.ndarray]:
    """Read one MATLAB 7.3 file, which is HDF5.

    MATLAB stores columns first, so HDF5 gives every array transposed; this is undone here.
    Intensities are scaled linearly, the slice's minimum to 0 and its maximum to 255.

    Parameters
    ----------
    content : bytes
        The file.
    name : str
        Its name in error messages.

    Returns
    -------
    label, patient : str
        The class, and the published id without a trailing letter.
    pixels : uint8 array of shape (height, width)
    mask : bool array of shape (height, width)
        True inside the tumour.

    Raises
    ------
    BrainlibError
        If the file is truncated, lacks a field of `cjdata`, or holds impossible values.
    """
    import h5py

    try:
        with h5py.File(io.BytesIO(content), "r") as opened:
            fields = {key: np.asarray(value).T for key, value in opened["cjdata"].items()}
        image, mask = fields["image"], fields["tumorMask"] > 0
        if image.ndim != 2 or image.shape != mask.shape or not mask.any():
            raise ValueError(f"image {image.shape}, mask {mask.shape} of {mask.sum()} pixels")
        patient = merge_patient("".join(map(chr, fields["PID"].ravel(order="F"))))
        label = LABELS[float(fields["label"].item())]
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise BrainlibError(
            f"{name} is not a slice of the figshare collection ({type(error).__name__}: {error}). "
            f"Fetch its archive again from {FIGSHARE_ADDRESS}."
        ) from error
    values = image.astype(np.float64) - image.min()
    pixels = (values * (255.0 / max(values.max(), 1.0))).round().astype(np.uint8)
    return label, patient, pixels, mask


def merge_patient(published: str) -> str:
    """Return a published patient id without its trailing letter, which marks another scan.

    Examples
    --------
    >>> merge_patient("MR051644B"), merge_patient("MR051644"), merge_patient("100360")
    ('MR051644', 'MR051644', '100360')
    """
    return re.sub(r"(?<=\d)[A-Za-z]$", "", published.strip("\0 "))


def _convert(archives: list[Path], target: Path) -> None:
    from PIL import Image
    from tqdm.auto import tqdm

    for label in LABELS.values():
        (target / label).mkdir(parents=True)
    rows = []
    for archive in archives:
        with zipfile.ZipFile(archive) as opened:
            files = [name for name in opened.namelist() if re.fullmatch(r"(.*/)?\d+\.mat", name)]
            for file in tqdm(files, archive.stem, delay=2, leave=False):
                label, patient, pixels, mask = read_slice(opened.read(file), file)
                index = int(Path(file).stem)
                path, origin = f"{label}/{index}.png", f"figshare:{index}.jpg"  # as Kaggle's has it
                Image.fromarray(pixels).save(target / path)
                rows.append((path, patient, f"fig_{patient}", origin, trace_outline(mask)))
    columns = ["path", "patient", "group", "source_image", "outline"]
    table = pd.DataFrame(rows, columns=columns).assign(source="figshare")
    table.to_csv(target / "images.csv", index=False, lineterminator="\n")
