"""Intervals of effects: the mean of paired differences over repetitions."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit


def interval(
    values: Sequence[float], confidence: float = 0.95, limits: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float, float] | None:
    """Interval of a mean by Student's t; None for fewer than two values.

    Args:
        values: one a repetition.
        confidence: in (0, 1).
        limits: what the mean cannot leave, as [-1, 1] for a difference of shares; the interval is cut there.
    """
    if len(values) < 2:
        return None
    mean, half = float(np.mean(values)), half_width(float(np.std(values, ddof=1)), len(values), confidence)
    return max(limits[0], mean - half), min(limits[1], mean + half)


def half_width(spread: float, count: int, confidence: float = 0.95) -> float:
    """Half of the interval of a mean of `count` values with this standard deviation."""
    return float(stdtrit(count - 1, (1 + confidence) / 2)) * spread / math.sqrt(count)


def repetitions(spread: float, distance: float, most: int = 1000) -> int | None:
    """The fewest repetitions of such a spread whose interval is narrower than a distance; None for more than `most`."""
    return next((n for n in range(2, most + 1) if half_width(spread, n) < distance), None)
