"""Run of a notebook: checked parameters, output folder, run record.

`start("02_train", globals())` is the first thing each notebook calls. It imports the modules named
in `BRAINLIB_PLUGINS`, which add sources, models, metrics and baselines to their registries.
"""

import ast
import importlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from brainlib import audit, evaluation, models, paths
from brainlib.data import open_collection, splits
from brainlib.data.datasets import Collection
from brainlib.evaluation.tables import PUBLISHED, run_name
from brainlib.imaging import PLANES, LoadedImages, load_images
from brainlib.models.engines import ENGINES
from brainlib.paths import BrainlibError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLUGINS_VARIABLE = "BRAINLIB_PLUGINS"
RELEASED = Path(paths.RELEASED_MODEL).stem
MAXIMUM_LINE = 300
"""Characters of a line of JSON that holds a whole mapping."""

_PACKAGES = ("brainlib", "keras", "tensorflow", "numpy", "pandas", "scikit-learn", "matplotlib")
_WRITTEN = (".png", ".csv", ".json", ".keras", ".html")


@dataclass(frozen=True)
class Settings:
    """Parameters of every notebook, and all of `01_explore`."""

    source: str = "kaggle"
    output: str = "runs/lab"
    seed: int = 0


@dataclass(frozen=True)
class TrainSettings(Settings):
    """Parameters of `02_train`."""

    model: str = RELEASED
    protocol: str = "patient"
    fold: int = 0
    hold_out: float = splits.VALIDATION_FRACTION
    epochs: int = 0
    batch_size: int = 0
    learning_rate: float = 0.0


@dataclass(frozen=True)
class EvaluateSettings(Settings):
    """Parameters of `03_evaluate`."""

    predictions: str = PUBLISHED
    resamples: int = 1000


@dataclass(frozen=True)
class InferSettings(Settings):
    """Parameters of `04_infer`."""

    scans: str = ""
    plane: str = "acquired"
    model: str = f"model/{paths.RELEASED_MODEL}"
    engine: str = "onnx"
    scheduler: str = ""
    reports: int = 1


SETTINGS: dict[str, type[Settings]] = {
    "01_explore": Settings, "02_train": TrainSettings,
    "03_evaluate": EvaluateSettings, "04_infer": InferSettings,
}  # fmt: skip
"""The parameters of each notebook, in the order in which they run."""

RANGES = {
    "seed": (0, 2**31 - 1), "fold": (0, splits.FOLDS - 1), "hold_out": (0.0, 0.5),
    "epochs": (0, 1000), "batch_size": (0, 1024), "learning_rate": (0.0, 1.0),
    "resamples": (100, 100_000), "reports": (0, 1000),
}  # fmt: skip
CHOICES = {
    "protocol": splits.PROTOCOLS, "plane": ("acquired", *PLANES), "engine": tuple(ENGINES),
}  # fmt: skip
"""What these parameters can be."""


@dataclass
class Run:
    """A started notebook: its checked parameters and its output folder.

    Attributes
    ----------
    notebook : str
        `01_explore` to `04_infer`.
    settings : Settings
        Its parameters, checked.
    output : Path
        The folder that everything is written below, in `figures` and `model`.
    """

    notebook: str
    settings: Any
    output: Path
    collection: Collection | None = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    git_commit: str = field(default_factory=lambda: git_commit())
    lock: ExitStack = field(default_factory=ExitStack, repr=False)

    @property
    def model(self) -> Path:
        """The folder of models, histories, predictions and metrics."""
        return self.output / "model"

    @property
    def model_name(self) -> str:
        """The name of the model that `02_train` makes."""
        return run_name(self.settings.model, self.settings.protocol, self.settings.fold)

    @property
    def model_file(self) -> Path:
        """The file of the model that `02_train` makes."""
        return self.model / f"{self.model_name}.keras"

    @property
    def checkpoint(self) -> Path:
        """The folder of the state of an unfinished fit."""
        return self.model / "checkpoints" / self.model_name

    @property
    def networks(self) -> tuple[str, ...]:
        """The registered models, the released one first."""
        return tuple(models.MODELS)

    def readable(self, name: str) -> str:
        """Return an identifier as words; a network trained anew is not called the released one."""
        from brainlib import plots

        results = paths.resolve(getattr(self.settings, "predictions", self.output / PUBLISHED))
        # a single table is shown beside the published ones, unless it bears the released name
        joins_published = results.is_file() and results.stem != RELEASED
        is_released = joins_published or results == paths.resolve(PUBLISHED)
        return "LesionNet" if name == RELEASED and not is_released else plots.readable(name)

    def titled(self, by_model: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a figure shows of each model by the model's readable name."""
        return {self.readable(model): shown for model, shown in by_model.items()}

    @property
    def title(self) -> str:
        """The notebook, and its parameters that are not at their defaults."""
        defaults = asdict(type(self.settings)())
        changed = asdict(self.settings).items() - defaults.items()
        values = ", ".join(f"{name} = {value!r}" for name, value in sorted(changed))
        return f"{self.notebook}, run with {values or 'the defaults above'}"

    def versions(self) -> pd.DataFrame:
        """Return the versions of Python and of the packages that results depend on."""
        rows = {name: metadata.version(name) for name in _PACKAGES}
        return pd.DataFrame({"version": {"python": platform.python_version(), **rows}})

    def open_collection(self) -> Collection:
        """Open the source of this run and keep it for figures and records."""
        self.collection = open_collection(self.settings.source, self.settings.seed)
        return self.collection

    def load_images(self, size: int = 150) -> LoadedImages:
        """Load the images of the source, `size` pixels high and wide.

        Where the source names no patients, groups come from the audit of the pixels.
        """
        collection = self.collection or self.open_collection()
        loaded = load_images(collection, size)
        if collection.groups_from != "nothing":
            return loaded
        group = audit.group_from_audit(loaded.table, loaded.pixels)
        self.collection = replace(collection, groups_from="audit")
        return replace(loaded, table=loaded.table.assign(group=group))

    def score(self, tables: evaluation.Tables) -> evaluation.Scores:
        """Score prediction tables: all metrics of first model and networks, headlines of others."""
        detailed, asked = {*list(tables)[:1], *self.networks}, self.settings
        return evaluation.score_tables(tables, asked.resamples, asked.seed, detailed)

    def save_figure(self, figure: "Figure", name: str) -> "Figure":
        """Write a figure to `figures/<name>.png`, stamped if its images are synthetic.

        One that says that there is nothing to draw is not written, and an older one removed.
        """
        from brainlib.plots import NOTHING

        file = self.output / "figures" / f"{name}.png"
        if figure.get_label() == NOTHING:
            file.unlink(missing_ok=True)
            return figure
        if self.collection is not None and self.collection.is_synthetic:
            figure.text(0.995, -0.005, "phantom", ha="right", va="top", color="0.5", fontsize=8)
        with paths.atomic_write(file) as temporary:
            figure.savefig(temporary, dpi=110, bbox_inches="tight")
        return figure

    def write_table(self, table: pd.DataFrame, name: str) -> None:
        """Write a table to `<output>/<name>.csv`."""
        with paths.atomic_write(self.output / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")

    def write_json(self, content: Mapping[str, Any], name: str) -> None:
        """Write a mapping to `<output>/<name>.json`."""
        with paths.atomic_write(self.output / f"{name}.json") as temporary:
            temporary.write_text(f"{to_json(content)}\n", encoding="utf-8")

    def write_record(self, name: str, **results: Any) -> Path:
        """Write the run record to `<output>/<name>.run.json`, which ends the run.

        Parameters
        ----------
        name : str
            Path of the result that the record lies beside, without its ending.
        **results
            Further entries, such as the count of unreadable images.
        """
        now, collection = datetime.now(UTC), self.collection
        source = collection and {
            "name": collection.name, "version": collection.version,
            "synthetic": collection.is_synthetic, "groups_from": collection.groups_from,
            "images": collection.counts().to_dict("index"), "file_hash": collection.file_hash,
        }  # fmt: skip
        record = {
            "notebook": self.notebook, "parameters": asdict(self.settings), "source": source or {},
            **results,
            "versions": self.versions()["version"].to_dict(),
            "backend": os.environ.get("KERAS_BACKEND", "tensorflow"), "git_commit": self.git_commit,
            "started": self.started.isoformat(timespec="seconds"),
            "duration_seconds": round((now - self.started).total_seconds(), 1),
            "threads": int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0),  # 0: all
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        }  # fmt: skip
        self.write_json(record, f"{name}.run")
        self.lock.close()
        return self.output / f"{name}.run.json"

    def update_metrics(self, **sections: Any) -> dict[str, Any]:
        """Put sections into `metrics.json` beside those of the same source, and return all.

        A run without images leaves the source as it is. An empty section is left out, and removes
        an older one.
        """
        source = {}
        if self.collection:
            source = {"source": self.collection.title, "synthetic": self.collection.is_synthetic}
        is_file = (self.output / evaluation.scores.METRICS_FILE).is_file()
        before = evaluation.read_metrics(self.output) if is_file else {}
        kept = before if not source or before.get("source") == source["source"] else {}
        document = {key: x for key, x in (kept | source | sections).items() if x != {}}
        self.write_json(document, "model/metrics")
        return document

    def written(self) -> pd.DataFrame:
        """Return the files that this run wrote below its output folder, with their sizes."""
        patterns = ("*", "figures/**/*", "model/**/*", "reports/**/*")
        since = self.started.timestamp() - 1
        rows = [
            (file.relative_to(self.output).as_posix(), f"{file.stat().st_size / 1000:,.0f} kB")
            for file in sorted(file for pattern in patterns for file in self.output.glob(pattern))
            if file.suffix in _WRITTEN and file.is_file() and file.stat().st_mtime >= since
        ]
        return pd.DataFrame(rows, columns=["file", "size"], dtype=str)


def start(notebook: str, variables: Mapping[str, Any]) -> Run:
    """Check a notebook's parameters and open its run.

    Until the run record is written, no other process can run this notebook, or train this model,
    into the same output folder.

    Parameters
    ----------
    notebook : str
        A key of `SETTINGS`.
    variables : mapping
        The notebook's `globals()`.

    Raises
    ------
    BrainlibError
        For a parameter that papermill passed and the notebook does not have, a value of the wrong
        type, or one out of range. The message names what is allowed;
        where another process has the output folder, or it cannot be written to.
    """
    load_plugins()
    kind = SETTINGS[notebook]
    names = [parameter.name for parameter in fields(kind)]
    for name in _injected_names(variables):
        if name not in names:
            raise BrainlibError(
                f"{notebook} has no parameter {name!r}; its parameters are {', '.join(names)}"
            )
    given = {name: variables[name] for name in names if name in variables}
    settings = kind(**{name: _checked(name, value, kind) for name, value in given.items()})
    run = Run(notebook, settings, paths.resolve(settings.output))
    # 04_infer shares the lock of `brainlib classify`, which writes the same tables
    lock = "" if notebook == "04_infer" else f".{notebook}"
    if notebook == "02_train":
        lock = f".{run.model_name}"
    run.lock.enter_context(paths.locked(run.output, f"{lock}.lock"))
    pd.set_option("display.html.use_mathjax", False)  # names in tables are no formulas
    pd.set_option("display.max_colwidth", None)  # reasons are read to their end
    return run


def load_plugins() -> None:
    """Import the modules that `BRAINLIB_PLUGINS` names, separated by commas.

    A plugin adds to the registries: `data.SOURCES`, `models.MODELS`, `evaluation.METRICS` and
    `audit.BASELINES`. It is found on `PYTHONPATH` or below the project's root.
    """
    names = [name for name in os.environ.get(PLUGINS_VARIABLE, "").split(",") if name]
    if names and str(paths.project_root()) not in sys.path:
        sys.path.append(str(paths.project_root()))
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise BrainlibError(f"{PLUGINS_VARIABLE} names {name!r}: {error}") from error


def read_record(path: Path) -> dict[str, Any]:
    """Return a run record."""
    return json.loads(path.read_text(encoding="utf-8"))


def to_json(content: Any) -> str:
    """Return content as JSON, a line for each short mapping of plain values.

    Examples
    --------
    >>> print(to_json({"accuracy": {"value": 0.9, "low": 0.8}}))
    {
      "accuracy": {"value": 0.9, "low": 0.8}
    }
    """

    def joined(match: re.Match) -> str:
        opening, *inner, closing = (line.strip() for line in match[0].split("\n"))
        line = f"{opening}{' '.join(inner)}{closing}"
        return line if match.start() and len(line) < MAXIMUM_LINE else match[0]

    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2)
    return re.sub(r"[{\[]\n[^][{}]+[]}]", joined, text)


def _injected_names(variables: Mapping[str, Any]) -> list[str]:
    """Return the names that papermill's injected cell assigns, which it does not check itself."""
    cells = [cell for cell in variables.get("In", []) if cell.startswith("# Parameters\n")]
    statements = [statement for cell in cells for statement in ast.parse(cell).body]
    return [s.targets[0].id for s in statements if isinstance(s, ast.Assign)]


def _checked(name: str, value: Any, settings: type[Settings]) -> Any:
    kind, (least, most) = type(getattr(settings, name)), RANGES.get(name, (value, value))
    choices = CHOICES.get(name, ())
    if name == "model" and settings is TrainSettings:
        choices = models.MODELS  # which loads Keras
    if kind is float and type(value) is int:  # True is an int too, and no number
        value = float(value)
    if type(value) is not kind:
        is_quoted = str in (kind, type(value)) and any(map(str.isdigit, str(value)))
        hint = " (papermill takes a number as text with -r)" * is_quoted
        raise BrainlibError(
            f"{name} = {value!r} is {type(value).__name__}; it must be {kind.__name__}{hint}"
        )
    if choices and value not in choices:
        raise BrainlibError(f"{name} = {value!r}: choose one of {', '.join(choices)}")
    if not least <= value <= most:
        raise BrainlibError(f"{name} = {value!r}: it can be {least} to {most}")
    return value


def git_commit() -> str:
    """Return the commit of the checkout, with `+changes` where it is not clean, or `unknown`."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
    try:
        shown = subprocess.run(command, cwd=paths.project_root(), capture_output=True, text=True)
    except OSError:  # no git on this machine
        return "unknown"
    return shown.stdout.strip() or "unknown"
