"""Test set-up: a cache of its own, and the smoke profile for notebooks under `--nbval`.

This is the one place where the smoke profile is switched on. In it the notebooks run for a minute
on a small phantom into `runs/smoke`, and say so in their table of versions.
"""

import os
import shutil
import tempfile

import pytest

from brainlib import paths
from brainlib.notebook import pipeline, runs

CACHE = pytest.StashKey[str]()


def pytest_configure(config):
    config.stash[CACHE] = os.environ["BRAINLIB_CACHE"] = tempfile.mkdtemp(prefix="brainlib-")


def pytest_unconfigure(config):
    shutil.rmtree(config.stash[CACHE], ignore_errors=True)


def pytest_collection_finish(session):
    """Give `03` and `04` a model and predictions where they run without `02`."""
    chosen = {item.path.stem for item in session.items if _is_notebook(item)}
    if not chosen or session.config.option.collectonly:
        return
    shutil.rmtree(paths.resolve(runs.SMOKE_OUTPUT), ignore_errors=True)
    if chosen & {"03_evaluate", "04_infer"} and "02_train" not in chosen:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(runs.PROFILE_VARIABLE, "smoke")
            pipeline.execute(
                pipeline.Step("02_train"), "phantom", runs.SMOKE_OUTPUT, 0,
                paths.resolve(runs.SMOKE_OUTPUT),
            )  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Switch the smoke profile on for the cells of a notebook, and off for every other test."""
    if _is_notebook(item):
        os.environ[runs.PROFILE_VARIABLE] = "smoke"
    else:
        os.environ.pop(runs.PROFILE_VARIABLE, None)


def _is_notebook(item):
    return item.path.suffix == ".ipynb"
