"""A record's numbers by repetition, and the pairs that a rule compares."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.claims import special
from lib.claims.rules import ClaimError, Rule, Sample, fits, free, is_number

NO_COUNTERPART = "without a counterpart"
FEW, FEW_IMAGES = "with too few repetitions", "with too few images"


@dataclass(frozen=True)
class Cell:
    """One number of a record: its name, settings, unit, value by repetition, and what it was counted over."""

    name: str
    where: Mapping[str, Any]
    by: Mapping[Any, float]
    n: int
    unit: str = ""

    @property
    def mean(self) -> float:
        """Mean over the repetitions."""
        return float(np.mean(list(self.by.values())))


@dataclass(frozen=True)
class Pair:
    """What a comparison sets side by side at one setting.

    Attributes:
        item: the record.
        setting: what tells this comparison apart from the rule's others.
        rival: the right side, where the rule has several.
        left, right, value: by repetition; `value` is what the claim is about, their difference as a rule.
        n, unit: of the numbers.
        problem: why it does not count; empty where it does.
    """

    item: str
    setting: Mapping[str, Any]
    rival: str
    left: Mapping[Any, float]
    right: Mapping[Any, float]
    value: Mapping[Any, float]
    n: int = 0
    unit: str = ""
    problem: str = ""


def cells(record: Mapping[str, Any]) -> list[Cell]:
    """A record's numbers."""
    return [
        Cell(n["name"], n["where"], dict(zip(n["seeds"], n["per_seed"], strict=True)), n["n"], n["unit"])
        for n in record["numbers"]
    ]


def resampled(numbers: Iterable[Cell], sample: Sample | None) -> list[Cell]:
    """The numbers with a setting's values, or groups of them, in place of the seeds; the others are left out.

    A value's seeds are averaged, then the values of a group: each value counts once in its group.
    """
    if sample is None:
        return list(numbers)
    found: dict[tuple, dict[Any, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in numbers:
        repetition = sample.group(cell.where[sample.setting]) if sample.setting in cell.where else None
        if repetition is not None:
            rest = {key: value for key, value in cell.where.items() if key != sample.setting}
            found[(cell.name, key_of(rest))][repetition].append(cell)
    made = []
    for (name, _), groups in found.items():
        members = [cell for group in groups.values() for cell in group]
        where = {key: value for key, value in members[0].where.items() if key != sample.setting}
        means = {name_of: float(np.mean([cell.mean for cell in group])) for name_of, group in groups.items()}
        made.append(Cell(name, where, means, min(cell.n for cell in members), members[0].unit))
    return made


def pairs(rule: Rule, item: str, numbers: Sequence[Cell]) -> list[Pair]:
    """Every comparison of a rule on an item's numbers.

    Raises: ClaimError where a left number has several counterparts that nothing tells apart.
    """
    every = resampled(numbers, rule.sample)
    groups: dict[tuple, list[tuple[Cell, Cell | None]]] = defaultdict(list)
    named: dict[tuple, tuple[dict[str, Any], str]] = {}
    for left, right in _matched(rule, item, every):
        setting, rival = _setting(rule, left, right)
        place = (key_of(setting), rival)
        groups[place].append((left, right))
        named[place] = (setting, rival)
    matched = {key for (key, _), points in groups.items() if points[0][1] is not None}
    return [
        _pair(rule, item, *named[place], points, numbers)
        for place, points in groups.items()
        if rule.right is None or points[0][1] is not None or place[0] not in matched
    ]


def words(setting: Mapping[str, Any]) -> str:
    """Settings in words, as "network resnet18, sparsity 0.9"."""
    return ", ".join(f"{key.replace('_', ' ')} {value_words(value)}" for key, value in setting.items())


def value_words(value: Any) -> str:
    """A setting's value as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def listed(values: Sequence[str]) -> str:
    """Words with commas and a last "and"."""
    return f"{', '.join(values[:-1])} and {values[-1]}" if len(values) > 1 else "".join(values)


def key_of(where: Mapping[str, Any]) -> tuple:
    """Settings as something to look up by; floats that differ by rounding, and 1 and 1.0, are the same."""
    return tuple(sorted((key, f"{value:.9g}" if is_number(value) else repr(value)) for key, value in where.items()))


def _matched(rule: Rule, item: str, numbers: Sequence[Cell]) -> list[tuple[Cell, Cell | None]]:
    told_apart = {*rule.left, *(rule.right or ()), *rule.ignore}

    def rest(cell: Cell) -> tuple:
        return key_of({key: value for key, value in cell.where.items() if key not in told_apart})

    named = [cell for cell in numbers if fits(cell.where, rule.where)]
    lefts = [cell for cell in named if cell.name == rule.measure and fits(cell.where, rule.left)]
    if rule.right is None:
        return [(left, None) for left in lefts]
    counterparts: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in named:
        if cell.name == (rule.right_measure or rule.measure) and fits(cell.where, rule.right):
            counterparts[rest(cell)].append(cell)
    found: list[tuple[Cell, Cell | None]] = []
    for left in lefts:
        rights = counterparts.get(rest(left), [])
        rivals = [_rival(rule, right) for right in rights]
        if len(set(rivals)) < len(rivals):
            places = "; ".join(words(right.where) for right in rights)
            raise ClaimError(f"{item}: {rule.measure} at {words(left.where)} has several counterparts: {places}")
        found += [(left, right) for right in rights] or [(left, None)]
    return found


def _rival(rule: Rule, right: Cell) -> str:
    return ", ".join(value_words(right.where[key]) for key, wanted in (rule.right or {}).items() if free(wanted))


def _setting(rule: Rule, left: Cell, right: Cell | None) -> tuple[dict[str, Any], str]:
    """What tells a comparison apart, and its rival: settings that the rule fixes are left out."""
    fixed = {key for sides in (rule.where, rule.left) for key, wanted in sides.items() if not free(wanted)}
    setting = {key: value for key, value in left.where.items() if key not in {*fixed, *rule.mean}}
    return setting, _rival(rule, right) if right is not None else ""


def _pair(
    rule: Rule,
    item: str,
    setting: Mapping[str, Any],
    rival: str,
    points: Sequence[tuple[Cell, Cell | None]],
    numbers: Sequence[Cell],
) -> Pair:
    if rule.right is not None:
        points = [point for point in points if point[1] is not None] or points  # the points that both sides have
    sides = [side for point in points for side in point if side is not None]
    shared = set.intersection(*(set(side.by) for side in sides))
    order = [repetition for repetition in points[0][0].by if repetition in shared]
    n, unit = min(side.n for side in sides), points[0][0].unit
    complete = rule.right is None or points[0][1] is not None
    problem = "" if complete else NO_COUNTERPART
    premise = special.PREMISES.get(rule.premise)
    if not problem and premise is not None:
        problem = premise(numbers, *points[0])
    left = {rep: float(np.mean([point[0].by[rep] for point in points])) for rep in order}
    if not complete:
        return Pair(item, setting, rival, left, {}, {}, n, unit, problem)
    problem = problem or _few(rule, len(order), n)
    if rule.right is None:
        return Pair(item, setting, rival, left, {}, left, n, unit, problem)
    right = {rep: float(np.mean([point[1].by[rep] for point in points if point[1]])) for rep in order}
    special_value = special.VALUES.get(rule.values)
    if special_value is not None:
        value = {rep: special_value(points, rep) for rep in order}
    elif rule.relative:
        usable = all(left[rep] > 0 and right[rep] > 0 for rep in order)
        value = {rep: float(np.log(left[rep] / right[rep])) for rep in order} if usable else {}
        problem = problem or ("" if usable else "with a value of zero")
    else:
        value = {rep: left[rep] - right[rep] for rep in order}
    return Pair(item, setting, rival, left, right, value, n, unit, problem)


def _few(rule: Rule, repetitions: int, n: int) -> str:
    if repetitions < rule.repetitions:
        return FEW
    return FEW_IMAGES if n < rule.images else ""
