"""Outlines: drawn on the tumour, in the frame that they refer to."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainlib import imaging

SQUARE = json.dumps([[8, 16], [24, 16], [24, 32], [8, 32]])


def make_table(**columns):
    row = {"path": "a.png", "label": "glioma", "outline": SQUARE, "outline_frame": ""}
    return pd.DataFrame([row | columns])


def test_an_outline_is_in_the_pixels_of_its_image(tmp_path):
    Image.new("L", (64, 32)).save(tmp_path / "a.png")
    masks, known = imaging.draw_outlines(make_table(), tmp_path, 64)
    assert known.all() and masks.dtype == np.uint8 and masks.shape == (1, 64, 64)
    rows, columns = np.nonzero(masks[0] > 127)
    assert (columns.min(), columns.max()) == (8, 23)
    assert 31 <= rows.min() <= 33 and rows.max() >= 62  # the image is half as high as wide


def test_an_outline_with_a_frame_needs_no_file(tmp_path):
    masks, _ = imaging.draw_outlines(make_table(outline_frame=64), tmp_path, 32)
    assert (masks[0] > 127).sum() == pytest.approx(8 * 8, abs=10)


def test_a_border_pixel_has_the_share_that_lies_inside():
    half = imaging.draw_polygon(np.array([[0, 0], [2.5, 0], [2.5, 4], [0, 4]]), 4)
    assert half[1, 0] == 255 and half[1, 3] == 0 and 90 < half[1, 2] < 200


def test_an_image_without_outline_is_known_only_without_tumour(tmp_path):
    table = pd.concat([make_table(outline="", label=label) for label in ("glioma", "notumor")])
    masks, known = imaging.draw_outlines(table, tmp_path, 16)
    assert known.tolist() == [False, True] and not masks.any()
