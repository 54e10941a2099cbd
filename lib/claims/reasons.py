"""The reason of a verdict in words: effects, counts, exceptions, what a lead is owed to, what would settle it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lib.claims import words
from lib.claims.decide import IN_PART, NOT_TESTABLE, OPEN, Judgement
from lib.claims.effects import AGAINST, CONTRADICTS, SUPPORTS, UNRESOLVED, Effect, needed
from lib.claims.numbers import Pair
from lib.claims.rules import Claim, Rule

Parts = Sequence[tuple[Rule, Sequence[Pair], Judgement]]


def why(
    claim: Claim,
    verdict: str,
    parts: Parts,
    every: Sequence[Pair],
    silent: Sequence[str],
    controls: Sequence[Mapping[str, Any]],
    below: bool = False,
) -> str:
    """The reason in words: effects, counts, what was left out, what a lead is owed to, and what would settle it.

    Args:
        claim, verdict: what is judged, and how.
        parts: each rule with the comparisons that count and its judgement.
        every: all comparisons, those that do not count among them.
        silent: items that nothing counts from.
        controls: as `told` returns them.
        below: the networks are far below their usual accuracy.
    """
    said = []
    for rule, own, judgement in parts:
        name = f"{rule.name[0].upper()}{rule.name[1:]}" if len(parts) > 1 else "Effect"
        if judgement.pooled is None:
            said.append(f"{name}: nothing can be counted." if len(parts) > 1 else "Nothing can be counted.")
            continue
        found, unit = judgement.pooled, own[0].unit
        against = f" against {found.rival}, the strongest" if found.rival else ""
        over = f"{len(found.by)} {words.repetition(rule, len(found.by))}"
        own_verdict = f", {judgement.verdict}" if len(parts) > 1 else ""
        said.append(
            f"{name}{against}: {words.with_interval(rule, found.value, found.low, found.high, unit)} over {over}"
            f"{own_verdict}; {_counts(judgement)} (n = {words.span([pair.n for pair in own])})."
        )
    left_out = Counter(pair.problem for pair in every if pair.problem)
    if left_out:
        said.append(f"Left out: {', '.join(f'{count} {problem}' for problem, count in left_out.items())}.")
    said += [f"Nothing could be counted from {', '.join(silent)}."] if silent and verdict != NOT_TESTABLE else []
    said += _exceptions(parts) if verdict != IN_PART else []
    said += [_owed(control, parts) for control in controls]
    if verdict == OPEN:
        said += [_settled_by(rule, judgement) for rule, _, judgement in parts if judgement.verdict == OPEN]
        said += ["Training the networks to their usual accuracy comes first."] if below else []
    said += [f"What else would settle it: {claim.settle}."] if claim.settle and verdict in (OPEN, NOT_TESTABLE) else []
    return " ".join(said)


def _counts(judgement: Judgement) -> str:
    tally = Counter(one for _, one in judgement.contexts)
    count = len(judgement.contexts)
    names = {outcome: outcome for outcome in (*AGAINST, UNRESOLVED)}
    names[CONTRADICTS] = "contradicts" if tally[CONTRADICTS] == 1 else "contradict"
    told = [f"{tally[SUPPORTS]} of {count} {'supports' if count == 1 else 'support'}"]
    told += [f"{tally[outcome]} {name}" for outcome, name in names.items() if tally[outcome]]
    return ", ".join(told)


def _exceptions(parts: Parts) -> list[str]:
    """Where something is both for and against a claim that is not reproduced in part, which is which."""
    found = []
    for _, _, one in parts:
        outcomes = {outcome for _, outcome in one.contexts}
        if SUPPORTS in outcomes and outcomes & set(AGAINST):
            found.append(f"It holds {one.part}.")
    return found


def _owed(control: Mapping[str, Any], parts: Parts) -> str:
    """A control in words: as large an effect without what the claim is about means that the lead is not owed to it."""
    rule, _, judgement = parts[0]
    shown = f"Control, {control['name']}: {control['text']}"
    if judgement.pooled is None:
        return f"{shown}."
    value = math.log(control["value"]) if rule.relative else control["value"]
    own, other = rule.sign * judgement.pooled.value, rule.sign * value
    if own <= 0 or other <= 0:
        return f"{shown}."
    if other >= own:
        return f"{shown}: the effect is not owed to what the claim names."
    return f"{shown}: {100 * other / own:.0f} % of the effect is there without what the claim names."


def _settled_by(rule: Rule, judgement: Judgement) -> str:
    assert judgement.pooled is not None
    count = needed(rule, judgement.pooled)
    name = f" ({rule.name})" if rule.name else ""
    if count is None:
        return f"At this mean and spread more than 1,000 {words.repetition(rule)} would be needed to settle it{name}."
    more = max(1, count - len(judgement.pooled.by))
    return f"At this mean and spread {more} more {words.repetition(rule, more)} would settle it{name}."


def part(parts: Parts, silent: Sequence[str]) -> str:
    """What a claim holds for, in words: its parts by name where it has several."""
    if len(parts) == 1:
        told = [parts[0][2].part] if parts[0][2].verdict == IN_PART else []
    else:
        told = [
            f"{rule.name}: {one.verdict}{f' ({one.part})' if one.verdict == IN_PART and one.part else ''}"
            for rule, _, one in parts
        ]
    return "; ".join([*told, *([f"nothing counted from {', '.join(silent)}"] if silent else [])])


def told(rule: Rule, own: Sequence[Pair], found: Effect) -> dict[str, Any]:
    """A pooled effect as plain values; of a relative rule as ratios."""
    value, low, high = (math.exp(x) if rule.relative else x for x in (found.value, found.low, found.high))
    return {
        "name": rule.name,
        "measure": rule.measure,
        "unit": own[0].unit,
        "relative": rule.relative,
        "value": value,
        "low": low,
        "high": high,
        "repetitions": len(found.by),
        "outcome": found.outcome,
        "rival": found.rival,
        "text": words.with_interval(rule, found.value, found.low, found.high, own[0].unit),
    }
