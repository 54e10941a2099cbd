"""The rare cases of rules, as named functions: where a claim applies, and what is compared in place of a difference.

A premise takes all numbers of an item and a pair to be compared, and says in words why the pair does not count; empty
where it does. A value takes the pairs of a comparison, one a point, and a repetition, and returns what is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.claims.student import interval

if TYPE_CHECKING:
    from lib.claims.numbers import Cell

EQUAL = 0.05  # of two clean accuracies
MORE_ROBUST = 0.05  # accuracy under attack of an adversarially trained twin, above the other
LARGE, SMALL = 8 / 255, 2 / 255


def equally_accurate(cells: Sequence[Cell], left: Cell, right: Cell | None) -> str:
    """The two networks' accuracies without attack lie within 5 points."""
    clean = [_find(cells, "accuracy", {**side.where, "epsilon": 0.0}) for side in (left, right) if side is not None]
    if any(cell is None for cell in clean):
        return "without a clean accuracy"
    means = [cell.mean for cell in clean if cell is not None]
    return "" if max(means) - min(means) <= EQUAL else "at unequal clean accuracy"


def twin_more_robust(cells: Sequence[Cell], left: Cell, right: Cell | None) -> str:
    """The left network is more accurate than the right one under FGSM, by 5 points over 0 < eps <= 8/255."""
    assert right is not None
    sides = []
    for side in (left, right):
        wanted = {key: side.where[key] for key in ("network", "variant")}
        sides.append({
            round(cell.where["epsilon"] * 255, 6): cell for cell in cells
            if cell.name == "accuracy" and all(cell.where.get(k) == v for k, v in wanted.items())
            and 0 < cell.where.get("epsilon", 0) <= 8 / 255 + 1e-9
        })  # fmt: skip
    shared = sorted(set(sides[0]) & set(sides[1]))
    seeds = set.intersection(*(set(side[step].by) for side in sides for step in shared)) if shared else set()
    gains = [float(np.mean([sides[0][e].by[s] - sides[1][e].by[s] for e in shared])) for s in sorted(seeds)]
    found = interval(gains)
    return "" if found and found[0] > MORE_ROBUST else "whose adversarially trained twin is not the more robust one"


def growth_with_epsilon(pairs: Sequence[tuple[Cell, Cell | None]], repetition: Any) -> float:
    """The difference of the sides averaged over eps >= 8/255, less that over eps <= 2/255."""

    def gain(low: float, high: float) -> float:
        inside = [(a, b) for a, b in pairs if low - 1e-9 <= a.where["epsilon"] <= high + 1e-9 and b is not None]
        return float(np.mean([a.by[repetition] - b.by[repetition] for a, b in inside])) if inside else float("nan")

    return gain(LARGE, 1.0) - gain(0.0, SMALL)


PREMISES: Mapping[str, Any] = {f.__name__: f for f in (equally_accurate, twin_more_robust)}
VALUES: Mapping[str, Any] = {f.__name__: f for f in (growth_with_epsilon,)}


def _find(cells: Sequence[Cell], name: str, where: Mapping[str, Any]) -> Cell | None:
    return next((cell for cell in cells if cell.name == name and dict(cell.where) == dict(where)), None)
