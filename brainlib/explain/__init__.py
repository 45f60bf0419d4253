"""Heat maps and outlines of a model, and how well they hit the tumour.

A map covers the square that the model scales an image into: centred, the image's longer side
filling it. Points are fractions of the image's width and height, so that they hold for a copy of
any size. Peaks are scored as in the pointing game (Zhang et al., 2016), overlap by Dice (1945).
"""

# ruff: noqa: F401

from brainlib.explain.maps import Maps, draw_maps, map_in_image
from brainlib.explain.outlines import OUTLINE_THRESHOLD, known_outlines, read_outline
from brainlib.explain.scores import COLUMNS, choose_examples, read_maps, read_scores, score_maps
