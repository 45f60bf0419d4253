"""Contribution of each part of the network: short trainings with one part changed.

All train on the training groups of one fold and are scored on its validation groups, never on a
test fold. Finished runs are kept in `model/ablation.csv`, a row for each validation image, and are
reused; an interrupted study resumes at the last epoch. `python -m scripts.ablation`.
"""

import functools
import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from brainlib import CLASS_NAMES, explain, imaging, inference, models, paths
from brainlib.data import splits
from brainlib.evaluation.bootstrap import mean_with_interval, resampled_weights
from brainlib.models.registry import MODELS
from brainlib.notebook import runs
from brainlib.paths import BrainlibError
from brainlib.training import RECIPES, Examples, Schedule, examples, fit, forget
from scripts import command

RELEASED = next(iter(MODELS))
FOLD = 0
"""The fold whose test images the study never looks at."""

WHOLE = "whole"
SEVERAL_VIEWS = "several_views"
METRICS = {"accuracy": "right", "tumor_type_accuracy": "type_right", "log_loss": "loss",
           "dice": "dice"}  # fmt: skip
"""Each metric is the mean of one column of a run."""

TUMORS = tuple(name for name in CLASS_NAMES if name != "notumor")
LEVEL = 0.95


class AblationError(BrainlibError):
    """A study that cannot be made as it is asked for."""


@dataclass(frozen=True)
class Variant:
    """The short recipe with one part changed.

    Attributes
    ----------
    title : str
    parts : mapping
        What is changed in the network, fields of `models.Parts`.
    outlines : bool
        Train on the outlines beside the class.
    left_out : str
        A class that is not trained on.
    """

    title: str
    parts: Mapping[str, Any] = field(default_factory=dict)
    outlines: bool = True
    left_out: str = ""


VARIANTS = {
    WHOLE: Variant("full network"),
    "no_pretraining": Variant("without ImageNet weights", {"pretrained": False}),
    "no_outlines": Variant("without outlines, class labels only", outlines=False),
    "no_head": Variant("without finding the head", {"find_head": False}),
    **{f"no_{name}": Variant(f"trained without {name}", left_out=name) for name in TUMORS},
}
"""What is compared, the full network first; `SEVERAL_VIEWS` is scored on its trainings."""

TITLES = {name: variant.title for name, variant in VARIANTS.items()} | {
    SEVERAL_VIEWS: "mean of the image and its mirror image"
}


@dataclass(frozen=True)
class AblationSettings(runs.Settings):
    """Parameters of the study.

    Attributes
    ----------
    source, output, seed
        As for every notebook; the seed chooses the validation groups and draws the intervals.
    seeds : int
        Trainings of each variant; those without a class are trained once.
    epochs : int
        Of each training; 0 is half of the released recipe's.
    variants : str
        Which to train, keys of `VARIANTS` with commas between them; empty for all.
    resamples : int
        Bootstrap resamples of the groups behind each interval.
    """

    output: str = "."
    seeds: int = 3
    epochs: int = 0
    variants: str = ""
    resamples: int = 1000


@dataclass(frozen=True)
class Data:
    """What variants are trained on, and the validation groups that they are scored on."""

    train: Examples
    table: pd.DataFrame
    root: Path


def study(settings: AblationSettings) -> dict[str, Any]:
    """Train what is missing, and put `ablation` and `unknown` into `metrics.json`.

    Raises
    ------
    AblationError
        For an unknown variant, or fewer than one seed or resample.
    """
    if min(settings.seeds, settings.resamples) < 1:
        raise AblationError("seeds and resamples must be at least 1")
    names = [name.strip() for name in settings.variants.split(",") if name.strip()]
    for name in names:
        if name not in VARIANTS:
            raise AblationError(f"no variant {name!r}: choose some of {', '.join(VARIANTS)}")
    run = runs.Run("ablation", settings, paths.resolve(settings.output), smoke=False)
    recipe = RECIPES[RELEASED]
    schedule = replace(recipe, epochs=settings.epochs or max(1, recipe.epochs // 2))
    data_hash = run.open_collection().file_hash
    recipes = {name: fingerprint(one, schedule, settings.seed, data_hash)
               for name, one in VARIANTS.items()}  # fmt: skip
    wanted = [
        (name, seed)
        for name in VARIANTS
        if not names or name in {WHOLE, *names}
        for seed in range(1 if VARIANTS[name].left_out else settings.seeds)
    ]
    finished = _finish(run, wanted, recipes, schedule)
    section = summarise(finished, settings.resamples, settings.seed)
    unknown = summarise_unknown(finished, settings.resamples, settings.seed)
    section |= {"fold": FOLD, "epochs": schedule.epochs}
    run.update_metrics(ablation=section, unknown=unknown)
    run.write_record("model/ablation", fold=FOLD, epochs=schedule.epochs)
    return section


def _finish(
    run: runs.Run, wanted: list[tuple[str, int]], recipes: dict[str, str], schedule: Schedule
) -> pd.DataFrame:
    """Make the runs that are missing, each kept as soon as it is done, and return all of them."""
    file = run.model / "ablation.csv"
    kept = pd.read_csv(file, dtype={"group": str}) if file.is_file() else pd.DataFrame()
    if len(kept):
        kept = kept[kept["recipe"].isin(recipes.values())]
    done = set(zip(kept["recipe"], kept["seed"], strict=True)) if len(kept) else set()
    missing = [(name, seed) for name, seed in wanted if (recipes[name], seed) not in done]
    for name, seed in tqdm(missing, "trainings"):
        checkpoint = run.model / "checkpoints" / f"ablation_{name}_{seed}"
        place = (run.settings.source, run.settings.seed)
        rows = train_and_score(name, replace(schedule, seed=seed), place, checkpoint)
        kept = pd.concat([kept, rows.assign(seed=seed, recipe=recipes[name])], ignore_index=True)
        run.write_table(kept, "model/ablation")
    return kept


def fingerprint(variant: Variant, schedule: Schedule, seed: int, data: str) -> str:
    """Return 12 hexadecimal digits over all that decides a run beside its own seed and the code."""
    choices = [RELEASED, {**asdict(variant), "title": ""}, asdict(schedule), seed, data]
    return hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()[:12]


def train_and_score(
    name: str, schedule: Schedule, place: tuple[str, int], checkpoint: Path
) -> pd.DataFrame:
    """Train a variant and score it on the validation groups.

    Returns
    -------
    DataFrame
        As `score` gives it, with `variant` and the `seconds` of the training; for the full network
        also the rows of `SEVERAL_VIEWS`.
    """
    variant, data = VARIANTS[name], load(*place)
    seen = data.train
    if not variant.outlines:
        seen = replace(seen, outlined=np.zeros(len(seen), bool))
    if variant.left_out:
        known = seen.classes != CLASS_NAMES.index(variant.left_out)
        seen = seen.part(np.flatnonzero(known))
    keras.utils.clear_session()
    keras.utils.set_random_seed(schedule.seed)
    model = MODELS[RELEASED](models.Parts(**variant.parts))
    began = time.perf_counter()
    fit(model, seen, None, schedule, checkpoint)
    seconds = round(time.perf_counter() - began, 1)
    scored = [score(model, data, variant.outlines).assign(variant=name)]
    if name == WHOLE:
        scored.append(score(model, data, False, views=2).assign(variant=SEVERAL_VIEWS))
    forget(checkpoint)
    return pd.concat(scored, ignore_index=True).assign(seconds=seconds)


@functools.lru_cache(maxsize=1)
def load(source: str, seed: int) -> Data:
    """Load the images that the study trains on, and the table of those that it is scored on."""
    run = runs.Run("ablation", runs.Settings(source=source, seed=seed), Path(), smoke=False)
    loaded = run.load_images(models.TRAINING_SIZES[RELEASED])
    split = splits.make_split(loaded.table, "patient", FOLD, seed)
    root = run.open_collection().root
    table = loaded.table.iloc[split.validation].reset_index(drop=True)
    return Data(examples(loaded, split.train, root), table, root)


def score(model: keras.Model, data: Data, draws: bool, views: int = 1) -> pd.DataFrame:
    """Score a model on the validation images, from their files as any user would.

    Returns
    -------
    DataFrame
        A row for each image: `group`, `label`, the `answer` and its probability, `certainty`;
        whether it is `right`; its log loss, `loss`; `type_right` among the tumours of the main
        source, and `dice` of outlined tumours, both NaN elsewhere.
    """
    images = [imaging.read_image(data.root / path) for path in data.table["path"]]
    shown = [images, [image[:, ::-1] for image in images]][:views]
    answers = np.mean([inference.predict_images(model, view) for view in shown], axis=0)
    table = data.table[["path", "group", "label"]].astype(str)
    truth = pd.Index(CLASS_NAMES).get_indexer(table["label"])
    is_tumor = table["label"] != "notumor"
    typed = is_tumor & (data.table["source"] == data.table["source"][is_tumor].mode().iloc[0])
    among_tumors = answers * (np.array(CLASS_NAMES) != "notumor")
    scored = table.assign(
        answer=np.take(CLASS_NAMES, answers.argmax(axis=1)),
        certainty=answers.max(axis=1).astype(float).round(6),
        right=(answers.argmax(axis=1) == truth).astype(float),
        loss=-np.log(np.maximum(answers[np.arange(len(truth)), truth].astype(float), 1e-12)),
        type_right=pd.Series((among_tumors.argmax(axis=1) == truth).astype(float)).where(typed),
        dice=np.nan,
    )
    if draws:
        maps = explain.score_maps(models.with_maps(model), data.table, data.root, FOLD)
        scored["dice"] = scored["path"].map(maps.set_index("path")["dice"])
    return scored.drop(columns="path").round(6)


def summarise(finished: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Compare each variant with the full network.

    Parameters
    ----------
    finished : DataFrame
        Rows of `train_and_score`, all variants on the same images.

    Returns
    -------
    dict
        `seeds`, `images`, `groups`, `minutes`; and `variants`, by name: `title`, each metric of
        `METRICS` as `interval` gives it, and under `difference` the same for the variant minus the
        full network, seed by seed on the same groups.
    """
    by_run = finished[finished["variant"] != SEVERAL_VIEWS]
    by_run = by_run.drop_duplicates(["variant", "seed"])
    whole = finished[finished["variant"] == WHOLE]
    found = {}
    for name in [name for name in TITLES if name in set(finished["variant"])]:
        if name in VARIANTS and VARIANTS[name].left_out:
            continue
        rows = finished[finished["variant"] == name]
        both = sorted(set(rows["seed"]) & set(whole["seed"]))
        found[name] = {"title": TITLES[name], "difference": {}}
        for metric, column in METRICS.items():
            if rows[column].isna().all():
                continue
            values, resampled = _replicates(rows, column, resamples, seed)
            found[name][metric] = interval(values, resampled)
            if name != WHOLE:
                one, other = (
                    _replicates(part[part["seed"].isin(both)], column, resamples, seed)
                    for part in (rows, whole)
                )
                differences = [mine - theirs for mine, theirs in zip(one, other, strict=True)]
                found[name]["difference"][metric] = interval(*differences)
    return {
        "seeds": int(whole["seed"].nunique()),
        "images": int(len(whole) / whole["seed"].nunique()),
        "groups": int(whole["group"].nunique()),
        "minutes": round(float(by_run["seconds"].sum()) / 60, 1),
        "variants": found,
    }


def _replicates(
    rows: pd.DataFrame, column: str, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a metric by seed (s,), and the same for each resample of the groups (r, s)."""
    by_group = rows.groupby(["group", "seed"])[column].agg(["sum", "count"]).unstack("seed")
    sums, counts = by_group["sum"].to_numpy(float), by_group["count"].to_numpy(float)
    with np.errstate(invalid="ignore"):  # a resample without any image that counts
        draws = [
            (weights @ sums) / (weights @ counts)
            for weights in resampled_weights(np.arange(len(sums)), resamples, seed)
        ]
    return sums.sum(axis=0) / counts.sum(axis=0), np.concatenate(draws)


def interval(values: np.ndarray, resampled: np.ndarray) -> dict[str, float]:
    """Return the mean over seeds, with a 95 % interval over other seeds and other patients.

    The variance of the mean over resampled groups and the variance between seeds, divided by their
    number, are added; Student's distribution has the degrees of freedom of Satterthwaite (1946).

    Parameters
    ----------
    values : float array of shape (seeds,)
    resampled : float array of shape (resamples, seeds)

    Examples
    --------
    >>> interval(np.array([0.8, 0.9, 0.85]), np.full((100, 3), 0.85))
    {'value': 0.85, 'low': 0.725793, 'high': 0.974207}
    """
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return {"value": round(mean, 6)}
    by_patient = float(np.nanvar(resampled.mean(axis=1), ddof=1))
    by_seed = float(np.var(values, ddof=1)) / count
    total = by_patient + by_seed
    freedom = (count - 1) * (total / by_seed) ** 2 if by_seed else np.inf
    margin = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * total**0.5
    limits = {"value": mean, "low": mean - margin, "high": mean + margin}
    return {name: round(number, 6) for name, number in limits.items()}


def summarise_unknown(
    finished: pd.DataFrame, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Compare the certainty about a class that was not trained on with that about known tumours.

    Returns
    -------
    dict
        By class that was left out: its number of `images`; `certainty_unknown` and
        `certainty_known`, means with 95 % intervals over groups; `auroc`, how well low certainty
        tells them apart; `called`, the class that it is most often taken for, and that `share`.
    """
    found = {}
    for name in TUMORS:
        rows = finished[(finished["variant"] == f"no_{name}") & (finished["label"] != "notumor")]
        if rows.empty:
            continue
        is_unknown = (rows["label"] == name).to_numpy()
        called = rows[is_unknown]["answer"].value_counts(normalize=True)
        found[name] = {
            "images": int(is_unknown.sum()),
            "certainty_unknown": _mean(rows[is_unknown], resamples, seed),
            "certainty_known": _mean(rows[~is_unknown], resamples, seed),
            "auroc": round(float(roc_auc_score(is_unknown, -rows["certainty"])), 6),
            "called": str(called.index[0]),
            "share": round(float(called.iloc[0]), 6),
        }
    return found


def _mean(rows: pd.DataFrame, resamples: int, seed: int) -> dict[str, float]:
    values, groups = rows["certainty"].to_numpy(float), rows["group"].to_numpy(object)
    interval = mean_with_interval(values, groups, resamples, seed)
    return {name: interval[name] for name in ("value", "low", "high")}


def main() -> None:
    """Study the parts of the released network."""
    parser = command.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant")
    parser.add_argument("--epochs", type=int, default=0, help="0: half of the released recipe's")
    parser.add_argument("--variants", default="", help="names with commas between; empty: all")
    study(AblationSettings(**vars(parser.parse_args())))


if __name__ == "__main__":
    sys.exit(command.run(main))
