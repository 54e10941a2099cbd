"""Detectors on one layer: kernel density among clean inputs of the predicted class, and maximum softmax probability.

Source: Feinman et al. 2017, "Detecting adversarial samples from artifacts", https://arxiv.org/abs/1703.00410,
section 3.1 (density estimates on the last hidden layer); Hendrycks and Gimpel 2017, "A baseline for detecting
misclassified and out-of-distribution examples in neural networks", https://arxiv.org/abs/1610.02136, section 2 (the
yardstick that needs nothing but the logits).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp

from lib.detectors import arrays

CHUNK = 1024  # rows whose distances are held at once


class KernelDensity:
    """Mean of exp(-|x - x_i|^2 / bandwidth^2) over the clean inputs x_i of a class.

    Args:
        bandwidth: in the features' own units, above 0; the paper's 1.2, 0.26 and 1.0 are for its three networks.
            See `choose_bandwidth`.
    """

    def __init__(self, bandwidth: float = 1.0) -> None:
        if not bandwidth > 0:
            raise ValueError(f"bandwidth is {bandwidth}: above 0")
        self.bandwidth = float(bandwidth)
        self._by_class: dict[int, Any] = {}

    def fit(self, features: Any, labels: Any) -> KernelDensity:
        """Keep the clean inputs, class by class.

        Args:
            features: (N, F).
            labels: (N,) whole numbers: the classes.
        """
        found = arrays.rows(features)
        classes = arrays.classes_of(labels, found.shape[0])
        found = found.tocsr() if hasattr(found, "tocsr") else found
        self._by_class = {int(c): found[np.flatnonzero(classes == c)] for c in np.unique(classes)}
        return self

    def log_density(self, features: Any, predicted: Any) -> np.ndarray:
        """Log of the mean kernel, float64 (N,), without the constant that would make it a density.

        Args:
            features: (N, F).
            predicted: (N,) whole numbers: the class whose clean inputs are looked at.
        Raises: ValueError for a class without clean inputs.
        """
        found = arrays.rows(features)
        classes = arrays.classes_of(predicted, found.shape[0], "predicted")
        missing = sorted(set(classes.tolist()) - set(self._by_class))
        if missing:
            raise ValueError(f"no clean input of class {missing} to compare with: fitted on {sorted(self._by_class)}")
        found = found.tocsr() if hasattr(found, "tocsr") else found
        result = np.empty(found.shape[0])
        for c in np.unique(classes).tolist():
            among = self._by_class[c]
            arrays.same_width(found, among.shape[1])
            members = np.flatnonzero(classes == c)
            for start in range(0, len(members), CHUNK):
                part = members[start : start + CHUNK]
                exponents = -arrays.squared_distances(found[part], among) / self.bandwidth**2
                result[part] = logsumexp(exponents, axis=1) - np.log(among.shape[0])
        return result

    def score(self, features: Any, predicted: Any) -> np.ndarray:
        """How suspicious each input is, float64 (N,): the negative log density; arguments as in `log_density`."""
        return -self.log_density(features, predicted)


def choose_bandwidth(
    features: Any, labels: Any, held_out: Any, held_out_labels: Any, candidates: Sequence[float] | None = None
) -> float:
    """The bandwidth under which clean inputs that were held out are most likely.

    Args:
        features, labels: (N, F) and (N,), clean inputs to fit on.
        held_out, held_out_labels: (M, F) and (M,), other clean inputs.
        candidates: bandwidths, above 0; None: 25 in geometric steps over three decades, around the median distance.
    Returns: the bandwidth.
    Source: Feinman et al. 2017, section 5.2: a search over a grid in log space, by likelihood.
    """
    other = arrays.rows(held_out, "held_out")
    if candidates is None:
        distances = np.sqrt(arrays.squared_distances(other[: min(200, other.shape[0])], arrays.rows(features)))
        middle = float(np.median(distances[distances > 0])) if (distances > 0).any() else 1.0
        candidates = np.geomspace(middle / 100, middle * 10, 25).tolist()

    def likelihood(bandwidth: float) -> float:
        # The kernel integrates to (pi bandwidth^2)^(F/2).
        constant = 0.5 * other.shape[1] * np.log(np.pi * bandwidth**2)
        fitted = KernelDensity(bandwidth).fit(features, labels)
        return float(fitted.log_density(other, held_out_labels).mean()) - constant

    return float(max(candidates, key=likelihood))


class MaxSoftmax:
    """An input is the more suspicious, the less probable the network holds its own answer to be."""

    def score(self, logits: Any) -> np.ndarray:
        """How suspicious each input is.

        Args:
            logits: (N, classes).
        Returns: float64 (N,): log(1 - p) of the largest probability p, which keeps apart what rounding would make 1.
        """
        found = arrays.dense(logits, "logits")
        if found.shape[1] < 2:
            raise ValueError(f"logits have shape {found.shape}: (N, classes) with two classes or more is wanted")
        ordered = np.sort(found, axis=1)
        return logsumexp(ordered[:, :-1], axis=1) - logsumexp(ordered, axis=1)
