"""What the commands of these scripts have in common: arguments, the log, errors in one line."""

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any

from brainlib.paths import BrainlibError


def project_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that has `--source`, `--output` and `--seed`."""
    parser = argparse.ArgumentParser(description=description)
    add_place(parser)
    return parser


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add `--source`, `--output` and `--seed`, by default those of the released results."""
    parser.add_argument("--source", default="kaggle", help="kaggle, figshare, phantom, or a folder")
    parser.add_argument("--output", default=".", help="the project itself, unless named")
    parser.add_argument("--seed", type=int, default=0)


def settings(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments by name, without the name of the command."""
    return {name: value for name, value in vars(chosen).items() if name != "command"}


def run(command: Callable[[], None]) -> int:
    """Run a command with the log shown; what a user can mend is said in one line, status 2."""
    logging.basicConfig(format="%(message)s")
    for name in ("brainlib", "scripts"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        command()
    except BrainlibError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
