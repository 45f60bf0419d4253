"""What each part of the recipe brings: short trainings that leave one part out.

All train on the training groups of one fold and are scored on its validation groups, never on a
test fold. A finished run is kept in `model/ablation.csv` as what it made of each group, from which
every number of the study is computed; a study that was stopped goes on with the runs that are
missing.
"""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from brainlib import paths
from brainlib.notebook import runs
from brainlib.notebook.pipeline import end_with_parent
from scripts.ablation.summary import COLUMNS, METRICS, interval, summarise
from scripts.ablation.training import FOLD, Held, dice, load, make_run, score, train
from scripts.ablation.unknown import (
    UnknownSettings,
    answer_unknown,
    study_unknown,
    summarise_unknown,
)
from scripts.ablation.variants import (
    SHORT,
    VARIANTS,
    WHOLE,
    AblationError,
    Variant,
    choose_variants,
    fingerprint,
)

__all__ = [
    "COLUMNS", "FOLD", "METRICS", "SHORT", "VARIANTS", "WHOLE", "AblationError", "AblationSettings",
    "Held", "UnknownSettings", "Variant", "answer_unknown", "choose_variants", "dice",
    "fingerprint", "interval", "load", "make_run", "read_runs", "score", "study", "study_unknown",
    "summarise", "summarise_unknown", "train",
]  # fmt: skip

Wanted = tuple[str, int]
"""A run of the study: the name of a variant, and a seed."""


@dataclass(frozen=True)
class AblationSettings(runs.Settings):
    """Parameters of the study.

    Attributes
    ----------
    source, output, seed
        As for every notebook; the seed chooses the validation groups and draws the intervals.
    seeds : int
        Trainings of each variant, with the seeds 0, 1 and so on.
    variants : str
        Which to train, keys of `VARIANTS` with commas between them; empty for all. Others whose
        runs are all there from before are summed up beside them.
    epochs : int
        Instead of those of `SHORT`, where it is not 0.
    jobs : int
        Trainings side by side, each on its share of the cores.
    resamples : int
        Resamplings of the groups behind each interval.
    """

    output: str = "."
    seeds: int = 3
    variants: str = ""
    epochs: int = 0
    jobs: int = 1
    resamples: int = 1000


def study(settings: AblationSettings) -> dict[str, Any]:
    """Make the runs that are missing, and put the section `ablation` into `metrics.json`.

    Parameters
    ----------
    settings : AblationSettings

    Returns
    -------
    dict
        The section: what `summarise` gives, with `fold`, and the `epochs` and `size` (pixels) of
        the whole recipe.

    Raises
    ------
    AblationError
        For an unknown variant, or fewer than one seed, job or resampling.
    """
    if min(settings.seeds, settings.jobs, settings.resamples) < 1:
        raise AblationError("seeds, jobs and resamples must be at least 1")
    names = [name.strip() for name in settings.variants.split(",") if name.strip()]
    wanted = choose_variants(names, settings.epochs)
    variants = choose_variants(epochs=settings.epochs)
    run = runs.Run("ablate", settings, paths.resolve(settings.output), smoke=False)
    data = run.open_collection().file_hash
    recipes = {name: fingerprint(one, settings.seed, data) for name, one in variants.items()}
    finished = _finish(run, wanted, recipes)
    schedule = variants[WHOLE].schedule
    section = {
        "fold": FOLD,
        "epochs": schedule.epochs,
        "size": schedule.sizes[-1][0],
        **summarise(finished, settings.resamples, settings.seed),
    }
    run.update_metrics(ablation=section)
    shown = {name: asdict(variants[name]) for name in section["variants"]}
    run.write_record("model/ablation", variants=shown)
    return section


def _finish(run: runs.Run, variants: dict[str, Variant], recipes: dict[str, str]) -> pd.DataFrame:
    """Make the runs that are missing, keeping each as soon as it is done.

    Returns those of all variants that have all their seeds.
    """
    file = run.model / "ablation.csv"
    kept = read_runs(file)
    finished = kept[_is_of(kept, recipes)]
    kept = kept[~_is_of(kept, recipes)]  # another study's, whose hours are not lost
    done = set(zip(finished["variant"], finished["seed"], strict=True))
    wanted = [(name, seed) for seed in range(run.settings.seeds) for name in variants]
    missing = [one for one in wanted if one not in done]
    for name, scored in tqdm(_make_runs(run, variants, missing), "runs", total=len(missing)):
        scored = scored.assign(variant=name, recipe=recipes[name])
        finished = pd.concat([finished, scored], ignore_index=True)[COLUMNS]
        with paths.atomic_write(file) as temporary:
            pd.concat([kept, finished]).to_csv(temporary, index=False, lineterminator="\n")
    asked = finished[finished["seed"] < run.settings.seeds]
    seeds = asked.groupby("variant")["seed"].transform("nunique")
    return asked[seeds == run.settings.seeds]


def _is_of(finished: pd.DataFrame, recipes: dict[str, str]) -> pd.Series:
    """Return which rows were made by the very recipes asked for."""
    return finished["recipe"] == finished["variant"].map(recipes)


def read_runs(file: Path) -> pd.DataFrame:
    """Return the finished runs of all studies.

    Parameters
    ----------
    file : Path
        Where it does not exist there are none.

    Returns
    -------
    DataFrame
        `COLUMNS`: a row for each run and group.
    """
    if not file.is_file():
        return pd.DataFrame(columns=COLUMNS)
    return pd.read_csv(file, dtype={"group": str, "recipe": str})


def _make_runs(
    run: runs.Run, variants: dict[str, Variant], missing: list[Wanted]
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Give each run as it is finished, with the name of its variant."""
    settings = run.settings
    place = (settings.source, settings.seed)
    calls = {
        (name, seed): (variants[name], seed, place, _checkpoint(run, name, seed))
        for name, seed in missing
    }
    if settings.jobs == 1:
        yield from ((name, make_run(*call)) for (name, _), call in calls.items())
        return
    spawned = multiprocessing.get_context("spawn")
    workers = ProcessPoolExecutor(settings.jobs, spawned, initializer=end_with_parent)
    with _shared_cores(settings.jobs), workers as pool:
        futures = {pool.submit(make_run, *call): name for (name, _), call in calls.items()}
        try:
            yield from ((futures[future], future.result()) for future in as_completed(futures))
        finally:
            for future in futures:
                future.cancel()


def _checkpoint(run: runs.Run, name: str, seed: int) -> Path:
    return run.model / "checkpoints" / f"ablation_{name}_{seed}"


@contextmanager
def _shared_cores(jobs: int) -> Iterator[None]:
    """Give each process that is started meanwhile its share of the cores, and no bars.

    Bars of trainings side by side would tear each other. All is read when TensorFlow and tqdm are
    imported, so it must be there before a process starts.
    """
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    shared = {"TF_NUM_INTRAOP_THREADS": threads, "OMP_NUM_THREADS": threads, "TQDM_DISABLE": "1"}
    before = {name: os.environ.get(name) for name in shared}
    os.environ.update(shared)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
