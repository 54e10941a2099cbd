"""What a time box can still finish: seconds a task, corrected by what was measured, and a schedule made of them."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping
from statistics import median
from typing import Any

from lib.config import Scale
from lib.engine import cost, graph
from lib.engine.goals import Goal, Plan, Task

UNKNOWN = 20.0  # seconds of a task, or of an epoch, of which nothing is known yet
CAUTION = 1.1  # what is not begun may take this much longer than estimated


class Forecast:
    """Seconds a task takes beside as many others as run at a time.

    First from the scale's `estimate:` (images_per_second, hook_cost, evaluation_seconds by family, attack_seconds by
    attack, step_seconds by study.step); each ratio of measured to estimated seconds then corrects the tasks of the same
    kind and label, and, of trainings without one, the median of all trainings' ratios.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.guessed = {name: guess(plan.scale, task) for name, task in plan.tasks.items()}
        self.ratios: dict[tuple[str, str], float] = {}

    def seconds(self, name: str) -> float:
        """The best estimate of a task's seconds."""
        group = _group(self.plan.tasks[name])
        like = [ratio for (kind, _), ratio in self.ratios.items() if kind == group[0] == "train"]
        ratio = self.ratios.get(group) or (median(like) if like and self.known(name) else 1.0)
        return self._base(name) * ratio

    def known(self, name: str) -> bool:
        """Whether the scale says what a task takes, or a task like it was measured."""
        return self.guessed[name] is not None or _group(self.plan.tasks[name]) in self.ratios

    def learn(self, name: str, seconds: float, share: float = 1.0) -> None:
        """Take in what was measured.

        Args:
            share: of the task that took these seconds, above 0.
        """
        self.ratios[_group(self.plan.tasks[name])] = max(seconds, 0.01) / share / self._base(name)

    def _base(self, name: str) -> float:
        guessed = self.guessed[name]
        return UNKNOWN * max(self.plan.tasks[name].epochs, 1) if guessed is None else max(guessed, 0.01)


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
    found = known.get(f"{task.kind}_seconds", {}).get(task.label)
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
    after = {name: task.after for name, task in plan.tasks.items()}
    seconds = {name: forecast.seconds(name) * CAUTION for name in plan.tasks}
    whole = [goal for goal in plan.goals if not set(goal.tasks) <= set(done)]
    taken: list[Goal] = []
    scope: set[str] = set()
    rank: dict[str, float] = {}
    order: dict[str, tuple[float, float, str]] = {}

    def takes(goal: Goal) -> bool:
        nonlocal scope, rank, order
        need = plan.closure(goal.tasks, done)
        fresh = need - scope
        if need & set(lost):
            return False
        if not fresh:
            return True
        trial, ranks = scope | need, {**dict.fromkeys(fresh, float(len(taken))), **rank}
        begin = trial - set(running)
        busy = sum(seconds[name] for name in begin) + sum(min(still, left) for still in running.values())
        if busy > left * workers:
            return False
        lengths = chains(begin, seconds, after)
        sorted_by = {name: (ranks[name], -lengths[name], name) for name in begin}
        ends = finish_times(begin, sorted_by, seconds, after, running, workers)
        if any(ends[name] > left for name in trial):
            return False
        scope, rank, order = trial, ranks, sorted_by
        return True

    for goal in whole:
        if takes(goal):
            taken.append(goal)
    parts = [
        Goal(f"{goal.wanted}: {name}", goal.seed, (name,))
        for goal in whole
        if goal not in taken
        for name in _worth_having(plan, goal)
        if name not in done
    ]
    for part in parts:
        if not set(part.tasks) <= scope and takes(part):
            taken.append(part)
    return taken, sorted(order, key=lambda name: order[name])


def _worth_having(plan: Plan, goal: Goal) -> list[str]:
    """The tasks of a goal that leave something behind by themselves: its last ones that no other of them waits for."""
    inner = {other for name in goal.tasks for other in plan.closure(plan.tasks[name].after)}
    return [name for name in goal.tasks if name not in inner]


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
