"""Registry of image sources. The module of a source is imported when it is opened."""

from collections.abc import Callable
from importlib import import_module

from brainlib import paths
from brainlib.data.datasets import Collection, open_folder


def open_collection(source: str = "kaggle", seed: int = 0) -> Collection:
    """Open a source and list its images.

    Parameters
    ----------
    source : str
        A key of `SOURCES`, or a folder laid out `<class>/…` or `<split>/<class>/…`, relative to
        the project's root.
    seed : int
        Seed of the phantom; the other sources ignore it.

    Raises
    ------
    BrainlibError
        If the source cannot be reached or holds no images in class folders.

    Examples
    --------
    >>> open_collection("phantom").counts()  # doctest: +SKIP
    """
    if source in SOURCES:
        with paths.needs_extra("notebooks"):
            return SOURCES[source](seed)
    folder = paths.resolve(source)
    if not folder.is_dir():
        raise paths.BrainlibError(f"{folder} is not a folder. A source is {describe_sources()}")
    return open_folder(folder)


def describe_sources() -> str:
    """Return the names that a source can have, for help texts and error messages."""
    return f"{', '.join(map(repr, SOURCES))}, or a folder laid out <class>/… or <split>/<class>/…"


SOURCES: dict[str, Callable[[int], Collection]] = {
    "kaggle": lambda seed: import_module("brainlib.data.kaggle").open_kaggle(),
    "figshare": lambda seed: import_module("brainlib.data.figshare").open_figshare(),
    "phantom": lambda seed: import_module("brainlib.data.phantom").open_phantom(seed),
}
"""Opens each source, given a seed. To add one: `SOURCES["mine"] = lambda seed: open_folder(…)`."""
