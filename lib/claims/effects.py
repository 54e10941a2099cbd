"""The effect of a rule: each comparison's, and all of them pooled, with intervals, and what an interval says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lib.claims.numbers import Pair
from lib.claims.rules import ABOUT, LEVEL, NO_HIGHER, NO_LOWER, Rule
from lib.intervals import t_quantile
from lib.units import about

SUPPORTS, CONTRADICTS, UNRESOLVED = "supports", "contradicts", "unresolved"
SMALLER, SHORT = "smaller than the margin", "short of the value asked for"
COUNTED = (SUPPORTS, CONTRADICTS, SMALLER, SHORT, UNRESOLVED)
AGAINST = (CONTRADICTS, SMALLER, SHORT)
CONFIDENCE = 0.95
MOST = 1000  # repetitions that are looked for
SHARES = ("fraction", "share", "difference of", "area under", "mean over", "harmonic mean", "mean softmax")


@dataclass(frozen=True)
class Effect:
    """A mean over repetitions with its interval, and what it says of the claim.

    Attributes:
        value, low, high: in the unit of the numbers; of a relative rule the logarithm of the ratio.
        by: repetition -> value.
        outcome: one of COUNTED.
        rival: which one it is against, where the rule has several: the strongest.
    """

    value: float
    low: float
    high: float
    by: Mapping[Any, float]
    outcome: str
    rival: str = ""

    @property
    def spread(self) -> float:
        """Standard deviation over the repetitions."""
        return float(np.std(list(self.by.values()), ddof=1))


def effect(
    rule: Rule, by: Mapping[Any, float], unit: str, confidence: float = CONFIDENCE, scale: float = 1.0
) -> Effect:
    """The mean of values by repetition, at least two, with its interval by Student's t and its outcome."""
    values = np.array(list(by.values()))
    if rule.sample is not None and rule.sample.pairwise:  # a mean over pairs: each repetition is in twice as many
        values = values.mean() + 2 * (values - values.mean())
    mean = float(np.mean(values))
    half = half_width(float(np.std(values, ddof=1)), len(values), confidence)
    low, high = limits(rule, unit)
    low, high = max(low, mean - half), min(high, mean + half)
    return Effect(mean, low, high, by, outcome(rule, low, high, scale))


def half_width(spread: float, count: int, confidence: float = CONFIDENCE) -> float:
    """Half of the interval of a mean of `count` values with this standard deviation."""
    return t_quantile(count, confidence) * spread / math.sqrt(count)


def outcome(rule: Rule, low: float, high: float, scale: float = 1.0) -> str:
    """What an interval says of a rule.

    Args:
        rule: what is claimed.
        low, high: of the effect.
        scale: factor on the margin or tolerance.
    Returns: SUPPORTS, the interval lies beyond the margin on the claimed side; CONTRADICTS, beyond zero on the other
        one; SMALLER or SHORT, it reaches neither the margin nor the other side; or UNRESOLVED.
    """
    bar = rule.bar(scale)
    if rule.expect == ABOUT:
        return SUPPORTS if bar < low and high < -bar else CONTRADICTS if low > -bar or high < bar else UNRESOLVED
    first, last = (low, high) if rule.sign > 0 else (-high, -low)
    if rule.expect in LEVEL:
        return SUPPORTS if first >= bar else SHORT if last < bar else UNRESOLVED
    if last < 0:
        return CONTRADICTS
    if first > bar:
        return SUPPORTS
    if rule.expect in (NO_LOWER, NO_HIGHER) or last > bar:
        return UNRESOLVED
    return SMALLER if rule.tolerance is None else SHORT


def pooled(rule: Rule, pairs: Sequence[Pair], confidence: float = CONFIDENCE, scale: float = 1.0) -> Effect | None:
    """One effect of all comparisons: their mean, repetition by repetition, over the repetitions that all of them have.

    Where the rule has rivals, each has its own, and the strongest one's is returned: of a claim to be the best nothing
    else matters. Its outcome is that of all rivals: one that is not beaten is enough.
    None: fewer than two repetitions are shared.
    """
    found = []
    for rival in dict.fromkeys(pair.rival if rule.best else "" for pair in pairs):
        against = [pair for pair in pairs if not rule.best or pair.rival == rival]
        shared = [rep for rep in against[0].value if all(rep in pair.value for pair in against)]
        if len(shared) < 2:
            return None
        by = {rep: float(np.mean([pair.value[rep] for pair in against])) for rep in shared}
        found.append(replace(effect(rule, by, against[0].unit, confidence, scale), rival=rival))
    if not found:
        return None
    return replace(min(found, key=lambda one: rule.sign * one.value), outcome=all_of([one.outcome for one in found]))


def all_of(outcomes: Sequence[str]) -> str:
    """The outcome of a claim that asks for all of them: the worst."""
    return next((worst for worst in (CONTRADICTS, SHORT, SMALLER, UNRESOLVED) if worst in outcomes), SUPPORTS)


def limits(rule: Rule, unit: str) -> tuple[float, float]:
    """What a mean of values in a unit, or of their differences, cannot leave."""
    low, high = about(unit).support
    if rule.relative or rule.values or math.isinf(high - low):
        return -math.inf, math.inf
    return (low, high) if rule.right is None else (low - high, high - low)


def is_share(unit: str) -> bool:
    """Whether words give numbers of a unit in per cent, and their differences in points."""
    return unit.startswith(SHARES)


def needed(rule: Rule, found: Effect) -> int | None:
    """How many repetitions in all would settle an unresolved effect, at its mean and spread; None: more than MOST."""
    value, bar = rule.sign * found.value, rule.bar()
    distance = min(abs(found.value - bar), abs(found.value + bar)) if rule.expect == ABOUT else abs(value - bar)
    if rule.expect not in (ABOUT, *LEVEL):
        distance = max(distance, -value)
    return repetitions(found.spread * (2 if rule.sample is not None and rule.sample.pairwise else 1), distance)


def repetitions(spread: float, distance: float) -> int | None:
    """The fewest repetitions of such a spread whose interval is narrower than a distance; None for more than MOST."""
    return next((n for n in range(2, MOST + 1) if half_width(spread, n) < distance), None)
