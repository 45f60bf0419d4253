"""The commands `python -m brainlib run`, `classify`, `app` and `sweep`.

What a command needs is imported when it runs: `classify` answers in about a second.
"""

import argparse
import ast
import logging
import sys
from typing import Any

from brainlib.paths import BrainlibError


def main() -> int:
    """Parse the command line and run a command; what a user can mend is said in one line."""
    chosen = _parser().parse_args()
    try:
        return COMMANDS[chosen.command](chosen)
    except BrainlibError as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m brainlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="the four notebooks on any source, in some minutes")
    run.add_argument("--source", default="phantom", help="kaggle, phantom, or a folder")
    run.add_argument("--output", default="runs/demo", help="folder of all that is written")
    run.add_argument("--protocol", default="patient", help="patient, official or deduplicated")
    run.add_argument("--epochs", type=int, default=5, help="0: as the recipe says")
    run.add_argument("--seed", type=int, default=0)
    classify = commands.add_parser("classify", help="scans of your own, without a notebook")
    classify.add_argument("scans", help="a picture, DICOM, NIfTI, or a folder of them")
    classify.add_argument("--output", default="", help="folder of predictions.csv and studies.csv")
    classify.add_argument("--model", default="model/brain_tumor.keras")
    classify.add_argument("--engine", default="onnx", help="onnx or keras")
    classify.add_argument("--plane", default="acquired", help="axial, coronal or sagittal")
    classify.add_argument("--scheduler", default="", help="address of a running dask cluster")
    app = commands.add_parser("app", help="the page: drop a scan, see the answer")
    app.add_argument("--port", type=int, default=8866)
    app.add_argument("--model", default="model/brain_tumor.keras")
    app.add_argument("--no-browser", action="store_true", help="only say the address")
    sweep = commands.add_parser("sweep", help="02_train over values of its parameters")
    sweep.add_argument("values", nargs="+", metavar="NAME=VALUE,VALUE", help="such as fold=0,1,2")
    sweep.add_argument("--model", default="brain_tumor", help="brain_tumor or seed_cnn")
    sweep.add_argument("--source", default="kaggle", help="kaggle, phantom, or a folder")
    sweep.add_argument("--output", default="runs/sweep", help="folder of all that is written")
    sweep.add_argument("--seed", type=int, default=0)
    sweep.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    sweep.add_argument("--scheduler", default="", help="address of a running dask cluster")
    return parser


def _run(chosen: argparse.Namespace) -> int:
    from brainlib.notebook import pipeline

    steps = pipeline.demo_steps(chosen.output, chosen.epochs, chosen.protocol)
    pipeline.run(steps, chosen.source, chosen.output, chosen.seed)
    print(pipeline.summary(chosen.output))
    return 0


def _classify(chosen: argparse.Namespace) -> int:
    """Print the answers, or write them into a folder where one is named."""
    from brainlib import imaging, inference, paths

    if chosen.scheduler and not chosen.output:
        raise inference.InferenceError("a cluster writes tables: name their folder with --output")
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    if not chosen.output:
        classifier = inference.open_classifier(chosen.model, chosen.engine)
        answers = inference.classify(classifier, imaging.open_scans(chosen.scans, chosen.plane))
        print(answers.to_csv(index=False, lineterminator="\n"), end="")
        return 0
    scans = imaging.list_scans(chosen.scans, chosen.plane)
    task = inference.Task(paths.resolve(chosen.model), chosen.engine, chosen.plane)
    for table in inference.classify_scans(scans, chosen.output, task, chosen.scheduler):
        print(table)
    return 0


def _app(chosen: argparse.Namespace) -> int:
    from brainlib.report.app import serve

    _show_log()
    serve(
        port=chosen.port,
        open_browser=not chosen.no_browser,
        parameters={"model": chosen.model},
    )
    return 0


def _sweep(chosen: argparse.Namespace) -> int:
    """Train over values, each into its own folder, and print how each did on what was held out."""
    from brainlib import paths
    from brainlib.notebook import pipeline

    values = {
        name: _values(text) for name, _, text in (one.partition("=") for one in chosen.values)
    }
    steps = pipeline.sweep_steps(chosen.model, values)
    place = (chosen.source, chosen.output, chosen.seed)
    pipeline.run(steps, *place, jobs=chosen.jobs, scheduler=chosen.scheduler)
    table = pipeline.summarise_sweep(steps, chosen.output)
    with paths.atomic_write(paths.resolve(chosen.output) / "sweep.csv") as temporary:
        table.to_csv(temporary, index=False)
    print(table.to_string())
    return 0


def _values(text: str) -> list[Any]:
    """Read values as Python writes numbers, and as text what is none."""
    found = []
    for one in filter(None, text.split(",")):
        try:
            found.append(ast.literal_eval(one))
        except (ValueError, SyntaxError):
            found.append(one)
    return found


def _show_log() -> None:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("brainlib").setLevel(logging.INFO)


COMMANDS = {"run": _run, "classify": _classify, "app": _app, "sweep": _sweep}
