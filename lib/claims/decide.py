"""From effects to a verdict: what holds for all comparisons, for a part that has a name, or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from lib.claims.effects import (
    AGAINST,
    CONFIDENCE,
    CONTRADICTS,
    SHORT,
    SMALLER,
    SUPPORTS,
    Effect,
    all_of,
    effect,
    pooled,
)
from lib.claims.numbers import Pair, key_of, listed, setting_words, value_words
from lib.claims.rules import Rule

REPRODUCED, IN_PART, NOT_REPRODUCED = "reproduced", "reproduced in part", "not reproduced"
CONTRADICTED, OPEN, NOT_TESTABLE = "contradicted", "open", "not testable at this scale"
VERDICTS = (REPRODUCED, IN_PART, NOT_REPRODUCED, CONTRADICTED, OPEN, NOT_TESTABLE)
MARGINS, CONFIDENCES = (0.5, 1.0, 2.0), (0.90, 0.95, 0.99)
FOR, NOT_FOR, MIXED, OPEN_FOR = SIDES = ("for", "not for", "mixed for", "open for")
NAMED = 12  # of the values that something holds for, of pairs of values a quarter; the table has all
Contexts = Sequence[tuple[Mapping[str, Any], str]]  # (setting, outcome)


@dataclass(frozen=True)
class Judgement:
    """A rule judged: its verdict, the part it holds for in words, the pooled effect, and what was counted.

    Attributes:
        contexts: (setting, outcome) of what was counted: a comparison, or of a claim to be the best all rivals there.
    """

    verdict: str
    part: str
    pooled: Effect | None
    contexts: Contexts


def judge(rule: Rule, pairs: Sequence[Pair], confidence: float = CONFIDENCE, scale: float = 1.0) -> Judgement:
    """The verdict of a rule on the comparisons that count.

    Args:
        rule: the rule.
        pairs: those without a problem.
        confidence: of the intervals.
        scale: factor on margins and tolerances.
    """
    together = pooled(rule, pairs, confidence, scale)
    if together is None:
        return Judgement(NOT_TESTABLE, "", None, ())
    contexts = _contexts(rule, pairs, confidence, scale)
    verdict = decide([outcome for _, outcome in contexts], together.outcome, separable(contexts), rule.exceptions)
    return Judgement(verdict, part(contexts, telling(contexts)), together, contexts)


def decide(outcomes: Sequence[str], together: str, separable: bool = False, exceptions: bool = False) -> str:
    """The verdict from the outcomes of the comparisons and that of the pooled effect.

    Args:
        outcomes: one a comparison, at least one.
        together: of the pooled effect.
        separable: a setting tells the comparisons for the claim from those against it.
        exceptions: the claim is made "as a rule".
    Returns:
        REPRODUCED: the pooled effect supports and no comparison is against it; with exceptions, fewer are than for it.
        IN_PART: the pooled effect supports and at most half are against it; or a quarter or more support, and these are
            more than are against it, or just those of some setting, or half of all, the others all against or all open.
        CONTRADICTED, NOT_REPRODUCED: the pooled effect, or most comparisons, say so.
        OPEN: else.
    """
    count, fors = len(outcomes), sum(outcome == SUPPORTS for outcome in outcomes)
    against = sum(outcome in AGAINST for outcome in outcomes)
    if together == SUPPORTS and (against == 0 or (exceptions and fors > against)):
        return REPRODUCED
    if together == SUPPORTS and 2 * against <= count:
        return IN_PART
    more = fors > against if against else 2 * fors >= count  # for it than against it, or than is open
    if 4 * fors >= count and (more or separable or 2 * fors == 2 * against == count):
        return IN_PART
    if together == CONTRADICTS or 2 * sum(outcome == CONTRADICTS for outcome in outcomes) > count:
        return CONTRADICTED
    if together in (SMALLER, SHORT) or 2 * against > count:
        return NOT_REPRODUCED
    return OPEN


def combine(verdicts: Sequence[str]) -> str:
    """The verdict of a claim of several parts, all of which it asks for.

    Returns: theirs, where all have the same; IN_PART, where half of them or more hold, and no more than these do not;
        NOT_REPRODUCED, where another one does not hold; else OPEN.
    """
    if len(set(verdicts)) == 1:
        return verdicts[0]
    fors = sum(verdict in (REPRODUCED, IN_PART) for verdict in verdicts)
    against = sum(verdict in (NOT_REPRODUCED, CONTRADICTED) for verdict in verdicts)
    if fors >= against and 2 * fors >= len(verdicts):
        return IN_PART
    return NOT_REPRODUCED if against else OPEN


def fragility(rules: Sequence[tuple[Rule, Sequence[Pair]]], settle: Any) -> dict[str, Any]:
    """The verdict at each of MARGINS and CONFIDENCES: {"same", "of", "others": {verdict: [where, ...]}}.

    Args:
        rules: each part's rule and the comparisons that count.
        settle: what makes one verdict of the parts' judgements.
    """
    found = {
        (scale, confidence): settle([judge(rule, pairs, confidence, scale) for rule, pairs in rules])
        for scale, confidence in product(MARGINS, CONFIDENCES)
    }
    here = found[(1.0, CONFIDENCE)]
    others: dict[str, list[str]] = {}
    for (scale, confidence), verdict in found.items():
        if verdict != here:
            others.setdefault(verdict, []).append(f"margins x {scale:g} at {confidence:.0%}".replace("%", " %"))
    return {"same": sum(verdict == here for verdict in found.values()), "of": len(found), "others": others}


def separable(contexts: Contexts) -> bool:
    """Whether a setting tells all that is for a claim from all that is against it, by values that comparisons share."""
    fors, against = ([setting for setting, outcome in contexts if _side(outcome) == side] for side in (FOR, NOT_FOR))
    if not fors or not against:
        return False
    for key in dict.fromkeys(key for setting in (*fors, *against) for key in setting):
        one, other = ({_value(setting, (key,)) for setting in side} for side in (fors, against))
        if not one & other and len(one | other) < len(fors) + len(against):
            return True
    return False


def telling(contexts: Contexts) -> tuple[str, ...]:
    """The setting, or the two, whose values best tell what is for a claim from what is against it.

    Returns: their names, none where no two tell at least half of what is decided.
    """
    decided = [(setting, outcome) for setting, outcome in contexts if _side(outcome) != OPEN_FOR]
    names = list(dict.fromkeys(key for setting, _ in contexts for key in setting))
    for count in (1, 2):
        best: tuple[float, int, tuple[str, ...]] = (0, 0, ())
        for keys in combinations(names, count):
            sides = _by_value(contexts, keys)
            apart = sum(sides[_value(setting, keys)] != MIXED for setting, _ in decided)
            fitting = sum(sides[_value(setting, keys)] == _side(outcome) for setting, outcome in contexts)
            if 1 < len(sides) < len(contexts) + (count == 1) and 2 * apart >= len(decided):
                best = max(best, (apart + fitting / (len(contexts) + 1), -len(sides), keys))
        if best[2]:
            return best[2]
    return ()


def part(contexts: Contexts, keys: tuple[str, ...]) -> str:
    """What the claim holds for and what not, in words: by the values of settings, or one by one where none tells."""
    if keys:
        sides = list(_by_value(contexts, keys).items())
        name = "" if keys == ("item",) else f" {' and '.join(keys).replace('_', ' ')}"
    else:
        differing = [key for key in contexts[0][0] if len({repr(setting.get(key)) for setting, _ in contexts}) > 1]
        labels = [setting_words({k: setting[k] for k in differing if k in setting}) or "all" for setting, _ in contexts]
        sides, name = [(label, _side(outcome)) for label, (_, outcome) in zip(labels, contexts, strict=True)], ""
    most = NAMED // max(1, len(keys)) ** 2
    found = {side: [value for value, its_side in sides if its_side == side] for side in SIDES}
    return ", ".join(f"{side}{name} {_some(values, most)}" for side, values in found.items() if values)


def _side(outcome: str) -> str:
    return FOR if outcome == SUPPORTS else NOT_FOR if outcome in AGAINST else OPEN_FOR


def _value(setting: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return " with ".join(value_words(setting.get(key)) for key in keys)


def _by_value(contexts: Contexts, keys: tuple[str, ...]) -> dict[str, str]:
    """Each value of some settings -> what it is: for, not for, mixed or open."""
    found: dict[str, set[str]] = {}
    for setting, outcome in contexts:
        found.setdefault(_value(setting, keys), set()).add(_side(outcome))
    return {
        value: MIXED if {FOR, NOT_FOR} <= sides else next((side for side in (FOR, NOT_FOR) if side in sides), OPEN_FOR)
        for value, sides in found.items()
    }


def _some(values: Sequence[str], most: int) -> str:
    if len(values) > most + 1:
        return f"{', '.join(values[:most])} and {len(values) - most} more"
    return listed(values)


def _contexts(rule: Rule, pairs: Sequence[Pair], confidence: float, scale: float) -> Contexts:
    several = len({pair.item for pair in pairs}) > 1
    rivals = not rule.best and any(pair.rival for pair in pairs)
    found: dict[tuple, tuple[dict[str, Any], list[str]]] = {}
    for pair in pairs:
        setting = ({"item": pair.item} if several else {}) | dict(pair.setting)
        setting |= {"against": pair.rival} if rivals else {}
        outcome = effect(rule, pair.value, pair.unit, confidence, scale).outcome
        found.setdefault(key_of(setting), (setting, []))[1].append(outcome)
    return tuple((setting, all_of(outcomes)) for setting, outcomes in found.values())
