"""Command-line frame of the scripts: options from a signature, logging, errors in one line."""

import logging
import sys
from collections.abc import Callable

import typer

from brainlib.paths import BrainlibError


def run(main: Callable) -> None:
    """Run a script and exit, with status 2 and one line for an error that a user can mend.

    Its options are the parameters of `main`, its help is the docstring of their module.
    """
    logging.basicConfig(format="%(message)s")
    for name in ("brainlib", "scripts"):
        logging.getLogger(name).setLevel(logging.INFO)
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(help=sys.modules[main.__module__].__doc__)(main)
    try:
        app()
    except BrainlibError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
