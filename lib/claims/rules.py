"""A claim and its rule, as config/claims.yaml has them, checked when they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator, model_validator

from lib import config
from lib.intervals import student

if TYPE_CHECKING:
    from lib.claims.numbers import Cell

HIGHER, LOWER, NO_HIGHER, NO_LOWER = "higher", "lower", "no higher", "no lower"
ABOUT, AT_LEAST, AT_MOST = "about", "at least", "at most"
WITHIN, LEVEL = (NO_HIGHER, NO_LOWER, ABOUT), (AT_LEAST, AT_MOST)  # no difference beyond a number; a number is reached
EXPECTATIONS = (HIGHER, LOWER, *WITHIN, *LEVEL)
NO_SOURCE = "not in the source"
_BOUNDS = {
    "gt": lambda a, b: a > b + 1e-9,
    "ge": lambda a, b: a >= b - 1e-9,
    "lt": lambda a, b: a < b - 1e-9,
    "le": lambda a, b: a <= b + 1e-9,
}
EQUAL = 0.05  # of two clean accuracies
MORE_ROBUST = 0.05  # accuracy under attack of an adversarially trained twin, above the other
LARGE, SMALL = 8 / 255, 2 / 255


class ClaimError(ValueError):
    """A rule that cannot be applied; the message names the claim, and the key."""


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sample(_Checked):
    """What stands for the seeds: the values of a setting, or groups of them.

    Attributes:
        setting: each of its values is a repetition, paired between the sides.
        groups: name -> beginnings of values; a group's mean is one repetition then. Empty: every value by itself.
        pairwise: each value is itself a mean over pairs of repetitions, so that the interval is twice Student's.
        called: what a repetition is called; empty: the setting's name.
    """

    setting: str
    groups: dict[str, tuple[str, ...]] = {}
    pairwise: bool = False
    called: str = ""

    @field_validator("groups", mode="before")
    @classmethod
    def _one_beginning_or_several(cls, groups: Any) -> Any:
        return {name: [starts] if isinstance(starts, str) else starts for name, starts in groups.items()}

    def group(self, value: Any) -> Any:
        """The repetition that a value belongs to; None where no group has it."""
        if not self.groups:
            return value
        return next((name for name, starts in self.groups.items() if str(value).startswith(starts)), None)


class Rule(_Checked):
    """What a claim compares and expects; the head of config/claims.yaml explains the keys.

    Attributes:
        left, right: settings that tell the sides apart; a value, a list of values, or bounds {gt, ge, lt, le}. Without
            `right` the left side's own level is what counts.
        measure, right_measure: the number's name; the right side's, where that is another one.
        expect: of the left side, to the right one.
        amount: of `higher` and `lower` our smallest difference that counts, or with a tolerance the one that the source
            states; of the others the largest difference that does not count, or the value that is to be reached.
        tolerance: how far from the source's number, or another level, still counts as it.
        level_as: what that level is where the source does not state it, as "chance".
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
        premise: one of PREMISES: where the claim applies.
        values: one of VALUES, in place of the difference of the sides.
    """

    left: dict[str, Any]
    expect: Literal["higher", "lower", "no higher", "no lower", "about", "at least", "at most"]
    amount: FiniteFloat
    tolerance: FiniteFloat | None = Field(None, ge=0)
    level_as: str = ""
    right: dict[str, Any] | None = None
    measure: str = "accuracy"
    right_measure: str = ""
    name: str = ""
    items: tuple[str, ...] = ()
    where: dict[str, Any] = {}
    mean: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    relative: bool = False
    best: bool = False
    exceptions: bool = False
    sample: Sample | None = None
    repetitions: int = Field(3, ge=2)  # an interval needs two
    images: int = Field(100, ge=1)
    premise: str = ""
    values: str = ""

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, entry: Any) -> Any:
        """{higher: 0.01}, {at most: 0.011, tolerance: 0.02} and so on, as the fields of a rule."""
        given = dict(entry)
        if "amount" not in given:
            expected: Any = given.get("expect") if isinstance(given.get("expect"), Mapping) else {}
            wanted = [key for key in expected if key in EXPECTATIONS]
            if len(wanted) != 1 or {*expected} - {*wanted, "tolerance", "as"}:
                known = ", ".join(EXPECTATIONS)
                raise ClaimError(
                    f"expect is {given.get('expect')!r}: one of {known} with its number, and a tolerance if need be"
                )
            given |= {"expect": wanted[0], "amount": expected[wanted[0]], "tolerance": expected.get("tolerance")}
            given["level_as"] = str(expected.get("as", ""))
        if isinstance(given.get("sample"), str):
            given["sample"] = {"setting": given["sample"]}
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> Rule:
        for fine, message in (
            (self.expect not in WITHIN or self.tolerance is None, f"{self.expect} needs no tolerance"),
            (self.expect not in LEVEL or self.tolerance is not None, f"{self.expect} needs its number and a tolerance"),
            (self.amount >= 0 or self.expect in LEVEL, "the expected number must be from 0"),
            (self.level_as == "" or self.expect in LEVEL, "`as` is for a level"),
            (self.right is not None or self.expect in LEVEL or self.values, f"{self.expect} needs a right side"),
            (
                self.left or self.right or self.right is None or self.right_measure not in ("", self.measure),
                "left and right are the same",
            ),
            (self.right is not None or not self.relative, "relative needs a right side"),
            (self.premise in ("", *PREMISES), f"premise {self.premise!r} is no function"),
            (self.values in ("", *VALUES), f"values {self.values!r} is no function"),
        ):
            if not fine:
                raise ClaimError(message)
        for settings in (self.left, self.right or {}, self.where):
            for condition in settings.values():
                fits_condition(0, condition)
        return self

    @property
    def sign(self) -> int:
        """1 where the claim is that something is high, -1 where it is that something is low."""
        return 1 if self.expect in (HIGHER, NO_LOWER, AT_LEAST, ABOUT) else -1

    @property
    def stated(self) -> bool:
        """Whether `amount` is a number that the source states, not one of ours."""
        return self.tolerance is not None and not self.level_as

    def bar(self, scale: float = 1.0) -> float:
        """Where the claimed side begins, counted in the claimed direction; margin and tolerance times `scale`."""
        if self.expect in WITHIN:
            return -self._size(self.amount * scale, -self.sign)
        if self.tolerance is None:
            return self._size(self.amount * scale, self.sign)
        if self.expect in LEVEL:
            return self.sign * self.amount - self.tolerance * scale
        return self._size(max(0.0, self.amount - self.tolerance * scale), self.sign)

    def _size(self, share: float, sign: int) -> float:
        """A difference as it stands; a relative one as a logarithm."""
        return abs(math.log1p(sign * min(share, 0.999 if sign < 0 else share))) if self.relative else share


class Claim(_Checked):
    """One claim: what the source says (or we, where `ours`), the items it rests on, and its rule, in parts if need be.

    Attributes:
        controls: comparisons by the same rule that the verdict names, as they tell what a lead is owed to.
        causes: rules of their own, of any items, looked for after a claim was found not to hold: what shows why.
        because: what they show together, in words; said where all of them come out as expected.
        settle: what else than more repetitions would settle it, in words.
    """

    id: str
    statement: str
    paper: str
    items: tuple[str, ...] = Field(min_length=1)
    rules: tuple[Rule, ...] = Field(min_length=1)
    source: str = Field(min_length=1)  # where the claim is made
    ours: bool = False
    controls: tuple[Rule, ...] = ()
    causes: tuple[Rule, ...] = ()
    because: str = ""
    settle: str = ""

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, entry: Any) -> Any:
        """A rule as a list of parts, controls as the first part but for what they say, causes; each with its items."""
        given = dict(entry)
        rules = given.pop("rule", ())
        rules = list(rules) if isinstance(rules, (list, tuple)) else [rules]
        controls = [{**rules[0], **control} for control in given.pop("controls", ())]
        every = {"rules": rules, "controls": controls, "causes": given.pop("causes", ())}
        every = {key: [{"items": given.get("items"), **rule} for rule in some] for key, some in every.items()}
        return {"source": NO_SOURCE if given.get("ours") else "", **given, **every}

    @model_validator(mode="after")
    def _named_apart(self) -> Claim:
        names = [rule.name for rule in self.rules]
        if len(names) > 1 and not (all(names) and len(set(names)) == len(names)):
            raise ClaimError("each part of a rule needs a name")
        if not all(rule.name for rule in (*self.controls, *self.causes)):
            raise ClaimError("each control and each cause needs a name")
        if bool(self.causes) != bool(self.because):
            raise ClaimError("causes and because go together")
        known = config.items()
        for item in {item for rule in self.causes for item in rule.items}:
            if item not in known:
                raise ClaimError(f"item {item!r} of a cause is not in config/items.yaml")
        for item in {*self.items, *(item for rule in (*self.rules, *self.controls) for item in rule.items)}:
            if item not in known or item not in self.items:
                raise ClaimError(f"item {item!r} is not in config/items.yaml, or not among the claim's items")
        return self


def load() -> dict[str, Claim]:
    """Every claim of config/claims.yaml, checked. Raises: ClaimError naming claim and key."""
    found = {}
    for name, entry in config.claims().items():
        try:
            found[name] = Claim.model_validate({"id": name, **entry})
        except (TypeError, ValueError) as error:
            reason: Any = error
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                reason = ": ".join(map(str, (*first["loc"], first["msg"].removeprefix("Value error, "))))
            raise ClaimError(f"config/claims.yaml: {name}: {reason}") from error
    return found


def fits(where: Mapping[str, Any], conditions: Mapping[str, Any]) -> bool:
    """Whether settings fit conditions; a setting that is missing does not."""
    return all(key in where and fits_condition(where[key], condition) for key, condition in conditions.items())


def fits_condition(value: Any, condition: Any) -> bool:
    """Whether a setting's value fits a condition: bounds {gt, ge, lt, le}, a list of values, or the value itself."""
    if isinstance(condition, Mapping):
        if unknown := [key for key in condition if key not in _BOUNDS]:
            raise ClaimError(f"condition {dict(condition)}: unknown key {unknown[0]!r}; one of {', '.join(_BOUNDS)}")
        limits = {key: _bound(limit) for key, limit in condition.items()}
        return is_number(value) and all(_BOUNDS[key](value, limit) for key, limit in limits.items())
    if free(condition):
        return any(fits_condition(value, choice) for choice in condition)
    if is_number(value) and is_number(condition):
        return math.isclose(value, condition, rel_tol=1e-9, abs_tol=1e-9)
    return type(value) is type(condition) and value == condition


def free(condition: Any) -> bool:
    """Whether a condition leaves more than one value."""
    return isinstance(condition, (Mapping, list, tuple))


def is_number(value: Any) -> bool:
    """Whether a value is a number; yes and no are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _bound(value: Any) -> float:
    """A bound as a number; text as "8/255" is a fraction."""
    try:
        return float(Fraction(value.replace(" ", ""))) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        raise ClaimError(f"bound {value!r} is neither a number nor a fraction such as 8/255") from None


# Premises: functions of all numbers of an item and of a pair to be compared, that say in words why the pair does not
# count; empty where it does.


def equally_accurate(cells: Sequence[Cell], left: Cell, right: Cell) -> str:
    """The two networks' accuracies without attack lie within 5 points."""
    means = []
    for side in (left, right):
        wanted = {**side.where, "epsilon": 0.0}
        clean = next((cell for cell in cells if cell.name == "accuracy" and dict(cell.where) == wanted), None)
        if clean is None:
            return "without a clean accuracy"
        means.append(clean.mean)
    return "" if max(means) - min(means) <= EQUAL else "at unequal clean accuracy"


def twin_more_robust(cells: Sequence[Cell], left: Cell, right: Cell) -> str:
    """The left network is more accurate than the right one under FGSM, by 5 points over 0 < eps <= 8/255."""
    sides = []
    for side in (left, right):
        wanted = {key: side.where[key] for key in ("network", "variant")} | {"epsilon": {"gt": 0, "le": LARGE}}
        curve = [cell for cell in cells if cell.name == "accuracy" and fits(cell.where, wanted)]
        sides.append({round(cell.where["epsilon"] * 255, 6): cell.by for cell in curve})
    shared = sorted(set(sides[0]) & set(sides[1]))
    seeds = set.intersection(*(set(side[step]) for side in sides for step in shared)) if shared else set()
    gains = [float(np.mean([sides[0][e][s] - sides[1][e][s] for e in shared])) for s in sorted(seeds)]
    found = student(gains)
    return "" if found and found[0] > MORE_ROBUST else "whose adversarially trained twin is not the more robust one"


# Values: functions of the pairs of a comparison, one a point, and a repetition, that return what is compared.


def growth_with_epsilon(pairs: Sequence[tuple[Cell, Cell]], repetition: Any) -> float:
    """The difference of the sides averaged over eps >= 8/255, less that over eps <= 2/255."""

    def gain(bounds: Mapping[str, float]) -> float:
        inside = [(a, b) for a, b in pairs if fits_condition(a.where["epsilon"], bounds)]
        return float(np.mean([a.by[repetition] - b.by[repetition] for a, b in inside])) if inside else math.nan

    return gain({"ge": LARGE}) - gain({"le": SMALL})


PREMISES: Mapping[str, Any] = {f.__name__: f for f in (equally_accurate, twin_more_robust)}
VALUES: Mapping[str, Any] = {f.__name__: f for f in (growth_with_epsilon,)}
