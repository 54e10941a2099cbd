"""From effects to a verdict: what holds for all comparisons, for a part that has a name, or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from lib.claims.effects import AGAINST, CONFIDENCE, CONTRADICTS, SMALLER, SHORT, SUPPORTS, Effect, all_of, effect, pooled
from lib.claims.numbers import Pair, key_of, value_words, words
from lib.claims.rules import Rule

REPRODUCED, IN_PART, NOT_REPRODUCED = "reproduced", "reproduced in part", "not reproduced"
CONTRADICTED, OPEN, NOT_TESTABLE = "contradicted", "open", "not testable at this scale"
VERDICTS = (REPRODUCED, IN_PART, NOT_REPRODUCED, CONTRADICTED, OPEN, NOT_TESTABLE)
MARGINS, CONFIDENCES = (0.5, 1.0, 2.0), (0.90, 0.95, 0.99)
NAMED = 4  # comparisons that are named one by one


@dataclass(frozen=True)
class Judgement:
    """A rule judged: its verdict, the part it holds for in words, the pooled effect, each comparison's, and where.

    Attributes:
        contexts: (setting, outcome) of what was counted: a comparison, or of a claim to be the best all rivals there.
    """

    verdict: str
    part: str
    pooled: Effect | None
    effects: tuple[Effect, ...]
    contexts: tuple[tuple[Mapping[str, Any], str], ...]


def judge(rule: Rule, pairs: Sequence[Pair], confidence: float = CONFIDENCE, scale: float = 1.0) -> Judgement:
    """The verdict of a rule on the comparisons that count.

    Args:
        rule: the rule.
        pairs: those without a problem.
        confidence: of the intervals.
        scale: factor on margins and tolerances.
    """
    together = pooled(rule, pairs, confidence, scale) if pairs else None
    if together is None:
        return Judgement(NOT_TESTABLE, "", None, (), ())
    effects = tuple(effect(rule, pair.value, pair.unit, confidence, scale) for pair in pairs)
    contexts = _contexts(rule, pairs, effects)
    key = separating(contexts)
    verdict = decide([outcome for _, outcome in contexts], together.outcome, bool(key), rule.exceptions)
    return Judgement(verdict, part(contexts, key), together, effects, contexts)


def decide(outcomes: Sequence[str], together: str, separable: bool = False, exceptions: bool = False) -> str:
    """The verdict from the outcomes of the comparisons and that of the pooled effect.

    Args:
        outcomes: one a comparison, at least one.
        together: of the pooled effect.
        separable: a setting tells the comparisons for the claim from those against it.
        exceptions: the claim is made "as a rule".
    Returns: REPRODUCED, the pooled effect supports and no comparison is against it (with exceptions: fewer are against
        it than for it); IN_PART, the pooled effect supports and no more than half of the comparisons are against it, or
        a quarter of them or more support, and either more than are against it, or just those of some setting, or half
        of all while none is against it; CONTRADICTED and NOT_REPRODUCED, the pooled effect or most comparisons say so;
        else OPEN.
    """
    count, fors = len(outcomes), sum(outcome == SUPPORTS for outcome in outcomes)
    against = sum(outcome in AGAINST for outcome in outcomes)
    if together == SUPPORTS and (against == 0 or (exceptions and fors > against)):
        return REPRODUCED
    if together == SUPPORTS and 2 * against <= count:
        return IN_PART
    if 4 * fors >= count and ((against and (fors > against or separable)) or (not against and 2 * fors >= count)):
        return IN_PART
    if together == CONTRADICTS or 2 * sum(outcome == CONTRADICTS for outcome in outcomes) > count:
        return CONTRADICTED
    if together in (SMALLER, SHORT) or 2 * against > count:
        return NOT_REPRODUCED
    return OPEN


def combine(verdicts: Sequence[str]) -> str:
    """The verdict of a claim of several parts, all of which it asks for."""
    if len(set(verdicts)) == 1:
        return verdicts[0]
    if any(verdict in (REPRODUCED, IN_PART) for verdict in verdicts):
        return IN_PART
    return NOT_REPRODUCED if any(verdict in (NOT_REPRODUCED, CONTRADICTED) for verdict in verdicts) else OPEN


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


def separating(contexts: Sequence[tuple[Mapping[str, Any], str]]) -> str:
    """The setting whose values tell those that support from those that are against; empty where there is none."""
    fors = [setting for setting, outcome in contexts if outcome == SUPPORTS]
    against = [setting for setting, outcome in contexts if outcome in AGAINST]
    if not (fors and against):
        return ""
    found = []
    for key in contexts[0][0]:
        sides = [{value_words(setting.get(key)) for setting in side} for side in (fors, against)]
        if not sides[0] & sides[1]:
            found.append((len(sides[0] | sides[1]), key))
    return min(found)[1] if found else ""


def part(contexts: Sequence[tuple[Mapping[str, Any], str]], key: str) -> str:
    """What the claim holds for and what not, in words: by the setting that tells them apart, else one by one."""
    said = []
    for names, wanted in (("for", (SUPPORTS,)), ("not for", AGAINST), ("open for", ("unresolved",))):
        own = [setting for setting, outcome in contexts if outcome in wanted]
        if not own:
            continue
        if key:
            others = {value_words(s.get(key)) for s, outcome in contexts if outcome not in wanted}
            values = list(dict.fromkeys(value_words(setting.get(key)) for setting in own))
            if names == "open for":
                values = [value for value in values if value not in others]
            if values:
                said.append(f"{names} {key} {_listed(values)}")
        else:
            varying = [k for k in own[0] if len({repr(setting.get(k)) for setting, _ in contexts}) > 1]
            labels = [words({k: s[k] for k in varying if k in s}) or "all" for s in own]
            more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED + 1 else ""
            said.append(f"{names} {'; '.join(labels[:NAMED] if more else labels)}{more}")
    return ", ".join(said)


def _contexts(rule: Rule, pairs: Sequence[Pair], effects: Sequence[Effect]) -> tuple[tuple[Mapping[str, Any], str], ...]:
    several = len({pair.item for pair in pairs}) > 1
    rivals = not rule.best and any(pair.rival for pair in pairs)
    found: dict[tuple, tuple[dict[str, Any], list[str]]] = {}
    for pair, one in zip(pairs, effects, strict=True):
        setting = {**({"item": pair.item} if several else {}), **pair.setting, **({"against": pair.rival} if rivals else {})}
        found.setdefault(key_of(setting), (setting, []))[1].append(one.outcome)
    return tuple((setting, all_of(outcomes)) for setting, outcomes in found.values())


def _listed(values: Sequence[str]) -> str:
    return f"{', '.join(values[:-1])} and {values[-1]}" if len(values) > 1 else values[0]
