"""Mahalanobis distance to the nearest class of clean inputs.

Source: Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial
attacks", https://arxiv.org/abs/1807.03888, equations 1 and 2. Their pre-processing of the input, which needs the
network's gradient, is left out; scores of several layers are weighed by `LayerRegression`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import pinvh

from lib.detectors import arrays

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
