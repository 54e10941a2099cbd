"""Comparisons of a record's numbers, seed by seed: what `lib.claims` counts."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from lib.intervals import student

EXPECT = ("lower", "higher", "not-higher", "not-lower")
SUPPORTS, CONTRADICTS, UNRESOLVED = "supports", "contradicts", "unresolved"
FEW_SEEDS, FEW_IMAGES, NEAR_CHANCE = "too few seeds", "too few images", "both near chance"
UNEQUAL, ALONE = "unequal clean accuracy", "no counterpart"
COUNTED = (SUPPORTS, CONTRADICTS, UNRESOLVED)
_BOUNDS = {
    "gt": lambda a, b: a > b + 1e-9,
    "ge": lambda a, b: a >= b - 1e-9,
    "lt": lambda a, b: a < b - 1e-9,
    "le": lambda a, b: a <= b + 1e-9,
}


class ClaimError(ValueError):
    """A rule that cannot be applied; the message names the claim or comparison, and the key."""


@dataclass(frozen=True)
class Comparison:
    """One comparison of a rule, as config/claims.yaml explains it.

    Attributes:
        name: what is compared, in words.
        left, right: settings that tell the two sides apart; a value, or bounds {gt, ge, lt, le, in}.
        where: settings that both sides fit.
        expect: lower, higher, not-higher or not-lower: the left side, to the right.
        margin: smallest difference that counts, one for all measures or one each.
        measures: names of numbers; a comparison supports or contradicts only where all of them do.
        items: the claim's items it looks at; empty: all.
        ignore: settings that may differ between the sides.
        average: settings over which the differences are averaged.
        contrast: {more, less}: two ranges; the difference in the first less that in the second is compared.
        difference: absolute, or ratio (left / right - 1).
        drop_when_both_below: points where both accuracies are below this are left out.
        clean_within: only counted where the accuracies at epsilon 0 differ by no more than this.
        min_n: images it needs; None: the rule's.
        replicates: the setting whose values are the sample, paired between the sides, in place of the seeds (a value's
            seeds are averaged); "seed": the seeds.
    """

    name: str
    left: Mapping[str, Any]
    right: Mapping[str, Any]
    expect: str
    margin: float | Mapping[str, float] = 0.0
    measures: tuple[str, ...] = ("accuracy",)
    items: tuple[str, ...] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    average: tuple[str, ...] = ()
    contrast: Mapping[str, Mapping[str, Any]] | None = None
    difference: str = "absolute"
    drop_when_both_below: float | None = None
    clean_within: float | None = None
    min_n: int | None = None
    replicates: str = "seed"

    def __post_init__(self) -> None:
        for fits, key, wanted in (
            (self.expect in EXPECT, "expect", " or ".join(EXPECT)),
            (self.difference in ("absolute", "ratio"), "difference", "absolute or ratio"),
            (len(self.measures) > 0, "measures", "at least one name"),
            (self.contrast is None or set(self.contrast) == {"more", "less"}, "contrast", "{more, less}"),
            (set(self.left) | set(self.right), "left", "settings that tell the sides apart"),
        ):
            if not fits:
                raise ClaimError(f"comparison {self.name!r}: {key} is {getattr(self, key)!r}: {wanted}")
        for measure in self.measures:
            if not (isinstance(self.margin_of(measure), (int, float)) and self.margin_of(measure) >= 0):
                raise ClaimError(f"comparison {self.name!r}: margin of {measure} must be a number from 0")
        for conditions in (self.left, self.right, self.where, *(self.contrast or {}).values()):
            for condition in conditions.values():
                fits_condition(0, condition)

    def margin_of(self, measure: str) -> Any:
        """The smallest difference that counts, of a measure."""
        return self.margin.get(measure) if isinstance(self.margin, Mapping) else self.margin


@dataclass(frozen=True)
class Cell:
    """One number of a record: its name, settings, values by seed, and images."""

    name: str
    where: Mapping[str, Any]
    per_seed: Mapping[int, float]
    n: int

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(list(self.per_seed.values())))


@dataclass(frozen=True)
class Finding:
    """What one comparison showed at one setting.

    Attributes:
        item, comparison, setting: where; setting is in words.
        outcome: one of COUNTED, or the reason why it does not count.
        parts: a row for each measure: measure, left, right, difference, low, high.
        seeds, n: seeds both sides share, and the fewest images.
        points, dropped: points averaged, and points left out as near chance.
    """

    item: str
    comparison: str
    setting: str
    outcome: str
    parts: tuple[Mapping[str, Any], ...] = ()
    seeds: int = 0
    n: int = 0
    points: int = 0
    dropped: int = 0


def bound(value: Any) -> float:
    """A bound as a number; text as "8/255" is a fraction. Raises: ClaimError for anything else."""
    try:
        return float(Fraction(value.replace(" ", ""))) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        raise ClaimError(f"bound {value!r} is neither a number nor a fraction such as 8/255") from None


def fits_condition(value: Any, condition: Any) -> bool:
    """Whether a setting's value fits a condition: bounds {gt, ge, lt, le, in}, or the value itself."""
    if isinstance(condition, Mapping):
        for key in condition:
            if key not in (*_BOUNDS, "in"):
                raise ClaimError(
                    f"condition {dict(condition)}: unknown key {key!r}; one of {', '.join((*_BOUNDS, 'in'))}"
                )
        limits = {key: bound(limit) for key, limit in condition.items() if key != "in"}
        if limits and (isinstance(value, (str, bool)) or not isinstance(value, (int, float))):
            return False
        inside = all(_BOUNDS[key](value, limit) for key, limit in limits.items())
        return inside and ("in" not in condition or any(_same(value, choice) for choice in condition["in"]))
    return _same(value, condition)


def cells(record: Mapping[str, Any]) -> list[Cell]:
    """A record's numbers; `relative_accuracy` is added from the accuracies where the record has none."""
    found = [
        Cell(n["name"], n["where"], dict(zip(n["seeds"], n["per_seed"], strict=True)), n["n"])
        for n in record["numbers"]
    ]
    if any(cell.name == "relative_accuracy" for cell in found):
        return found
    known = _index(found)
    derived = []
    for cell in found:
        clean = known.get(("accuracy", _key({**cell.where, "epsilon": 0})))
        if cell.name == "accuracy" and "epsilon" in cell.where and clean is not None:
            shares = {s: v / clean.per_seed[s] for s, v in cell.per_seed.items() if clean.per_seed.get(s, 0) > 0}
            if shares:
                derived.append(Cell("relative_accuracy", cell.where, shares, min(cell.n, clean.n)))
    return found + derived


def pooled(numbers: Iterable[Cell], setting: str) -> list[Cell]:
    """One cell for all that differ in one setting only: its values, in order of their names, stand for the seeds."""
    numbers = list(numbers)
    values = sorted({cell.where[setting] for cell in numbers if setting in cell.where}, key=str)
    groups: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in numbers:
        if setting in cell.where:
            rest = {key: value for key, value in cell.where.items() if key != setting}
            groups[(cell.name, _key(rest))].append(cell)
    return [
        Cell(
            cells[0].name,
            {key: value for key, value in cells[0].where.items() if key != setting},
            {values.index(cell.where[setting]): cell.mean for cell in cells},
            min(cell.n for cell in cells),
        )
        for cells in groups.values()
    ]


def compare(item: str, numbers: Sequence[Cell], rule: Comparison, min_seeds: int, min_n: int) -> list[Finding]:
    """Every finding of a comparison on an item's numbers, one a setting.

    Args:
        item: the item's name.
        numbers: from `cells`.
        rule: the comparison.
        min_seeds: seeds that both sides must share, at least 2.
        min_n: images behind every value.
    Raises: ClaimError where a left number has several counterparts.
    """
    numbers = numbers if rule.replicates == "seed" else pooled(numbers, rule.replicates)
    known = _index(numbers)
    groups: dict[tuple, dict[str, list[tuple[Cell, Cell]]]] = defaultdict(lambda: defaultdict(list))
    names: dict[tuple, Mapping[str, Any]] = {}
    alone: dict[tuple, Mapping[str, Any]] = {}
    for measure in rule.measures:
        for left, right in _pairs(item, numbers, rule, measure):
            setting = {key: value for key, value in left.where.items() if key not in rule.average}
            names[_key(setting)] = setting
            if right is None:
                alone[_key(setting)] = setting
            else:
                groups[_key(setting)][measure].append((left, right))
    findings = [
        _judge(item, names[key], by_measure, rule, known, min_seeds, rule.min_n or min_n)
        for key, by_measure in groups.items()
    ]
    missing = [Finding(item, rule.name, words(alone[key]), ALONE) for key in alone if key not in groups]
    return findings + missing


def outcome(low: float, high: float, expect: str, margin: float) -> str:
    """Whether an interval of a difference lies inside the expected region, outside it, or across its edge."""
    edge = margin if expect in ("higher", "not-higher") else -margin
    above, below = low > edge, high < edge
    if expect in ("higher", "not-lower"):
        return SUPPORTS if above else CONTRADICTS if below or low == high == edge else UNRESOLVED
    return SUPPORTS if below else CONTRADICTS if above or low == high == edge else UNRESOLVED


def words(setting: Mapping[str, Any]) -> str:
    """Settings in words, as "network resnet18, sparsity 0.9"."""
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in setting.items())


def _judge(
    item: str,
    setting: Mapping[str, Any],
    by_measure: Mapping[str, Sequence[tuple[Cell, Cell]]],
    rule: Comparison,
    known: Mapping[tuple, Cell],
    min_seeds: int,
    min_n: int,
) -> Finding:
    base = (item, rule.name, words(setting))
    if set(by_measure) != set(rule.measures):
        return Finding(*base, ALONE)
    kept = {measure: [p for p in pairs if not _near_chance(p, rule, known)] for measure, pairs in by_measure.items()}
    first = rule.measures[0]
    dropped = len(by_measure[first]) - len(kept[first])
    if not all(kept.values()):
        return Finding(*base, NEAR_CHANCE, dropped=dropped)
    everything = [pair for pairs in kept.values() for pair in pairs]
    seeds = sorted(set.intersection(*({*left.per_seed} & {*right.per_seed} for left, right in everything)))
    n = min(min(left.n, right.n) for left, right in everything)
    parts, verdicts = [], []
    for measure, pairs in kept.items():
        part = _part(measure, pairs, seeds, rule)
        if part is None:
            return Finding(*base, ALONE, dropped=dropped)
        parts.append(part)
        if not math.isnan(part["low"]):
            verdicts.append(outcome(part["low"], part["high"], rule.expect, rule.margin_of(measure)))
    if len(seeds) < max(2, min_seeds):
        result = FEW_SEEDS
    elif n < min_n:
        result = FEW_IMAGES
    elif not _equal_clean(by_measure[first][0], rule, known):
        result = UNEQUAL
    else:
        result = verdicts[0] if len(set(verdicts)) == 1 else UNRESOLVED
    return Finding(*base, result, tuple(parts), len(seeds), n, len(kept[first]), dropped)


def _part(measure: str, pairs: Sequence[tuple[Cell, Cell]], seeds: Sequence[int], rule: Comparison) -> dict | None:
    """A measure's difference with its interval; None where a side of a contrast has no point."""
    if rule.contrast is None:
        left, right = _sides(pairs, seeds)
    else:
        bands = [[p for p in pairs if _fits(p[0].where, rule.contrast[side])] for side in ("more", "less")]
        if not all(bands):
            return None
        left, right = (np.subtract(*_sides(band, seeds)) for band in bands)
    with np.errstate(divide="ignore", invalid="ignore"):
        differences = left / right - 1 if rule.difference == "ratio" else left - right
    usable = len(seeds) > 0 and bool(np.isfinite(differences).all())
    low, high = (student(differences.tolist()) if usable else None) or (math.nan, math.nan)
    means = [float(side.mean()) if len(seeds) else math.nan for side in (left, right)]
    middle = float(differences.mean()) if usable else math.nan
    return {"measure": measure, "left": means[0], "right": means[1], "difference": middle, "low": low, "high": high}


def _sides(pairs: Sequence[tuple[Cell, Cell]], seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Left and right values by seed, averaged over the points."""
    values = np.array([[[side.per_seed[seed] for seed in seeds] for side in pair] for pair in pairs], dtype=float)
    averaged = values.mean(axis=0)
    return averaged[0], averaged[1]


def _pairs(item: str, numbers: Iterable[Cell], rule: Comparison, measure: str) -> list[tuple[Cell, Cell | None]]:
    told_apart = {*rule.left, *rule.right, *rule.ignore}

    def rest(cell: Cell) -> tuple:
        return _key({key: value for key, value in cell.where.items() if key not in told_apart})

    named = [cell for cell in numbers if cell.name == measure and _fits(cell.where, rule.where)]
    counterparts: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in named:
        if _fits(cell.where, rule.right):
            counterparts[rest(cell)].append(cell)
    pairs: list[tuple[Cell, Cell | None]] = []
    for cell in named:
        if _fits(cell.where, rule.left):
            found = counterparts.get(rest(cell), [])
            if len(found) > 1:
                places = "; ".join(words(other.where) for other in found)
                raise ClaimError(
                    f"{item}: {rule.name!r}: {measure} at {words(cell.where)} has several counterparts: {places}"
                )
            pairs.append((cell, found[0] if found else None))
    return pairs


def _near_chance(pair: tuple[Cell, Cell], rule: Comparison, known: Mapping[tuple, Cell]) -> bool:
    if rule.drop_when_both_below is None:
        return False
    accuracies = [known.get(("accuracy", _key(cell.where))) for cell in pair]
    return all(cell is not None and cell.mean < rule.drop_when_both_below for cell in accuracies)


def _equal_clean(pair: tuple[Cell, Cell], rule: Comparison, known: Mapping[tuple, Cell]) -> bool:
    if rule.clean_within is None:
        return True
    clean = [known.get(("accuracy", _key({**cell.where, "epsilon": 0}))) for cell in pair]
    if clean[0] is None or clean[1] is None:
        return False
    return abs(clean[0].mean - clean[1].mean) <= rule.clean_within


def _index(numbers: Iterable[Cell]) -> dict[tuple, Cell]:
    return {(cell.name, _key(cell.where)): cell for cell in numbers}


def _key(where: Mapping[str, Any]) -> tuple:
    """Settings as something to look up by; floats that differ by rounding, and 1 and 1.0, are the same."""
    return tuple(sorted((key, f"{value:.9g}" if _is_number(value) else repr(value)) for key, value in where.items()))


def _fits(where: Mapping[str, Any], conditions: Mapping[str, Any]) -> bool:
    return all(key in where and fits_condition(where[key], condition) for key, condition in conditions.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(value: Any, wanted: Any) -> bool:
    if _is_number(value) and _is_number(wanted):
        return math.isclose(value, wanted, rel_tol=1e-9, abs_tol=1e-9)
    return type(value) is type(wanted) and value == wanted
