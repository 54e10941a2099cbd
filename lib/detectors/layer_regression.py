"""Logistic regression over one value a layer: how LID and Mahalanobis scores of several layers become one."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lib.detectors import arrays


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
