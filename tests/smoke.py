"""Plugin of `pytest --nbval notebooks`: each notebook takes seconds, on a small phantom."""

from brainlib import paths
from brainlib.data import datasets, phantom
from brainlib.notebook import runs

OUTPUT = "runs/smoke"
FOLDER = paths.cache_folder() / "smoke"
MODEL = f"{OUTPUT}/model/{runs.run_name(runs.RELEASED, 'patient', 0)}.keras"
FORCED = {
    "01_explore": {},
    "02_train": {"epochs": 1},
    "03_evaluate": {"predictions": f"{OUTPUT}/{runs.PUBLISHED}", "resamples": 100},
    "04_infer": {"model": MODEL, "engine": "keras"},
}


def force(kind, values):
    def begin(settings, **given):
        kind.__init__(settings, **{**given, "source": str(FOLDER), "output": OUTPUT, **values})

    return type(kind.__name__, (kind,), {"__init__": begin})


datasets.open_cached(FOLDER, lambda target: phantom.write_phantom(target, 24, slices=3))
runs.SETTINGS |= {name: force(runs.SETTINGS[name], FORCED[name]) for name in FORCED}
