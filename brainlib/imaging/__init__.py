"""Scans to grey 8-bit slices, whatever their format; image tables to one cached array.

`scans` recognises files by their content and gives their slices, through `images`, `volumes`
(NIfTI, Analyze, MGH) and `dicom`. What is wrong with a file is an `ImageError` on one line.
"""

# ruff: noqa: F401

from brainlib.imaging.errors import ImageError
from brainlib.imaging.images import (
    LoadedImages,
    draw_outlines,
    draw_polygon,
    file_formats,
    grey_histograms,
    load_images,
    read_image,
    resize,
    sample_images,
)
from brainlib.imaging.scans import list_scans, open_scans, read_scan, require_plane
from brainlib.imaging.slices import PLANES, Scan, ScanSlice, robust_range, to_grey, to_luma
