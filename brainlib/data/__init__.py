"""Image tables from named sources, and their splits: `open_collection` is the entry point."""

from brainlib.data.datasets import Collection, open_folder
from brainlib.data.sources import SOURCES, open_collection

__all__ = ["SOURCES", "Collection", "open_collection", "open_folder"]
