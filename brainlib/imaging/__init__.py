"""From a path to grey 8-bit pixels: images, DICOM and NIfTI; from an image table to one array.

`pictures` decodes images and caches whole collections of them, `outlines` draws their tumours.
`scans` gives the slices of whatever lies at a path, through `dicom` (with `decoding` and `codecs`)
and `nifti`; `geometry` turns them the way they are looked at. Files are recognised by their
content, whatever their name ends with; what is wrong with one is said in the words of `errors`, and
`threads` lets many be read at once.
"""

from brainlib.imaging.errors import ImageError
from brainlib.imaging.images import (
    CACHE_VERSION,
    UNREADABLE_LIMIT,
    LoadedImages,
    file_formats,
    grey_histograms,
    load_images,
    read_image,
    resize,
    sample_images,
)
from brainlib.imaging.outlines import draw_outlines, draw_polygon
from brainlib.imaging.scans import list_scans, open_scans, read_scan
from brainlib.imaging.slices import PLANES, Scan, ScanSlice, robust_range, to_grey

__all__ = [
    "CACHE_VERSION",
    "PLANES",
    "UNREADABLE_LIMIT",
    "ImageError",
    "LoadedImages",
    "Scan",
    "ScanSlice",
    "draw_outlines",
    "draw_polygon",
    "file_formats",
    "grey_histograms",
    "list_scans",
    "load_images",
    "open_scans",
    "read_image",
    "read_scan",
    "resize",
    "robust_range",
    "sample_images",
    "to_grey",
]
