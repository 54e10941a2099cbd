"""Intervals: of a mean over seeds, and of a share over images."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri, stdtrit


def student(values: Sequence[float], confidence: float = 0.95) -> list[float] | None:
    """Interval of the mean by Student's t, as [low, high]; None for fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(count)
    half = float(stdtrit(count - 1, (1 + confidence) / 2)) * error
    return [mean - half, mean + half]


def wilson(share: float, n: int) -> list[float]:
    """95 % Wilson interval of a share seen on n samples, as [low, high].

    Args:
        share: in [0, 1].
        n: from 1.
    Raises: ValueError outside those ranges.
    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    if not (0 <= share <= 1 and n >= 1):
        raise ValueError(f"an interval over images is for a share of n >= 1 images, not {share} of {n}")
    z = float(ndtri(0.975))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return [max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))]
