"""Local intrinsic dimensionality of an input among clean ones, layer by layer.

Source: Ma et al. 2018, "Characterizing adversarial subspaces using local intrinsic dimensionality",
https://arxiv.org/abs/1801.02613, equation 4 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lib.detectors import arrays
from lib.detectors.layer_regression import LayerRegression

CHUNK = 1024  # rows whose distances are held at once


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
    """Logistic regression on the local intrinsic dimensionality of an input at each layer.

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
        self._regression: LayerRegression | None = None

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

    def fit_regression(self, normal: Mapping[str, Any], adversarial: Mapping[str, Any]) -> LID:
        """Fit the regression on inputs of both kinds, none of them in the reference.

        Args:
            normal: as in `dimensions`: clean inputs (in the paper also noisy ones).
            adversarial: as in `dimensions`.
        """
        self._regression = LayerRegression().fit(self.dimensions(normal), self.dimensions(adversarial))
        return self

    def score(self, layers: Mapping[str, Any]) -> np.ndarray:
        """How suspicious each input is, float64 (N,): the regression's, else the mean over layers of the estimates."""
        estimates = self.dimensions(layers)
        return estimates.mean(axis=1) if self._regression is None else self._regression.score(estimates)
