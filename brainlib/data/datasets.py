"""Image tables: one row per image of a folder, with class, split, patient and outline."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES
from brainlib.paths import BrainlibError, atomic_folder, file_hash

SPLIT_NAMES = ("Training", "Testing")
COLUMNS = ("path", "label", "split", "source", "patient", "group")
EXTRA_COLUMNS = ("source_image", "mirrored", "mislabelled", "plane", "outline", "outline_frame")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """An opened source: its image table and the folder that holds its images.

    Attributes
    ----------
    name : str
        A key of `SOURCES`, or the folder's name.
    version : str
        Version of the collection; empty for a user's own folder.
    root : Path
        The folder that the table's paths are relative to.
    table : DataFrame
        The image table: `path, label, split, source, patient, group`, then `source_image` (equal
        for two files that show the same image), `mirrored`, `mislabelled`, `plane`, `outline`
        (border of the tumour, a JSON list of [x, y]) and `outline_frame` (width and height, in
        pixels, of the square that the outline refers to; empty for the image's own pixels).
        Unknown values are empty.
    groups_from : str
        Origin of the groups: `provenance`, `images.csv`, or `nothing` if each image is its own
        group until the audit has compared the pixels.
    """

    name: str
    version: str
    root: Path
    table: pd.DataFrame
    groups_from: str

    @property
    def is_synthetic(self) -> bool:
        """True if the images are phantoms, wherever they are stored."""
        return bool((self.table["source"] == "phantom").any())

    @property
    def title(self) -> str:
        """The name printed beside every result."""
        is_copy = self.is_synthetic and self.name != "phantom"
        name = f"phantom ({self.name})" if is_copy else self.name
        return f"{name} version {self.version}" if self.version else name

    @property
    def file_hash(self) -> str:
        """SHA-256 over the sorted list of file names and sizes, 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for path in sorted(self.table["path"]):
            digest.update(f"{path}\0{(self.root / path).stat().st_size}\n".encode())
        return digest.hexdigest()

    def counts(self) -> pd.DataFrame:
        """Return the number of images, one row per split and one column per class."""
        counts = pd.crosstab(self.table["split"], self.table["label"])
        counts = counts.reindex(columns=list(CLASS_NAMES), fill_value=0)
        return counts.rename_axis(index=None, columns=None)


def open_folder(folder: Path) -> Collection:
    """List the images of a folder laid out `<class>/…` or `<split>/<class>/…`.

    An `images.csv` in the folder may give, for each `path`, its `patient`, `group`, `source`,
    `source_image`, `mirrored` (1 or 0), `mislabelled` (1 or 0), `plane`, `outline` and
    `outline_frame`; any of these columns can be absent.

    Raises
    ------
    BrainlibError
        If the folder is absent, has no class folders, or does not match its `images.csv`.
    """
    table, file = list_images(folder), folder / "images.csv"
    details = table[["path"]]
    if file.is_file():
        details = read_csv(file, dtype=str).apply(lambda column: column.str.strip())
        _check_details(details, table, file)
    is_grouped = (details.filter(["patient", "group"]) != "").any(axis=None)
    groups_from = "images.csv" if is_grouped else "nothing"
    table = table.merge(details.drop(columns=["label", "split"], errors="ignore"), "left", "path")
    return Collection(folder.name, "", folder, complete_table(table), groups_from)


def read_csv(file: Path | str, **options: Any) -> pd.DataFrame:
    """Read a UTF-8 CSV of a user's with pandas; empty cells are empty text.

    Raises
    ------
    BrainlibError
        If the file is absent or no such CSV.
    """
    try:
        return pd.read_csv(file, keep_default_na=False, encoding="utf-8", **options)
    except (OSError, ValueError) as error:  # pandas: not CSV; Python: not UTF-8
        raise BrainlibError(f"{file} cannot be read as UTF-8 CSV: {error}") from error


def open_cached(root: Path, write: Callable[[Path], object]) -> Collection:
    """Open a generated folder of the cache; a missing or damaged one is generated again.

    Parameters
    ----------
    root : Path
        The folder, with an `images.csv` that names every image.
    write : callable
        Writes the collection into an empty folder.
    """
    if not _is_whole(root):
        if root.exists():
            logger.warning("%s is damaged: it is generated again", root)
        with atomic_folder(root) as fresh:
            write(fresh)
            (fresh / _SEAL).write_text(_checksum(fresh), encoding="utf-8")
            if not _is_whole(root):  # another process may have been faster
                shutil.rmtree(root, ignore_errors=True)
    return open_folder(root)


_SEAL = "sha256.txt"


def _is_whole(folder: Path) -> bool:
    seal = folder / _SEAL
    return seal.is_file() and seal.read_bytes() == _checksum(folder).encode()


def _checksum(folder: Path) -> str:
    """Return the SHA-256 over names and contents of the images and of `images.csv`."""
    digest = hashlib.sha256()
    for file in sorted([*_images(folder), *folder.glob("images.csv")]):
        name = f"{file.relative_to(folder).as_posix()}\0"
        digest.update(name.encode() + bytes.fromhex(file_hash(file)))
    return digest.hexdigest()


def list_images(folder: Path) -> pd.DataFrame:
    """Return `path, label, split` of every image in the class folders of `folder`.

    Folders of images that are neither class nor split are refused: a class would be lost.
    """
    parents = [folder, *(folder / name for name in SPLIT_NAMES)]
    known = {parent / name for parent in parents for name in CLASS_NAMES}
    known |= {*parents, folder / "masks"}
    wrong = [str(path) for parent in parents for path in sorted(parent.glob("*/"))
             if path not in known and path.is_dir() and _images(path)]  # fmt: skip
    if wrong:
        raise BrainlibError(
            f"{', '.join(wrong)} holds images but is not a class: rename it to one of "
            f"{', '.join(CLASS_NAMES)}, or move it out of {folder}"
        )
    rows = [(path.relative_to(folder).as_posix(), label, split)
            for label in CLASS_NAMES for split in ("", *SPLIT_NAMES)
            for path in _images(folder / split / label)]  # fmt: skip
    if not rows:
        raise BrainlibError(
            f"{folder} is absent or holds no images in folders named {', '.join(CLASS_NAMES)}, "
            f"alone or below {' and '.join(SPLIT_NAMES)}. Endings: {', '.join(IMAGE_SUFFIXES)}"
        )
    return pd.DataFrame(rows, columns=["path", "label", "split"])


def complete_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return an image table with all its columns, unknown values filled in."""
    table = table.reindex(columns=[*COLUMNS, *EXTRA_COLUMNS], fill_value="")
    table["source"] = table["source"].replace("", "folder")
    known = table.replace("", None)
    table["source_image"] = known["source_image"].fillna(table["path"])
    table["group"] = known["group"].fillna(known["patient"]).fillna(table["source_image"])
    for column in ("mirrored", "mislabelled"):
        table[column] = table[column].astype(str).str.lower().isin(("1", "true"))
    return table.reset_index(drop=True)


def trace_outline(mask: np.ndarray) -> str:
    """Return the longest outline of a mask as a JSON list of [x, y], empty for an empty mask."""
    lines = trace_contours(mask, 0.5)
    return json.dumps(np.round(max(lines, key=len)[::2], 1).tolist()) if lines else ""


def trace_contours(values: np.ndarray, level: float) -> list[np.ndarray]:
    """Return the closed contours of an image at a level: arrays (n, 2) of x and y, pixel centres.

    Examples
    --------
    >>> values = np.zeros((5, 5)); values[2, 2] = 1
    >>> [line.round(1).tolist() for line in trace_contours(values, 0.5)]
    [[[1.5, 2.0], [2.0, 1.5], [2.5, 2.0], [2.0, 2.5], [1.5, 2.0]]]
    """
    import contourpy

    # the border of zeros closes contours that leave the image, and shifts them by one
    padded = np.pad(values, 1).astype(float)
    return [line - 1 for line in contourpy.contour_generator(z=padded).lines(level)]


def count_origins(table: pd.DataFrame) -> pd.DataFrame:
    """Return files, source images, mirrored files, known patients and groups of each class."""
    by_class = table.assign(patient=table["patient"].replace("", None)).groupby("label")
    return by_class.agg(**{
        "files": ("path", "size"), "source images": ("source_image", "nunique"),
        "mirrored files": ("mirrored", "sum"), "known patients": ("patient", "nunique"),
        "groups": ("group", "nunique"), "mislabelled files": ("mislabelled", "sum"),
    })  # fmt: skip


def patient_across_splits(table: pd.DataFrame, count: int = 12) -> pd.DataFrame:
    """Return slices of the patient with most slices in the rarer split, Training first.

    Returns
    -------
    DataFrame
        At most `count` rows of the table, half of them from each split if there are as many; none
        if no patient is in both splits.
    """
    known = table[table["patient"] != ""].drop_duplicates("source_image")
    counts = known.groupby(["patient", "split"]).size().unstack(fill_value=0)
    if counts.empty or counts.shape[1] < 2:
        return table.head(0)
    slices = known[known["patient"] == counts.min(axis="columns").idxmax()]
    return slices.sort_values("split", ascending=False).groupby("split").head(count // 2)


def _images(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(filter(Path.is_file, files))


def refuse_images(images: pd.Series, problem: str, advice: str) -> None:
    """Raise a `BrainlibError` that counts images and names three, unless there are none.

    Examples
    --------
    >>> refuse_images(pd.Series(["a.jpg"]), "mine.csv has no group for", "name one")
    Traceback (most recent call last):
    brainlib.paths.BrainlibError: mine.csv has no group for 1 images (a.jpg): name one
    """
    if len(images):
        examples = ", ".join(map(str, images[:3])) + (", …" if len(images) > 3 else "")
        raise BrainlibError(f"{problem} {len(images)} images ({examples}): {advice}")


def require_same_images(
    first: pd.DataFrame, second: pd.DataFrame, names: tuple[str, str], advice: str
) -> None:
    """Refuse two tables, called by `names`, whose column `path` does not name the same images."""
    for table, others, (name, of) in ((first, second, names), (second, first, names[::-1])):
        absent = others.loc[~others["path"].isin(table["path"]), "path"]
        refuse_images(absent, f"in comparison with {of}, {name} lacks", advice)


def _check_details(details: pd.DataFrame, table: pd.DataFrame, file: Path) -> None:
    if "path" not in details or details["path"].duplicated().any():
        raise BrainlibError(f"{file} must have a column `path` that names each image once")
    allowed = [*COLUMNS, *EXTRA_COLUMNS]
    if unknown := sorted(set(details) - set(allowed)):
        raise BrainlibError(
            f"{file} has the unknown columns {', '.join(unknown)}: allowed are {', '.join(allowed)}"
        )
    names = (str(file), f"the class folders of {file.parent}")
    require_same_images(details, table, names, "give each image in the class folders a row")
    for column in details.columns.intersection(["mirrored", "mislabelled"]):
        is_wrong = ~details[column].str.lower().isin(("1", "0", "true", "false", ""))
        problem = f"column {column} of {file} is neither 1 nor 0 for"
        refuse_images(details["path"][is_wrong], problem, "write 1 or 0")
