"""What is executed: the notebooks with their parameters, in order."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pandas as pd

from brainlib import paths
from brainlib.notebook import runs
from brainlib.paths import BrainlibError

NOTEBOOKS = tuple(runs.SETTINGS)


class PipelineError(BrainlibError):
    """Steps that failed, or a sweep that cannot be made."""


@dataclass(frozen=True)
class Step:
    """One execution of a notebook.

    Attributes
    ----------
    notebook : str
        A key of `runs.SETTINGS`.
    parameters : dict
        What papermill passes, beside source, output and seed.
    suffix : str
        Tells executions of the same notebook apart in the names of the executed copies.
    folder : str
        Below the output folder, where this step writes; empty: the output folder itself.
    """

    notebook: str
    parameters: dict[str, Any] = field(default_factory=dict)
    suffix: str = ""
    folder: str = ""

    @property
    def name(self) -> str:
        """The name of the executed copy."""
        return f"{self.notebook}{self.suffix}"

    def output(self, output: str) -> str:
        """Return the folder that this step writes to."""
        return f"{output}/{self.folder}" if self.folder else output


def demo_steps(
    output: str, epochs: int, protocol: str = "patient", model: str = "brain_tumor"
) -> list[Step]:
    """Return explore, train, evaluate and infer, each once; 0 epochs: as the recipe says."""
    name = runs.run_name(model, protocol, 0)
    return [
        Step("01_explore"),
        Step("02_train", {"model": model, "protocol": protocol, "fold": 0, "epochs": epochs}),
        Step("03_evaluate", {"predictions": f"{output}/model/predictions"}),
        Step("04_infer", {"model": f"{output}/model/{name}.keras", "engine": "keras"}),
    ]


def sweep_steps(model: str, values: Mapping[str, Sequence[Any]], **common: Any) -> list[Step]:
    """Return a training for each combination of values, each into a folder of its own.

    Parameters
    ----------
    model : str
        A name of `runs.MODEL_NAMES`.
    values : mapping of str to sequence
        Parameters of `02_train` and the values that each is to have in turn.
    **common
        Parameters that are the same in all trainings.

    Raises
    ------
    PipelineError
        Where `02_train` has no such parameter, there are no values, or nothing is held out for
        validation, by which a sweep is judged.

    Examples
    --------
    >>> steps = sweep_steps("seed_cnn", {"learning_rate": [0.001, 0.01], "fold": [0, 1]}, epochs=3)
    >>> steps[1].folder
    'sweeps/seed_cnn/learning_rate-0.001_fold-1'
    """
    known = [one.name for one in fields(runs.TrainSettings)]
    known = [name for name in known if name not in ("source", "output", "model")]
    unknown = [name for name in (*values, *common) if name not in known]
    if unknown:
        raise PipelineError(
            f"02_train has no parameter {unknown[0]!r} to sweep: choose from {', '.join(known)}"
        )
    if not all(len(found) for found in values.values()) or not values:
        raise PipelineError("a sweep needs at least one parameter, and a value for each")
    if 0 in (*values.get("hold_out", ()), common.get("hold_out", 1)):
        raise PipelineError(
            "hold_out is 0, and a sweep is judged by its validation pictures: give it 0.1 or more"
        )
    steps = []
    for chosen in itertools.product(*(dict.fromkeys(found) for found in values.values())):
        named = dict(zip(values, chosen, strict=True))
        name = "_".join(f"{key}-{value}" for key, value in named.items())
        parameters = {"model": model, **common, **named}
        steps.append(Step("02_train", parameters, f"-{model}-{name}", f"sweeps/{model}/{name}"))
    return steps


def summarise_sweep(steps: list[Step], output: str) -> pd.DataFrame:
    """Return what each training of a sweep came to on its validation pictures, test folds unseen.

    Parameters
    ----------
    steps : list of Step
        As `sweep_steps` gives them.
    output : str
        The output folder that they were run with.

    Returns
    -------
    DataFrame
        A row a step: its parameters, `epochs_trained`, `validation_accuracy` and
        `validation_log_loss` after the last epoch; empty where it left no history.
    """
    rows = []
    for step in steps:
        settings = runs.TrainSettings(**step.parameters)
        name = runs.run_name(settings.model, settings.protocol, settings.fold)
        file = paths.resolve(step.output(output)) / "model" / f"{name}.history.csv"
        last = pd.read_csv(file).iloc[-1] if file.is_file() else {}
        rows.append(
            {
                **step.parameters,
                "epochs_trained": last.get("epoch"),
                "validation_accuracy": last.get("validation_accuracy"),
                "validation_log_loss": last.get("validation_loss"),
            }
        )
    return pd.DataFrame(rows).astype({"epochs_trained": "Int64"})
