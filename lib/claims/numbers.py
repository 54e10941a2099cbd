"""A record's numbers by repetition, and the pairs that a rule compares."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.claims.rules import PREMISES, VALUES, ClaimError, Rule, Sample, fits, free, is_number

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


Point = tuple[Cell, Cell | None]  # a left number and its counterpart; None where there is none, or none is wanted


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
            found[cell.name, key_of(_without(cell.where, {sample.setting}))][repetition].append(cell)
    made = []
    for (name, _), groups in found.items():
        members = [cell for group in groups.values() for cell in group]
        means = {repetition: float(np.mean([cell.mean for cell in group])) for repetition, group in groups.items()}
        where = _without(members[0].where, {sample.setting})
        made.append(Cell(name, where, means, min(cell.n for cell in members), members[0].unit))
    return made


def pairs(rule: Rule, item: str, numbers: Sequence[Cell]) -> list[Pair]:
    """Every comparison of a rule on an item's numbers.

    Raises: ClaimError where a left number has several counterparts that nothing tells apart.
    """
    fixed = {key for sides in (rule.where, rule.left) for key, wanted in sides.items() if not free(wanted)}
    groups: dict[tuple, tuple[dict[str, Any], str, list[Point]]] = {}
    for left, right in _matched(rule, item, resampled(numbers, rule.sample)):
        setting = _without(left.where, {*fixed, *rule.mean})
        rival = _rival(rule, right) if right is not None else ""
        groups.setdefault((key_of(setting), rival), (setting, rival, []))[2].append((left, right))
    matched = {key for (key, _), (_, _, points) in groups.items() if points[0][1] is not None}
    return [
        _pair(rule, item, setting, rival, points, numbers)
        for (key, _), (setting, rival, points) in groups.items()
        if rule.right is None or points[0][1] is not None or key not in matched
    ]


def setting_words(setting: Mapping[str, Any]) -> str:
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


def _without(where: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in where.items() if key not in keys}


def _matched(rule: Rule, item: str, numbers: Sequence[Cell]) -> list[Point]:
    """The left numbers, each with its counterparts: the right numbers with the same other settings."""
    apart = {*rule.left, *(rule.right or ()), *rule.ignore}
    inside = [cell for cell in numbers if fits(cell.where, rule.where)]
    lefts = [cell for cell in inside if cell.name == rule.measure and fits(cell.where, rule.left)]
    if rule.right is None:
        return [(left, None) for left in lefts]
    counterparts: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in inside:
        if cell.name == (rule.right_measure or rule.measure) and fits(cell.where, rule.right):
            counterparts[key_of(_without(cell.where, apart))].append(cell)
    found: list[Point] = []
    for left in lefts:
        rights = counterparts.get(key_of(_without(left.where, apart)), [])
        if len({_rival(rule, right) for right in rights}) < len(rights):
            places = "; ".join(setting_words(right.where) for right in rights)
            where = setting_words(left.where)
            raise ClaimError(f"{item}: {rule.measure} at {where} has several counterparts: {places}")
        found += [(left, right) for right in rights] or [(left, None)]
    return found


def _rival(rule: Rule, right: Cell) -> str:
    return ", ".join(value_words(right.where[key]) for key, wanted in (rule.right or {}).items() if free(wanted))


def _pair(
    rule: Rule, item: str, setting: Mapping[str, Any], rival: str, points: Sequence[Point], numbers: Sequence[Cell]
) -> Pair:
    """A comparison of the points that both sides have, averaged over them repetition by repetition."""
    points = [point for point in points if point[1] is not None] or points
    lefts, rights = [left for left, _ in points], [right for _, right in points if right is not None]
    sides = [*lefts, *rights]
    order = [repetition for repetition in lefts[0].by if all(repetition in side.by for side in sides)]
    left, right = _means(lefts, order), _means(rights, order)
    n, problem = min(side.n for side in sides), ""
    value: Mapping[Any, float] = left
    if rule.right is not None and not rights:
        value, problem = {}, NO_COUNTERPART
    elif rule.premise:
        problem = PREMISES[rule.premise](numbers, *points[0])
    if not problem and len(order) < rule.repetitions:
        problem = FEW
    elif not problem and n < rule.images:
        problem = FEW_IMAGES
    if not rights:
        return Pair(item, setting, rival, left, right, value, n, lefts[0].unit, problem)
    if rule.values:
        value = {rep: VALUES[rule.values](points, rep) for rep in order}
    elif not rule.relative:
        value = {rep: left[rep] - right[rep] for rep in order}
    elif all(left[rep] > 0 and right[rep] > 0 for rep in order):
        value = {rep: float(np.log(left[rep] / right[rep])) for rep in order}
    else:
        value, problem = {}, problem or "with a value of zero"
    return Pair(item, setting, rival, left, right, value, n, lefts[0].unit, problem)


def _means(sides: Sequence[Cell], order: Sequence[Any]) -> dict[Any, float]:
    return {repetition: float(np.mean([side.by[repetition] for side in sides])) for repetition in order if sides}
