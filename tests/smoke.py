"""Smoke profile: a plugin with which notebooks take a minute, on a small phantom.

`pytest --nbval notebooks` names it in `BRAINLIB_PLUGINS`, see `conftest.py`.
"""

from brainlib import paths
from brainlib.data import datasets, phantom
from brainlib.notebook import runs

OUTPUT = "runs/smoke"
NAME = runs.run_name(runs.RELEASED, "patient", 0)
FORCED = {
    "01_explore": {},
    "02_train": {"epochs": 1},
    "03_evaluate": {"predictions": f"{OUTPUT}/{runs.PUBLISHED}", "resamples": 100},
    "04_infer": {"model": f"{OUTPUT}/model/{NAME}.keras", "engine": "keras"},
}


def force(kind, values):
    """Return the settings of a notebook with some values that nobody can change."""

    def begin(settings, **given):
        kind.__init__(settings, **{**given, **values})

    return type(kind.__name__, (kind,), {"__init__": begin})


folder = paths.cache_folder() / f"phantom-v{phantom.PHANTOM_VERSION}-smoke"
datasets.open_cached(folder, lambda target: phantom.write_phantom(target, 24, slices=3))
for notebook, values in FORCED.items():
    everywhere = {"source": str(folder), "output": OUTPUT}
    runs.SETTINGS[notebook] = force(runs.SETTINGS[notebook], everywhere | values)
