"""From a model and pictures to maps of where it looks, and how well they hit the tumour.

A map covers the square that the model scales a picture into: centred, the picture's longer side
filling it. Places are given as fractions of the picture's width and height, so that they hold for a
copy of any size. Hits are counted as in the pointing game of Zhang et al. (2016), overlap is that
of Dice (1945).

`maps` draws them, `outlines` knows the radiologist's and the frames that points are given in,
`scores` holds one against the other.
"""

from brainlib.explain.maps import (
    MAP_SIZE,
    ExplainError,
    Maps,
    draw_maps,
    draws_maps,
    map_in_picture,
    open_drawer,
)
from brainlib.explain.outlines import OUTLINE_THRESHOLD, known_outlines, read_outline
from brainlib.explain.scores import (
    COLUMNS,
    SCORES,
    choose_examples,
    no_scores,
    read_maps,
    read_scores,
    score_map,
    score_maps,
)

__all__ = [
    "COLUMNS",
    "MAP_SIZE",
    "OUTLINE_THRESHOLD",
    "SCORES",
    "ExplainError",
    "Maps",
    "choose_examples",
    "draw_maps",
    "draws_maps",
    "known_outlines",
    "map_in_picture",
    "no_scores",
    "open_drawer",
    "read_maps",
    "read_outline",
    "read_scores",
    "score_map",
    "score_maps",
]
