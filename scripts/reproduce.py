"""Everything that is released, from the data: trainings, release, evaluation, inference."""

import os
import sys

from brainlib import paths
from brainlib.data import splits
from brainlib.models.registry import MODELS
from brainlib.notebook import pipeline
from brainlib.notebook.pipeline import Step
from scripts import command, release

RELEASED, BASELINE = list(MODELS)[:2]


def main() -> None:
    """Train all, release the network of fold 0, then evaluate and infer with what was released."""
    parser = command.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=0, help="0: as each recipe says")
    parser.add_argument("--resume", action="store_true", help="keep the trainings that are done")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    parser.add_argument("--scheduler", default="", help="dask cluster to train on")
    chosen = parser.parse_args()
    source, output, seed = place = (chosen.source, chosen.output, chosen.seed)
    steps = reproduce_steps(output, chosen.epochs)
    if chosen.resume:
        steps = [step for step in steps if not pipeline.is_finished(step, *place)]
    first = [step for step in steps if step.notebook < "03"]
    pipeline.run(first, *place, jobs=chosen.jobs, scheduler=chosen.scheduler)
    release.make_release(release.ReleaseSettings(source, output, seed))
    pipeline.run([step for step in steps if step.notebook == "03_evaluate"], *place)
    # the rules name the weakest source, which is known now
    release.rules.make_rules(paths.resolve(output) / "model", RELEASED)
    pipeline.run([step for step in steps if step.notebook == "04_infer"], *place)
    print(pipeline.summary(output))


def training_steps(model: str, epochs: int = 0) -> list[Step]:
    """Return the trainings behind a model's released results: five folds and the official split.

    The released network trains on all but the test images; the starting network keeps the
    validation images that it always had.
    """
    hold_out = {} if model == BASELINE else {"hold_out": 0.0}
    common = {"model": model, "epochs": epochs, **hold_out}
    folds = [
        Step("02_train", {**common, "protocol": "patient", "fold": fold}, f"-{model}-patient{fold}")
        for fold in range(splits.FOLDS)
    ]
    return [*folds, Step("02_train", {**common, "protocol": "official"}, f"-{model}-official")]


def reproduce_steps(output: str, epochs: int = 0) -> list[Step]:
    """Return the steps that make every released result, all models under all protocols.

    The committed copy of `02_train` is that of the released network's fold 0.
    """
    explore, _, evaluate, infer = pipeline.demo_steps(output, epochs)
    trainings = [step for model in (RELEASED, BASELINE) for step in training_steps(model, epochs)]
    shown = Step("02_train", trainings[0].parameters)
    infer = Step("04_infer", {"model": f"{output}/model/{RELEASED}.keras"})
    return [explore, *trainings[1:], shown, evaluate, infer]


if __name__ == "__main__":
    sys.exit(command.run(main))
