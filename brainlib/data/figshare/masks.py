"""The masks of the figshare slices, laid onto the Kaggle pictures that were made of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlib.data.datasets import Collection, DatasetError, read_provenance
from brainlib.data.figshare.collection import mask_file

_LEAST_CORRELATION = 0.97  # a slice and its picture: above 0.995; a mirrored head: 0.84
_CHECKED_PICTURES = 24


def masks_for(
    table: pd.DataFrame, pixels: np.ndarray, figshare: Collection, size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tumour mask of each Kaggle picture that was made from a figshare slice.

    Parameters
    ----------
    table : DataFrame
        An image table of the Kaggle collection, whole or in part, of n pictures.
    pixels : uint8 array of shape (n, height, width, 1)
        The pictures themselves: a sample of them is compared with the slices they come from.
    figshare : Collection
        What `open_figshare` returned.
    size : int, optional
        Height and width of the masks; those of the pictures by default.

    Returns
    -------
    masks : bool array of shape (n, size, size)
        Mirrored where the picture is its slice's mirror image; False where none is known.
    known : bool array of shape (n,)
        Whether the picture has a mask.

    Raises
    ------
    DatasetError
        Where a picture is not of the Kaggle collection, or does not look like its slice.

    Examples
    --------
    >>> masks, known = masks_for(loaded.table, loaded.pixels, open_figshare())  # doctest: +SKIP
    """
    from PIL import Image

    size = pixels.shape[1] if size is None else size
    origins = _origins(table, figshare)
    known = (origins["figshare_path"] != "").to_numpy()
    _check_alike(pixels[known], origins[known], figshare.root)
    masks = np.zeros((len(table), size, size), dtype=bool)
    for row in np.flatnonzero(known):
        origin = origins.iloc[row]
        with Image.open(mask_file(figshare.root, origin["figshare_slice"])) as mask:
            masks[row] = _oriented(mask, origin["mirrored"], size) >= 128
    return masks, known


def _origins(table: pd.DataFrame, figshare: Collection) -> pd.DataFrame:
    """Return figshare_slice, mirrored and figshare_path (empty where unknown) of each picture."""
    provenance = read_provenance().set_index("path")
    unknown = table.loc[~table["path"].isin(provenance.index), "path"]
    if len(unknown):
        raise DatasetError(
            f"{len(unknown)} pictures are not of version 1 of the Kaggle collection, for instance "
            f"{unknown.iloc[0]}: masks_for takes a table of source 'kaggle'"
        )
    origins = provenance.loc[table["path"], ["figshare_slice", "mirrored"]].reset_index(drop=True)
    slices = figshare.table["path"].map(lambda path: Path(path).stem)
    by_slice = dict(zip(slices, figshare.table["path"], strict=True))
    return origins.assign(
        mirrored=origins["mirrored"] == "1",
        figshare_path=origins["figshare_slice"].map(by_slice).fillna(""),
    )


def _check_alike(pixels: np.ndarray, origins: pd.DataFrame, root: Path) -> None:
    """Refuse masks that would not lie on the tumour: a slice turned over, or another numbering."""
    from PIL import Image

    chosen = np.unique(np.linspace(0, len(pixels) - 1, _CHECKED_PICTURES).round().astype(int))
    correlations = []
    for row in chosen if len(pixels) else []:
        origin = origins.iloc[row]
        with Image.open(root / origin["figshare_path"]) as picture:
            expected = _oriented(picture, origin["mirrored"], 32)
        shown = _oriented(Image.fromarray(pixels[row, :, :, 0]), False, 32)
        correlations.append(_correlation(expected, shown))
    if correlations and np.median(correlations) < _LEAST_CORRELATION:
        raise DatasetError(
            f"the slices in {root} do not look like the Kaggle pictures made of them (median "
            f"correlation {np.median(correlations):.2f}, expected above {_LEAST_CORRELATION}): "
            "their masks would not lie on the tumour. Check that table and pixels belong together; "
            "if they do, delete that folder and open the collection again."
        )


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if not first.std() or not second.std():
        return 0.0
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def _oriented(picture: Any, mirrored: bool, size: int) -> np.ndarray:
    from PIL import Image

    resized = picture.convert("L").resize((size, size), Image.Resampling.BILINEAR)
    values = np.asarray(resized)
    return values[:, ::-1] if mirrored else values
