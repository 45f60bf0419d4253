"""A classified study: its rows, its slices, and what the network draws on them."""

from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import PurePath
from typing import Any, Self

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES, explain, imaging, inference
from brainlib.imaging.errors import one_line
from brainlib.inference.rules import study_set
from brainlib.report.volumes import Stack, stack

KEPT = 100
"""Slices whose maps are kept."""


class ClassifiedStudy:
    """What the network says about one scan: an image, a volume or a series.

    Attributes
    ----------
    study : mapping
        A row of `studies.csv`: counts of slices, class, probabilities, `deciding`, `decision`.
    slices : DataFrame
        The rows of `predictions.csv` that it was pooled from.
    images : dict of int to ScanSlice
        The slices that could be read, by their number; those to show are enough.
    classifier : Classifier
    label : str or None
        The most probable class; None where there is no answer, and `decision` says why.
    probabilities : dict of str to float
        The probability of each class, in the order of `CLASS_NAMES`; empty without an answer.
    set : tuple of str
        The conformal set: the classes that cannot be ruled out; empty without rules.
    decision : str
        `accepted`, `undecided`, or `unjudged`, `incomplete`, `refused`, `unreadable` and why.
    deciding : list of int
        Numbers of the slices that decided, from 1, the most telling first.
    draws_maps : bool
        Whether the model shows where it looks.
    """

    def __init__(
        self, study: Mapping[str, Any], slices: pd.DataFrame,
        images: dict[int, imaging.ScanSlice], classifier: inference.Classifier,
    ) -> None:  # fmt: skip
        self.study, self.slices, self.images, self.classifier = study, slices, images, classifier
        self.rules, self.draws_maps = classifier.rules, classifier.predict.draws_maps
        self.label, self.decision = study["class"] or None, study["decision"]
        named = CLASS_NAMES if self.label else ()
        self.probabilities = {name: float(study[name]) for name in named}
        self.set = study_set(self.rules, study)
        numbers = str(study["deciding"]).replace(".0", "").split()
        self.deciding = [int(number) for number in numbers]
        self._once_drawn = lru_cache(KEPT)(lambda number: next(self._drawn([number]), (None, None)))

    @classmethod
    def of_tables(
        cls, classifier: inference.Classifier, predictions: pd.DataFrame, studies: pd.DataFrame
    ) -> Iterator[Self]:
        """Give the studies of the two tables of a folder, without their images."""
        tables = inference.rows_of_studies(predictions, studies)
        for study, rows in zip(studies.to_dict("records"), tables, strict=True):
            yield cls(study, rows, {}, classifier)

    @property
    def name(self) -> str:
        """The file below the folder that was named, or folder and series of DICOM files.

        Folders above, which may name a patient, are left out unless they tell two studies apart.
        """
        return one_line(self.study["series"] or file_name(self.study["path"]))

    @property
    def path(self) -> str:
        """The file, or the folder of a series; with the path inside an archive."""
        path, series = str(self.study["path"]), self.study["series"]
        inside = series.partition(f"{PurePath(path).name}/")[2]
        return path if path.endswith(series) or not inside else f"{path}/{inside}"

    @property
    def facts(self) -> Mapping[str, str]:
        """What the file says of the series, such as its sequence and contrast."""
        return next((image.facts for image in self.images.values()), {})

    @property
    def irregular(self) -> str:
        """Why the slices form no regular volume; empty where they do."""
        return next((image.irregular for image in self.images.values()), "")

    def maps(self, number: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return outline and heat map of a slice, in its own pixels; None where none are drawn.

        Of the outline 0.5 and more is tumour; the heat map is 1 where most speaks for the answer.
        An answer without tumour has no heat map: it would colour what speaks for an absence.
        """
        outline, heat_map = self._once_drawn(number)
        if outline is None or self.row(number)["class"] == "notumor":
            return outline, None
        return outline, heat_map.clip(0) / max(heat_map.max(), 1e-9)

    @cached_property
    def outline(self) -> Stack | None:
        """The outline of every classified slice as one volume, 0 to 255.

        None where there is no answer, no slice was called tumour, or the slices do not lie on one
        grid.
        """
        if not self.label or not self.study["tumor_slices"]:
            return None
        numbers = [number for number in self.images if self.row(number)["class"]]
        drawn = zip(numbers, self._drawn(numbers), strict=False)
        outlines = {number: (255 * maps[0]).astype(np.uint8) for number, maps in drawn}
        whole = stack(self.images, outlines)
        return whole if whole is not None and whole.values.max() >= 128 else None

    def row(self, number: int) -> Mapping[str, Any]:
        """Return the row of `slices` of a slice."""
        return self.slices[self.slices["slice"] == number].iloc[0]

    def _drawn(self, numbers: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if not self.draws_maps or not all(self.row(number)["class"] for number in numbers):
            return iter(())
        pixels = (self.images[number].pixels for number in numbers)
        drawn = explain.draw_maps(self.classifier.predict, pixels)
        return ((maps.outline, maps.heat_map) for maps in drawn)


def file_name(path: Any) -> str:
    """Return the name of a file without its folders, which may name a patient."""
    return one_line(PurePath(str(path).replace("\\", "/")).name)
