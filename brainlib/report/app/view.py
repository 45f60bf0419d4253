"""The page: widgets that take an upload and show its answers, in Voilà or in JupyterLab."""

import base64
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd

from brainlib import CLASS_COLORS, inference
from brainlib.paths import BrainlibError
from brainlib.report import drawing, html, words
from brainlib.report.answers import Answer, Model, load
from brainlib.report.app.uploads import read_uploads, upload_limit

LAYERS = ("image", "outline", "heat map")

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
        head = f"<style>{_style()}</style>{_html('heading', words.NOTICE, upload_limit())}"
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
        self.numbers = sorted(answer.pixels)
        self.rows = {int(row["slice"]): row for row in answer.slices.to_dict("records")}
        self.drawn = lru_cache(maxsize=_KEPT)(self._drawn)
        self.links = ipywidgets.HTML()
        side = ipywidgets.VBox([ipywidgets.HTML(self._verdict()), self.links])
        parts = [self._viewer()] if self.numbers else []
        self.box = ipywidgets.Box([*parts, side.add_class("brainlib-side")])
        self.box.add_class("brainlib-study")

    def add_downloads(self) -> None:
        """Make the report; called once the answer is on the page, because it takes longer."""
        if self.links.value:
            return
        links = []
        classifier = self.answer.model.classifier
        if classifier.rules is not None and classifier.gate is not None:
            name = f"{Path(self.answer.name).stem}.html"
            links.append(_link("Save the report", name, html.render_report(self.answer).encode()))
        table = pd.concat([one.slices for one in self.answers], ignore_index=True)
        content = inference.to_csv(table, header=True)
        links.append(_link("Save predictions.csv", "predictions.csv", content))
        self.links.value = _html("downloads", links)

    def _viewer(self) -> ipywidgets.VBox:
        last = len(self.numbers) - 1
        shown = [one for one in self.answer.deciding if one in self.numbers]
        first = self.numbers.index(shown[0]) if shown else last // 2
        self.slider = ipywidgets.IntSlider(first, 0, max(last, 1), readout=False)
        self.layers = ipywidgets.ToggleButtons(options=LAYERS)
        has_maps = self.answer.model.drawer is not None
        self.layers.value = "outline" if has_maps else "image"
        self.image, self.line = ipywidgets.Image(), ipywidgets.HTML()
        self.slider.observe(self._refresh, "value")
        self.layers.observe(lambda _: self._refresh(), "value")
        self._refresh()
        parts: list[ipywidgets.Widget] = [self.image.add_class("brainlib-picture")]
        if last:
            ribbon = ipywidgets.HTML(self._ribbon())
            parts += [ribbon, self.slider.add_class("brainlib-slider")]
        parts.append(self.line.add_class("brainlib-line"))
        if has_maps:
            parts.append(self.layers.add_class("brainlib-layers"))
        return ipywidgets.VBox(parts).add_class("brainlib-viewer")

    def _refresh(self, change: dict[str, Any] | None = None) -> None:
        place, layer = self.slider.value, self.layers.value
        with self.image.hold_sync():  # both in one message, or the browser shows one of each
            self.image.format, self.image.value = self.drawn(place, layer)
        self.line.value = self._slice_line(place)
        step = 1 if change is None or place >= change["old"] else -1
        for ahead in (place + step, place + 2 * step, place - step):
            if 0 <= ahead < len(self.numbers):
                _DRAWER.submit(self.drawn, ahead, layer)

    def _drawn(self, place: int, layer: str) -> tuple[str, bytes]:
        number = self.numbers[place]
        outline, heat_map = self.answer.maps(number) if layer != "image" else (None, None)
        return drawing.encode(drawing.draw_slice(
            self.answer.pixels[number],
            outline if layer == "outline" else None,
            heat_map if layer == "heat map" else None,
            self.rows[number]["plane"],
        ))  # fmt: skip

    def _slice_line(self, place: int) -> str:
        row = self.rows[self.numbers[place]]
        says = words.describe_slice(row, self.answer.rules) if row["class"] else None
        is_deciding = row["slice"] in self.answer.deciding and len(self.numbers) > 1
        is_deciding = is_deciding and self.answer.label is not None
        where = words.slice_title(self.answer, row["slice"])
        where += f", {row['plane']}" if row["plane"] else ""
        reason = row["decision"].removeprefix(inference.REFUSED)
        color = CLASS_COLORS.get(row["class"], "")
        return _html("slice_line", where, says, reason, color, is_deciding)

    def _ribbon(self) -> str:
        cells = []
        for number in self.numbers:
            row, name = self.rows[number], self.rows[number]["class"]
            strength = round(row[name] ** 2, 2) if name else 1
            is_deciding = number in self.answer.deciding
            cells.append((CLASS_COLORS.get(name, "#4a525c"), strength, is_deciding))
        return _html("ribbon", cells)

    def _verdict(self) -> str:
        answer = self.answer
        said = words.headline(answer)
        color = CLASS_COLORS[answer.label] if said["kind"] == "answer" else "#8a939d"
        left_out = [f"{why}: slices {which}" for why, which in words.list_refusals(answer.slices)]
        if answer.study["slices"] == 1:
            left_out = [one.rsplit(": slices", 1)[0] for one in left_out]
        left_out += [error for _, error in words.list_unreadable(answer.slices)]
        counts = [(count, what) for count, what in words.count_slices(answer.study) if count]
        return _html(
            "verdict", answer.name, said, color, words.probability_bars(answer), CLASS_COLORS,
            counts if answer.study["slices"] > 1 else [], [_sentence(one) for one in left_out],
            words.known_limits(answer), words.NOT_FOR,
        )  # fmt: skip


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
    kind = "text/html" if name.endswith(".html") else "text/csv"
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
