"""What the units of records say: which values a quantity can take, and what a number's n counts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lib import intervals

Support = tuple[float, float]
SHARE: Support = (0.0, 1.0)
SIGNED: Support = (-1.0, 1.0)
POSITIVE: Support = (0.0, math.inf)
ANY: Support = (-math.inf, math.inf)
_SUPPORTS = {"share": SHARE, "signed": SIGNED, "positive": POSITIVE, "any": ANY}


@dataclass(frozen=True)
class Unit:
    """What is known of a unit.

    Attributes:
        support: the values that a quantity of it can take, from lowest to highest.
        counts: what n of its numbers counts, in the plural.
        of_n: whether a value is a share of those n, or an area under a curve that they give; seeds that all agree have
            an interval over the n then.
    """

    support: Support
    counts: str = "samples"
    of_n: bool = False


def _read() -> dict[str, Unit]:
    entries = yaml.safe_load(Path(__file__).with_name("units.yaml").read_text(encoding="utf-8"))
    return {
        name: Unit(_SUPPORTS[entry["values"]], entry["counts"], entry.get("of_n", False))
        for name, entry in entries.items()
    }


UNITS: Mapping[str, Unit] = _read()
"""Every unit of records, from units.yaml."""

_BY_NAME = {
    ("changed", "fraction of the layer's weights"): "test images",
    ("parameters", "parameters"): "networks",
}
"""What n counts where the unit alone does not tell."""


def about(unit: str) -> Unit:
    """What is known of a unit."""
    if unit in UNITS:
        return UNITS[unit]
    return Unit(SHARE) if unit.split(" ")[0] in ("fraction", "share") else Unit(ANY)


def counted(number: Mapping[str, Any]) -> str:
    """What the n of a record's number counts, in the plural, as "test images", "pairs" or "networks".

    Args:
        number: with name, unit and n, as a record has it.
    """
    return _BY_NAME.get((number["name"], number["unit"]), about(number["unit"]).counts)


def sample(number: Mapping[str, Any], words: str = "") -> str:
    """The n of a record's number in words: "2,000 test images", "1 network"; `words` in place of what it counts."""
    words = words or counted(number)
    if number["n"] == 1:
        first, of, rest = words.partition(" of ")
        words = {"searches": "search", "classes": "class"}.get(first, first.removesuffix("s")) + of + rest
    return f"{number['n']:,} {words}"


def samples(numbers: Sequence[Mapping[str, Any]], words: str = "") -> str:
    """The n of several numbers in words, from fewest to most: "73 to 2,000 test images"."""
    least, most = (pick(numbers, key=lambda number: number["n"]) for pick in (min, max))
    return (f"{least['n']:,} to " if least["n"] != most["n"] else "") + sample(most, words)


def interval(values: Sequence[float], unit: str, n: int) -> list[float] | None:
    """The 95 % interval of the mean over seeds of a quantity, inside the values that its unit allows.

    Args:
        values: one a seed.
        unit: the quantity's.
        n: what each value was measured on.
    Returns: `intervals.of_mean` on the unit's support; where all seeds agree on a share of n things, Wilson's interval
        over these (for an area under a ROC curve of n images a side it is on the safe side: its variance is at most
        a (1 - a) / n; Birnbaum and Klose 1957). None for fewer than two values.
    Raises: ValueError where a value lies outside the support.
    """
    known = about(unit)
    found = intervals.of_mean(values, known.support)
    if found is not None and known.of_n and min(values) == max(values):
        return intervals.wilson(min(1.0, max(0.0, values[0])), n)
    return found


def measure(number: Mapping[str, Any]) -> str:
    """A number's name with its unit, as "accuracy (fraction of test images)"; once where they are the same."""
    name, unit = number["name"].replace("_", " "), number["unit"]
    return name if name == unit else f"{name} ({unit})"
