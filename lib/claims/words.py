"""Rules and verdicts in words, made of what runs, so that they cannot differ from it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lib import units
from lib.claims.decide import IN_PART, NOT_TESTABLE, OPEN, Judgement
from lib.claims.effects import AGAINST, CONTRADICTS, MOST, SUPPORTS, UNRESOLVED, Effect, is_share, needed
from lib.claims.numbers import Pair, listed, value_words
from lib.claims.rules import ABOUT, HIGHER, LOWER, NO_HIGHER, NO_LOWER, WITHIN, Claim, Rule, free

Parts = Sequence[tuple[Rule, Sequence[Pair], Judgement]]
_MEASURES = {
    "attack_success": "attack success rate",
    "auroc": "area under the ROC curve",
    "f1": "F1",
    "returns": "share of images whose right answer comes back",
    "same_class": "Jaccard index of slices of one class",
    "other_class": "Jaccard index of slices of two classes",
}
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


# ---- a rule


def rule_words(claim: Claim) -> str:
    """A claim's rule, every part of it, and its controls."""
    several = len(claim.rules) > 1
    parts = [
        (f"({number}) {rule.name}: " if several else "") + _sentences(rule, claim)
        for number, rule in enumerate(claim.rules, 1)
    ]
    controls = "; ".join(f"{rule.name} ({_sides(rule)}{_where(rule)})" for rule in claim.controls)
    parts += ["All parts are asked for."] if several else []
    return " ".join([*parts, *([f"Shown beside it: {controls}."] if controls else [])])


def _sentences(rule: Rule, claim: Claim) -> str:
    clauses = [
        f"{_sides(rule)}{_where(rule)}",
        f"in {', '.join(rule.items)}" if set(rule.items) != set(claim.items) else "",
        f"averaged over {' and '.join(rule.mean)}" if rule.mean else "",
        f"by {rule.values.replace('_', ' ')}" if rule.values else "",
        f"only {rule.premise.replace('_', ' ')}" if rule.premise else "",
    ]
    first = ", ".join(filter(None, clauses))
    sentences = [f"{first[0].upper()}{first[1:]}.", f"Expected: {_expected(rule)}."]
    sentences += ["Every rival must be beaten."] if rule.best else []
    sentences += ["A minority may be against it."] if rule.exceptions else []
    return " ".join([*sentences, _sample(rule)])


def _sides(rule: Rule) -> str:
    """What is set beside what."""
    measure = measure_words(rule.measure)
    if rule.right is None:
        return f"{measure} of {_conditions(rule.left)}" if rule.left else measure
    keys = {**rule.left, **rule.right}
    shared = [key for key in keys if rule.left.get(key, rule) == rule.right.get(key, rule)]
    left, right = ({k: v for k, v in side.items() if k not in shared} for side in (rule.left, rule.right))
    first = f"{measure}{' as a ratio' if rule.relative else ''}"
    other = measure_words(rule.right_measure) if rule.right_measure else ""
    one, two = (filter(None, side) for side in ((first, _conditions(left)), (other, _conditions(right))))
    return f"{', '.join(one)} against {' '.join(two)}"


def measure_words(measure: str) -> str:
    """What a number measures, as "area under the ROC curve"."""
    return _MEASURES.get(measure, measure.replace("_", " "))


def stated_words(rule: Rule, unit: str) -> str:
    """What the source states, as "recall 100 %" or "accuracy lower by 2 points"; empty where it is no number.

    Args:
        rule: a part of a claim of the source.
        unit: of the effect, as `effect_row` gives it.
    """
    if not rule.stated:
        return ""
    if rule.relative:
        size = f"{100 * rule.amount:.4g} %"
    elif is_share(unit):
        size = f"{100 * rule.amount:.4g} {'%' if rule.right is None else 'points'}"
    else:
        size = f"{rule.amount:.4g} {unit.split(',')[0]}".rstrip()
    how = {HIGHER: "higher by ", LOWER: "lower by "}.get(rule.expect, "" if rule.right is None else f"{rule.expect} ")
    return f"{rule.name or measure_words(rule.measure)} {how}{size}"


def _where(rule: Rule) -> str:
    return f", where {_conditions(rule.where)}" if rule.where else ""


def _conditions(wanted: Mapping[str, Any]) -> str:
    """Conditions in words, as "sparsity > 0, method l1 or scratch"."""
    return ", ".join(_condition(key.replace("_", " "), condition) for key, condition in wanted.items())


def _condition(name: str, condition: Any) -> str:
    if isinstance(condition, Mapping):
        return f"{name} " + " and ".join(f"{_SIGNS[sign]} {value_words(value)}" for sign, value in condition.items())
    if free(condition):
        return f"{name} {' or '.join(map(value_words, condition))}"
    if isinstance(condition, bool):
        return name if condition else f"not {name}"
    return f"{name} {value_words(condition)}"


def _expected(rule: Rule) -> str:
    """What a rule expects, with its margin and whose that is."""
    amount, tolerance = (
        f"{100 * value:.4g} %" if rule.relative else f"{value:.4g}" for value in (rule.amount, rule.tolerance or 0)
    )
    if rule.expect in WITHIN:
        what = {
            NO_HIGHER: f"not higher, by an interval that is not above zero and ends below {amount}",
            NO_LOWER: f"not lower, by an interval that is not below zero and ends above -{amount}",
            ABOUT: f"no more than {amount} apart, by the whole interval",
        }[rule.expect]
        return f"{what} (our tolerance)"
    if rule.tolerance is None:
        return f"{rule.expect} by more than {amount} (our smallest difference that counts)"
    by = "by " if rule.expect in (HIGHER, LOWER) else ""
    ours = f", with a tolerance of {tolerance} of ours" if rule.tolerance else ""
    return f"{rule.expect} {by}{amount} ({rule.level_as or 'the stated value'}{ours})"


def _sample(rule: Rule) -> str:
    if rule.sample is None:
        return f"Seed by seed, from {rule.repetitions} seeds and n = {rule.images:,}."
    name = rule.sample.setting
    if rule.sample.groups:
        groups = listed(list(rule.sample.groups))
        return f"The repetitions are the means of the {name}s of {groups}; n from {rule.images:,}."
    pairs = "; each is a mean over pairs, so intervals are twice as wide" if rule.sample.pairwise else ""
    return f"{name.capitalize()} by {name}, from {rule.repetitions} {name}s{pairs}; n from {rule.images:,}."


# ---- an effect


def effect_row(rule: Rule, pairs: Sequence[Pair], found: Effect) -> dict[str, Any]:
    """A pooled effect as plain values; of a relative rule as ratios."""
    value, low, high = (math.exp(x) if rule.relative else x for x in (found.value, found.low, found.high))
    return {
        "name": rule.name,
        "measure": rule.measure,
        "unit": pairs[0].unit,
        "relative": rule.relative,
        "value": value,
        "low": low,
        "high": high,
        "repetitions": len(found.by),
        "outcome": found.outcome,
        "rival": found.rival,
        "text": with_interval(rule, found, pairs[0].unit),
    }


def with_interval(rule: Rule, found: Effect, unit: str) -> str:
    """An effect with its interval, as "-4.0 points [-4.8, -3.2]"."""
    sign, ends = "" if rule.right is None else "+", (found.value, found.low, found.high)
    if rule.relative:
        value, low, high = (f"{math.exp(x):.2f}" for x in ends)
        return f"x {value} [{low}, {high}]"
    if is_share(unit):
        value, low, high = (f"{100 * x:{sign}.1f}" for x in ends)
        return f"{value} {'%' if rule.right is None else 'points'} [{low}, {high}]"
    value, low, high = (f"{x:{sign}.3g}" for x in ends)
    return f"{value} {unit.split(',')[0]} [{low}, {high}]"


# ---- a verdict


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
        controls: as `effect_row` returns them.
        below: the networks are far below their usual accuracy.
    """
    sentences = [_effect_sentence(*part, several=len(parts) > 1) for part in parts]
    left_out = Counter(pair.problem for pair in every if pair.problem)
    if left_out:
        sentences.append(f"Left out: {', '.join(f'{count} {problem}' for problem, count in left_out.items())}.")
    if silent and verdict != NOT_TESTABLE:
        sentences.append(f"Nothing could be counted from {', '.join(silent)}.")
    if verdict != IN_PART:  # where something is both for and against it all the same
        for _, _, judgement in parts:
            outcomes = {outcome for _, outcome in judgement.contexts}
            if SUPPORTS in outcomes and outcomes & set(AGAINST):
                sentences.append(f"It holds {judgement.part}.")
    sentences += [_control_sentence(control, parts) for control in controls]
    if verdict == OPEN:
        sentences += [_settled_by(rule, judgement) for rule, _, judgement in parts if judgement.verdict == OPEN]
        sentences += ["Training the networks to their usual accuracy comes first."] if below else []
    if claim.settle and verdict in (OPEN, NOT_TESTABLE):
        sentences.append(f"What else would settle it: {claim.settle}.")
    return " ".join(sentences)


def _effect_sentence(rule: Rule, pairs: Sequence[Pair], judgement: Judgement, several: bool) -> str:
    name = f"{rule.name[0].upper()}{rule.name[1:]}" if several else "Effect"
    found = judgement.pooled
    if found is None:
        return f"{name}: nothing can be counted." if several else "Nothing can be counted."
    against = f" against {found.rival}, the strongest" if found.rival else ""
    over = f"{len(found.by)} {_repetition(rule, len(found.by))}"
    verdict = f", {judgement.verdict}" if several else ""
    interval = with_interval(rule, found, pairs[0].unit)
    return f"{name}{against}: {interval} over {over}{verdict}; {_counts(judgement)} ({_samples(rule, pairs)})."


def _counts(judgement: Judgement) -> str:
    """How many comparisons have which outcome."""
    counts = Counter(outcome for _, outcome in judgement.contexts)
    total = len(judgement.contexts)
    names = {outcome: outcome for outcome in (*AGAINST, UNRESOLVED)}
    names[CONTRADICTS] = "contradicts" if counts[CONTRADICTS] == 1 else "contradict"
    supports = f"{counts[SUPPORTS]} of {total} {'supports' if total == 1 else 'support'}"
    return ", ".join([supports, *(f"{counts[outcome]} {name}" for outcome, name in names.items() if counts[outcome])])


def _samples(rule: Rule, pairs: Sequence[Pair]) -> str:
    """What was counted over, in words: "2,000 test images", "100 to 500 test images", "1 network"."""
    numbers = [{"name": rule.measure, "unit": pair.unit, "n": pair.n} for pair in pairs]
    counted = listed(list(dict.fromkeys(map(units.counted, numbers))))
    return units.samples(numbers, counted)


def _control_sentence(control: Mapping[str, Any], parts: Parts) -> str:
    """A control in words: as large an effect without what the claim is about means that the lead is not owed to it."""
    rule, _, judgement = parts[0]
    shown = f"Control, {control['name']}: {control['text']}"
    if judgement.pooled is None:
        return f"{shown}."
    lead = rule.sign * judgement.pooled.value
    without = rule.sign * (math.log(control["value"]) if rule.relative else control["value"])
    if lead <= 0 or without <= 0:
        return f"{shown}."
    if without >= lead:
        return f"{shown}: the effect is not owed to what the claim names."
    return f"{shown}: {100 * without / lead:.0f} % of the effect is there without what the claim names."


def cause_words(because: str, causes: Sequence[Mapping[str, Any]]) -> str:
    """Why a claim does not hold, with what shows it, as `effect_row` returns them; empty where nothing does."""
    shown = "; ".join(f"{row['name']}: {row['text']}" for row in causes)
    return f"{because} Shown by {shown}." if shown else ""


def _settled_by(rule: Rule, judgement: Judgement) -> str:
    assert judgement.pooled is not None
    count, name = needed(rule, judgement.pooled), f" ({rule.name})" if rule.name else ""
    if count is None:
        return f"At this mean and spread more than {MOST:,} {_repetition(rule)} would be needed to settle it{name}."
    more = max(1, count - len(judgement.pooled.by))
    return f"At this mean and spread {more} more {_repetition(rule, more)} would settle it{name}."


def _repetition(rule: Rule, count: int = 2) -> str:
    """What a rule's repetitions are called."""
    name = "seed" if rule.sample is None else rule.sample.called or rule.sample.setting
    return name if count == 1 else f"{name}s"


def part_words(parts: Parts, silent: Sequence[str]) -> str:
    """What a claim holds for, in words: its parts by name where it has several."""
    if len(parts) == 1:
        shown = [parts[0][2].part] if parts[0][2].verdict == IN_PART else []
    else:
        shown = [
            f"{rule.name}: {one.verdict}{f' ({one.part})' if one.verdict == IN_PART and one.part else ''}"
            for rule, _, one in parts
        ]
    return "; ".join([*shown, *([f"nothing counted from {', '.join(silent)}"] if silent else [])])


def stability_words(stable: Mapping[str, Any]) -> str:
    """How many of the margins and confidences give the same verdict."""
    if not stable:
        return ""
    others = "; ".join(f"{verdict} with {', '.join(where)}" for verdict, where in stable["others"].items())
    same = f"The same in {stable['same']} of {stable['of']} combinations of margin and confidence"
    return f"{same} ({others})." if others else f"{same}."


# ---- what a verdict rests on


def accuracy_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """How accurate the networks of a verdict are, beside what is usual for them."""
    kinds = []
    for row in rows:
        span = " to ".join(dict.fromkeys(_percent(row[end]) for end in ("low", "high")))
        usual = f"usual {_percent(row['usual'])}: {row['source']}" if row["usual"] else "no usual value known"
        kinds.append(f"{row['arch']} on {row['data']} {span} ({usual})")
    return f"Clean accuracy: {'; '.join(kinds)}." if kinds else ""


def networks_in_short(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same in a few words, as "resnet18 83.1 % (usual 94 %)"; of more than three kinds of network their range, and
    those that are far below the usual accuracy."""
    several = len(rows) > 3
    ends = [end(row[key] for row in rows) for end, key in ((min, "low"), (max, "high"))] if several else []
    shown = [f"{len(rows)} kinds of network, {' to '.join(map(_percent, ends))}"] if several else []
    for row in rows:
        if row["below"] or not several:
            usual = f" (usual {_percent(row['usual'])})" if row["usual"] else ""
            shown.append(f"{row['arch']} {_percent(row['high'])}{usual}")
    return "; ".join(shown)


def below_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a verdict adds to its own words where its networks are far below the usual accuracy."""
    far = [f"{row['arch']} {_percent(row['high'])}, usual {_percent(row['usual'])}" for row in rows if row["below"]]
    return f"on networks far below the usual accuracy ({'; '.join(far)})" if far else ""


def fresh_words(fresh: Mapping[str, Any]) -> str:
    """Which seeds had been seen when the rules were frozen, and what the fresh ones alone say."""
    if not fresh or not (fresh["seeds"] or fresh["seen"]):
        return ""
    seen, new = (", ".join(map(str, fresh[key])) for key in ("seen", "seeds"))
    if not new:
        one = "Seed" if len(fresh["seen"]) == 1 else "Seeds"
        return f"{one} {seen} had been seen when the rules were last changed; none is fresh."
    effects = "; ".join(f"{row['text']}, {row['outcome']}" for row in fresh["effects"])
    before = f", {seen} had been seen when the rules were last changed" if seen else ""
    are = "Seeds {} are" if len(fresh["seeds"]) > 1 else "Seed {} is"
    return f"{are.format(new)} fresh{before}{f'; the fresh alone: {effects}' if effects and seen else ''}."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %".replace(".0 %", " %")
