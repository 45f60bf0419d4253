"""The page: widgets that take an upload and show its answers, in Voilà or in JupyterLab."""

import base64
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from brainlib import CLASS_COLORS, inference
from brainlib.imaging import PLANES
from brainlib.imaging.volumes import nearest_plane
from brainlib.paths import BrainlibError
from brainlib.report import drawing, html, volumes, words
from brainlib.report.answers import Answer, Model, load
from brainlib.report.app.uploads import read_uploads, upload_limit

LAYERS = ("image", "outline", "heat map")
TOOLTIPS = ("the slice alone", "where the network draws a tumour",
            "what speaks for the answer to this slice, brightest where most")  # fmt: skip

_KEPT = 200
_MOST_PROBLEMS = 8
_DRAWER = ThreadPoolExecutor(1, "brainlib-page")  # draws the next slices before they are asked for

logger = logging.getLogger(__name__)


def open_page(
    model: Path | str = "", engine: str = "onnx", plane: str = "acquired"
) -> ipywidgets.VBox:
    """Return a page that takes scans and shows what the network says about them.

    Parameters are those of `load`. Where the model cannot be opened, the page says why.
    """
    try:
        return Page(load(model, engine, plane)).box
    except BrainlibError as error:
        problem = f"<style>{_style()}</style>{_html('problems', [str(error)])}"
        return ipywidgets.VBox([ipywidgets.HTML(problem)]).add_class("brainlib-page")


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
        head = f"<style>{_style()}</style>{_html('heading', upload_limit())}"
        self.box = ipywidgets.VBox([
            ipywidgets.HTML(head),
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
            self._warn([_unforeseen(error)])
        finally:
            self.upload.value = ()  # the files leave the memory, and may be uploaded again
            self.upload.disabled = False

    def _progress(self, slices: int) -> None:
        self.status.value = _html("busy", slices)

    def _warn(self, problems: list[str]) -> None:
        if len(problems) > _MOST_PROBLEMS:
            more = len(problems) - _MOST_PROBLEMS + 1
            problems = [*problems[: _MOST_PROBLEMS - 1], f"And {more} more like these."]
        self.status.value = _html("problems", [_sentence(one) for one in problems])

    def _show(self, answers: list[Answer], problems: list[str]) -> None:
        no_maps = self.model.drawer is None and self.model.drawer_error
        self._warn([*problems, f"No outline can be drawn: {no_maps}"] if no_maps else problems)
        views: dict[int, StudyView] = {}

        def show(place: int) -> None:
            if place not in views:
                views[place] = StudyView(answers[place], answers)
            self.answer.children = (*chooser, views[place].box)
            views[place].add_downloads()

        chooser = ()
        if len(answers) > 1:
            options = [(str(answer), place) for place, answer in enumerate(answers)]
            chosen = ipywidgets.Select(options=options, value=0, rows=min(8, len(options)))
            chosen.observe(lambda change: show(change["new"]), "value")
            chooser = (chosen.add_class("brainlib-chooser"),)
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
        self.volume = volumes.stack(answer.images, answer.pixels)
        self.own_plane = nearest_plane(self.volume.affine) if self.volume else ""
        self.drawn = lru_cache(maxsize=_KEPT)(self._drawn)
        self.cut = lru_cache(maxsize=2 * len(PLANES))(self._cut)
        self.links = ipywidgets.HTML()
        verdict = _html("verdict", html.describe(answer), CLASS_COLORS)
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
        links = [
            _link("Save the report", f"{stem}.html", html.render_report(self.answer).encode()),
            _link("Save predictions.csv", "predictions.csv", inference.to_csv(table, header=True)),
        ]
        self.links.value = _html("downloads", links)
        if self.volume and self.answer.study["tumor_slices"]:
            _DRAWER.submit(self._add_outline, links, f"{stem}.outline.nii.gz")

    def _add_outline(self, links: list[tuple[str, str, str]], name: str) -> None:
        if self.answer.outline is not None:
            image = self.answer.images[self.numbers[0]]
            content = volumes.nifti_mask(self.answer.outline, image)
            self.links.value = _html(
                "downloads", [*links, _link("Save the outline", name, content)]
            )

    def _viewer(self) -> ipywidgets.VBox:
        shown = [one for one in self.answer.deciding if one in self.numbers]
        last = len(self.numbers) - 1
        first = self.numbers.index(shown[0]) if shown else last // 2
        has_maps = self.answer.model.drawer is not None
        self.slider = ipywidgets.IntSlider(first, 0, max(last, 1), readout=False)
        self.layers = ipywidgets.ToggleButtons(
            options=LAYERS, value=LAYERS[has_maps], tooltips=TOOLTIPS
        )
        self.planes = ipywidgets.ToggleButtons(options=PLANES, value=self.own_plane or PLANES[0])
        self.window = ipywidgets.IntRangeSlider(value=(0, 255), min=0, max=255, readout=False)
        self.zoom = ipywidgets.FloatSlider(1, min=1, max=5, step=0.25, readout=False)
        self.across, self.down = (
            ipywidgets.FloatSlider(0.5, min=0, max=1, step=0.05, readout=False) for _ in range(2)
        )
        self.image, self.line = ipywidgets.Image(), ipywidgets.HTML()
        self.ribbon = ipywidgets.HTML(self._ribbon())
        self.planes.observe(lambda _: self._turn(), "value")
        views = {"Window": self.window, "Zoom": self.zoom, "Across": self.across, "Down": self.down}
        for control in (self.slider, self.layers, *views.values()):
            control.observe(self._refresh, "value")
        labelled = [
            ipywidgets.HBox([ipywidgets.HTML(_html("label", label)), control])
            for label, control in views.items()
        ]
        for control in (self.slider, *views.values()):
            control.add_class("brainlib-slider")
        self.pan = ipywidgets.HBox(labelled[2:]).add_class("brainlib-contrast")
        self._refresh()
        rows = [
            (self.volume, self.planes.add_class("brainlib-layers")),
            (True, self.image.add_class("brainlib-image")),
            (last, self.ribbon),
            (last, self.slider),
            (True, self.line.add_class("brainlib-line")),
            (has_maps, self.layers.add_class("brainlib-layers")),
            (True, ipywidgets.HBox(labelled[:2]).add_class("brainlib-contrast")),
            (True, self.pan),
        ]
        return ipywidgets.VBox([row for is_shown, row in rows if is_shown]).add_class(
            "brainlib-viewer"
        )

    @property
    def _is_turned(self) -> bool:
        """Whether slices of another plane are shown than those that were classified."""
        return self.volume is not None and self.planes.value != self.own_plane

    def _turn(self) -> None:
        """Show the slices of another plane, the middle one first."""
        count = len(self.numbers)
        if self._is_turned:
            count = self.cut(self.planes.value, "image").values.shape[2]
        self.ribbon.layout.visibility = "hidden" if self._is_turned else "visible"
        self.slider.max, self.slider.value = count - 1, count // 2
        self._refresh()

    def _cut(self, plane: str, layer: str) -> volumes.Stack | None:
        whole = self.volume if layer == "image" else self.answer.outline
        return whole and whole.cut(plane)

    def _refresh(self, change: dict[str, Any] | None = None) -> None:
        place, plane = self.slider.value, self.planes.value if self._is_turned else ""
        where = (self.zoom.value, self.across.value, self.down.value)
        how = (plane, self.layers.value, self.window.value, where)
        self.pan.layout.visibility = "visible" if self.zoom.value > 1 else "hidden"
        self.image.value = self.drawn(place, *how)
        self.line.value = self._slice_line(place)
        if change is None or change["owner"] is not self.slider:
            return
        step = 1 if place >= change["old"] else -1
        for ahead in (place + step, place + 2 * step, place - step):
            if 0 <= ahead <= self.slider.max and (plane or ahead < len(self.numbers)):
                _DRAWER.submit(self.drawn, ahead, *how)

    def _drawn(
        self, place: int, plane: str, layer: str, window: tuple[int, int], where: tuple[float, ...]
    ) -> bytes:
        outline = heat_map = None
        if plane:
            volume = self.cut(plane, "image")
            pixels, affine = volume.slice(place), volume.affine
            if layer == "outline" and (drawn := self.cut(plane, "outline")) is not None:
                outline = drawn.slice(place) / np.float32(255)
        else:
            image = self.answer.images[self.numbers[place]]
            pixels, affine = image.pixels, image.affine
            if layer != "image":
                outline, heat_map = self.answer.maps(self.numbers[place])
                outline, heat_map = (outline, None) if layer == "outline" else (None, heat_map)
        shown = [
            None if one is None else _zoomed(one, *where) for one in (pixels, outline, heat_map)
        ]
        return drawing.encode(drawing.draw_slice(*shown, affine, window=window))

    def _slice_line(self, place: int) -> str:
        if self._is_turned:
            plane, total = self.planes.value, int(self.slider.max) + 1
            return (
                f"{plane.capitalize()} {place + 1} of {total}, cut from the {self.own_plane} slices"
            )
        number = self.numbers[place]
        row = self.answer.row(number)
        is_deciding = number in self.answer.deciding and len(self.numbers) > 1
        where = words.slice_title(self.answer, number)
        return _html(
            "slice_line",
            f"{where}, {row['plane']}" if row["plane"] else where,
            words.describe_slice(row, self.answer.rules) if row["class"] else None,
            row["decision"].removeprefix(inference.REFUSED),
            CLASS_COLORS.get(row["class"], ""),
            is_deciding and self.answer.label is not None,
        )

    def _ribbon(self) -> str:
        cells = []
        for number in self.numbers:
            row = self.answer.row(number)
            strength = round(row[row["class"]] ** 2, 2) if row["class"] else 1
            color = CLASS_COLORS.get(row["class"], "#4a525c")
            cells.append((color, strength, number in self.answer.deciding))
        return _html("ribbon", cells)


def _zoomed(values: np.ndarray, zoom: float, across: float, down: float) -> np.ndarray:
    height, width = (max(1, round(side / zoom)) for side in values.shape)
    top, left = round(down * (len(values) - height)), round(across * (values.shape[1] - width))
    return values[top : top + height, left : left + width]


def _html(macro: str, *arguments: Any) -> str:
    """Return a piece of the page; the template escapes what is put into it."""
    return str(getattr(html.template("app/page.html").module, macro)(*arguments))


def _sentence(text: str) -> str:
    """Return a text with a full stop, and a capital letter unless it begins with a file's name."""
    text = text.strip()
    first = text.split(" ", 1)[0]
    text = text[:1].upper() + text[1:] if first.isalpha() else text
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _link(text: str, name: str, content: bytes) -> tuple[str, str, str]:
    kinds = {".html": "text/html", ".csv": "text/csv", ".gz": "application/gzip"}
    kind = kinds[Path(name).suffix]
    return text, name, f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _unforeseen(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "The upload does not fit into the memory: choose fewer files."
    if isinstance(error, OSError):
        return f"The upload could not be written to a temporary folder ({error.strerror})."
    return (
        "This upload cannot be classified, for a reason that was not foreseen "
        f"({type(error).__name__}): try its files one by one."
    )


def _style() -> str:
    return resources.files("brainlib.report.app").joinpath("page.css").read_text("utf-8")
