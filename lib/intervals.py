"""Intervals: of a mean over seeds, and of a share over images."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit, ndtri, stdtrit

SLACK = 1e-9  # a value may leave its range by this much, as sums of floats do


def t_quantile(count: int, confidence: float = 0.95) -> float:
    """How many standard errors half the interval of a mean of `count` values is, by Student's t."""
    return float(stdtrit(count - 1, (1 + confidence) / 2))


def student(values: Sequence[float]) -> list[float] | None:
    """95 % interval of the mean by Student's t, as [low, high]; None for fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(count)
    half = t_quantile(count) * error
    return [mean - half, mean + half]


def of_mean(values: Sequence[float], support: tuple[float, float] = (-math.inf, math.inf)) -> list[float] | None:
    """95 % interval of the mean by Student's t, inside the range of values that the quantity can take.

    With two finite ends the interval is computed on the logit scale and taken back: with the mean m and its standard
    error s on the scale where the range is [0, 1], logit(m) -+ t s / (m (1 - m)). On [-1, 1] that is Fisher's z. The
    logit is of the mean, not of each value, so values of 0 and 1 need no correction; a mean of 0 or 1 is one that all
    values agree on, and the interval is that point. With one finite end the plain interval is cut there, which leaves
    its coverage as it is. The interval always holds the mean.

    Chosen by simulation: 3, 5 and 10 networks with shares of a beta distribution, each seen on a binomial sample of
    images, means from .001 to .995. With Wilson's interval where all networks agree (`units.interval`) it never covered
    less than Student's t on the plain scale, and is as wide where shares are moderate. Logits of each value, with a
    continuity correction, cover less where networks spread; Korn and Graubard's interval is wider where they agree. No
    interval of three values covers well where one network in many is far from the others.

    Args:
        values: one a seed.
        support: lowest and highest possible value; may be infinite.
    Returns: [low, high]; None for fewer than two values.
    Raises: ValueError where a value lies outside the support.
    Source: Korn and Graubard (1998), "Confidence intervals for proportions with small expected number of positive
        counts estimated from survey data": the logit interval with the delta method.
    """
    bottom, top = support
    if not all(bottom - SLACK <= value <= top + SLACK for value in values):
        raise ValueError(f"values {list(values)} do not all lie in the range of the quantity, {bottom:g} to {top:g}")
    plain = student(values)
    if plain is None:
        return None
    mean = float(np.mean(values))
    if min(values) == max(values):
        return [mean, mean]
    if math.isinf(bottom) or math.isinf(top):
        return [min(mean, max(bottom, plain[0])), max(mean, min(top, plain[1]))]
    place = min(1.0, max(0.0, (mean - bottom) / (top - bottom)))
    if place in (0.0, 1.0):  # values that differ by rounding
        return [mean, mean]
    half = (plain[1] - mean) / (top - bottom) / (place * (1 - place))
    ends = [bottom + (top - bottom) * float(expit(logit(place) + step)) for step in (-half, half)]
    return [min(mean, ends[0]), max(mean, ends[1])]


def wilson(share: float, n: int) -> list[float]:
    """95 % Wilson interval of a share seen on n samples, as [low, high].

    Computed here as scipy's `binomtest` takes whole counts only, and a mean over seeds of shares of n is none.

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
