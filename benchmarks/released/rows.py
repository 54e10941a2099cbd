"""A table of steps: what agrees, what differs by how much, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.released.loading import CannotRun, NotThere, Source

AGREES, DIFFERS, CANNOT, NOT_THERE = "agrees", "differs", "cannot run here", "not in theirs"
RESULTS = (AGREES, DIFFERS, CANNOT, NOT_THERE)
TOLERANCE = 1e-5  # of the largest value: what rounding in float32 explains


@dataclass(frozen=True)
class Outcome:
    """Whether a step agrees, and by how much the two sides differ, in words."""

    agrees: bool
    amount: str


@dataclass(frozen=True)
class Step:
    """One step of a method.

    Attributes:
        title: what is compared.
        run: from the clone to the outcome.
        reason: why the two differ, where they do.
        stated: what the paper says of it, as far as we could read it.
        expected: whether they agreed at the commit that we compared with.
    """

    title: str
    run: Callable[[Source], Outcome]
    reason: str
    stated: str
    expected: bool


@dataclass(frozen=True)
class Row:
    """A step's line in the table; of one that cannot run, `amount` says why."""

    step: str
    result: str
    amount: str
    reason: str = ""
    stated: str = ""


class Steps:
    """The steps of one paper, in order."""

    def __init__(self) -> None:
        self.all: list[Step] = []

    def differs(self, title: str, reason: str, stated: str = "not stated; ours is our own choice") -> Callable:
        """A step in which the two differ, and why."""
        return self._added(title, reason, stated, False)

    def agrees(self, title: str) -> Callable:
        """A step in which the two agree."""
        return self._added(title, "", "", True)

    def _added(self, title: str, reason: str, stated: str, expected: bool) -> Callable:
        def add(run: Callable[[Source], Outcome]) -> Callable[[Source], Outcome]:
            self.all.append(Step(title, run, reason, stated, expected))
            return run

        return add

    def rows(self, folder: Path) -> list[Row]:
        """Every step on a clone; a step that does not run there is told and does not stop the others."""
        try:
            source = Source(folder)
        except CannotRun as error:
            return [Row("all steps", CANNOT, str(error))]
        return [_row(step, source) for step in self.all]


def _row(step: Step, source: Source) -> Row:
    torch.manual_seed(0)
    try:
        outcome = step.run(source)
    except CannotRun as error:
        return Row(step.title, NOT_THERE if isinstance(error, NotThere) else CANNOT, str(error))
    except Exception as error:  # whatever their code raises in a reader's clone is told in its row
        return Row(step.title, CANNOT, f"{type(error).__name__}: {error}"[:200])
    result = AGREES if outcome.agrees else DIFFERS
    if outcome.agrees != step.expected:
        return Row(step.title, result, outcome.amount, "not so at the commit that we compared with: look into it")
    return Row(step.title, result, outcome.amount, *(("", "") if outcome.agrees else (step.reason, step.stated)))


def compared(theirs: Tensor | Iterable[Tensor], ours: Tensor | Iterable[Tensor]) -> Outcome:
    """Two tensors, or two lists of them: bit for bit, or the largest difference; rounding counts as agreement."""
    sides = [[side] if isinstance(side, Tensor) else list(side) for side in (theirs, ours)]
    if [tuple(one.shape) for one in sides[0]] != [tuple(one.shape) for one in sides[1]]:
        shapes = [[tuple(one.shape) for one in side][:3] for side in sides]
        return Outcome(False, f"shapes {shapes[0]} against {shapes[1]}")
    first, second = (torch.cat([one.detach().double().flatten() for one in side]) for side in sides)
    if torch.equal(first, second):
        return Outcome(True, "bit for bit")
    gap, size = (first - second).abs().max().item(), max(first.abs().max().item(), 1e-12)
    return Outcome(gap <= TOLERANCE * size, f"largest difference {gap:.1e} of values up to {size:.3g}")


def told(theirs: object, ours: object) -> Outcome:
    """Two numbers, names or lists of them, which are the same or not."""
    return Outcome(theirs == ours, f"{theirs}" if theirs == ours else f"theirs {theirs}, ours {ours}")


def settings(theirs: Mapping[str, object], ours: Mapping[str, object]) -> Outcome:
    """Settings by name; those that differ are listed."""
    apart = [f"{name} {theirs[name]} (ours {ours[name]})" for name in theirs if theirs[name] != ours[name]]
    return Outcome(not apart, "; ".join(apart) or f"the same {', '.join(theirs)}")
