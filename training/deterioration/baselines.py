"""The simple models that a network must beat before anyone should care for it.

On real home-monitoring data a mere count of recent events beat every model, so these are always fitted and reported.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.deterioration.datasets import Windows

Scores = NDArray[np.float64]
Scorer = Callable[[NDArray[np.float32]], Scores]

PROBABILISTIC: Final = ("last_value", "logistic_regression", "hist_gradient_boosting")
"""The baselines whose scores are probabilities."""


def fit_baselines(train: Windows, *, seed: int) -> Mapping[str, Scorer]:
    """Each baseline by name, fitted on the training patients; a scorer takes float32[n, 7, 4] and gives float64[n]."""
    return {
        "event_count": _event_count(train),
        "last_value": FlatLogistic(train, _last_values),
        "logistic_regression": fit_logistic(train),
        "hist_gradient_boosting": fit_boosting(train, seed=seed),
    }


def fit_boosting(train: Windows, *, seed: int) -> Scorer:
    """Gradient boosting on the 28 raw values; it takes NaN as it is."""
    model = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=120, max_leaf_nodes=8, min_samples_leaf=40, random_state=seed
    )
    model.fit(train.values.reshape(len(train), -1), train.labels)
    return lambda values: _positive(model, values.reshape(len(values), -1))


def _event_count(train: Windows) -> Scorer:
    """How many readings of the week are in the top tenth of all training readings of their kind."""
    columns = train.values.reshape(-1, train.values.shape[2]).T
    measured = [column[~np.isnan(column)] for column in columns]
    high = np.array([np.quantile(column, 0.9) if len(column) else np.inf for column in measured])
    return lambda values: np.asarray((values >= high).sum(axis=(1, 2)), dtype=np.float64)


class FlatLogistic:
    """Logistic regression on a view of the window, missing values as 0 after centring, with a missing mask."""

    def __init__(self, train: Windows, view: Callable[[NDArray[np.float32]], Scores]) -> None:
        self._view = view
        raw = view(train.values)
        known = ~np.isnan(raw)
        count = np.maximum(known.sum(axis=0), 1)  # a value that nobody ever measured stays 0
        self.centre: Scores = np.where(known, raw, 0.0).sum(axis=0) / count
        deviation = np.where(known, raw - self.centre, 0.0)
        self.spread: Scores = np.maximum(np.sqrt((deviation**2).sum(axis=0) / count), 1e-3)
        self.model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        self.model.fit(self._features(train.values), train.labels)

    def __call__(self, values: NDArray[np.float32]) -> Scores:
        return _positive(self.model, self._features(values))

    def _features(self, values: NDArray[np.float32]) -> Scores:
        seen = self._view(values)
        missing = np.isnan(seen)
        return np.hstack([np.where(missing, 0.0, (seen - self.centre) / self.spread), missing])


def fit_logistic(train: Windows) -> FlatLogistic:
    """On all 28 readings: the baseline that can be served as a model of its own."""
    return FlatLogistic(train, _flat_with_mask)


def _flat_with_mask(values: NDArray[np.float32]) -> Scores:
    return values.reshape(len(values), -1).astype(np.float64)


def _last_values(values: NDArray[np.float32]) -> Scores:
    """The latest measured value of each feature in the window, float64[n, 4]; NaN where there is none."""
    latest = values[:, 0].astype(np.float64)
    for day in range(1, values.shape[1]):
        latest = np.where(np.isnan(values[:, day]), latest, values[:, day])
    return latest


def _positive(model: HistGradientBoostingClassifier | LogisticRegression, features: NDArray[np.floating]) -> Scores:
    return np.asarray(model.predict_proba(features)[:, 1], dtype=np.float64)
