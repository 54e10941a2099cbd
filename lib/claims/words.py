"""Rules and verdicts in words, made of what runs, so that they cannot differ from it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lib.claims.effects import is_share
from lib.claims.numbers import listed, value_words
from lib.claims.rules import ABOUT, HIGHER, LOWER, NO_HIGHER, NO_LOWER, Claim, Rule, free

_MEASURES = {"auroc": "area under the ROC curve", "f1": "F1"}
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def rule_words(claim: Claim) -> str:
    """A claim's rule, every part of it, and its controls."""
    several, numbered = len(claim.rules) > 1, list(enumerate(claim.rules, 1))
    parts = [f"{f'({number}) {rule.name}: ' if several else ''}{one_rule(rule, claim)}" for number, rule in numbered]
    joined = " ".join(parts) + (" All parts are asked for." if several else "")
    controls = [f"{rule.name} ({sides(rule)}{_where(rule)})" for rule in claim.controls]
    return joined + (f" Shown beside it: {'; '.join(controls)}." if controls else "")


def one_rule(rule: Rule, claim: Claim) -> str:
    """One part of a rule as sentences."""
    said = [f"{sides(rule)}{_where(rule)}"]
    if set(rule.items) != set(claim.items):
        said.append(f"in {', '.join(rule.items)}")
    if rule.mean:
        said.append(f"averaged over {' and '.join(rule.mean)}")
    if rule.values:
        said.append(f"by {rule.values.replace('_', ' ')}")
    if rule.premise:
        said.append(f"only {rule.premise.replace('_', ' ')}")
    sentence = f"{', '.join(said)}. Expected: {expected(rule)}."
    if rule.best:
        sentence += " Every rival must be beaten."
    if rule.exceptions:
        sentence += " A minority may be against it."
    return f"{sentence[0].upper()}{sentence[1:]} {_sample(rule)}"


def sides(rule: Rule) -> str:
    """What is set beside what."""
    measure = _MEASURES.get(rule.measure, rule.measure.replace("_", " "))
    if rule.right is None:
        return f"{measure} of {conditions(rule.left)}"
    named = {**rule.left, **rule.right}
    shared = [key for key in named if rule.left.get(key, rule) == rule.right.get(key, rule)]
    left, right = ({k: v for k, v in side.items() if k not in shared} for side in (rule.left, rule.right))
    other = f"{rule.right_measure.replace('_', ' ')} " if rule.right_measure else ""
    return f"{measure}{' as a ratio' if rule.relative else ''}, {conditions(left)} against {other}{conditions(right)}"


def conditions(wanted: Mapping[str, Any]) -> str:
    """Conditions in words, as "sparsity > 0, method l1 or scratch"."""
    return ", ".join(_condition(key, condition) for key, condition in wanted.items())


def expected(rule: Rule) -> str:
    """What a rule expects, with its margin and whose that is."""
    kind = "%" if rule.relative else ""
    own = "our smallest difference that counts"
    if rule.by is not None:
        return f"{rule.expect} by more than {_plain(rule.by, kind)} ({own})"
    if rule.within is not None:
        what = {
            NO_HIGHER: "not higher, by an interval that is not above zero and ends below {}",
            NO_LOWER: "not lower, by an interval that is not below zero and ends above -{}",
            ABOUT: "no more than {} apart, by the whole interval",
        }[rule.expect]
        return f"{what.format(_plain(rule.within, kind))} (our tolerance)"
    assert rule.aim is not None and rule.tolerance is not None
    by = "by " if rule.expect in (HIGHER, LOWER) else ""
    whose = rule.level_as if rule.stated is None else "the stated value"
    tolerance = f", with a tolerance of {_plain(rule.tolerance, kind)} of ours" if rule.tolerance else ""
    return f"{rule.expect} {by}{_plain(rule.aim, kind)} ({whose}{tolerance})"


def amount(rule: Rule, value: float, unit: str, signed: bool = True) -> str:
    """An effect with its unit: points of a share, a factor of a ratio."""
    if rule.relative:
        return f"x {math.exp(value):.2f}"
    if is_share(unit):
        return f"{100 * value:.1f} %" if rule.right is None else f"{100 * value:{'+' if signed else ''}.1f} points"
    return f"{value:{'' if rule.right is None or not signed else '+'}.3g} {unit.split(',')[0]}"


def with_interval(rule: Rule, value: float, low: float, high: float, unit: str) -> str:
    """An effect with its interval, as "-4.0 points [-4.8, -3.2]"."""
    if rule.relative:
        ends = [f"{math.exp(end):.2f}" for end in (low, high)]
    elif is_share(unit):
        ends = [f"{100 * end:{'' if rule.right is None else '+'}.1f}" for end in (low, high)]
    else:
        ends = [f"{end:{'' if rule.right is None else '+'}.3g}" for end in (low, high)]
    return f"{amount(rule, value, unit)} [{', '.join(ends)}]"


def repetition(rule: Rule, count: int = 2) -> str:
    """What a rule's repetitions are called."""
    name = "seed" if rule.sample is None else rule.sample.called or rule.sample.setting
    return name if count == 1 else f"{name}s"


def span(values: Sequence[int]) -> str:
    """A range of whole numbers."""
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


def _condition(key: str, condition: Any) -> str:
    name = key.replace("_", " ")
    if isinstance(condition, Mapping):
        return f"{name} " + " and ".join(f"{_SIGNS[sign]} {value_words(value)}" for sign, value in condition.items())
    if free(condition):
        return f"{name} {' or '.join(value_words(value) for value in condition)}"
    if isinstance(condition, bool):
        return name if condition else f"not {name}"
    return f"{name} {value_words(condition)}"


def _where(rule: Rule) -> str:
    return f", where {conditions(rule.where)}" if rule.where else ""


def _plain(value: float, kind: str) -> str:
    return f"{100 * value:.4g} %" if kind else f"{value:.4g}"


def _sample(rule: Rule) -> str:
    if rule.sample is None:
        return f"Seed by seed, from {rule.repetitions} seeds and n = {rule.images:,}."
    if rule.sample.groups:
        groups = listed(list(rule.sample.groups))
        return f"The repetitions are the means of the {rule.sample.setting}s of {groups}; n from {rule.images:,}."
    pairs = "; each is a mean over pairs, so intervals are twice as wide" if rule.sample.pairwise else ""
    name = rule.sample.setting
    return f"{name.capitalize()} by {name}, from {rule.repetitions} {name}s{pairs}; n from {rule.images:,}."
