"""Image tables from named sources, and their splits: `open_collection` is the entry point."""

from brainlib.data.sources import SOURCES, open_collection

__all__ = ["SOURCES", "open_collection"]
