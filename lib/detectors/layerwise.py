"""Detectors on the features of several layers: LID and Mahalanobis distances, weighed by a logistic regression.

Source: Ma et al. 2018, https://arxiv.org/abs/1801.02613 (local intrinsic dimensionality); Lee et al. 2018,
https://arxiv.org/abs/1807.03888 (Mahalanobis distance to the class means).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.linalg import pinvh
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lib.detectors import arrays

CHUNK = 1024  # rows whose distances are held at once
WIDEST = 4096  # features whose covariance is inverted in reasonable time


class Mahalanobis:
    """Class means and one covariance for all classes, from clean inputs.

    Args:
        shrinkage: part of the covariance replaced by its mean variance times the identity, in [0, 1]; above 0 where
            there are fewer inputs than features.
    """

    def __init__(self, shrinkage: float = 0.0) -> None:
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage is {shrinkage}: in [0, 1]")
        self.shrinkage = shrinkage
        self.classes = np.empty(0, np.int64)
        self.means = self.precision = np.empty((0, 0))

    def fit(self, features: Any, labels: Any) -> Mahalanobis:
        """Take means and covariance from clean inputs.

        Args:
            features: (N, F), F up to 4096.
            labels: (N,) whole numbers: the classes.
        Source: Lee et al. 2018, equation 1: the covariance is (1/N) sum_c sum_{i in c} (f_i - m_c)(f_i - m_c)^T.
        """
        found = arrays.dense(features)
        if found.shape[1] > WIDEST:
            raise ValueError(f"{found.shape[1]} features: {WIDEST} at most; average or project them first")
        self.classes, index = np.unique(arrays.classes_of(labels, len(found)), return_inverse=True)
        sums = np.zeros((len(self.classes), found.shape[1]))
        np.add.at(sums, index, found)
        self.means = sums / np.bincount(index)[:, None]
        centred = found - self.means[index]
        covariance = centred.T @ centred / len(found)
        if self.shrinkage:
            spread = np.trace(covariance) / len(covariance)
            covariance = (1 - self.shrinkage) * covariance + self.shrinkage * spread * np.eye(len(covariance))
        self.precision = pinvh(covariance)
        return self

    def distances(self, features: Any) -> np.ndarray:
        """Squared Mahalanobis distance to each class, float64 (N, classes), classes ascending."""
        if not len(self.classes):
            raise ValueError("Mahalanobis has no means: call fit with clean inputs first")
        found = arrays.dense(features)
        arrays.same_width(found, self.means.shape[1])
        # In coordinates where the covariance is the identity; an eigenvalue of 0 drops its direction.
        values, vectors = np.linalg.eigh(self.precision)
        whiten = vectors * np.sqrt(np.maximum(values, 0))
        return arrays.squared_distances(found @ whiten, self.means @ whiten)

    def score(self, features: Any) -> np.ndarray:
        """How suspicious each input is, float64 (N,): the squared distance to the nearest class.

        Args:
            features: (N, F).
        Source: Lee et al. 2018, equation 2, with the sign turned.
        """
        return self.distances(features).min(axis=1)


def local_dimension(features: Any, reference: Any, k: int = 20, same: bool = False) -> np.ndarray:
    """Maximum-likelihood estimate of the intrinsic dimensionality around each input.

    Args:
        features: (N, F).
        reference: (M, F), the inputs among which neighbours are looked for; M > k.
        k: neighbours, from 2.
        same: `features` are the reference itself, row by row: no input is its own neighbour.
    Returns: float64 (N,): -1 / mean_i log(r_i / r_k) over the k smallest distances r. Where the k distances are equal
        the estimate has no bound; it is held at F, the dimension of the space. Where a neighbour lies on the input it
        is 0.
    Raises: ValueError where the reference has too few rows.
    Source: Ma et al. 2018, equation 4.
    """
    found, among = arrays.rows(features), arrays.rows(reference, "reference")
    arrays.same_width(found, among.shape[1])
    usable = among.shape[0] - bool(same)
    if not 2 <= k <= usable:
        raise ValueError(f"k is {k}: from 2 to the {usable} neighbours that the reference offers")
    if same and found.shape != among.shape:
        raise ValueError(f"features {found.shape} are not the reference {among.shape}")
    estimates = np.empty(found.shape[0])
    for start in range(0, found.shape[0], CHUNK):
        part = slice(start, min(start + CHUNK, found.shape[0]))
        squares = arrays.squared_distances(found[part], among)
        if same:
            squares[np.arange(part.stop - part.start), np.arange(part.start, part.stop)] = np.inf
        nearest = np.sort(np.partition(squares, k - 1, axis=1)[:, :k], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.abs(0.5 * np.log(nearest / nearest[:, -1:]).mean(axis=1))
            estimates[part] = np.where(nearest[:, 0] == 0, 0.0, 1.0 / mean)
    return np.minimum(estimates, float(found.shape[1]))


class LID:
    """Local intrinsic dimensionality of an input at each layer; `LayerRegression` weighs the layers' estimates.

    The reference is drawn once from the clean inputs, so that an input's score does not depend on the batch it came
    in; in the paper each minibatch is its own reference.

    Args:
        k: neighbours.
        batch: clean inputs in the reference.
        seed: which of them.
    """

    def __init__(self, k: int = 20, batch: int = 100, seed: int = 0) -> None:
        self.k, self.batch, self.seed = k, batch, seed
        self._reference: dict[str, Any] = {}

    def fit(self, clean: Mapping[str, Any]) -> LID:
        """Draw the reference.

        Args:
            clean: layer -> features (N, ...) of clean inputs, the same N inputs at each layer.
        Raises: ValueError where layers differ in N, or there are too few inputs for k.
        """
        found = {name: arrays.rows(features, name) for name, features in clean.items()}
        counts = {matrix.shape[0] for matrix in found.values()}
        if len(counts) != 1:
            raise ValueError(f"layers hold {sorted(counts)} inputs: the same inputs at each layer are wanted")
        count = counts.pop()
        chosen = np.random.default_rng(self.seed).permutation(count)[: min(self.batch, count)]
        self._reference = {name: matrix[np.sort(chosen)] for name, matrix in found.items()}
        return self

    def dimensions(self, layers: Mapping[str, Any]) -> np.ndarray:
        """Estimates at each layer, float64 (N, layers), in the order of `fit`.

        Args:
            layers: layer -> features (N, ...), of inputs that are not among those of `fit`.
        """
        if not self._reference:
            raise ValueError("LID has no reference: call fit with clean inputs first")
        if set(layers) != set(self._reference):
            raise ValueError(f"layers {sorted(layers)} are not those of fit, {sorted(self._reference)}")
        return np.stack(
            [local_dimension(layers[name], among, self.k) for name, among in self._reference.items()], axis=1
        )

    def score(self, layers: Mapping[str, Any]) -> np.ndarray:
        """How suspicious each input is, float64 (N,): the mean over layers of the estimates."""
        return self.dimensions(layers).mean(axis=1)


class LayerRegression:
    """Weighs the layers' scores by logistic regression on inputs of both kinds; each layer is standardised first.

    Source: Lee et al. 2018, https://arxiv.org/abs/1807.03888, section 2.3 (feature ensemble); Ma et al. 2018,
    https://arxiv.org/abs/1801.02613, algorithm 1.
    """

    def __init__(self, strength: float = 1.0) -> None:
        self._model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))

    def fit(self, normal: Any, adversarial: Any) -> LayerRegression:
        """Fit on inputs of both kinds.

        Args:
            normal, adversarial: (N, layers) and (M, layers): one score a layer.
        """
        both = [arrays.dense(normal, "normal"), arrays.dense(adversarial, "adversarial")]
        self._model.fit(np.concatenate(both), np.repeat([0, 1], [len(part) for part in both]))
        return self

    def score(self, layers: Any) -> np.ndarray:
        """How suspicious each input is, float64 (N,): the log-odds of being adversarial.

        Args:
            layers: (N, layers).
        """
        return self._model.decision_function(arrays.dense(layers, "layers"))
