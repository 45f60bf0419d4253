"""The page itself: widgets that take an upload and show its answer, in Voilà or in JupyterLab."""

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np

from brainlib import explain, inference
from brainlib.paths import BrainlibError
from brainlib.report.app import drawing, wording
from brainlib.report.app.reading import Reading, Study, read_uploads
from brainlib.report.app.uploads import upload_limit

_KEPT = 200
_DRAWER = ThreadPoolExecutor(1, "brainlib-page")  # draws the next slices before they are asked for

logger = logging.getLogger(__name__)


def open_page(
    model: Path | str = "model/brain_tumor.keras", engine: str = "onnx", plane: str = "acquired"
) -> ipywidgets.VBox:
    """Return a page that takes scans and shows what the network says about them.

    Parameters
    ----------
    model, engine : as for `inference.open_classifier`
    plane : str
        As for `imaging.open_scans`.

    Returns
    -------
    VBox
        Where the model cannot be opened, it says why.
    """
    try:
        return Page(inference.open_classifier(model, engine), plane).box
    except BrainlibError as error:
        problem = f"<style>{_style()}</style>{wording.problem_list([str(error)])}"
        return ipywidgets.VBox([ipywidgets.HTML(problem)]).add_class("brainlib-page")


class Page:
    """One visitor's page: what is uploaded replaces what was there before.

    Parameters
    ----------
    classifier : Classifier
    plane : str
    """

    def __init__(self, classifier: inference.Classifier, plane: str = "acquired") -> None:
        self.classifier, self.plane = classifier, plane
        self.drawer, self.lacking = _open_drawer(classifier)
        self.upload = ipywidgets.FileUpload(multiple=True, description="Choose files", icon="")
        self.status = ipywidgets.HTML()
        self.answer = ipywidgets.VBox()
        drop = ipywidgets.VBox([self.upload]).add_class("brainlib-drop")
        self.box = ipywidgets.VBox([
            ipywidgets.HTML(f"<style>{_style()}</style>{wording.heading(upload_limit())}"),
            drop, self.status, self.answer,
        ]).add_class("brainlib-page")  # fmt: skip
        self.upload.observe(self._take, "value")

    def _take(self, change: dict[str, Any]) -> None:
        uploads = change["new"]
        if not uploads:
            return
        self.upload.disabled = True
        self.answer.children = ()
        self._progress(0)
        try:
            self._show(read_uploads(self.classifier, uploads, self.plane, self._progress))
        except BrainlibError as error:  # every room's own errors, which say what to do
            self.status.value = wording.problem_list([str(error)])
        except Exception as error:  # whatever it is, a visitor is told, and the page goes on
            logger.exception("an upload failed")
            self.status.value = wording.problem_list([_unforeseen(error)])
        finally:
            self.upload.value = ()  # the files leave the memory, and may be uploaded again
            self.upload.disabled = False

    def _progress(self, slices: int) -> None:
        self.status.value = wording.progress_line(slices)

    def _show(self, reading: Reading) -> None:
        self.status.value = wording.problem_list([*reading.problems, *self.lacking])
        views: dict[int, StudyView] = {}

        def show(number: int) -> None:
            if number not in views:
                views[number] = StudyView(self, reading, reading.studies[number])
            self.answer.children = (*chooser, views[number].box)
            views[number].finish()

        chooser = ()
        if len(reading.studies) > 1:
            rules = self.classifier.rules
            options = [
                (wording.label(one, rules), number) for number, one in enumerate(reading.studies)
            ]
            chosen = ipywidgets.Select(options=options, value=0, rows=min(8, len(options)))
            chosen.observe(lambda change: show(change["new"]), "value")
            chooser = (chosen.add_class("brainlib-chooser"),)
        if reading.studies:
            show(0)


class StudyView:
    """One study: its slices to scroll through, its answer, its downloads.

    Parameters
    ----------
    page : Page
    reading : Reading
    study : Study
    """

    def __init__(self, page: Page, reading: Reading, study: Study) -> None:
        self.page, self.study = page, study
        self.maps = lru_cache(maxsize=None)(self._maps)
        self.drawn = lru_cache(maxsize=_KEPT)(self._drawn)
        self.links = ipywidgets.HTML()
        facts = [ipywidgets.HTML(wording.verdict(study, page.classifier.rules)), self.links]
        side = ipywidgets.VBox(facts).add_class("brainlib-side")
        self.box = ipywidgets.Box([self._viewer(), side]).add_class("brainlib-study")
        self.reading = reading

    def finish(self) -> None:
        """Make the report; called once the answer is on the page, because it takes longer."""
        if not self.links.value:
            self.links.value = wording.downloads(self._report(), self.reading.predictions)

    def _viewer(self) -> ipywidgets.VBox:
        last, deciding = len(self.study.slices) - 1, self.study.deciding
        self.slider = ipywidgets.IntSlider(
            deciding[0] if deciding else last // 2, 0, max(last, 1), readout=False
        )
        self.layers = ipywidgets.ToggleButtons(options=drawing.LAYERS)
        if self.page.drawer is not None:
            self.layers.value = "outline"
        self.picture, self.line = ipywidgets.Image(), ipywidgets.HTML()
        self.slider.observe(self._refresh, "value")
        self.layers.observe(lambda _: self._refresh(), "value")
        self._refresh()
        parts: list[ipywidgets.Widget] = [self.picture.add_class("brainlib-picture")]
        if last:
            ribbon = ipywidgets.HTML(wording.ribbon(self.study))
            parts += [ribbon, self.slider.add_class("brainlib-slider")]
        parts.append(self.line.add_class("brainlib-line"))
        if self.page.drawer is not None:
            parts.append(self.layers.add_class("brainlib-layers"))
        return ipywidgets.VBox(parts).add_class("brainlib-viewer")

    def _refresh(self, change: dict[str, Any] | None = None) -> None:
        place, layer = self.slider.value, self.layers.value
        with self.picture.hold_sync():  # both in one message, or the browser shows one of each
            self.picture.format, self.picture.value = self.drawn(place, layer)
        self.line.value = wording.slice_line(self.study, place)
        step = 1 if change is None or place >= change["old"] else -1
        for ahead in (place + step, place + 2 * step, place - step):
            if 0 <= ahead < len(self.study.slices):
                _DRAWER.submit(self.drawn, ahead, layer)

    def _drawn(self, place: int, layer: str) -> tuple[str, bytes]:
        outline, heat_map = (None, None) if layer == "picture" else self.maps(place)
        return drawing.draw_slice(self.study.slices[place].pixels, layer, outline, heat_map)

    def _maps(self, place: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return outline and heat map of a slice, nothing where it was refused."""
        if self.page.drawer is None or not self.study.table["class"].iloc[place]:
            return None, None
        maps = explain.draw_maps(self.page.drawer, [self.study.slices[place].pixels])
        return maps.outlines[0], maps.heat_maps[0]

    def _report(self) -> str:
        """Return the report, empty where the model has no rules or no gate to report of."""
        classifier = self.page.classifier
        if classifier.rules is None or classifier.gate is None:
            return ""
        from brainlib import report

        numbers = self.study.table["slice"]
        pictures = {
            int(numbers.iloc[place]): self.study.slices[place].pixels
            for place in self.study.deciding
        }
        maps = None
        if self.page.drawer is not None and pictures:
            maps = explain.draw_maps(self.page.drawer, pictures.values())
        return report.render_report(
            self.study.answer, self.study.rows, pictures, maps, classifier.rules,
            engine=classifier.engine,
        )  # fmt: skip


def _open_drawer(classifier: inference.Classifier) -> tuple[Any, list[str]]:
    """Return what draws maps, None where the model has none; and why, where it should have some."""
    try:
        return explain.open_drawer(classifier.model, classifier.engine), []
    except BrainlibError as error:
        return None, [f"No outline and no heat map can be drawn: {error}."]


def _unforeseen(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "The upload does not fit into the memory: choose fewer files."
    if isinstance(error, OSError):
        return f"The upload could not be written to a temporary folder ({error.strerror})."
    return (
        f"This upload cannot be classified, for a reason that was not foreseen "
        f"({type(error).__name__}): try its files one by one."
    )


def _style() -> str:
    return resources.files("brainlib.report.app").joinpath("page.css").read_text("utf-8")
