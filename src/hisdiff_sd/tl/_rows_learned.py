"""Rows of ordinary machine learning: retrieval, a perceptron, a forest; tuned by leaving training slides out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hisdiff_sd._baselines import FEATURES, feature_matrix, left_out_rows
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd.tl._row import FitContext, Fitted, Point, Row, stream
from hisdiff_sd.tl._rows_simple import BuiltIn

_MOST_FOLDS = 8  # of the tuning; more slides are left out in groups
_COMPONENTS = 50
_NEIGHBOURS = (1, 2, 4, 8, 16, 32, 64)
_EPOCHS = 60
_PENALTIES = (1e-2, 1.0)
_HIDDEN = 128
_LEAVES = (3, 10)
_TREES, _TREES_TUNING = 200, 50
_SPOTS_OF_TREE = 2000


@dataclass(frozen=True)
class _Table:
    """All training spots as one table: features by name, measured values, and the folds to tune by."""

    x: dict[str, np.ndarray]
    y: np.ndarray
    folds: list[tuple[np.ndarray, np.ndarray]]


def _table(slides: Sequence[SlideInputs], truth: Sequence[Measured]) -> _Table:
    x = {f: np.concatenate([feature_matrix(s, f) for s in slides]) for f in FEATURES}
    return _Table(x, np.concatenate([m.y for m in truth]), list(_folds(slides)))


def _folds(slides: Sequence[SlideInputs]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if len(slides) <= _MOST_FOLDS:
        yield from left_out_rows(slides)
        return
    group = np.repeat(np.arange(len(slides)) % _MOST_FOLDS, [s.n for s in slides])
    for g in range(_MOST_FOLDS):
        yield np.flatnonzero(group != g), np.flatnonzero(group == g)


# --- retrieval


@dataclass(frozen=True)
class _Neighbours:
    """Training spots, looked up by the principal components of their standardised features."""

    features: str
    k: int
    space: Any
    index: Any
    measured: np.ndarray

    def rows(self, slide: SlideInputs) -> np.ndarray:
        """(n, k) training spots, nearest first."""
        placed = self.space.transform(feature_matrix(slide, self.features))
        found: np.ndarray = self.index.kneighbors(placed, self.k, return_distance=False)
        return found

    def mean(self, slide: SlideInputs) -> np.ndarray:
        """(n, G) mean of the neighbours."""
        return np.asarray(self.measured[self.rows(slide)].mean(1))

    def samples(self, slide: SlideInputs, n_samples: int, seed: int) -> np.ndarray:
        """A random neighbour of each spot, its whole measured vector, per sample."""
        drawn = stream(seed, "knn", slide.name).integers(self.k, size=(n_samples, slide.n))
        return self.measured[self.rows(slide)[np.arange(slide.n), drawn]]


def _space(x: np.ndarray) -> tuple[Any, Any]:
    """The space of the components of `x`, and an index of its rows there."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    space = make_pipeline(StandardScaler(), PCA(min(_COMPONENTS, *x.shape), svd_solver="full"))
    return space, NearestNeighbors().fit(space.fit_transform(x))


def _fit_neighbours(slides: Sequence[SlideInputs], truth: Sequence[Measured]) -> _Neighbours:
    table = _table(slides, truth)
    smallest = min(len(fit) for fit, _ in table.folds)
    choices = [k for k in _NEIGHBOURS if k <= smallest]
    error = dict.fromkeys(itertools.product(FEATURES, choices), 0.0)
    for features, (fit, left) in itertools.product(FEATURES, table.folds):
        x = table.x[features]
        space, index = _space(x[fit])
        found = index.kneighbors(space.transform(x[left]), choices[-1], return_distance=False)
        for k in choices:
            error[features, k] += float(((table.y[fit][found[:, :k]].mean(1) - table.y[left]) ** 2).mean(1).sum())
    features, k = min(error, key=lambda choice: error[choice])
    return _Neighbours(features, k, *_space(table.x[features]), table.y)


def _knn(slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Fitted:
    fitted: Fitted = context.shared("neighbours", lambda: _fit_neighbours(slides, truth))
    return fitted


def _knn_mean(slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Fitted:
    fitted: _Neighbours = context.shared("neighbours", lambda: _fit_neighbours(slides, truth))
    return Point(fitted.mean)


# --- a perceptron


class _Perceptron:
    """One hidden layer on standardised features, trained epoch by epoch."""

    def __init__(self, x: np.ndarray, y: np.ndarray, penalty: float, seed: int) -> None:
        from sklearn.neural_network import MLPRegressor
        from sklearn.preprocessing import StandardScaler

        self._x, self._y = StandardScaler().fit(x), StandardScaler().fit(y)
        self._data = self._x.transform(x), self._y.transform(y)
        self._network = MLPRegressor(
            hidden_layer_sizes=(_HIDDEN,), alpha=penalty, learning_rate_init=1e-3, random_state=seed
        )

    def epoch(self) -> None:
        """See every training spot once."""
        x, y = self._data
        # sklearn wants a vector for a single output
        self._network.partial_fit(x, y if y.shape[1] > 1 else y.ravel())

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(n, G) on the target scale, clipped at zero counts."""
        out = self._network.predict(self._x.transform(x))
        clipped: np.ndarray = self._y.inverse_transform(out.reshape(len(x), -1)).clip(0)
        return clipped


def _mlp(slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Fitted:
    """Features, penalty and number of epochs of the lowest error on left-out slides."""
    table = _table(slides, truth)
    error = {choice: np.zeros(_EPOCHS) for choice in itertools.product(FEATURES, _PENALTIES)}
    for (features, penalty), (fit, left) in itertools.product(error, table.folds):
        x = table.x[features]
        network = _Perceptron(x[fit], table.y[fit], penalty, context.seed)
        for epoch in range(_EPOCHS):
            network.epoch()
            error[features, penalty][epoch] += float(((network.predict(x[left]) - table.y[left]) ** 2).sum())
    features, penalty = min(error, key=lambda choice: float(error[choice].min()))
    network = _Perceptron(table.x[features], table.y, penalty, context.seed)
    for _ in range(int(error[features, penalty].argmin()) + 1):
        network.epoch()
    return Point(lambda slide: network.predict(feature_matrix(slide, features)))


# --- a forest


def _trees(leaf: int, trees: int, n: int, seed: int) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(
        trees,
        min_samples_leaf=leaf,
        max_features="sqrt",
        max_samples=min(n, _SPOTS_OF_TREE),
        random_state=seed,
        n_jobs=-1,
    )


def _forest(slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Fitted:
    """Features and size of the leaves of the lowest error on left-out slides."""
    table = _table(slides, truth)
    error = dict.fromkeys(itertools.product(FEATURES, _LEAVES), 0.0)
    for (features, leaf), (fit, left) in itertools.product(error, table.folds):
        forest = _trees(leaf, _TREES_TUNING, len(fit), context.seed).fit(
            table.x[features][fit], _squeezed(table.y[fit])
        )
        predicted = forest.predict(table.x[features][left]).reshape(len(left), -1)
        error[features, leaf] += float(((predicted - table.y[left]) ** 2).sum())
    features, leaf = min(error, key=lambda choice: error[choice])
    forest = _trees(leaf, _TREES, len(table.y), context.seed).fit(table.x[features], _squeezed(table.y))
    return Point(lambda slide: forest.predict(feature_matrix(slide, features)).reshape(slide.n, -1))


def _squeezed(y: np.ndarray) -> np.ndarray:
    return y if y.shape[1] > 1 else y.ravel()


LEARNED_ROWS: tuple[Row, ...] = (
    BuiltIn("knn", _knn),
    BuiltIn("knn_mean", _knn_mean),
    BuiltIn("mlp", _mlp),
    BuiltIn("forest", _forest),
)
