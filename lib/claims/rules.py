"""A claim and its rule, as config/claims.yaml has them, checked when they are read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from lib import config
from lib.claims import special

HIGHER, LOWER, NO_HIGHER, NO_LOWER = "higher", "lower", "no higher", "no lower"
ABOUT, AT_LEAST, AT_MOST = "about", "at least", "at most"
# What each needs: the smallest difference that counts; the source's number or another level, with a tolerance; how far
# off is no matter.
NEEDS = {
    HIGHER: ("by", "stated"),
    LOWER: ("by", "stated"),
    NO_HIGHER: ("within",),
    NO_LOWER: ("within",),
    ABOUT: ("within",),
    AT_LEAST: ("stated", "level"),
    AT_MOST: ("stated", "level"),
}
_BOUNDS = {
    "gt": lambda a, b: a > b + 1e-9,
    "ge": lambda a, b: a >= b - 1e-9,
    "lt": lambda a, b: a < b - 1e-9,
    "le": lambda a, b: a <= b + 1e-9,
}


NO_SOURCE = "not in the source"


class ClaimError(ValueError):
    """A rule that cannot be applied; the message names the claim, and the key."""


@dataclass(frozen=True)
class Sample:
    """What stands for the seeds: the values of a setting, or groups of them.

    Attributes:
        setting: each of its values is a repetition, paired between the sides.
        groups: name -> beginnings of values; a group's mean is one repetition then. Empty: every value by itself.
        pairwise: each value is itself a mean over pairs of repetitions, so that the interval is twice Student's.
        called: what a repetition is called; empty: the setting's name.
    """

    setting: str
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pairwise: bool = False
    called: str = ""

    def __post_init__(self) -> None:
        made = {name: (part,) if isinstance(part, str) else tuple(part) for name, part in self.groups.items()}
        object.__setattr__(self, "groups", made)

    def group(self, value: Any) -> Any:
        """The repetition that a value belongs to; None where no group has it."""
        if not self.groups:
            return value
        return next((name for name, starts in self.groups.items() if str(value).startswith(starts)), None)


@dataclass(frozen=True)
class Rule:
    """What a claim compares and expects; the head of config/claims.yaml explains the keys.

    Attributes:
        left, right: settings that tell the sides apart; a value, a list of values, or bounds {gt, ge, lt, le}. Without
            `right` the left side's own level is what counts.
        measure, right_measure: the number's name; the right side's, where that is another one.
        expect: a key of NEEDS: the left side, to the right one.
        by: smallest difference that counts.
        stated, level, tolerance: the source's number, or another level, and how far from it still counts as it.
        level_as: what that level is, as "chance".
        within: what is no matter, for no higher, no lower and about.
        name: of this part, where a claim has several.
        items: the claim's items it looks at; empty: all.
        where: settings that both sides fit.
        mean: settings over which a comparison averages.
        ignore: settings that may differ between the sides.
        relative: the ratio of the sides is what counts, by its logarithm.
        best: the values of `right` are rivals, and every one must be beaten.
        exceptions: the claim is "as a rule": a minority may be against it.
        sample: what stands for the seeds; None: the seeds.
        repetitions, images: the fewest that count.
        premise: a function of lib.claims.special that says where the claim applies.
        values: a function of lib.claims.special in place of the difference of the sides.
    """

    left: Mapping[str, Any]
    expect: str
    right: Mapping[str, Any] | None = None
    measure: str = "accuracy"
    by: float | None = None
    right_measure: str = ""
    stated: float | None = None
    level: float | None = None
    level_as: str = ""
    tolerance: float | None = None
    within: float | None = None
    name: str = ""
    items: tuple[str, ...] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    relative: bool = False
    best: bool = False
    exceptions: bool = False
    sample: Sample | None = None
    repetitions: int = 3
    images: int = 100
    premise: str = ""
    values: str = ""

    def __post_init__(self) -> None:
        given = tuple(key for key in ("by", "stated", "level", "within") if getattr(self, key) is not None)
        numbers = [value for key in (*given, "tolerance") if (value := getattr(self, key)) is not None]
        level = self.expect in (AT_LEAST, AT_MOST)
        for fits, message in (
            (self.expect in NEEDS, f"expect is {self.expect!r}: one of {', '.join(NEEDS)}"),
            (len(given) == 1 and given[0] in NEEDS.get(self.expect, ()), f"{self.expect} needs {_needs(self.expect)}"),
            ((self.aim is None) == (self.tolerance is None), f"{self.expect} needs its number and a tolerance"),
            (all(_number(n) and (n >= 0 or n is self.aim) for n in numbers), f"{numbers} must be numbers from 0"),
            (self.right is not None or level or self.values != "", f"{self.expect} needs a right side"),
            (set(self.left) | set(self.right or ()) != set(), "left and right are the same"),
            (not (self.relative and self.right is None), "relative needs a right side"),
            (self.repetitions >= 2, "repetitions: from 2, as an interval needs two"),
            (self.images >= 1, "images: from 1"),
            (self.premise == "" or self.premise in special.PREMISES, f"premise {self.premise!r} is no function"),
            (self.values == "" or self.values in special.VALUES, f"values {self.values!r} is no function"),
        ):
            if not fits:
                raise ClaimError(message)
        for conditions in (self.left, self.right or {}, self.where):
            for condition in conditions.values():
                fits_condition(0, condition)

    @property
    def aim(self) -> float | None:
        """The number that is to be reached: the source's, or another level."""
        return self.level if self.stated is None else self.stated

    @property
    def sign(self) -> int:
        """1 where the claim is that something is high, -1 where it is that something is low."""
        return 1 if self.expect in (HIGHER, NO_LOWER, AT_LEAST, ABOUT) else -1

    def bar(self, scale: float = 1.0) -> float:
        """Where the claimed side begins, counted in the claimed direction; margin and tolerance times `scale`."""
        if self.within is not None:
            return -self._size(self.within * scale, -self.sign)
        if self.by is not None:
            return self._size(self.by * scale, self.sign)
        assert self.aim is not None and self.tolerance is not None
        if self.expect in (AT_LEAST, AT_MOST):
            return self.sign * self.aim - self.tolerance * scale
        return self._size(max(0.0, self.aim - self.tolerance * scale), self.sign)

    def _size(self, share: float, sign: int) -> float:
        """A difference as it stands; a relative one as a logarithm."""
        return abs(math.log1p(sign * min(share, 0.999 if sign < 0 else share))) if self.relative else share


@dataclass(frozen=True)
class Claim:
    """One claim: what the source says (or we, where `ours`), the items it rests on, and its rule, in parts if need be.

    Attributes:
        controls: comparisons by the same rule that the verdict names, as they tell what a lead is owed to.
        settle: what else than more repetitions would settle it, in words.
    """

    id: str
    statement: str
    paper: str
    items: tuple[str, ...]
    rules: tuple[Rule, ...]
    source: str = ""
    ours: bool = False
    controls: tuple[Rule, ...] = ()
    settle: str = ""


def load() -> dict[str, Claim]:
    """Every claim of config/claims.yaml, checked. Raises: ClaimError naming claim and key."""
    known = config.items()
    return {name: _parse(name, entry, known) for name, entry in config.claims().items()}


def fits(where: Mapping[str, Any], conditions: Mapping[str, Any]) -> bool:
    """Whether settings fit conditions; a setting that is missing does not."""
    return all(key in where and fits_condition(where[key], condition) for key, condition in conditions.items())


def fits_condition(value: Any, condition: Any) -> bool:
    """Whether a setting's value fits a condition: bounds {gt, ge, lt, le}, a list of values, or the value itself."""
    if isinstance(condition, Mapping):
        for key in condition:
            if key not in _BOUNDS:
                raise ClaimError(f"condition {dict(condition)}: unknown key {key!r}; one of {', '.join(_BOUNDS)}")
        limits = {key: number(limit) for key, limit in condition.items()}
        return is_number(value) and all(_BOUNDS[key](value, limit) for key, limit in limits.items())
    if isinstance(condition, (list, tuple)):
        return any(_same(value, choice) for choice in condition)
    return _same(value, condition)


def free(condition: Any) -> bool:
    """Whether a condition leaves more than one value."""
    return isinstance(condition, (Mapping, list, tuple))


def number(value: Any) -> float:
    """A bound as a number; text as "8/255" is a fraction. Raises: ClaimError for anything else."""
    try:
        return float(Fraction(value.replace(" ", ""))) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        raise ClaimError(f"bound {value!r} is neither a number nor a fraction such as 8/255") from None


def is_number(value: Any) -> bool:
    """Whether a value is a number; yes and no are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _same(value: Any, wanted: Any) -> bool:
    if is_number(value) and is_number(wanted):
        return math.isclose(value, wanted, rel_tol=1e-9, abs_tol=1e-9)
    return type(value) is type(wanted) and value == wanted


def _needs(expect: str) -> str:
    return " or ".join(f"{key} and tolerance" if key in ("stated", "level") else key for key in NEEDS.get(expect, ()))


def _parse(name: str, entry: Any, known: Mapping[str, config.Item]) -> Claim:
    label = f"config/claims.yaml: {name}"
    try:
        entry = dict(entry)
        given = entry.pop("rule")
        rules = tuple(_rule(part) for part in (given if isinstance(given, list) else [given]))
        first = given[0] if isinstance(given, list) else given
        controls = tuple(_rule({**first, **part}) for part in entry.pop("controls", ()))
        told = {"source": NO_SOURCE} if entry.get("ours") else {}
        claim = Claim(id=name, rules=rules, controls=controls, **config.freeze({**told, **entry}))
    except KeyError as error:
        raise ClaimError(f"{label}: key {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise ClaimError(f"{label}: {error}") from error
    parts = [rule.name for rule in claim.rules]
    for fine, message in (
        (len(rules) > 0, "rule: at least one"),
        (len(parts) == 1 or (all(parts) and len(set(parts)) == len(parts)), "each part of a rule needs a name"),
        (all(rule.name for rule in controls), "each control needs a name"),
        (len(claim.items) > 0, "items: at least one"),
        (claim.source != "", "source: where the claim is made; or `ours: true`"),
    ):
        if not fine:
            raise ClaimError(f"{label}: {message}")
    for item in {*claim.items, *(item for rule in (*rules, *controls) for item in rule.items)}:
        if item not in known or item not in claim.items:
            raise ClaimError(f"{label}: item {item!r} is not in config/items.yaml, or not among the claim's items")
    return replace(claim, rules=tuple(replace(rule, items=rule.items or claim.items) for rule in claim.rules),
                   controls=tuple(replace(rule, items=rule.items or claim.items) for rule in controls))  # fmt: skip


def _rule(entry: Mapping[str, Any]) -> Rule:
    given = {**entry, **_expected(entry["expect"])}
    sample = given.pop("sample", None)
    if isinstance(sample, str):
        sample = {"setting": sample}
    return Rule(**config.freeze(given), sample=None if sample is None else Sample(**config.freeze(sample)))


def _expected(given: Any) -> dict[str, Any]:
    """{higher: 0.01}, {at most: 0.011, tolerance: 0.02} and so on, as the fields of a rule."""
    wanted = [key for key in given if key in NEEDS] if isinstance(given, Mapping) else []
    if len(wanted) != 1 or not set(given) <= {wanted[0], "tolerance", "as"}:
        raise ClaimError(f"expect is {given!r}: one of {', '.join(NEEDS)} with its number, and a tolerance if need be")
    (kind,), tolerance = wanted, given.get("tolerance")
    if kind in (NO_HIGHER, NO_LOWER, ABOUT):
        name = "within"
    elif given.get("as"):
        name = "level"
    else:
        name = "by" if tolerance is None and kind in (HIGHER, LOWER) else "stated"
    return {"expect": kind, name: given[kind], "tolerance": tolerance, "level_as": str(given.get("as", ""))}
