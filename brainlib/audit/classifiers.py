"""How shortcuts learn: classifiers of scikit-learn, fitted the same way everywhere.

Each takes features (n, d), class codes (n,), groups (n,) and a seed, and gives a fitted classifier.
"""

from typing import Any

import numpy as np

from brainlib.audit.pictures import AuditError

SHARPNESS = 50.0
COMPONENTS = 40
HOG_COMPONENTS = 300
PENALTIES = (1.0, 3.0, 10.0, 30.0)
TUNING_FOLDS = 3


class NearestClass:
    """The class of the most similar thumbnail (nearest neighbour; Cover and Hart, 1967).

    Probabilities are a softmax over the correlation with the nearest thumbnail of each class, 50
    times sharpened.
    """

    def __init__(self, features: np.ndarray, codes: np.ndarray) -> None:
        self.classes_ = np.unique(codes)
        self._references = [features[codes == code].T for code in self.classes_]

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Return probabilities, shape (n, classes)."""
        from scipy.special import softmax

        similarity = [(features @ reference).max(axis=1) for reference in self._references]
        return softmax(SHARPNESS * np.stack(similarity, axis=1).astype(np.float64), axis=1)


def nearest(features: np.ndarray, codes: np.ndarray, _groups: np.ndarray, _seed: int) -> Any:
    """Remember all thumbnails."""
    return NearestClass(features, codes)


def boost(features: np.ndarray, codes: np.ndarray, _groups: np.ndarray, seed: int) -> Any:
    """Fit gradient-boosted trees (Friedman, 2001; histogram form: Ke et al., 2017)."""
    return _single_threaded_fit(_trees(seed), features, codes)


def reduce_and_boost(
    features: np.ndarray, codes: np.ndarray, _groups: np.ndarray, seed: int
) -> Any:
    """Fit gradient-boosted trees on the principal components."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline

    components = PCA(min(COMPONENTS, *features.shape), random_state=seed)
    return _single_threaded_fit(make_pipeline(components, _trees(seed)), features, codes)


def tuned_svm(features: np.ndarray, codes: np.ndarray, groups: np.ndarray, seed: int) -> Any:
    """Fit a support vector machine, tuned and calibrated on training groups.

    Gaussian kernel (Cortes and Vapnik, 1995) on 300 principal components. The penalty is the one
    with the best balanced accuracy in three folds that cut no group; a logistic function of the
    decision values in these folds makes them probabilities (Platt, 1999).

    Raises
    ------
    AuditError
        Where a row has no group or a class has fewer than two groups.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.decomposition import PCA
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    if (groups == "").any():
        raise AuditError("some training rows have no group; see brainlib.audit.group_from_audit")
    fewest = min(len(np.unique(groups[codes == code])) for code in np.unique(codes))
    if fewest < 2:
        raise AuditError("a class has one group only in training: tuning needs two")
    folds = StratifiedGroupKFold(min(TUNING_FOLDS, fewest))
    pairs = list(folds.split(features, codes, groups))
    components = PCA(min(HOG_COMPONENTS, *features.shape), random_state=seed).fit(features)
    reduced = components.transform(features)
    machine = SVC(class_weight="balanced", cache_size=500)
    search = GridSearchCV(
        machine, {"C": PENALTIES}, scoring="balanced_accuracy", cv=pairs, refit=False
    ).fit(reduced, codes)
    machine.set_params(**search.best_params_)
    calibrated = CalibratedClassifierCV(machine, cv=pairs, ensemble=False).fit(reduced, codes)
    return make_pipeline(components, calibrated)


def _trees(seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=seed, early_stopping=False)


def _single_threaded_fit(model: Any, features: np.ndarray, codes: np.ndarray) -> Any:
    """Fit with one thread: on a busy machine threads that wait for each other cost five times."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return model.fit(features, codes)
