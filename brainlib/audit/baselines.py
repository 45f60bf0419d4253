"""Registry of baselines: shortcuts that cannot see a tumour, and one classical classifier.

A shortcut uses something that has little to do with a tumour: grey-level statistics, border,
background, file, or the most similar training image. Where it is nearly as accurate as a network,
the network's score says little about tumours. Gradient histograms with a tuned support vector
machine are the classical method that a network has to beat.

All of them leave prediction tables beside those of the networks, for `03_evaluate` to score.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlib import CLASS_NAMES, paths
from brainlib.audit import features
from brainlib.data import splits
from brainlib.data.datasets import Collection
from brainlib.imaging import LoadedImages
from brainlib.paths import BrainlibError

IDENTITY = ["path", "label"]
COLUMNS = ["path", "patient", "group", "label", "source", "plane", "twin_in_training"]


@dataclass(frozen=True)
class Baseline:
    """A baseline classifier.

    Attributes
    ----------
    features : callable
        `features(table, pixels, root)` returns an array of shape (n, d), once for all folds.
    fit : callable
        `fit(features, labels, groups, seed)` returns a fitted scikit-learn classifier.
    """

    features: Callable[[pd.DataFrame, np.ndarray, Path], np.ndarray]
    fit: Callable[[np.ndarray, np.ndarray, np.ndarray, int], Any]


class NearestImage:
    """Class of the most similar training thumbnail (nearest neighbour; Cover and Hart, 1967).

    Probabilities are the softmax of 50 times the highest correlation with each class.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, *_: object) -> None:
        self.classes_ = np.unique(labels)
        self._references = [features[labels == label].T for label in self.classes_]

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Return probabilities, shape (n, classes)."""
        from scipy.special import softmax

        similarity = [(features @ reference).max(axis=1) for reference in self._references]
        return softmax(50 * np.stack(similarity, axis=1).astype(np.float64), axis=1)


def boosted_trees(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int, components: int = 0
) -> Any:
    """Fit gradient-boosted trees (Friedman, 2001; Ke et al., 2017), on principal components or not.

    One thread: on a busy machine threads that wait for each other take five times as long.
    """
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingClassifier(random_state=seed, early_stopping=False)
    if components:
        model = make_pipeline(PCA(min(components, *features.shape), random_state=seed), model)
    with threadpool_limits(1):
        return model.fit(features, labels)


def tuned_svm(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> Any:
    """Fit a support vector machine, tuned and calibrated on training groups.

    Gaussian kernel (Cortes and Vapnik, 1995) on 300 principal components. The penalty is the one
    with the best balanced accuracy in three folds that cut no group; a logistic function of the
    decision values in these folds makes them probabilities (Platt, 1999).
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.decomposition import PCA
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    fewest = int(pd.Series(groups).groupby(labels).nunique().min())
    if fewest < 2:
        raise BrainlibError("a class has only one group in training: tuning needs two")
    folds = list(StratifiedGroupKFold(min(3, fewest)).split(features, labels, groups))
    pca = PCA(min(300, *features.shape), random_state=seed).fit(features)
    reduced = pca.transform(features)
    svm = SVC(class_weight="balanced", cache_size=500)
    penalties = {"C": (1.0, 3.0, 10.0, 30.0)}
    search = GridSearchCV(svm, penalties, scoring="balanced_accuracy", cv=folds, refit=False)
    svm.set_params(**search.fit(reduced, labels).best_params_)
    calibrated = CalibratedClassifierCV(svm, cv=folds, ensemble=False).fit(reduced, labels)
    return make_pipeline(pca, calibrated)


def _on_pixels(describe: Callable, fit: Callable = boosted_trees) -> Baseline:
    return Baseline(lambda table, pixels, root: describe(pixels), fit)


BASELINES: dict[str, Baseline] = {
    "nearest_neighbor": _on_pixels(features.thumbnails, NearestImage),
    "intensity_statistics": _on_pixels(features.intensity_features),
    "border_pixels": _on_pixels(features.border_features),
    "masked_head": _on_pixels(features.silhouettes, partial(boosted_trees, components=40)),
    "file_properties": Baseline(lambda t, _, root: features.file_features(t, root), boosted_trees),
    "mirror_flag": Baseline(lambda t, *_: t[["mirrored"]].to_numpy(np.float64), boosted_trees),
    "hog_svm": _on_pixels(features.hog_features, tuned_svm),
}
"""All baselines. To add one: `BASELINES["mine"] = Baseline(features, boosted_trees)`."""


def write_predictions(
    collection: Collection, loaded: LoadedImages, folder: Path, seed: int = 0
) -> pd.DataFrame:
    """Write the prediction tables of all baselines; existing tables of these images are reused.

    Parameters
    ----------
    collection : Collection
    loaded : LoadedImages
        Its pixels.
    folder : Path
        Folder of the prediction tables. Delete a table to recompute it.
    seed : int

    Returns
    -------
    DataFrame
        Accuracy of each baseline on the test images, one column per protocol.
    """
    from tqdm.auto import tqdm

    table = loaded.table
    protocols = ("patient", "official") if splits.has_splits(table) else ("patient",)
    folds = {protocol: splits.make_splits(table, protocol, seed) for protocol in protocols}
    accuracies = pd.DataFrame(index=list(BASELINES), columns=list(protocols), dtype=float)
    for name, baseline in tqdm(BASELINES.items(), "baselines", delay=2):
        values = cache(partial(baseline.features, table, loaded.pixels, collection.root))
        for protocol in protocols:
            file = folder / f"{name}_{protocol}.test.csv"
            predictions = pd.read_csv(file) if file.is_file() else pd.DataFrame()
            expected = table.iloc[np.concatenate([split.test for split in folds[protocol]])]
            if not all(list(predictions.get(key, ())) == list(expected[key]) for key in IDENTITY):
                predictions = _predict(baseline, table, values(), folds[protocol], seed)
                with paths.atomic_write(file) as temporary:
                    predictions.to_csv(temporary, index=False, float_format="%.6f")
                predictions = pd.read_csv(file)  # as rounded as later runs see it
            predicted = predictions[list(CLASS_NAMES)].idxmax(axis="columns")
            accuracies.loc[name, protocol] = (predicted == predictions["label"]).mean()
    return accuracies


def _predict(
    baseline: Baseline, table: pd.DataFrame, values: np.ndarray, folds: list[splits.Split],
    seed: int,
) -> pd.DataFrame:  # fmt: skip
    labels, groups = table["label"].to_numpy(str), table["group"].to_numpy(str)
    predictions = []
    for split in folds:
        train = np.sort(split.seen)
        model = baseline.fit(values[train], labels[train], groups[train], seed)
        answers = model.predict_proba(values[split.test])
        probabilities = pd.DataFrame(answers, columns=model.classes_)
        tested = splits.subset(table, split, "test")[COLUMNS].assign(fold=split.fold)
        predictions.append(tested.join(probabilities.reindex(columns=CLASS_NAMES, fill_value=0.0)))
    return pd.concat(predictions, ignore_index=True)


def predict_sources(table: pd.DataFrame, pixels: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Predict the source of new patients' images, and from it alone whether they show a tumour.

    Gradient boosting predicts an image's source from its twelve intensity statistics. Every image
    of a source then gets that source's more frequent answer in training, tumour or none. If this
    is nearly always right, tumour against none is scanner against scanner.

    Returns
    -------
    dict of str to number
        `images`; `source_accuracy`; `largest_source`, the accuracy of always naming the most
        frequent source; `tumour_accuracy_by_source`, of answering from the true source;
        `tumour_accuracy_by_predicted_source`, from the predicted one; and `largest_answer`, of
        always giving the more frequent answer. Empty if the table has one source only.
    """
    if table["source"].nunique() < 2:
        return {}
    values = features.intensity_features(pixels)
    source = table["source"].to_numpy(str)
    tumor = (table["label"] != "notumor").to_numpy()
    folds = []
    for split in splits.make_splits(table, "patient", seed):
        train, test = split.seen, split.test
        model = boosted_trees(values[train], source[train], source[train], seed)
        usual = pd.Series(tumor[train]).groupby(source[train]).mean() >= 0.5
        named = {"source": source[test], "predicted": model.predict(values[test])}
        answers = {f"by_{key}": usual.reindex(names, fill_value=True).to_numpy()
                   for key, names in named.items()}  # fmt: skip
        folds.append(pd.DataFrame({**named, **answers, "tumor": tumor[test]}))
    tested = pd.concat(folds)
    scores = {
        "images": len(tested),
        "source_accuracy": (tested["source"] == tested["predicted"]).mean(),
        "largest_source": tested["source"].value_counts(normalize=True).max(),
        "tumour_accuracy_by_source": (tested["by_source"] == tested["tumor"]).mean(),
        "tumour_accuracy_by_predicted_source": (tested["by_predicted"] == tested["tumor"]).mean(),
        "largest_answer": tested["tumor"].value_counts(normalize=True).max(),
    }
    return {name: round(float(score), 4) for name, score in scores.items()}
