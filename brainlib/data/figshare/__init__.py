"""Jun Cheng's collection on figshare, as a source of its own and as masks for the Kaggle pictures.

`collection` downloads the MATLAB files and makes a folder of pictures of them, `masks` joins their
tumour masks to the pictures of the Kaggle collection.
"""

from brainlib.data.figshare.collection import (
    ARCHIVES,
    FIGSHARE_ADDRESS,
    FIGSHARE_VERSION,
    LABELS,
    Archive,
    FigshareSlice,
    default_folder,
    download_figshare,
    merge_patient,
    open_figshare,
    read_slice,
)
from brainlib.data.figshare.masks import masks_for

__all__ = [
    "ARCHIVES",
    "FIGSHARE_ADDRESS",
    "FIGSHARE_VERSION",
    "LABELS",
    "Archive",
    "FigshareSlice",
    "default_folder",
    "download_figshare",
    "masks_for",
    "merge_patient",
    "open_figshare",
    "read_slice",
]
