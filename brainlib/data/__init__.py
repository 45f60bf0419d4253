"""Sources of images by name, the image table, and how it is split: `open_collection` first."""

from brainlib.data.sources import SOURCES, open_collection

__all__ = ["SOURCES", "open_collection"]
