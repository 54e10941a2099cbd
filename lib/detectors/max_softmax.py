"""Maximum softmax probability: the yardstick that needs nothing but the logits.

Source: Hendrycks and Gimpel 2017, "A baseline for detecting misclassified and out-of-distribution examples in neural
networks", https://arxiv.org/abs/1610.02136, section 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logsumexp

from lib.detectors import arrays


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
