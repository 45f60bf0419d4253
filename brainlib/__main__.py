"""The commands behind the Makefile: `python -m brainlib run`, `reproduce`, `release`, and more."""

import argparse
import json
import logging
import os
import sys

from brainlib import pipeline


def main() -> int:
    """Parse the command line and run the notebooks."""
    parser = argparse.ArgumentParser(prog="python -m brainlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="the four notebooks on any source, in some minutes")
    run.add_argument("--source", default="phantom", help="kaggle, phantom, or a folder")
    run.add_argument("--output", default="runs/demo", help="folder of all that is written")
    run.add_argument("--protocol", default="patient", help="patient, official or deduplicated")
    run.add_argument("--epochs", type=int, default=5)
    run.add_argument("--seed", type=int, default=0)
    reproduce = commands.add_parser("reproduce", help="all released results, on the real data")
    reproduce.add_argument("--source", default="kaggle", help="kaggle, phantom, or a folder")
    reproduce.add_argument("--output", default=".", help="the project itself, unless named")
    reproduce.add_argument("--epochs", type=int, default=0, help="0: as each recipe says")
    reproduce.add_argument("--seed", type=int, default=0)
    reproduce.add_argument("--resume", action="store_true", help="keep the trainings that are done")
    reproduce.add_argument("--jobs", type=int, default=os.cpu_count() or 1,
                           help="trainings at a time")  # fmt: skip
    release = commands.add_parser("release", help="the released files, and what they measure")
    release.add_argument("--source", default="kaggle", help="what the models were trained on")
    release.add_argument("--output", default=".", help="folder that has the trainings in model/")
    release.add_argument("--seed", type=int, default=0)
    release.add_argument("--pictures", type=int, default=200, help="to be spoilt, for robustness")
    release.add_argument("--healthy-scan", default="", help="a scan without tumour, file or folder")
    commands.add_parser("readme", help="write the results of model/metrics.json into README.md")
    commands.add_parser("bench", help="measure speed side by side, into figures/bench.csv")
    chosen = parser.parse_args()
    if chosen.command == "readme":
        from brainlib import readme

        readme.write_results()
        return 0
    if chosen.command == "bench":
        from brainlib import bench

        for table in bench.write_tables().values():
            print(table.to_string())
        return 0
    if chosen.command == "release":
        return _release(chosen)
    place = (chosen.source, chosen.output, chosen.seed)
    if chosen.command == "run":
        pipeline.run(pipeline.demo_steps(chosen.output, chosen.epochs, chosen.protocol), *place)
    else:
        _reproduce(chosen, place)
    print(pipeline.summary(chosen.output))
    return 0


def _reproduce(chosen: argparse.Namespace, place: tuple[str, str, int]) -> None:
    """Train all, release the network of fold 0, then evaluate and infer with what was released."""
    from brainlib import release

    steps = pipeline.reproduce_steps(chosen.output, chosen.epochs)
    if chosen.resume:
        steps = [step for step in steps if not pipeline.is_finished(step, *place)]
    pipeline.run([step for step in steps if step.notebook < "03"], *place, jobs=chosen.jobs)
    source, output, seed = place
    release.make_release(release.ReleaseSettings(source, output, seed))
    pipeline.run([step for step in steps if step.notebook > "03"], *place)


def _release(chosen: argparse.Namespace) -> int:
    from brainlib import release

    logging.basicConfig(format="%(message)s")
    logging.getLogger("brainlib").setLevel(logging.INFO)
    settings = {name: value for name, value in vars(chosen).items() if name != "command"}
    document = release.make_release(release.ReleaseSettings(**settings))
    print(json.dumps({name: document[name] for name in ("release", "maps")}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
