"""The commands behind the Makefile: `python -m brainlib run`, `reproduce`, `readme`, `bench`."""

import argparse
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
    place = (chosen.source, chosen.output, chosen.seed)
    if chosen.command == "run":
        steps = pipeline.demo_steps(chosen.output, chosen.epochs, chosen.protocol)
    else:
        steps = pipeline.reproduce_steps(chosen.output, chosen.epochs)
        if chosen.resume:
            steps = [step for step in steps if not pipeline.is_finished(step, *place)]
    pipeline.run(steps, *place, jobs=getattr(chosen, "jobs", 1))
    print(pipeline.summary(chosen.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
