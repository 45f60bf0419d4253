"""The page: widgets that take an upload and show its answers, in Voilà or in JupyterLab."""

import logging
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from brainlib import inference
from brainlib.imaging import PLANES
from brainlib.imaging.volumes import nearest_plane
from brainlib.paths import BrainlibError
from brainlib.report import drawing, html, volumes
from brainlib.report.answers import Answer, Model
from brainlib.report.app.uploads import read_uploads, upload_limit

TOGETHER = "all three"
LAYERS = ("image", "outline", "heat map")
TOOLTIPS = ("the slice alone", "tumour outline drawn by the network",
            "evidence for the answer to this slice, brightest where strongest")  # fmt: skip

_DRAWER = ThreadPoolExecutor(1, "brainlib-page")  # draws all outlines while slices are looked at

logger = logging.getLogger(__name__)


def explain(error: BrainlibError) -> ipywidgets.VBox:
    """Return a page that says why there is none."""
    problem = ipywidgets.HTML(_html("style") + _html("problems", [str(error)]))
    return ipywidgets.VBox([problem]).add_class("brainlib-page")


class Page:
    """One visitor's page: what is dropped replaces what was there before.

    Parameters
    ----------
    model : Model
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.upload = ipywidgets.FileUpload(multiple=True, description="Choose files", icon="")
        self.status = ipywidgets.HTML()
        self.answer = ipywidgets.VBox()
        self.box = ipywidgets.VBox([
            ipywidgets.HTML(_html("style") + _html("heading", upload_limit())),
            ipywidgets.VBox([self.upload]).add_class("brainlib-drop"),
            self.status.add_class("brainlib-status"),
            self.answer.add_class("brainlib-answer"),
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
            self._show(*read_uploads(self.model, uploads, self._progress))
        except BrainlibError as error:  # the rooms' own errors, which say what to do
            self._warn([str(error)])
        except Exception as error:  # whatever it is, a visitor is told, and the page goes on
            logger.exception("an upload failed")
            kind = type(error).__name__
            self._warn([f"unexpected error ({kind}): try the files one by one"])
        finally:
            self.upload.value = ()  # the files leave the memory, and may be uploaded again
            self.upload.disabled = False

    def _progress(self, slices: int) -> None:
        self.status.value = _html("busy", slices)

    def _warn(self, problems: list[str]) -> None:
        self.status.value = _html("problems", problems)

    def _show(self, answers: list[Answer], problems: list[str]) -> None:
        self._warn(problems)
        views: dict[int, StudyView] = {}

        def show(place: int) -> None:
            if place not in views:
                views[place] = StudyView(answers[place], answers)
            self.answer.children = (*[chooser] * (len(answers) > 1), views[place].box)
            views[place].add_downloads()

        options = [(str(answer), place) for place, answer in enumerate(answers)]
        chooser = ipywidgets.Select(options=options, rows=min(8, len(options)))
        chooser.add_class("brainlib-chooser").observe(lambda change: show(change["new"]), "value")
        if answers:
            show(0)


class StudyView:
    """One study: its slices to scroll through, its answer, its downloads.

    Parameters
    ----------
    answer : Answer
    answers : list of Answer
        Of the whole upload, for its table.
    """

    def __init__(self, answer: Answer, answers: list[Answer]) -> None:
        self.answer, self.answers = answer, answers
        self.numbers = sorted(answer.images)
        pixels = {number: image.pixels for number, image in answer.images.items()}
        self.volume = volumes.stack(answer.images, pixels) if self.numbers[1:] else None
        self.own_plane = nearest_plane(self.volume.affine) if self.volume else ""
        self.links = ipywidgets.HTML()
        verdict = _html("verdict", html.describe(answer))
        side = ipywidgets.VBox([ipywidgets.HTML(verdict), self.links])
        parts = [self._viewer()] if self.numbers else []
        self.box = ipywidgets.Box([*parts, side.add_class("brainlib-side")])
        self.box.add_class("brainlib-study")

    def add_downloads(self) -> None:
        """Make the files; called once the answer is on the page, because it takes longer."""
        if self.links.value:
            return
        stem = html.file_stem(self.answer.name)
        table = pd.concat([one.slices for one in self.answers], ignore_index=True)
        files = {
            "Save the report": (f"{stem}.html", html.render_report(self.answer).encode()),
            "Save predictions.csv": ("predictions.csv", inference.to_csv(table, header=True)),
        }
        self.links.value = _html("downloads", files)
        if self.numbers:
            _DRAWER.submit(self._add_outline, files, f"{stem}.outline.nii.gz")

    def _add_outline(self, files: dict[str, tuple[str, bytes]], name: str) -> None:
        if self.answer.outline is not None:
            mask = volumes.nifti_mask(self.answer.outline, self.answer.images[self.numbers[0]])
            self.links.value = _html("downloads", {**files, "Save the outline": (name, mask)})

    def _viewer(self) -> ipywidgets.VBox:
        shown = [number for number in self.answer.deciding if number in self.numbers]
        last = len(self.numbers) - 1
        first = self.numbers.index(shown[0]) if shown else last // 2
        has_maps = self.answer.draws_maps
        self.image, self.line = ipywidgets.Image(), ipywidgets.HTML()
        self.ribbon = ipywidgets.HTML(_html("ribbon", self.answer, self.numbers))
        planes = [*PLANES, *([TOGETHER] if find_spec("ipyniivue") else [])]
        self.planes = ipywidgets.ToggleButtons(options=planes, value=self.own_plane or PLANES[0])
        self.layers = ipywidgets.ToggleButtons(options=LAYERS, value=LAYERS[has_maps])
        self.layers.tooltips = TOOLTIPS
        self.slider = ipywidgets.IntSlider(first, 0, max(last, 1), readout=False)
        self.window = ipywidgets.IntRangeSlider(value=(0, 255), min=0, max=255, readout=False)
        self.zoom = ipywidgets.FloatSlider(1, min=1, max=5, step=0.25, readout=False)
        self.across, self.down = (
            ipywidgets.FloatSlider(0.5, min=0, max=1, step=0.05, readout=False) for _ in range(2)
        )
        views = {"Window": self.window, "Zoom": self.zoom, "Across": self.across, "Down": self.down}
        self.planes.observe(lambda _: self._turn(), "value")
        for control in (self.slider, self.layers, *views.values()):
            control.observe(lambda _: self._refresh(), "value")
        for control in (self.slider, *views.values()):
            control.add_class("brainlib-slider")
        labelled = [
            ipywidgets.HBox([ipywidgets.HTML(_html("label", label)), control])
            for label, control in views.items()
        ]
        self.pan = ipywidgets.HBox(labelled[2:]).add_class("brainlib-contrast")
        self._refresh()
        rows = [
            (self.volume, self.planes.add_class("brainlib-layers")),
            (self.answer.irregular, ipywidgets.HTML(_html("no_planes", self.answer.irregular))),
            (True, self.image.add_class("brainlib-image")),
            (last, self.ribbon),
            (last, self.slider),
            (True, self.line.add_class("brainlib-line")),
            (has_maps, self.layers.add_class("brainlib-layers")),
            (True, ipywidgets.HBox(labelled[:2]).add_class("brainlib-contrast")),
            (True, self.pan),
        ]
        self.rows = [row for is_shown, row in rows if is_shown]
        self.viewer = ipywidgets.VBox(self.rows).add_class("brainlib-viewer")
        return self.viewer

    @property
    def _is_turned(self) -> bool:
        """Whether slices of another plane are shown than those that were classified."""
        return self.volume is not None and self.planes.value != self.own_plane

    def _turn(self) -> None:
        """Show the slices of another plane, the middle one first, or all planes together."""
        if self.planes.value == TOGETHER:
            self.viewer.children = (self.planes, self._together())
            return
        self.viewer.children = self.rows
        count = len(self.numbers)
        if self._is_turned:
            count = self.volume.cut(self.planes.value).values.shape[2]
        self.ribbon.layout.visibility = "hidden" if self._is_turned else "visible"
        self.slider.max, self.slider.value = count - 1, count // 2
        self._refresh()

    def _together(self) -> ipywidgets.DOMWidget:
        """Return a viewer of the volume and its outline that draws with the browser's WebGL."""
        import ipyniivue

        shown = [{"name": "scan.nii", "data": self.volume.to_nifti(), "opacity": 1}]
        if self.answer.outline:
            shown.append({"name": "outline.nii", "data": self.answer.outline.to_nifti(),
                          "colormap": "blue", "cal_min": 127, "opacity": 0.4})  # fmt: skip
        viewer = ipyniivue.NiiVue(height=560, is_radiological_convention=True,
                                  sagittal_nose_left=True,
                                  multiplanar_show_render=ipyniivue.ShowRender.NEVER)  # fmt: skip
        viewer.load_volumes(shown)
        return viewer

    def _refresh(self) -> None:
        place, layer, maps = self.slider.value, self.layers.value, (None, None)
        self.pan.layout.display = "flex" if self.zoom.value > 1 else "none"
        if self._is_turned:
            plane = self.planes.value
            volume = self.volume.cut(plane)
            pixels, affine, total = volume.slice(place), volume.affine, volume.values.shape[2]
            if layer == "outline" and self.answer.outline:
                maps = self.answer.outline.cut(plane).slice(place) / np.float32(255), None
            self.line.value = _html("turned_line", plane, place + 1, total, self.own_plane)
        else:
            number = self.numbers[place]
            image = self.answer.images[number]
            pixels, affine = image.pixels, image.affine
            if layer != "image":
                outline, heat_map = self.answer.maps(number)
                maps = (outline, None) if layer == "outline" else (None, heat_map)
            self.line.value = _html("slice_line", self.answer, number)
        where = (self.zoom.value, self.across.value, self.down.value)
        shown = [None if one is None else _zoomed(one, *where) for one in (pixels, *maps)]
        drawn = drawing.draw_slice(*shown, affine, window=self.window.value)
        self.image.value = drawing.encode(drawn)


def _zoomed(values: np.ndarray, zoom: float, across: float, down: float) -> np.ndarray:
    height, width = (max(1, round(side / zoom)) for side in values.shape)
    top, left = round(down * (len(values) - height)), round(across * (values.shape[1] - width))
    return values[top : top + height, left : left + width]


def _html(macro: str, *arguments: Any) -> str:
    """Return a piece of the page; the template escapes what is put into it."""
    return str(getattr(html.TEMPLATES.get_template("app/page.html").module, macro)(*arguments))
