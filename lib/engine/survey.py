"""What a plan's results folder and cache hold already, found out without making anything."""

from __future__ import annotations

from collections.abc import Collection

from lib import config
from lib.engine.goals import Plan
from lib.engine.jobs import say
from lib.engine.pool import Pool

CARD, WEIGHTS = "lib.zoo:card", "lib.zoo:kept"


def survey(plan: Plan, pool: Pool) -> set[str]:
    """The tasks that need not be carried out: whose results are there, or that only lead to some that are.

    Raises: ConfigError where it cannot be told which networks are there, as without their data.
    """
    networks = [name for name, task in plan.tasks.items() if task.kind == "train"]
    answers = pool.ask([(call, plan.tasks[name].arguments) for name in networks for call in (CARD, WEIGHTS)])
    for name, answer in zip([name for name in networks for _ in (CARD, WEIGHTS)], answers, strict=True):
        if answer["event"] == "failed":
            raise config.ConfigError(f"{name}: {answer['error']}")
    cards = {name for name, answer in zip(networks, answers[::2], strict=True) if answer["event"] == "done"}
    weights = {name for name, answer in zip(networks, answers[1::2], strict=True) if answer.get("value")}
    last = sorted({name for goal in plan.goals for name in goal.tasks} - set(networks))
    # Where none of the networks is there, nothing can rest on them.
    looked_at = [name for name in last if _reads(plan, name) & cards or not _reads(plan, name)]
    made = set()
    for name, answer in zip(
        looked_at, pool.ask([(plan.tasks[name].call, plan.tasks[name].arguments) for name in looked_at]), strict=True
    ):
        if answer["event"] == "done":
            made.add(name)
        elif answer["event"] == "failed":
            say(f"not known whether it is done: {name}: {answer['error']}")
    return finished(plan, cards, weights, made)


def divide(plan: Plan, pool: Pool, done: Collection[str]) -> None:
    """Put before each step that is not done those parts of it that are not made, as the step itself names them."""
    names = [name for name, task in plan.tasks.items() if task.parts and name not in done]
    calls = [(plan.tasks[name].parts, plan.tasks[name].arguments) for name in names]
    for name, answer in zip(names, pool.ask(calls), strict=True):
        if answer["event"] != "done":
            raise config.ConfigError(f"{name}: {answer['error']}")
        task = plan.tasks[name]
        made = pool.ask([(task.call, {**task.arguments, **part}) for part in answer["value"]])
        left = [part for part, one in zip(answer["value"], made, strict=True) if one["event"] != "done"]
        plan.divide(name, left)


def finished(plan: Plan, cards: Collection[str], weights: Collection[str], made: Collection[str]) -> set[str]:
    """The tasks that need not be carried out.

    A network whose weights are wanted and not there is trained again, and may become another one: then its card and
    whatever was computed on it are made anew as well.

    Args:
        cards, weights: trainings of networks whose card is there, whose weights are there.
        made: last tasks whose tables are all there.
    """
    last = {name for goal in plan.goals for name in goal.tasks}
    there = (set(cards) | set(weights) | set(made)) & last
    again: set[str] = set()
    while True:
        needed = plan.closure(last - there, weights)
        again |= needed & set(cards)
        stale = {name for name in there if name in again or _reads(plan, name) & again}
        if not stale:
            return set(plan.tasks) - needed
        there -= stale


def _reads(plan: Plan, name: str) -> set[str]:
    """The networks, as trainings, that an evaluation or step reads; of a training none."""
    found: set[str] = set()
    left = [] if plan.tasks[name].kind == "train" else list(plan.tasks[name].after)
    while left:
        other = left.pop()
        if plan.tasks[other].kind == "train":
            found.add(other)
        else:
            left += plan.tasks[other].after
    return found
