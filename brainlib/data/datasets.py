"""The image table, one row per picture: of the Kaggle collection, and of any folder.

No picture is decoded here.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pandas as pd

from brainlib import CLASS_NAMES, paths
from brainlib.paths import BrainlibError

KAGGLE_HANDLE = "masoudnickparvar/brain-tumor-mri-dataset/versions/1"
KAGGLE_VERSION = "1"
KAGGLE_COUNTS = {
    "Training": dict(zip(CLASS_NAMES, (1321, 1339, 1595, 1457), strict=True)),
    "Testing": dict(zip(CLASS_NAMES, (300, 306, 405, 300), strict=True)),
}
KAGGLE_SOURCES = ("figshare", "sartaj", "br35h_no")
SPLIT_NAMES = tuple(KAGGLE_COUNTS)
COLUMNS = ("path", "label", "split", "source", "patient", "group")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
OUTLINE_FRAME = 512
"""Width and height, in pixels, of the slices that the outlines of the Kaggle pictures count in."""

_OUTLINE_COLUMNS = ("outline", "outline_frame")
_EXTRA_COLUMNS = ("source_image", "mirrored", "mislabelled", "plane", *_OUTLINE_COLUMNS)


class DatasetError(BrainlibError):
    """A source that cannot be reached, or that is not laid out as it should be."""


@dataclass(frozen=True)
class Collection:
    """A source that has been found: its image table and where its pictures lie.

    Attributes
    ----------
    name : str
        `kaggle`, `phantom`, or the folder's name.
    version : str
        The version of the collection; empty for a folder of one's own.
    root : Path
        The folder that the table's paths are relative to.
    table : DataFrame
        The image table: `path, label, split, source, patient, group`, then `source_image`
        (the same for two files that show the same picture), `mirrored`, `mislabelled`, `plane`,
        `outline` (the border of the tumour, a JSON list of [x, y]) and `outline_frame` (width and
        height of the square that its pixels are counted in; the picture's own where it is empty),
        each empty where it is not known.
    groups_from : str
        Where the groups come from: `provenance`, `images.csv`, or `nothing` where each picture is
        its own group until the audit has looked at the pixels.
    """

    name: str
    version: str
    root: Path
    table: pd.DataFrame
    groups_from: str

    @property
    def is_synthetic(self) -> bool:
        """Whether the pictures come from the phantom, wherever they lie."""
        return bool((self.table["source"] == "phantom").any())

    @property
    def title(self) -> str:
        """The name that is printed beside every result."""
        name = self.name if not self.is_synthetic else f"phantom ({self.name})"
        name = "phantom" if self.name == "phantom" else name
        return f"{name} version {self.version}" if self.version else name

    @property
    def file_hash(self) -> str:
        """SHA-256 over the sorted list of file names and sizes, 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for path in sorted(self.table["path"]):
            digest.update(f"{path}\0{(self.root / path).stat().st_size}\n".encode())
        return digest.hexdigest()

    def counts(self) -> pd.DataFrame:
        """Return the number of pictures, a row a split and a column a class."""
        counts = pd.crosstab(self.table["split"], self.table["label"])
        return counts.reindex(columns=list(CLASS_NAMES), fill_value=0).rename_axis(
            index=None, columns=None
        )


def open_folder(folder: Path) -> Collection:
    """List the pictures of a folder laid out `<class>/…` or `<split>/<class>/…`.

    An `images.csv` in the folder may name, for each `path`, its `patient`, `group`, `source`,
    `source_image`, `mirrored`, `mislabelled`, `plane`, `outline` and `outline_frame`; any of these
    can be absent. `mirrored` and `mislabelled` are 1 or 0.

    Raises
    ------
    DatasetError
        Where the folder is absent, has no class folders, or `images.csv` does not match it.
    """
    table = _list_pictures(folder)
    details = folder / "images.csv"
    if not details.is_file():
        return Collection(folder.name, "", folder, _completed(table), "nothing")
    try:
        known = pd.read_csv(details, dtype=str, keep_default_na=False, encoding="utf-8")
    except ValueError as error:  # of pandas for no CSV, of Python for no UTF-8
        raise DatasetError(f"{details} cannot be read as UTF-8 CSV: {error}") from error
    if "path" not in known or known["path"].duplicated().any():
        raise DatasetError(f"{details} must have a column `path` that names each picture once")
    unknown = set(known) - {*COLUMNS, *_EXTRA_COLUMNS}
    if unknown:
        raise DatasetError(
            f"{details} has the columns {', '.join(sorted(unknown))}, which mean nothing here: "
            f"the columns are {', '.join((*COLUMNS, *_EXTRA_COLUMNS))}"
        )
    known = known.apply(lambda column: column.str.strip())
    _require_all(table, known, details)
    named = [name for name in ("patient", "group") if name in known]
    groups_from = "images.csv" if (known[named] != "").to_numpy().any() else "nothing"
    return Collection(folder.name, "", folder, _completed(_joined(table, known)), groups_from)


def read_provenance() -> pd.DataFrame:
    """Return where each of the 7,023 files of version 1 comes from, one row per `path`.

    Columns: `source` (`figshare`, `sartaj`, `br35h_no`), `source_image`, `mirrored` ("1" where the
    file is its source's mirror image), `figshare_slice`, `figshare_label`, `patient`, `group`; all
    text, empty where unknown. Found by matching pixels against the collections that this one was
    assembled from: J. Cheng, figshare, doi 10.6084/m9.figshare.1512427 (CC BY 4.0); S. Bhuvaji et
    al., Brain Tumor Classification (MRI); A. Hamada, Br35H.
    """
    file = resources.files("brainlib") / "data" / "kaggle_v1_provenance.csv.gz"
    with resources.as_file(file) as path:
        return pd.read_csv(path, dtype=str, keep_default_na=False)


def read_outlines() -> pd.Series:
    """Return the radiologists' outline of each figshare slice, by its number as text.

    A JSON list of [x, y], in pixels of the slice's 512 by 512. J. Cheng, figshare, doi
    10.6084/m9.figshare.1512427 (CC BY 4.0).
    """
    file = resources.files("brainlib") / "data" / "figshare_outlines.csv.gz"
    with resources.as_file(file) as path:
        return pd.read_csv(path, dtype=str, index_col="figshare_slice")["outline"]


def count_origins(table: pd.DataFrame) -> pd.DataFrame:
    """Return files, source pictures, mirrored files, known patients and groups of each class."""
    parts = table.groupby("label")
    known = table[table["patient"] != ""].groupby("label")
    columns = {
        "files": parts.size(),
        "source pictures": parts["source_image"].nunique(),
        "mirrored files": parts["mirrored"].sum(),
        "known patients": known["patient"].nunique(),
        "groups": parts["group"].nunique(),
        "mislabelled files": parts["mislabelled"].sum(),
    }
    return pd.DataFrame(columns).fillna(0).astype(int)


def patient_across_splits(table: pd.DataFrame, count: int = 12) -> pd.DataFrame:
    """Return slices of the patient with most slices in the rarer split, Training first.

    Returns
    -------
    DataFrame
        At most `count` rows of the table, half of them from each split where there are as many;
        none where no patient is on both sides.
    """
    known = table[table["patient"] != ""].drop_duplicates("source_image")
    counts = known.groupby(["patient", "split"]).size().unstack(fill_value=0)
    if counts.empty or counts.shape[1] < 2:
        return table.head(0)
    slices = known[known["patient"] == counts.min(axis="columns").idxmax()]
    return (
        slices.sort_values("split", ascending=False).groupby("split", sort=False).head(count // 2)
    )


def open_kaggle() -> Collection:
    """Open version 1 of the Brain Tumor MRI Dataset through Kaggle Hub, joined to its provenance.

    Raises
    ------
    DatasetError
        Where Kaggle Hub cannot provide it, or its files are not those of version 1.
    """
    root = _download_kaggle()
    table = _list_pictures(root)
    _check_counts(table, root)
    provenance = read_provenance()
    _require_all(table, provenance, Path("the provenance table"))
    joined = _joined(table, provenance)
    published = joined["figshare_label"]
    joined["mislabelled"] = (published != "") & (published != joined["label"])
    joined["outline"] = _outlines_of(joined)
    joined["outline_frame"] = OUTLINE_FRAME
    return Collection("kaggle", KAGGLE_VERSION, root, _completed(joined), "provenance")


def _outlines_of(table: pd.DataFrame) -> list[str]:
    """Return the outline of each Kaggle picture, turned over where the picture is mirrored."""
    known = read_outlines()
    rows = zip(table["figshare_slice"], table["mirrored"] == "1", strict=True)
    return [_oriented(known[number], mirrored) if number else "" for number, mirrored in rows]


def _oriented(outline: str, mirrored: bool) -> str:
    if not mirrored:
        return outline
    return json.dumps([[round(OUTLINE_FRAME - x, 1), y] for x, y in json.loads(outline)])


def _download_kaggle() -> Path:
    cache = os.environ.get("KAGGLEHUB_CACHE")
    if cache:  # notebooks run in another folder than papermill: one meaning for a relative path
        os.environ["KAGGLEHUB_CACHE"] = str(paths.resolve(cache))
    import kagglehub

    try:
        return Path(kagglehub.dataset_download(KAGGLE_HANDLE))
    except Exception as error:  # whatever the network, the server or the disk raised
        raise DatasetError(
            f"Kaggle Hub could not provide {KAGGLE_HANDLE} ({type(error).__name__}: {error}). "
            "Three ways on: connect to the internet; or set the environment variable "
            "KAGGLEHUB_CACHE to a folder that already holds this version; or choose another "
            "source: source='phantom' needs no download, and source='path/to/a/folder' reads "
            "pictures laid out <class>/… or <split>/<class>/…"
        ) from error


def _check_counts(table: pd.DataFrame, root: Path) -> None:
    found = table.groupby(["split", "label"]).size().to_dict()
    expected = {
        (split, label): count
        for split, counts in KAGGLE_COUNTS.items()
        for label, count in counts.items()
    }
    if found != expected:
        wrong = {key: (found.get(key, 0), expected.get(key, 0)) for key in {**expected, **found}}
        wrong = {"/".join(key): pair for key, pair in wrong.items() if pair[0] != pair[1]}
        raise DatasetError(
            f"{root} is not version 1 of the collection: (found, expected) pictures are {wrong}. "
            "Delete that folder so that Kaggle Hub downloads it again."
        )


def _list_pictures(folder: Path) -> pd.DataFrame:
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is not a folder: name one laid out <class>/… or <split>/<class>/…"
        )
    _refuse_other_folders(folder)
    rows = []
    for label in CLASS_NAMES:
        for split in ("", *SPLIT_NAMES):
            for path in sorted((folder / split / label).rglob("*")):
                if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
                    rows.append((path.relative_to(folder).as_posix(), label, split))
    if not rows:
        raise DatasetError(
            f"{folder} holds no pictures in folders named {', '.join(CLASS_NAMES)}, alone or below "
            f"{' and '.join(SPLIT_NAMES)}. Known endings: {', '.join(PICTURE_SUFFIXES)}"
        )
    return pd.DataFrame(rows, columns=["path", "label", "split"])


def _refuse_other_folders(folder: Path) -> None:
    """Refuse folders of pictures that are neither class nor split: a class would go missing."""
    known = {*CLASS_NAMES, *SPLIT_NAMES, "masks"}
    nested = [folder / split for split in SPLIT_NAMES if (folder / split).is_dir()]
    others = [
        inner
        for outer in (folder, *nested)
        for inner in sorted(outer.iterdir())
        if inner.is_dir() and inner.name not in (known if outer == folder else CLASS_NAMES)
    ]
    wrong = [
        other
        for other in others
        if any(path.suffix.lower() in PICTURE_SUFFIXES for path in other.rglob("*"))
    ]
    if wrong:
        raise DatasetError(
            f"{', '.join(str(other) for other in wrong)} holds pictures and is no class: rename it "
            f"to one of {', '.join(CLASS_NAMES)}, or move it out of {folder}"
        )


def _joined(table: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    return table.merge(known.drop(columns=["label", "split"], errors="ignore"), "left", "path")


def _require_all(table: pd.DataFrame, known: pd.DataFrame, name: Path) -> None:
    absent = table.loc[~table["path"].isin(known["path"]), "path"]
    if len(absent):
        raise DatasetError(
            f"{name} has no row for {len(absent)} pictures, for instance {absent.iloc[0]}"
        )


def _completed(table: pd.DataFrame) -> pd.DataFrame:
    table = table.copy()
    for column in ("patient", "source", "source_image", "plane", *_OUTLINE_COLUMNS):
        if column not in table:
            table[column] = ""
    if "group" not in table:
        table["group"] = table["patient"]
    table["source"] = table["source"].mask(table["source"] == "", "folder")
    table["source_image"] = table["source_image"].mask(table["source_image"] == "", table["path"])
    table["group"] = table["group"].mask(table["group"] == "", table["source_image"])
    for column in ("mirrored", "mislabelled"):
        table[column] = _flags(table, column)
    return table[[*COLUMNS, *_EXTRA_COLUMNS]].reset_index(drop=True)


def _flags(table: pd.DataFrame, column: str) -> pd.Series:
    if column not in table:
        return pd.Series(False, index=table.index)
    values = table[column].astype(str).str.lower()
    odd = values[~values.isin(("1", "0", "true", "false", ""))]
    if len(odd):
        raise DatasetError(
            f"column {column} of images.csv holds {odd.iloc[0]!r} for "
            f"{table.loc[odd.index[0], 'path']}: write 1 or 0"
        )
    return values.isin(("1", "true"))
