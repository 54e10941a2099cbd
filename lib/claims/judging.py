"""One claim judged: its comparisons from the records, their effects, the verdict and its reason."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib.claims import conditions, reasons, words
from lib.claims.decide import IN_PART, NOT_TESTABLE, REPRODUCED, Judgement, combine, fragility
from lib.claims.decide import judge as judge_rule
from lib.claims.effects import effect, pooled
from lib.claims.material import Material
from lib.claims.numbers import Pair, pairs
from lib.claims.numbers import words as setting_words
from lib.claims.rules import Claim, ClaimError, Rule

COLUMNS = ["item", "comparison", "setting", "measure", "left", "right", "difference", "low", "high", "seeds", "n"]


def judged(claim: Claim, material: Material) -> dict[str, Any]:
    """What a verdict says of a claim, as the fields of `verdicts.Verdict`.

    Raises: ClaimError for a rule that cannot be applied to the records.
    """
    told: dict[str, Any] = {"rule": words.rule_words(claim)}
    numbers = {item: material.numbers(item) for item in claim.items}
    problems = [found for found in numbers.values() if isinstance(found, str)]
    if problems:
        why = f"Needs records that are not there: {'; '.join(problems)}."
        return {**told, "verdict": NOT_TESTABLE, "why": why, "evidence": _evidence([])}
    every = [(rule, _compared(claim, rule, numbers)) for rule in claim.rules]
    counting = [(rule, [pair for pair in found if not pair.problem]) for rule, found in every]
    parts = [(rule, own, judge_rule(rule, own)) for rule, own in counting]
    silent = [item for item in claim.items if not any(pair.item == item for _, own in counting for pair in own)]

    def settle(judgements: Sequence[Judgement]) -> str:
        verdict = combine([judgement.verdict for judgement in judgements])
        return IN_PART if silent and verdict == REPRODUCED else verdict

    verdict = settle([judgement for _, _, judgement in parts])
    controls = []
    for rule in claim.controls:
        own = [pair for pair in _compared(claim, rule, numbers) if not pair.problem]
        if own and (found := pooled(rule, own)) is not None:
            controls.append(reasons.told(rule, own, found))
    evidence = _evidence(every)
    all_pairs = [pair for _, found in every for pair in found]
    named = {pair.setting["network"] for _, own in counting for pair in own if "network" in pair.setting}
    networks = material.accuracies(claim.items, named) if verdict != NOT_TESTABLE else []
    return told | {
        "verdict": verdict,
        "why": reasons.why(claim, verdict, parts, all_pairs, silent, controls, any(row["below"] for row in networks)),
        "evidence": evidence,
        "part": reasons.part(parts, silent) if verdict == IN_PART else "",
        "counts": dict(sorted(Counter(evidence["outcome"]).items())),
        "effects": [
            reasons.told(rule, own, one.pooled) | {"verdict": one.verdict} for rule, own, one in parts if one.pooled
        ],
        "stable": fragility(counting, settle) if verdict != NOT_TESTABLE else {},
        "networks": networks,
        "conditions": conditions.in_words(networks)[0],
        "controls": controls,
        "fresh": _fresh(counting, material.seen),
    }


def _compared(claim: Claim, rule: Rule, numbers: Mapping[str, Any]) -> list[Pair]:
    try:
        return [pair for item in rule.items for pair in pairs(rule, item, numbers[item])]
    except ClaimError as error:
        raise ClaimError(f"claim {claim.id!r}: {error}") from error


def _fresh(counting: Sequence[tuple[Rule, Sequence[Pair]]], seen: Sequence[int]) -> dict[str, Any]:
    """The seeds that had not been seen when the rules were frozen, and the effects of them alone."""
    seeds = sorted({rep for rule, own in counting if rule.sample is None for pair in own for rep in pair.value})
    new = [seed for seed in seeds if seed not in seen]
    effects = []
    for rule, own in counting:
        alone = [_only(pair, new) for pair in own] if rule.sample is None else []
        found = pooled(rule, alone) if len(new) >= 2 and alone else None
        effects += [reasons.told(rule, own, found)] if found is not None else []
    return {"seeds": new, "seen": [seed for seed in seeds if seed in seen], "effects": effects}


def _only(pair: Pair, seeds: Sequence[int]) -> Pair:
    kept = {rep: value for rep, value in pair.value.items() if rep in seeds}
    return Pair(pair.item, pair.setting, pair.rival, pair.left, pair.right, kept, pair.n, pair.unit)


def _evidence(every: Sequence[tuple[Rule, Sequence[Pair]]]) -> pd.DataFrame:
    rows = [_row(rule, pair) for rule, found in every for pair in found]
    return pd.DataFrame(rows, columns=[*COLUMNS, "outcome"])


def _row(rule: Rule, pair: Pair) -> dict[str, Any]:
    setting = {**pair.setting, **({"against": pair.rival} if pair.rival else {})}
    row: dict[str, Any] = {"item": pair.item, "comparison": rule.name, "setting": setting_words(setting)}
    means = [sum(side.values()) / len(side) if side else math.nan for side in (pair.left, pair.right)]
    row |= {"measure": rule.measure, "left": means[0], "right": means[1]}
    row |= dict.fromkeys(("difference", "low", "high"), math.nan)
    found = effect(rule, pair.value, pair.unit) if len(pair.value) >= 2 else None
    if found is not None:
        sized = [math.exp(x) - 1 if rule.relative else x for x in (found.value, found.low, found.high)]
        row |= dict(zip(("difference", "low", "high"), sized, strict=True))
    outcome = pair.problem or (found.outcome if found else "")
    return row | {"seeds": len(pair.value), "n": pair.n, "outcome": outcome}
