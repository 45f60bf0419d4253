"""Version 1 of Kaggle's Brain Tumor MRI Dataset, joined to the provenance of every file."""

import json
import os
from pathlib import Path

import pandas as pd

from brainlib import paths
from brainlib.data.datasets import Collection, complete_table, list_images, require_same_images
from brainlib.paths import BrainlibError

KAGGLE_HANDLE = "masoudnickparvar/brain-tumor-mri-dataset/versions/1"
KAGGLE_ORIGINS = ("figshare", "sartaj", "br35h_no")
OUTLINE_FRAME = 512
"""Width and height, in pixels, of the slices that the outlines refer to."""


def open_kaggle() -> Collection:
    """Open version 1 of the Brain Tumor MRI Dataset through Kaggle Hub.

    Raises
    ------
    BrainlibError
        If Kaggle Hub cannot provide it, or its files are not those of version 1.
    """
    root = _download()
    listed, provenance = list_images(root), read_provenance()
    names = (str(root), "version 1 of the collection")
    advice = "delete that folder so that Kaggle Hub downloads it again"
    require_same_images(listed, provenance, names, advice)
    table = listed.merge(provenance, "left", "path")
    published = table["figshare_label"]
    table["mislabelled"] = (published != "") & (published != table["label"])
    outlines = table["figshare_slice"].map(read_outlines()).fillna("")
    is_flipped = (outlines != "") & (table["mirrored"] == "1")
    table["outline"] = outlines.mask(is_flipped, outlines[is_flipped].map(_mirror))
    table["outline_frame"] = OUTLINE_FRAME
    return Collection("kaggle", "1", root, complete_table(table), "provenance")


def read_provenance() -> pd.DataFrame:
    """Return the provenance of each of the 7,023 files of version 1, one row per `path`.

    Columns: `source` (`figshare`, `sartaj`, `br35h_no`), `source_image`, `mirrored` ("1" if the
    file is its source's mirror image), `figshare_slice`, `figshare_label`, `patient`, `group`; all
    text, empty where unknown. Established by matching pixels against the collections that this one
    was assembled from: J. Cheng, figshare, doi 10.6084/m9.figshare.1512427 (CC BY 4.0); S. Bhuvaji
    et al., Brain Tumor Classification (MRI); A. Hamada, Br35H.
    """
    return _read_table("kaggle_v1_provenance.csv.gz")


def read_outlines() -> pd.Series:
    """Return the radiologists' outline of each figshare slice, indexed by its number as text.

    A JSON list of [x, y], in pixels of the 512 by 512 slice. J. Cheng, figshare, doi
    10.6084/m9.figshare.1512427 (CC BY 4.0).
    """
    return _read_table("figshare_outlines.csv.gz").set_index("figshare_slice")["outline"]


def _read_table(name: str) -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name(name), dtype=str, keep_default_na=False)


def _mirror(outline: str) -> str:
    """Return the outline of the mirror image of a 512 by 512 slice."""
    return json.dumps([[round(OUTLINE_FRAME - x, 1), y] for x, y in json.loads(outline)])


def _download() -> Path:
    cache = os.environ.get("KAGGLEHUB_CACHE")
    if cache:  # a relative path means the same in a notebook's folder and in the project's
        os.environ["KAGGLEHUB_CACHE"] = str(paths.resolve(cache))
    import kagglehub

    try:
        return Path(kagglehub.dataset_download(KAGGLE_HANDLE))
    except Exception as error:  # whatever the network, the server or the disk raised
        raise BrainlibError(
            f"Kaggle Hub could not provide {KAGGLE_HANDLE} ({type(error).__name__}: {error}). "
            f"{_missing_marker()}Connect to the internet; or set the environment variable "
            "KAGGLEHUB_CACHE to a folder that already holds this version; or choose another "
            "source: source='phantom' needs no download, and source='path/to/a/folder' reads "
            "images laid out <class>/… or <split>/<class>/…"
        ) from error


def _missing_marker() -> str:
    """Return advice for a copied cache that lacks the file by which Kaggle Hub recognises it."""
    from kagglehub.config import get_cache_folder

    name, version = KAGGLE_HANDLE.split("/versions/")
    folder = Path(get_cache_folder()) / "datasets" / name
    marker = folder / f"{version}.complete"
    if marker.exists() or not (folder / "versions" / version).is_dir():
        return ""
    return (
        f"The files are in {folder / 'versions' / version}, but the marker {marker} is missing: "
        "create it as an empty file if the copy is complete. Otherwise: "
    )
