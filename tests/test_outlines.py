"""Outlines: drawn where the tumour is, in the frame that they are counted in."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainlib import imaging
from brainlib.data import datasets

SQUARE = json.dumps([[8, 16], [24, 16], [24, 32], [8, 32]])


def table_of(**columns):
    row = {"path": "a.png", "label": "glioma", "outline": SQUARE, "outline_frame": ""}
    return pd.DataFrame([row | columns])


@pytest.fixture
def root(tmp_path):
    Image.new("L", (64, 32)).save(tmp_path / "a.png")
    return tmp_path


def test_an_outline_counts_in_the_pixels_of_its_picture(root):
    masks, known = imaging.draw_outlines(table_of(), root, 64)
    assert known.all() and masks.dtype == np.uint8 and masks.shape == (1, 64, 64)
    rows, columns = np.nonzero(masks[0] > 127)
    assert (columns.min(), columns.max()) == (8, 23)
    assert 31 <= rows.min() <= 33 and rows.max() >= 62  # the picture is half as high as wide


def test_an_outline_with_a_frame_needs_no_file(tmp_path):
    masks, _ = imaging.draw_outlines(table_of(outline_frame=64), tmp_path, 32)
    assert (masks[0] > 127).sum() == pytest.approx(8 * 8, abs=10)


def test_a_border_pixel_has_the_share_that_lies_inside():
    half = imaging.draw_polygon(np.array([[0, 0], [2.5, 0], [2.5, 4], [0, 4]]), 4)
    assert half[1, 0] == 255 and half[1, 3] == 0 and 90 < half[1, 2] < 200


def test_what_is_known_of_a_picture_without_outline(tmp_path):
    table = pd.concat([table_of(outline="", label=label) for label in ("glioma", "notumor")])
    masks, known = imaging.draw_outlines(table, tmp_path, 16)
    assert known.tolist() == [False, True] and not masks.any()


def test_the_published_outlines_are_whole_and_turned_with_mirrored_pictures():
    published = datasets.read_outlines()
    assert len(published) == 3064
    points = json.loads(published["1"])
    turned = json.loads(datasets._oriented(published["1"], mirrored=True))
    assert [[round(512 - x, 1), y] for x, y in points] == turned
    assert datasets._oriented(published["1"], mirrored=False) == published["1"]
