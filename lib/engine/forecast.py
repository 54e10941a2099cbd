"""What a time box can still finish: seconds a task, corrected by what was measured, and a schedule made of them."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping
from statistics import mean, median
from typing import Any

from lib import config
from lib.config import Scale
from lib.engine import cost, graph
from lib.engine.goals import Goal, Plan, Task

UNKNOWN = 20.0  # seconds of a task, or of an epoch, of which nothing is known yet
OVERHEAD = 3.0  # seconds of a training beside its epochs, until one was measured
CAUTION = 1.1  # what is not begun may take this much longer than estimated


class Forecast:
    """Seconds a task takes beside as many others as run at a time.

    First from the scale's `estimate:` (images_per_second, hook_cost, evaluation_seconds by family, attack_seconds by
    attack, step_seconds by study.step). Then by what was measured: a training by the seconds an image of the last one
    of the same label, or, where there is none, by the median of what others took over what was estimated; any other
    task by the mean of those of its kind and label. What a training takes beside its epochs, as to load the images and
    to count the test accuracy, is the median of those seen.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._guessed: dict[str, float | None] = {}
        self.pace: dict[tuple[str, str], list[float]] = {}  # seconds of a unit of work, by kind and label
        self.ratios: dict[str, float] = {}  # measured over estimated seconds of trainings, by label
        self.beside: list[float] = []

    def seconds(self, name: str) -> float:
        """The best estimate of a task's seconds."""
        task = self.plan.tasks[name]
        work, guessed = self._work(task), self.guessed(name)
        beside = self.overhead if task.epochs else 0.0
        if _group(task) in self.pace:
            return mean(self.pace[_group(task)]) * work + beside
        if guessed is None:
            return UNKNOWN * max(task.epochs, 1) + beside
        return guessed * (median(self.ratios.values()) if task.epochs and self.ratios else 1.0) + beside

    def guessed(self, name: str) -> float | None:
        """A task's seconds by the scale; a step that is made in parts only puts them together in the end."""
        if name not in self._guessed:
            task = self.plan.tasks[name]
            same = [other for other in self.plan.tasks.values() if other.kind == "part" and other.call == task.call]
            parts = [other for other in same if other.seed == task.seed]
            found = guess(self.plan.scale, task)
            self._guessed[name] = found / len(parts) if found is not None and parts else found
        return self._guessed[name]

    def known(self, name: str) -> bool:
        """Whether the scale says what a task takes, or a task like it was measured."""
        return self.guessed(name) is not None or _group(self.plan.tasks[name]) in self.pace

    @property
    def overhead(self) -> float:
        """Seconds of a training beside its epochs."""
        return median(self.beside) if self.beside else OVERHEAD

    def learn(self, name: str, seconds: float) -> None:
        """Take in the seconds of a task; of a training those of all its epochs, as the ones so far have them."""
        task, guessed = self.plan.tasks[name], self.guessed(name)
        before = [] if task.epochs else self.pace.get(_group(task), [])  # the pace of now: others share the device
        self.pace[_group(task)] = [*before, seconds / self._work(task)]
        if task.epochs and guessed:
            self.ratios[task.label] = seconds / guessed

    def _work(self, task: Task) -> float:
        """Images that a training sees; 1 for anything else."""
        return task.epochs * (config.images_of(self.plan.scale, task.network) or 1) if task.epochs else 1


def _group(task: Task) -> tuple[str, str]:
    return ("train" if task.kind == "trunk" else task.kind), task.label


def guess(scale: Scale, task: Task) -> float | None:
    """A task's seconds by the scale's `estimate:`; None where it does not say."""
    known = scale.estimate
    if task.kind in ("train", "trunk"):
        whole = cost.network_seconds(scale, task.network)
        return None if whole is None else whole * task.epochs / graph.epochs(scale, task.network)
    if task.kind == "evaluate":
        family = known.get("evaluation_seconds", {}).get(task.label)
        return None if family is None else family / len(scale.families[task.label])
    kind = "step" if task.kind == "part" else task.kind
    found = known.get(f"{kind}_seconds", {}).get(task.label)
    return None if found is None else float(found)


def finish_times(
    wanted: Collection[str],
    order: Mapping[str, Any],
    seconds: Mapping[str, float],
    after: Mapping[str, Iterable[str]],
    running: Mapping[str, float],
    workers: int,
) -> dict[str, float]:
    """Seconds from now at which tasks end, where each free worker takes the first task in order that can begin.

    Args:
        wanted: tasks not begun; what they wait for and is neither here nor running is done.
        order: what sorts them.
        running: seconds that tasks at work still take, each on a worker of its own.
    """
    waiting = {name: {other for other in after[name] if other in wanted or other in running} for name in wanted}
    children: dict[str, list[str]] = {}
    for name, others in waiting.items():
        for other in others:
            children.setdefault(other, []).append(name)
    ready = [(order[name], name) for name, others in waiting.items() if not others]
    busy = [(left, name) for name, left in running.items()]
    heapq.heapify(ready)
    heapq.heapify(busy)
    now, free, found = 0.0, workers - len(running), {}
    while busy or ready:
        while free > 0 and ready:
            _, name = heapq.heappop(ready)
            heapq.heappush(busy, (now + seconds[name], name))
            free -= 1
        now, name = heapq.heappop(busy)
        free += 1
        found[name] = now
        for child in children.get(name, ()):
            waiting[child].discard(name)
            if not waiting[child]:
                heapq.heappush(ready, (order[child], child))
    return found


def admit(
    plan: Plan,
    forecast: Forecast,
    done: Collection[str],
    lost: Collection[str],
    running: Mapping[str, float],
    workers: int,
    left: float,
) -> tuple[list[Goal], list[str]]:
    """The goals that fit into the time that is left, in order of priority, and their tasks in the order to begin them.

    A goal is taken where it, and every one taken before it, still ends in time. Into what is left then go parts of the
    goals that do not fit: a network with its evaluation, a step.

    Args:
        done, lost: tasks that are done; that failed, or cannot be done.
        running: seconds that tasks at work still take; those that no goal here needs keep their worker as well.
        left: seconds.
    Returns: the goals, and the tasks not begun, the first to begin first.
    """
    whole = [goal for goal in plan.goals if not set(goal.tasks) <= set(done)]
    parts = [Goal(f"{goal.wanted}: {name}", goal.seed, (name,)) for goal in whole for name in _worth_having(plan, goal)]
    need = {goal: plan.closure(goal.tasks, done) for goal in (*whole, *parts)}
    whole = [goal for goal in whole if not need[goal] & set(lost)]
    schedule = _Schedule(plan, forecast, running, workers, left)
    order = schedule.order([need[goal] for goal in whole])
    if order is not None:  # as at the beginning of most runs: all fits
        return whole, order
    taken: list[Goal] = []
    scope: set[str] = set()
    order = []
    for goal in (*whole, *(part for part in parts if need[part] and not need[part] & set(lost))):
        if need[goal] <= scope:
            if goal in whole:
                taken.append(goal)
            continue
        found = schedule.order([*(need[other] for other in taken), need[goal]])
        if found is not None:
            taken.append(goal)
            scope |= need[goal]
            order = found
    return taken, order


class _Schedule:
    """Tries out whether tasks end in time, as `admit` has it."""

    def __init__(self, plan: Plan, forecast: Forecast, running: Mapping[str, float], workers: int, left: float) -> None:
        self.running, self.workers, self.left = running, workers, left
        self.after = {name: task.after for name, task in plan.tasks.items()}
        self.seconds = {name: forecast.seconds(name) * CAUTION for name in plan.tasks}
        self.busy = sum(min(still, left) for still in running.values())

    def order(self, needs: Iterable[set[str]]) -> list[str] | None:
        """The tasks to begin, the first one first, of several sets of tasks; None where one ends too late."""
        rank: dict[str, int] = {}
        for place, need in enumerate(needs):
            for name in need:
                rank.setdefault(name, place)
        begin = set(rank) - set(self.running)
        if self.busy + sum(self.seconds[name] for name in begin) > self.left * self.workers:
            return None
        lengths = chains(begin, self.seconds, self.after)
        order = {name: (rank[name], -lengths[name], name) for name in begin}
        ends = finish_times(begin, order, self.seconds, self.after, self.running, self.workers)
        if any(ends[name] > self.left for name in rank):
            return None
        return sorted(order, key=lambda name: order[name])


def _worth_having(plan: Plan, goal: Goal) -> list[str]:
    """The tasks of a goal that leave something behind by themselves: parts, and last ones that no other waits for."""
    inner = {other for name in goal.tasks for other in plan.closure(plan.tasks[name].after)}
    parts = sorted(name for name in inner if plan.tasks[name].kind == "part")
    return [*parts, *(name for name in goal.tasks if name not in inner)]


def chains(
    names: Collection[str], seconds: Mapping[str, float], after: Mapping[str, Iterable[str]]
) -> dict[str, float]:
    """Seconds from each task's start to the end of the longest chain of tasks that wait for it."""
    children: dict[str, list[str]] = {}
    for name in names:
        for other in after[name]:
            if other in names:
                children.setdefault(other, []).append(name)
    found: dict[str, float] = {}

    def length(name: str) -> float:
        if name not in found:
            found[name] = seconds[name] + max((length(child) for child in children.get(name, ())), default=0.0)
        return found[name]

    for name in names:
        length(name)
    return found
