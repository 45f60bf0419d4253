"""Test set-up: a cache of its own, and under `--nbval` the plugin `tests/smoke.py`."""

import os
import shutil
import tempfile

import pytest

from brainlib import paths
from brainlib.notebook import pipeline, runs

CACHE = pytest.StashKey[str]()
OUTPUT = "runs/smoke"
SMOKE = {runs.PLUGINS_VARIABLE: "smoke", "PYTHONPATH": str(paths.project_root() / "tests")}


def pytest_configure(config):
    config.stash[CACHE] = os.environ["BRAINLIB_CACHE"] = tempfile.mkdtemp(prefix="brainlib-")


def pytest_unconfigure(config):
    shutil.rmtree(config.stash[CACHE], ignore_errors=True)


def pytest_collection_finish(session):
    """Give `03` and `04` a model and predictions where they run without `02`."""
    chosen = {item.path.stem for item in session.items if _is_notebook(item)}
    if not chosen or session.config.option.collectonly:
        return
    shutil.rmtree(paths.resolve(OUTPUT), ignore_errors=True)
    if chosen & {"03_evaluate", "04_infer"} and "02_train" not in chosen:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in SMOKE.items():
                patch.setenv(name, value)
            step = pipeline.Step("02_train")
            pipeline.execute(step, "phantom", OUTPUT, 0, paths.resolve(OUTPUT))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Switch the smoke profile on for the cells of a notebook, and off for every other test."""
    if _is_notebook(item):
        os.environ |= SMOKE
    else:
        os.environ.pop(runs.PLUGINS_VARIABLE, None)


def _is_notebook(item):
    return item.path.suffix == ".ipynb"
