"""The sources of images by name: `kaggle`, `figshare`, `phantom`, or a folder.

A further source is a further entry of `SOURCES`. No source stands in for another.
"""

from collections.abc import Callable

from brainlib import paths
from brainlib.data.datasets import Collection, DatasetError, open_folder, open_kaggle
from brainlib.data.figshare import open_figshare


def open_collection(source: str = "kaggle", seed: int = 0) -> Collection:
    """Find a source and list its pictures.

    Parameters
    ----------
    source : str
        A key of `SOURCES`, or a folder laid out `<class>/…` or `<split>/<class>/…`, relative to
        the project's root.
    seed : int
        Seed of the phantom; other sources have none.

    Raises
    ------
    DatasetError
        Where the source cannot be reached or holds no pictures in class folders.

    Examples
    --------
    >>> open_collection("phantom").counts()  # doctest: +SKIP
    """
    if source in SOURCES:
        return SOURCES[source](seed)
    folder = paths.resolve(source)
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is not a folder. A source is {', '.join(map(repr, SOURCES))}, or a folder "
            "laid out <class>/… or <split>/<class>/…"
        )
    return open_folder(folder)


def open_phantom(seed: int = 0) -> Collection:
    """Open the synthetic collection of a seed, written into the cache folder the first time."""
    from brainlib.data import phantom  # here, because it loads SciPy

    name = f"phantom-v{phantom.PHANTOM_VERSION}-seed{seed}"
    root = paths.cache_folder() / name
    if not (root / "images.csv").is_file():  # written last, so a folder that has it is whole
        phantom.write_phantom(root, seed=seed)
    found = open_folder(root)
    return Collection("phantom", phantom.PHANTOM_VERSION, root, found.table, found.groups_from)


SOURCES: dict[str, Callable[[int], Collection]] = {
    "kaggle": lambda seed: open_kaggle(),
    "figshare": lambda seed: open_figshare(),
    "phantom": open_phantom,
}
"""What opens each source, from a seed, which only the phantom heeds."""
