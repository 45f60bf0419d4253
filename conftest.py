"""Test set-up: a cache of its own, and the smoke profile for notebooks under `--nbval`.

This is the one place where the smoke profile is switched on. In it the notebooks run for a minute
on a small phantom into `runs/smoke`, and say so in their table of versions.
"""

import os
import shutil
import tempfile

import pytest

from brainlib import paths, pipeline, runs

CACHE = pytest.StashKey[str]()
PREPARED = pytest.StashKey[bool]()


def pytest_configure(config):
    config.stash[CACHE] = os.environ["BRAINLIB_CACHE"] = tempfile.mkdtemp(prefix="brainlib-")


def pytest_unconfigure(config):
    shutil.rmtree(config.stash[CACHE], ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    """Keep a file's tests in one process where there are several, and all notebooks in another."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            name = "notebooks" if _is_notebook(item) else item.path.stem
            item.add_marker(pytest.mark.xdist_group(name))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Switch the smoke profile on for the cells of a notebook, and off for every other test."""
    if not _is_notebook(item):
        os.environ.pop(runs.PROFILE_VARIABLE, None)
        return
    os.environ[runs.PROFILE_VARIABLE] = "smoke"
    if not item.config.stash.setdefault(PREPARED, False):
        item.config.stash[PREPARED] = True
        _prepare({other.path.stem for other in item.session.items if _is_notebook(other)})


def _prepare(chosen):
    """Empty the folder of the notebooks; `03` and `04` need what `02` makes where it is not run."""
    shutil.rmtree(paths.resolve(runs.SMOKE_OUTPUT), ignore_errors=True)
    if chosen & {"03_evaluate", "04_infer"} and "02_train" not in chosen:
        pipeline.execute(
            pipeline.Step("02_train"), "phantom", runs.SMOKE_OUTPUT, 0,
            paths.resolve(runs.SMOKE_OUTPUT),
        )  # fmt: skip


def _is_notebook(item):
    return item.path.suffix == ".ipynb"
