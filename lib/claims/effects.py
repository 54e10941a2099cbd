"""The effect of a rule: each comparison's, and all of them pooled, with intervals, and what an interval says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.claims.numbers import Pair
from lib.claims.rules import ABOUT, AT_LEAST, AT_MOST, NO_HIGHER, NO_LOWER, Rule
from lib.claims.student import interval, repetitions

SUPPORTS, CONTRADICTS, UNRESOLVED = "supports", "contradicts", "unresolved"
SMALLER, SHORT = "smaller than the margin", "short of the value asked for"
COUNTED = (SUPPORTS, CONTRADICTS, SMALLER, SHORT, UNRESOLVED)
AGAINST = (CONTRADICTS, SMALLER, SHORT)
CONFIDENCE = 0.95
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
    """The mean of values by repetition, at least two, with its interval and outcome."""
    values = np.array(list(by.values()))
    if rule.sample is not None and rule.sample.pairwise:  # a mean over pairs: each repetition is in twice as many
        values = values.mean() + 2 * (values - values.mean())
    found = interval(values.tolist(), confidence, limits(rule, unit))
    assert found is not None
    return Effect(float(np.mean(values)), *found, by, outcome(rule, *found, scale))


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
    if rule.expect in (AT_LEAST, AT_MOST):
        return SUPPORTS if first >= bar else SHORT if last < bar else UNRESOLVED
    if last < 0:
        return CONTRADICTS
    if first > bar:
        return SUPPORTS
    if rule.expect in (NO_LOWER, NO_HIGHER):
        return UNRESOLVED
    return (SMALLER if rule.stated is None else SHORT) if last <= bar else UNRESOLVED


def pooled(rule: Rule, pairs: Sequence[Pair], confidence: float = CONFIDENCE, scale: float = 1.0) -> Effect | None:
    """One effect of all comparisons: their mean, repetition by repetition, over the repetitions that all of them have.

    Where the rule has rivals, each has its own, and the strongest one's is returned: of a claim to be the best nothing
    else matters. Its outcome is that of all rivals: one that is not beaten is enough.
    None: fewer than two repetitions are shared.
    """
    rivals = list(dict.fromkeys(pair.rival for pair in pairs)) if rule.best else [""]
    found = []
    for rival in rivals:
        own = [pair for pair in pairs if not rule.best or pair.rival == rival]
        shared = [rep for rep in own[0].value if all(rep in pair.value for pair in own)]
        if len(shared) < 2:
            return None
        by = {rep: float(np.mean([pair.value[rep] for pair in own])) for rep in shared}
        made = effect(rule, by, own[0].unit, confidence, scale)
        found.append(Effect(made.value, made.low, made.high, by, made.outcome, rival))
    strongest = min(found, key=lambda one: rule.sign * one.value)
    together = all_of([one.outcome for one in found])
    return Effect(strongest.value, strongest.low, strongest.high, strongest.by, together, strongest.rival)


def all_of(outcomes: Sequence[str]) -> str:
    """The outcome of a claim that asks for all of them."""
    for worst in (CONTRADICTS, SHORT, SMALLER, UNRESOLVED):
        if worst in outcomes:
            return worst
    return SUPPORTS


def limits(rule: Rule, unit: str) -> tuple[float, float]:
    """What a mean of values in a unit cannot leave."""
    if rule.relative or rule.values or not is_share(unit):
        return -math.inf, math.inf
    return (0.0 if rule.right is None else -1.0), 1.0


def is_share(unit: str) -> bool:
    """Whether numbers of a unit lie in [0, 1]."""
    return unit.startswith(SHARES)


def needed(rule: Rule, found: Effect) -> int | None:
    """How many repetitions in all would settle an unresolved effect, at its mean and spread; None: more than 1,000."""
    value, bar = rule.sign * found.value, rule.bar()
    distance = min(abs(found.value - bar), abs(found.value + bar)) if rule.expect == ABOUT else abs(value - bar)
    if rule.expect not in (ABOUT, AT_LEAST, AT_MOST):
        distance = max(distance, -value)
    spread = found.spread * (2 if rule.sample is not None and rule.sample.pairwise else 1)
    return repetitions(spread, distance) if distance > 0 else None
