"""The commands behind the Makefile: `python -m brainlib run`, `classify`, `release`, and more.

What a command needs is imported when it runs: `classify` answers in about a second.
"""

import argparse
import ast
import json
import logging
import os
import sys
from typing import Any


def main() -> int:
    """Parse the command line and run a command; what a user can mend is said in one line."""
    chosen = _parser().parse_args()
    try:
        return COMMANDS[chosen.command](chosen)
    except ValueError as error:
        if not type(error).__module__.startswith("brainlib"):
            raise
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
    classify.add_argument("--engine", default="onnx", help="onnx, litert or keras")
    classify.add_argument("--plane", default="acquired", help="axial, coronal or sagittal")
    classify.add_argument("--scheduler", default="", help="address of a running dask cluster")
    app = commands.add_parser("app", help="the page: drop a scan, see the answer")
    app.add_argument("--port", type=int, default=8866)
    app.add_argument("--model", default="model/brain_tumor.keras")
    app.add_argument("--no-browser", action="store_true", help="only say the address")
    reproduce = commands.add_parser(
        "reproduce", help="trainings, release and evaluation, on the real data"
    )
    _add_place(reproduce)
    reproduce.add_argument("--epochs", type=int, default=0, help="0: as each recipe says")
    reproduce.add_argument("--resume", action="store_true", help="keep the trainings that are done")
    reproduce.add_argument("--jobs", type=int, default=os.cpu_count() or 1,
                           help="trainings at a time")  # fmt: skip
    reproduce.add_argument("--scheduler", default="", help="dask cluster to train on")
    sweep = commands.add_parser("sweep", help="02_train over values of its parameters")
    sweep.add_argument("values", nargs="+", metavar="NAME=VALUE,VALUE", help="such as fold=0,1,2")
    sweep.add_argument("--model", default="brain_tumor", help="brain_tumor or seed_cnn")
    sweep.add_argument("--source", default="kaggle", help="kaggle, phantom, or a folder")
    sweep.add_argument("--output", default="runs/sweep", help="folder of all that is written")
    sweep.add_argument("--seed", type=int, default=0)
    sweep.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    sweep.add_argument("--scheduler", default="", help="address of a running dask cluster")
    release = commands.add_parser("release", help="the released files, and what they measure")
    release.add_argument("--source", default="kaggle", help="what the models were trained on")
    release.add_argument("--output", default=".", help="folder that has the trainings in model/")
    release.add_argument("--seed", type=int, default=0)
    release.add_argument("--pictures", type=int, default=200, help="to be spoilt, for robustness")
    release.add_argument("--healthy-scan", default="", help="a scan without tumour, file or folder")
    ablate = commands.add_parser("ablate", help="what each part of the recipe brings, into model/")
    _add_place(ablate)
    ablate.add_argument("--seeds", type=int, default=3, help="trainings of each variant")
    ablate.add_argument("--variants", default="", help="names with commas between; empty: all")
    ablate.add_argument("--epochs", type=int, default=0, help="0: as the short recipe says")
    ablate.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    unknown = commands.add_parser("unknown", help="a kind of tumour that was never trained on")
    _add_place(unknown)
    unknown.add_argument("--epochs", type=int, default=0, help="0: as the short recipe says")
    cost = commands.add_parser("cost", help="what training costs, into figures/bench_training.csv")
    _add_place(cost)
    cost.add_argument("--size", type=int, default=96, help="pictures of the measured steps, pixels")
    cost.add_argument("--epochs", type=int, default=3, help="to the old quality; 0: not tried")
    cost.add_argument("--quality-size", type=int, default=64, help="pictures of that fit, pixels")
    commands.add_parser("readme", help="write the measured results into the pages")
    commands.add_parser("bench", help="measure speed side by side, into figures/bench.csv")
    return parser


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", default="kaggle", help="kaggle, phantom, or a folder")
    parser.add_argument("--output", default=".", help="the project itself, unless named")
    parser.add_argument("--seed", type=int, default=0)


def _run(chosen: argparse.Namespace) -> int:
    from brainlib import pipeline

    steps = pipeline.demo_steps(chosen.output, chosen.epochs, chosen.protocol)
    pipeline.run(steps, chosen.source, chosen.output, chosen.seed)
    print(pipeline.summary(chosen.output))
    return 0


def _classify(chosen: argparse.Namespace) -> int:
    """Print the answers, or write them into a folder where one is named."""
    from brainlib import images, inference, paths

    if chosen.scheduler and not chosen.output:
        raise inference.InferenceError("a cluster writes tables: name their folder with --output")
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    if not chosen.output:
        classifier = inference.open_classifier(chosen.model, chosen.engine)
        answers = inference.classify(classifier, images.open_scans(chosen.scans, chosen.plane))
        print(answers.to_csv(index=False, lineterminator="\n"), end="")
        return 0
    scans = images.list_scans(chosen.scans, chosen.plane)
    task = inference.Task(paths.resolve(chosen.model), chosen.engine, chosen.plane)
    for table in inference.classify_scans(scans, chosen.output, task, chosen.scheduler):
        print(table)
    return 0


def _app(chosen: argparse.Namespace) -> int:
    from brainlib import page

    _show_log()
    page.serve(
        port=chosen.port,
        open_browser=not chosen.no_browser,
        parameters={"model": chosen.model},
    )
    return 0


def _readme(_: argparse.Namespace) -> int:
    from brainlib import readme

    readme.write_results()
    return 0


def _bench(_: argparse.Namespace) -> int:
    from brainlib import bench, throughput

    for table in (bench.write_tables() | throughput.write_tables()).values():
        print(table.to_string())
    return 0


def _sweep(chosen: argparse.Namespace) -> int:
    """Train over values, each into its own folder, and print how each did on what was held out."""
    from brainlib import paths, pipeline

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


def _reproduce(chosen: argparse.Namespace) -> int:
    """Train all, release the network of fold 0, then evaluate and infer with what was released."""
    from brainlib import paths, pipeline, release, rules

    source, output, seed = place = (chosen.source, chosen.output, chosen.seed)
    steps = pipeline.reproduce_steps(output, chosen.epochs)
    if chosen.resume:
        steps = [step for step in steps if not pipeline.is_finished(step, *place)]
    first = [step for step in steps if step.notebook < "03"]
    pipeline.run(first, *place, jobs=chosen.jobs, scheduler=chosen.scheduler)
    release.make_release(release.ReleaseSettings(source, output, seed))
    for notebook in ("03_evaluate", "04_infer"):
        pipeline.run([step for step in steps if step.notebook == notebook], *place)
        if notebook == "03_evaluate":  # the rules name the weakest source, which is known now
            rules.make_rules(paths.resolve(output) / "model")
    print(pipeline.summary(output))
    return 0


def _release(chosen: argparse.Namespace) -> int:
    from brainlib import release

    _show_log()
    document = release.make_release(release.ReleaseSettings(**_settings(chosen)))
    print(json.dumps({name: document[name] for name in ("release", "maps")}, indent=2))
    return 0


def _ablate(chosen: argparse.Namespace) -> int:
    from brainlib import ablation

    ablation.study(ablation.AblationSettings(**_settings(chosen)))
    return 0


def _unknown(chosen: argparse.Namespace) -> int:
    from brainlib import ablation

    print(json.dumps(ablation.study_unknown(ablation.UnknownSettings(**_settings(chosen)))))
    return 0


def _cost(chosen: argparse.Namespace) -> int:
    from brainlib import cost

    _show_log()
    print(cost.write_table(cost.CostSettings(**_settings(chosen))).to_string())
    return 0


def _show_log() -> None:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("brainlib").setLevel(logging.INFO)


def _settings(chosen: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(chosen).items() if name != "command"}


COMMANDS = {
    "run": _run,
    "classify": _classify,
    "app": _app,
    "reproduce": _reproduce,
    "sweep": _sweep,
    "release": _release,
    "ablate": _ablate,
    "unknown": _unknown,
    "cost": _cost,
    "readme": _readme,
    "bench": _bench,
}


if __name__ == "__main__":
    sys.exit(main())
