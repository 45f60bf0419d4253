"""What frames a notebook: its parameters checked, its output folder, its run record.

`start("02_train", globals())` is the first thing each notebook calls. It is also the one place
where the smoke profile is applied, in which `pytest --nbval` runs the notebooks on a small phantom.
"""

import ast
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from brainlib import audit, paths
from brainlib.data import open_collection, splits
from brainlib.data.datasets import Collection
from brainlib.evaluation import results
from brainlib.imaging import PLANES, LoadedImages, load_images
from brainlib.models.engines import SUFFIXES
from brainlib.paths import BrainlibError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROFILE_VARIABLE = "BRAINLIB_PROFILE"
SMOKE_OUTPUT = "runs/smoke"
SMOKE_PATIENTS, SMOKE_SLICES = 24, 3
MODEL_NAMES = ("brain_tumor", "seed_cnn")
"""The project's networks, the released one first."""

_PACKAGES = ("brainlib", "keras", "tensorflow", "numpy", "pandas", "scikit-learn", "matplotlib")


class ParameterError(BrainlibError):
    """A parameter that does not exist, or a value that it cannot have."""


def _number(default: float, least: float, most: float) -> Any:
    return field(default=default, metadata={"least": least, "most": most})


def _choice(default: str, choices: tuple[str, ...]) -> Any:
    return field(default=default, metadata={"choices": choices})


@dataclass(frozen=True)
class Settings:
    """Parameters that every notebook has."""

    source: str = "kaggle"
    output: str = "runs/lab"
    seed: int = _number(0, 0, 2**31 - 1)


@dataclass(frozen=True)
class ExploreSettings(Settings):
    """Parameters of `01_explore`."""


@dataclass(frozen=True)
class TrainSettings(Settings):
    """Parameters of `02_train`."""

    model: str = _choice("brain_tumor", MODEL_NAMES)
    protocol: str = _choice("patient", splits.PROTOCOLS)
    fold: int = _number(0, 0, splits.FOLDS - 1)
    hold_out: float = _number(splits.VALIDATION_FRACTION, 0.0, 0.5)
    epochs: int = _number(0, 0, 1000)
    batch_size: int = _number(0, 0, 1024)
    learning_rate: float = _number(0.0, 0.0, 1.0)


@dataclass(frozen=True)
class EvaluateSettings(Settings):
    """Parameters of `03_evaluate`."""

    predictions: str = "model/predictions"
    resamples: int = _number(1000, 100, 100_000)


@dataclass(frozen=True)
class InferSettings(Settings):
    """Parameters of `04_infer`."""

    pictures: str = ""
    plane: str = _choice("acquired", ("acquired", *PLANES))
    model: str = "model/brain_tumor.keras"
    engine: str = _choice("onnx", tuple(SUFFIXES))
    scheduler: str = ""
    reports: int = _number(1, 0, 1000)


SETTINGS: dict[str, type[Settings]] = {
    "01_explore": ExploreSettings,
    "02_train": TrainSettings,
    "03_evaluate": EvaluateSettings,
    "04_infer": InferSettings,
}


@dataclass
class Run:
    """A notebook that has started.

    Attributes
    ----------
    notebook : str
        `01_explore` to `04_infer`.
    settings : Settings
        Its parameters, checked.
    output : Path
        The folder that everything is written below, in `figures` and `model`.
    smoke : bool
        Whether the smoke profile replaced source and size.
    """

    notebook: str
    settings: Any
    output: Path
    smoke: bool
    collection: Collection | None = None
    started: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    git_commit: str = field(default_factory=lambda: git_commit())

    @property
    def figures(self) -> Path:
        """The folder of the figures."""
        return self.output / "figures"

    @property
    def model(self) -> Path:
        """The folder of models, histories, predictions and metrics."""
        return self.output / "model"

    @property
    def model_name(self) -> str:
        """The name of the model that `02_train` makes."""
        settings = self.settings
        return run_name(settings.model, settings.protocol, settings.fold)

    @property
    def model_file(self) -> Path:
        """The file of the model that `02_train` makes."""
        return self.model / f"{self.model_name}.keras"

    @property
    def checkpoint(self) -> Path:
        """The folder that holds the state of an unfinished fit."""
        return self.model / "checkpoints" / self.model_name

    def versions(self) -> pd.DataFrame:
        """Return the versions that this run depends on, and the profile when it is not the real.

        The row `profile` says `smoke` where the run is a test of the notebook on a small phantom.
        """
        rows = {"python": platform.python_version()}
        rows |= {name: metadata.version(name) for name in _PACKAGES}
        rows["profile"] = "smoke: a small phantom, not a result" if self.smoke else "full"
        return pd.DataFrame({"version": rows})

    def open_collection(self) -> Collection:
        """Find the source of this run; its title is stamped on what the run writes."""
        self.collection = open_collection(self.settings.source, self.settings.seed)
        return self.collection

    def load_images(self, size: int = 150) -> LoadedImages:
        """Load the pixels of the source; where it names no patients, groups come from the audit.

        Parameters
        ----------
        size : int
            Height and width of the pictures in the array, pixels.
        """
        collection = self.collection or self.open_collection()
        loaded = load_images(collection, size)
        if collection.groups_from != "nothing":
            return loaded
        group = audit.group_from_audit(loaded.table, loaded.pixels)
        self.collection = replace(collection, groups_from="audit")
        return replace(loaded, table=loaded.table.assign(group=group))

    def save_figure(self, figure: "Figure", name: str) -> "Figure":
        """Write a figure to `figures/<name>.png`, stamped where its pictures are synthetic."""
        if self.collection is not None and self.collection.is_synthetic:
            figure.text(0.995, 0.005, "phantom", ha="right", va="bottom", color="0.5", fontsize=8)
        with paths.atomic_write(self.figures / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=110, bbox_inches="tight")
        return figure

    def write_table(self, table: pd.DataFrame, name: str) -> Path:
        """Write a table to `<output>/<name>.csv` and return its path."""
        path = self.output / f"{name}.csv"
        with paths.atomic_write(path) as temporary:
            table.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")
        return path

    def write_json(self, content: Mapping[str, Any], name: str) -> Path:
        """Write a mapping to `<output>/<name>.json` and return its path."""
        path = self.output / f"{name}.json"
        with paths.atomic_write(path) as temporary:
            text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        return path

    def write_record(self, name: str, **results: Any) -> Path:
        """Write the run record to `<output>/<name>.run.json`: what was run, on what, where.

        Parameters
        ----------
        name : str
            Path of the result that the record lies beside, without its ending.
        **results
            Further entries, such as the count of unreadable pictures.
        """
        now = datetime.now(timezone.utc)
        return self.write_json(
            {
                "notebook": self.notebook,
                "profile": "smoke" if self.smoke else "full",
                "parameters": asdict(self.settings),
                "source": _describe(self.collection),
                **results,
                "versions": self.versions()["version"].drop("profile").to_dict(),
                "backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
                "git_commit": self.git_commit,
                "started": self.started.isoformat(timespec="seconds"),
                "duration_seconds": round((now - self.started).total_seconds(), 1),
                "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            },
            f"{name}.run",
        )

    def update_metrics(self, **sections: Any) -> dict[str, Any]:
        """Put sections into `metrics.json` beside those of the same source, and return all."""
        found = self.collection
        source = {"source": found.title, "synthetic": found.is_synthetic} if found else {}
        file = self.output / results.METRICS_FILE
        before = results.read_metrics(self.output) if file.is_file() else {}
        same = before.get("source") == source.get("source")
        document = (before if same else {}) | source | sections
        self.write_json(document, "model/metrics")
        return document

    def written(self) -> pd.DataFrame:
        """Return the files that this run wrote below its output folder, with their sizes."""
        since = self.started.timestamp() - 1
        found = [
            path
            for folder in (
                self.output.glob("*"),
                *(
                    place.rglob("*")
                    for place in (self.figures, self.model, self.output / "reports")
                ),
            )
            for path in folder
            if path.is_file() and path.suffix in (".png", ".csv", ".json", ".keras", ".html")
        ]
        rows = {
            path.relative_to(self.output).as_posix(): f"{path.stat().st_size / 1000:,.0f} kB"
            for path in sorted(found)
            if path.stat().st_mtime >= since
        }
        return pd.DataFrame({"size": rows}, dtype=str).rename_axis("file").reset_index()


def start(notebook: str, variables: Mapping[str, Any]) -> Run:
    """Check a notebook's parameters and open its run.

    Parameters
    ----------
    notebook : str
        A key of `SETTINGS`.
    variables : mapping
        The notebook's `globals()`.

    Raises
    ------
    ParameterError
        For a parameter that papermill passed and the notebook does not have, a value of the wrong
        type, or one out of range. The message names what is allowed.
    """
    kind = SETTINGS[notebook]
    names = [parameter.name for parameter in fields(kind)]
    for name in _injected_names(variables):
        if name not in names:
            raise ParameterError(
                f"{notebook} has no parameter {name!r}; its parameters are {', '.join(names)}"
            )
    settings = kind(**{name: variables[name] for name in names if name in variables})
    settings = replace(settings, **{p.name: _checked(p, settings) for p in fields(kind)})
    smoke = is_smoke()
    if smoke:
        settings = _smoke_settings(settings)
    _require_folder(paths.resolve(settings.output))
    return Run(notebook, settings, paths.resolve(settings.output), smoke)


def _require_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise ParameterError(
            f"output = {str(output)!r} is no folder that can be written to ({error}): name another"
        ) from error


def is_smoke() -> bool:
    """Return whether the smoke profile is on.

    Raises
    ------
    ParameterError
        Where the environment variable names a profile that does not exist.
    """
    profile = os.environ.get(PROFILE_VARIABLE, "full")
    if profile not in ("full", "smoke"):
        raise ParameterError(f"{PROFILE_VARIABLE} is {profile!r}: it can be 'full' or 'smoke'")
    return profile == "smoke"


def run_name(model: str, protocol: str, fold: int) -> str:
    """Return the name of a trained model: `seed_cnn_patient0` by fold, `seed_cnn_official`.

    The protocols `official` and `deduplicated` train the same model and share a name.
    """
    return f"{model}_patient{fold}" if protocol == "patient" else f"{model}_official"


def read_record(path: Path) -> dict[str, Any]:
    """Return a run record."""
    return json.loads(path.read_text(encoding="utf-8"))


def _injected_names(variables: Mapping[str, Any]) -> list[str]:
    """Return the names that papermill's injected cell assigns, which it does not check itself."""
    cells = [cell for cell in variables.get("In", []) if cell.startswith("# Parameters\n")]
    statements = [statement for cell in cells for statement in ast.parse(cell).body]
    return [
        target.id
        for statement in statements
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]


def _checked(parameter: Any, settings: Settings) -> Any:
    value = getattr(settings, parameter.name)
    kind = {"str": str, "int": int, "float": float}.get(parameter.type, parameter.type)
    if kind is float and type(value) is int:  # True is an int too, and no number
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ParameterError(
            f"{parameter.name} = {value!r} is {type(value).__name__}; it must be {kind.__name__} "
            "(papermill takes a number as text with -r)"
        )
    limits = parameter.metadata
    if "choices" in limits and value not in limits["choices"]:
        allowed = ", ".join(limits["choices"])
        raise ParameterError(f"{parameter.name} = {value!r}: choose one of {allowed}")
    if "least" in limits and not limits["least"] <= value <= limits["most"]:
        raise ParameterError(
            f"{parameter.name} = {value!r}: it can be {limits['least']} to {limits['most']}"
        )
    return value


def _smoke_settings(settings: Settings) -> Settings:
    from brainlib.data import phantom

    name = f"phantom-v{phantom.PHANTOM_VERSION}-smoke"
    folder = paths.cache_folder() / name
    if not (folder / "images.csv").is_file():
        phantom.write_phantom(folder, patients=SMOKE_PATIENTS, slices=SMOKE_SLICES)
    small: dict[str, Any] = {"source": str(folder), "output": SMOKE_OUTPUT}
    if isinstance(settings, TrainSettings):
        small |= {"epochs": 1}
    if isinstance(settings, EvaluateSettings):
        small |= {"predictions": f"{SMOKE_OUTPUT}/model/predictions", "resamples": 100}
    if isinstance(settings, InferSettings):
        name = run_name(MODEL_NAMES[0], "patient", 0)
        small |= {"model": f"{SMOKE_OUTPUT}/model/{name}.keras", "engine": "keras"}
    return replace(settings, **small)


def _describe(collection: Collection | None) -> dict[str, Any]:
    if collection is None:
        return {}
    return {
        "name": collection.name,
        "version": collection.version,
        "synthetic": collection.is_synthetic,
        "groups_from": collection.groups_from,
        "pictures": collection.counts().to_dict("index"),
        "file_hash": collection.file_hash,
    }


def git_commit() -> str:
    """Return the commit of the checkout, with `+changes` where it is not clean, or `unknown`."""
    command = ["git", "-C", str(paths.project_root()), "describe", "--always", "--abbrev=40"]
    try:
        result = subprocess.run(
            [*command, "--dirty=+changes", "--exclude=*"], capture_output=True, text=True
        )
    except OSError:  # no git on this machine
        return "unknown"
    return result.stdout.strip() or "unknown"
