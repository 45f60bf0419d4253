"""Any scan to an answer: `brainlib.load()` and what a call of it returns."""

import io
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from html import escape
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from brainlib import __version__, imaging, inference, paths
from brainlib.imaging.errors import reading
from brainlib.inference.studies import study_keys
from brainlib.paths import BrainlibError
from brainlib.report import drawing, html, words
from brainlib.report.study import ClassifiedStudy

logger = logging.getLogger(__name__)


class Answer(ClassifiedStudy):
    """A study that prints as one line, is shown, and writes its report.

    Examples
    --------
    >>> import brainlib, numpy as np
    >>> answer = brainlib.load()(np.zeros((224, 224), np.uint8))
    >>> answer
    Answer(array: refused: it is blank)
    >>> answer.label, answer.decision
    (None, 'refused: it is blank')
    """

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain Python values, ready for JSON, named as in the tables."""
        counts = ("slices", "accepted", "refused", "unreadable", "gaps", "tumor_slices")
        left_out = words.left_out(self.slices)
        return {
            "series": self.study["series"],
            "path": self.path,
            "class": self.label,
            "probabilities": self.probabilities,
            "set": list(self.set),
            "decision": self.decision,
            **{name: int(self.study[name]) for name in counts},
            "deciding": self.deciding,
            "remarks": [": ".join(pair) for pairs in left_out.values() for pair in pairs],
            "facts": dict(self.facts),
            "model": self.classifier.model.stem,
            "version": __version__,
        }

    def to_frame(self) -> pd.DataFrame:
        """Return the row of `studies.csv`."""
        return Answers([self]).to_frame()

    def show(self, number: int | None = None) -> Image.Image:
        """Return a slice with the outline drawn on it.

        A notebook displays it; elsewhere save it, as in `answer.show().save("slice.png")`.

        Parameters
        ----------
        number : int, optional
            Of the slice, from 1; by default the one that decided.

        Raises
        ------
        BrainlibError
            Where there is no such slice, or none that could be read.
        """
        numbers = [number] if number is not None else [*self.deciding, *self.images]
        if not numbers or numbers[0] not in self.images:
            shown = f"{self.name} has no slice {number or ''} to show"
            raise BrainlibError(shown.replace("  ", " "))
        image = self.images[numbers[0]]
        return drawing.draw_slice(image.pixels, self.maps(numbers[0])[0], affine=image.affine)

    def report(self, path: Path | str) -> Path:
        """Write the report as one HTML file."""
        return html.write_report(path, self)

    def __str__(self) -> str:
        return words.line(self)

    def __repr__(self) -> str:
        return f"Answer({words.line(self)})"

    def _repr_html_(self) -> str:
        # a name with two dollar signs is no formula
        return f'<p class="mathjax_ignore tex2jax_ignore">{escape(words.line(self))}</p>'


class Answers(list):
    """Answers to several scans; a list that prints one a line."""

    def to_frame(self) -> pd.DataFrame:
        """Return the rows of `studies.csv`."""
        return pd.DataFrame([one.study for one in self], columns=list(inference.STUDY_COLUMNS))

    def to_dict(self) -> list[dict[str, Any]]:
        """Return each answer as plain Python values, ready for JSON."""
        return [one.to_dict() for one in self]

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "Answers()"


class Model:
    """A classifier that takes scans in any form.

    Parameters
    ----------
    classifier : Classifier
    plane : str
        How volumes are cut: `acquired`, `axial`, `coronal` or `sagittal`.
    """

    def __init__(self, classifier: inference.Classifier, plane: str = "acquired") -> None:
        imaging.require_plane(plane)
        self.classifier, self.plane = classifier, plane

    def __repr__(self) -> str:
        return f"Model({self.classifier.model.stem}, {self.classifier.engine}, {self.plane})"

    def __call__(self, scan: Any) -> Answer | Answers:
        """Classify a scan, or several.

        Parameters
        ----------
        scan : path, array, PIL image, bytes, or a list of these
            A path names an image, a DICOM file, a NIfTI volume, or a folder of them. An array is a
            grey image (height, width), an RGB image (height, width, 3), or slices of one study
            (n, height, width); values that are not uint8 are scaled from their percentiles 0.5 and
            99.5. Bytes are the content of a file. A file or folder that cannot be read gets an
            answer that says why, and in a list so does what is no scan; there, what has no name is
            called by its position, such as `array 2`.

        Returns
        -------
        Answer, or Answers
            `Answers` for a list, and for a folder or archive with several studies.

        Raises
        ------
        ImageError
            Where the object is no scan, or there is nothing at the path; not of a list.
        BrainlibError
            Where the model does not give four probabilities.
        """
        if isinstance(scan, list | tuple):
            numbered = enumerate(scan, 1)
            return Answers(answer for number, one in numbered
                           for answer in self._answers_in_list(one, f" {number}"))  # fmt: skip
        answers = list(self._answers_to(scan))
        return answers[0] if len(answers) == 1 else Answers(answers)

    def _answers_in_list(self, scan: Any, number: str) -> Iterator[Answer]:
        try:
            yield from self._answers_to(scan, number)
        except imaging.ImageError as error:
            is_path, kind = isinstance(scan, str | Path), type(scan).__name__
            name = str(scan) if is_path else f"{kind.removeprefix('nd')}{number}"
            slices = [imaging.ScanSlice(Path(name), name, error=f"{name}: {error}")]
            yield from self._answer(slices)

    def _answers_to(self, scan: Any, number: str = "") -> Iterator[Answer]:
        if isinstance(scan, np.ndarray):
            yield from self._answer(_slices_of(scan, f"array{number}"))
        elif isinstance(scan, str | Path):
            path = scan and paths.given(scan)
            yield from self.answers(inference.name_scans(imaging.list_scans(path, self.plane)))
        else:
            with paths.temporary_folder() as folder:
                file = folder / f"scan{number}"
                file.write_bytes(_content_of(scan))
                scans = imaging.list_scans(file, self.plane)
                yield from self.answers(scans, hidden=str(folder))

    def answers(
        self,
        scans: Iterable[imaging.Scan],
        watch: Callable[[Iterator[imaging.ScanSlice]], Iterator[imaging.ScanSlice]] = iter,
        hidden: str = "",
    ) -> Iterator[Answer]:
        """Give an answer for each scan, in order; one part of them is in memory at a time.

        Parameters
        ----------
        scans : iterable of Scan
            As `imaging.list_scans` gives them.
        watch : function
            What slices pass through once they were read, such as to show progress.
        hidden : str
            A temporary folder that no answer should name.
        """
        for part in inference.cut(scans):
            read = (one for scan in part for one in inference.read_slices(scan, self.plane))
            yield from self._answer(watch(read), hidden)

    def _answer(self, slices: Iterable[imaging.ScanSlice], hidden: str = "") -> Iterator[Answer]:
        slices, kept = tee(slices)
        table, read = inference.classify(self.classifier, slices), list(kept)
        if hidden:
            names = ["path", "series", "error"]
            table[names] = table[names].replace(f"{re.escape(hidden)}/?", "", regex=True)
        keys = study_keys(table)
        for study in inference.summarise(self.classifier, table).to_dict("records"):
            rows = table[keys == study["series"]]
            images = {read[row].number + 1: read[row] for row in rows.index
                      if read[row].pixels is not None}  # fmt: skip
            yield Answer(study, rows.reset_index(drop=True), images, self.classifier)


def load(model: Path | str | None = None, engine: str = "onnx", plane: str = "acquired") -> Model:
    """Load a model that takes scans in any form.

    Parameters
    ----------
    model : path of a model file
        The released model by default. A warning names the gate or the rules that a model lacks.
    engine : str
        `onnx`, which needs no TensorFlow, or `keras`, which also takes the place of an absent ONNX
        file, with a warning; not for a released model.
    plane : str
        How volumes are cut: `acquired`, `axial`, `coronal` or `sagittal`.

    Raises
    ------
    BrainlibError
        Where the model, its engine, its gate or its rules cannot be opened, or there is no such
        plane.

    Examples
    --------
    >>> import brainlib
    >>> model = brainlib.load()
    >>> model("scan.dcm").show()  # doctest: +SKIP
    """
    file = paths.resolve(paths.released_model() if model is None else model)
    endings = (".onnx", ".keras", ".release.json")
    there = {ending for ending in endings if file.with_suffix(ending).exists()}
    # a released model, which has a manifest, is whole
    is_unexported = engine == "onnx" and there == {".keras"} and file.suffix in endings
    classifier = inference.open_classifier(model, "keras" if is_unexported else engine)
    if is_unexported:
        logger.warning("%s is absent: Keras runs the model, more slowly; write the file with "
                       "brainlib.models.export.export_onnx", file.with_suffix(".onnx"))  # fmt: skip
    parts = {".gate.npz": classifier.gate, ".rules.json": classifier.rules}
    absent = [file.with_suffix(ending).name for ending, part in parts.items() if part is None]
    if absent:
        logger.warning("answers are unjudged, for there is no %s beside %s: see docs/own_models.md",
                       " or ".join(absent), file)  # fmt: skip
    return Model(classifier, plane)


def _slices_of(array: np.ndarray, name: str) -> list[imaging.ScanSlice]:
    """Return the slices of an array as `Model` takes it."""
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or not array.size or array.dtype.kind not in "buif":
        raise imaging.ImageError(
            f"an array of shape {array.shape} and type {array.dtype} is no scan: give numbers of "
            "shape (height, width), (height, width, 3) or (n, height, width)"
        )
    grey = array
    if array.dtype != np.uint8:
        values = array.astype(float)
        grey = imaging.to_grey(values, *imaging.robust_range(values))
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        try:
            grey = np.rint(imaging.to_luma(grey[..., :3])).astype(np.uint8)
        except imaging.ImageError as error:
            return [imaging.ScanSlice(Path(name), name, error=f"{name}: {error}")]
    stack = grey if grey.ndim == 3 else grey[np.newaxis]
    return [
        imaging.ScanSlice(Path(name), name, number, pixels=np.ascontiguousarray(pixels))
        for number, pixels in enumerate(stack)
    ]


def _content_of(scan: Any) -> bytes:
    """Return the content of a file for bytes, a binary file or a PIL image."""
    if isinstance(scan, bytes | bytearray | memoryview):
        return bytes(scan)
    if hasattr(scan, "read"):
        return scan.read()
    if not hasattr(scan, "save"):
        raise imaging.ImageError(
            f"an object of type {type(scan).__name__} is no scan: give a path, an array, "
            "a PIL image, the bytes of a file, or a list of these"
        )
    stream = io.BytesIO()
    with reading():  # the image may be empty, or its file cut short
        scan.save(stream, "TIFF")  # which takes every mode
    return stream.getvalue()
