"""Command-line frame of the scripts: common arguments, logging, errors in one line."""

import argparse
import logging
import sys
from collections.abc import Callable

from brainlib.paths import BrainlibError


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with `--source`, `--output` and `--seed`, by default the released results."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--source", default="kaggle", help="kaggle, figshare, phantom, or a folder")
    made.add_argument("--output", default=".", help="the project itself, unless named")
    made.add_argument("--seed", type=int, default=0)
    return made


def run(command: Callable[[], object]) -> int:
    """Run a command with logging on; an error that a user can mend is one line and status 2."""
    logging.basicConfig(format="%(message)s")
    for name in ("brainlib", "scripts"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        command()
    except BrainlibError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
