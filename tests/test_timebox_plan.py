"""lib.engine's time box: goals and tasks, the forecast, what is taken into a box and what gives way; the queue."""

import fnmatch
import itertools
import random
import time
from dataclasses import replace
from types import SimpleNamespace

import boxes
import pytest
import yaml

from lib import config
from lib.engine import forecast, goals, timebox
from lib.engine.forecast import Forecast, admit, finish_times
from lib.engine.goals import Goal, Plan, Task
from lib.engine.survey import divide, finished
from lib.engine.timebox import Epochs, TimeBox


@pytest.fixture
def scale(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_CONFIG", str(boxes.house(tmp_path) / "config"))
    return config.load("smoke")


def made(*edges: str, **seconds: float) -> Plan:
    """A plan of steps: "c: a b" waits for a and b; their seconds are what the scale's estimate says."""
    tasks = {}
    for edge in edges:
        name, _, after = edge.partition(": ")
        tasks[name] = Task(name, "step", "", {}, 0, tuple(after.split()), name)
    return Plan(SimpleNamespace(estimate={"step_seconds": seconds}), tasks)  # type: ignore[arg-type]


def taken(plan: Plan, left: float, workers: int = 1, running=None, done=(), lost=()) -> tuple[list[str], list[str]]:
    found, order = admit(plan, Forecast(plan), done, lost, running or {}, workers, left)
    return [goal.wanted for goal in found], order


def test_parents_come_first_and_a_trunk_once(scale):
    plan = goals.plan(scale, ["robustness_pruned"], [0])
    trunk = "trunk dense seed 0 to epoch 1"
    after = {name: set(task.after) for name, task in plan.tasks.items() if task.kind != "evaluate"}
    assert after == {
        trunk: set(),
        "train dense seed 0": {trunk},
        "train dense-s0.5 seed 0": {trunk},
        "train dense-s0.9 seed 0": {trunk},
    }
    assert [plan.tasks[name].epochs for name in after] == [1, 2, 2, 2]
    ends = plan.tasks["evaluate robustness dense-s0.9 seed 0"]
    assert set(ends.after) == {"train dense-s0.9 seed 0", "train dense seed 0"}  # the first is what it is compared with
    tuned = goals.plan(scale, ["tuned"], [0]).tasks
    assert tuned["train low seed 0"].after == ("train dense seed 0",)
    order = list(tuned)
    assert all(order.index(other) < order.index(name) for name, task in tuned.items() for other in task.after)


def test_goals_are_in_the_order_asked_for_seeds_within(scale):
    names = [goal.name for goal in goals.plan(scale, ["tuned", "robustness_pruned"], [1, 0]).goals]
    assert names == ["tuned seed 1", "tuned seed 0", "robustness_pruned seed 1", "robustness_pruned seed 0"]
    assert [goal.seed for goal in goals.plan(scale, ["slow"]).goals] == [0]
    assert [goal.seed for goal in goals.plan(scale, ["tuned", "slow"], [1]).goals] == [1]


def test_every_item_of_every_scale_can_be_planned():
    for name in config.SCALES:
        preset = config.load(name)
        items = [
            name
            for name, item in config.items().items()
            if all(fnmatch.filter(preset.families, pattern) for pattern in item.families)
        ]
        plan = goals.plan(preset, items)
        assert {goal.wanted for goal in plan.goals} == set(items) and items
        assert {task.network for task in plan.tasks.values() if task.kind == "train"} <= set(preset.networks)
        for task in plan.tasks.values():
            assert set(task.after) <= set(plan.tasks)


def test_finish_times_by_hand():
    after = {"a": (), "b": (), "c": ("a",), "d": ("r",)}
    seconds = {"a": 2.0, "b": 3.0, "c": 4.0, "d": 1.0}
    order = {"a": (0,), "b": (1,), "c": (2,), "d": (3,)}
    assert finish_times("abcd", order, seconds, after, {"r": 5.0}, 2) == {"a": 2, "b": 5, "r": 5, "c": 9, "d": 6}
    assert finish_times("abcd", order, seconds, after, {"r": 5.0}, 3) == {"a": 2, "b": 3, "r": 5, "c": 6, "d": 6}


def test_a_schedule_keeps_to_the_workers_and_to_what_waits():
    """Of random tasks: never more at a time than workers; none before what it waits for; a worker is never idle while
    a task could begin."""
    draw = random.Random(0)
    for workers in (1, 2, 3):
        names = [f"t{k}" for k in range(12)]
        after = {name: draw.sample(names[:k], min(k, draw.randrange(3))) for k, name in enumerate(names)}
        seconds = {name: float(draw.randrange(1, 9)) for name in names}
        order = {name: (k,) for k, name in enumerate(draw.sample(names, len(names)))}
        ends = finish_times(names, order, seconds, after, {}, workers)
        starts = {name: ends[name] - seconds[name] for name in names}
        assert all(starts[name] >= ends[other] for name in names for other in after[name])
        for now in {*starts.values(), *ends.values()}:
            busy = sum(starts[name] <= now < ends[name] for name in names)
            assert busy <= workers
            waiting = [n for n in names if starts[n] > now and all(ends[other] <= now for other in after[n])]
            assert busy == workers or not waiting


def test_a_goal_that_does_not_fit_leaves_the_time_to_those_after_it():
    plan = made("a", "b: a", "c", a=10, b=10, c=5)
    plan.goals += [Goal("first", 0, ("b",)), Goal("second", 0, ("c",))]
    assert taken(plan, 40) == (["first", "second"], ["a", "b", "c"])
    assert taken(plan, 20) == (["second"], ["c"])
    assert taken(plan, 5) == ([], [])
    assert taken(plan, 23, workers=2) == (["first", "second"], ["a", "b", "c"])
    assert taken(plan, 12, done={"a"}) == (["first"], ["b"])
    assert taken(plan, 40, lost={"a"}) == (["second"], ["c"])
    assert taken(plan, 20, running={"elsewhere": 15.0}) == ([], [])


def test_what_is_left_goes_to_parts_of_goals_that_do_not_fit():
    """Two evaluated networks of a goal of three; a network alone is no part."""
    plan = made(
        "t1", "e1: t1", "t2", "e2: t2", "t3", "e3: t3", **{f"{kind}{k}": 4.0 for kind in "te" for k in (1, 2, 3)}
    )
    plan.goals.append(Goal("all", 0, ("t1", "e1", "t2", "e2", "t3", "e3")))
    assert taken(plan, 19) == (["all: e1", "all: e2"], ["t1", "e1", "t2", "e2"])
    assert taken(plan, 8) == ([], [])
    assert taken(plan, 30)[0] == ["all"]


def test_goals_taken_end_in_time_and_the_first_is_never_given_up_for_another():
    draw = random.Random(1)
    for _ in range(30):
        edges, seconds = [], {}
        for k in range(8):
            before = draw.sample([f"t{j}" for j in range(k)], min(k, draw.randrange(2)))
            edges.append(f"t{k}: {' '.join(before)}" if before else f"t{k}")
            seconds[f"t{k}"] = float(draw.randrange(1, 9))
        plan = made(*edges, **seconds)
        plan.goals += [Goal(f"g{k}", 0, (f"t{k}",)) for k in draw.sample(range(8), 4)]
        for workers, left in itertools.product((1, 2), (8, 15, 25)):
            found, order = taken(plan, left, workers)
            work = sum(seconds[name] for name in order) * forecast.CAUTION
            assert work <= workers * left + 1e-9
            alone = made(*edges, **seconds)
            alone.goals.append(plan.goals[0])
            assert (plan.goals[0].wanted in found) == (taken(alone, left, workers)[0] != [])


def test_estimates_come_from_the_scale_then_from_what_was_measured(scale):
    plan = goals.plan(scale, ["robustness_pruned", "robustness_slow"], [0])
    known = Forecast(plan)
    dense, branch, slow = "train dense seed 0", "train dense-s0.5 seed 0", "train slow seed 0"
    epoch = 60 / 10_000
    assert known.seconds(dense) == pytest.approx(2 * epoch + forecast.OVERHEAD)
    assert known.seconds("evaluate robustness dense seed 0") == 1.0  # three seconds for three networks
    known.learn("trunk dense seed 0 to epoch 1", 5 * epoch)
    assert known.seconds(dense) == pytest.approx(10 * epoch + forecast.OVERHEAD)
    assert known.seconds(branch) == pytest.approx(10 * epoch + forecast.OVERHEAD)  # by the others' median ratio
    assert known.seconds(slow) == pytest.approx(100_000 * 5 * epoch + forecast.OVERHEAD)
    known.learn(branch, 80 * epoch)
    known.beside += [1.0, 2.0, 9.0]
    assert known.seconds(branch) == pytest.approx(80 * epoch + 2)
    for seconds in (7, 8, 12):
        known.learn("evaluate robustness dense seed 0", seconds)
    assert known.seconds("evaluate robustness dense-s0.5 seed 0") == 9


def test_what_is_there_is_not_made_again():
    """n is a network, e its evaluation, m another that starts from it, f m's evaluation."""
    plan = made("n", "e: n", "m: n", "f: m")
    for name in "nm":
        plan.tasks[name] = Task(name, "train", "", {}, 0, plan.tasks[name].after, name, name, 1)
    plan.goals.append(Goal("all", 0, ("n", "e", "m", "f")))

    def left(cards: str, weights: str, tables: str) -> set[str]:
        return set("nemf") - finished(plan, set(cards), set(weights), set(tables))

    assert left("", "", "") == set("nemf")
    assert left("nm", "", "ef") == set()  # notebooks need no weights
    assert left("nm", "nm", "e") == {"f"}
    assert left("nm", "n", "e") == {"m", "f"}
    assert left("n", "n", "") == {"e", "m", "f"}
    # m's parent is there without its weights: it is trained again, and what was computed on it no longer holds.
    assert left("n", "", "e") == {"n", "e", "m", "f"}


def test_a_step_made_in_parts_waits_for_them():
    plan = made("n", "s: n", "u: s", n=1, s=30, u=5)
    plan.goals.append(Goal("all", 0, ("u",)))
    plan.divide("s", [{"name": "a", "budget": 0.5}, {"name": "b", "budget": 0.5}])
    parts = ["part a 0.5 of s", "part b 0.5 of s"]
    assert plan.tasks["s"].after == ("n", *parts) and plan.tasks[parts[0]].after == ("n",)
    assert plan.tasks[parts[1]].arguments == {"name": "b", "budget": 0.5}
    assert plan.closure(["u"]) == {"n", "s", "u", *parts}
    assert [Forecast(plan).seconds(name) for name in parts] == [15, 15]
    assert taken(plan, 60, workers=2)[1] == ["n", *parts, "s", "u"]
    assert taken(plan, 20) == ([f"all: {parts[0]}"], ["n", parts[0]])  # what it keeps is there for the next box


def test_parts_that_are_made_are_left_out():
    plan = made("s", s=30)
    plan.tasks["s"] = replace(plan.tasks["s"], call="run", parts="parts", arguments={"seed": 0})

    def ask(calls):
        told = {"parts": [{"name": "a"}, {"name": "b"}]}
        return [
            {"event": "missing" if arguments.get("name") == "b" else "done", "value": told.get(call)}
            for call, arguments in calls
        ]

    divide(plan, SimpleNamespace(ask=ask), set())
    assert set(plan.tasks) == {"s", "part b of s"}
    plan.tasks["s"] = replace(plan.tasks["s"], parts="parts")
    divide(plan, SimpleNamespace(ask=ask), {"s"})
    assert set(plan.tasks) == {"s", "part b of s"}


def test_every_step_that_can_be_made_in_parts_names_them():
    import importlib

    for study, steps in config.steps().items():
        for step in steps.values():
            if step.parts:
                module, _, function = step.parts.partition(":")
                found = getattr(importlib.import_module(module), function)("cpu", 0)
                assert found and all(set(part) == set(found[0]) for part in found), study


class Worker:
    """Stands for a process at a task."""

    def __init__(self, task: str | None) -> None:
        self.task, self.ready, self.began, self.log = task, True, time.monotonic() - 10, "log"


def at_work(plan: Plan, left: float, **epochs: float) -> tuple[TimeBox, list[str]]:
    """A box whose workers are at trainings of 10 epochs, each given with the seconds of the 2 that are done.

    Returns: it, and the tasks whose workers were replaced.
    """
    workers, replaced = [Worker(name) for name in epochs], []
    pool = SimpleNamespace(workers=workers, replace=lambda worker: replaced.append(worker.task))
    box = TimeBox(plan, pool, None, time.monotonic() + left)  # type: ignore[arg-type]
    now = time.monotonic()
    box.epochs = {name: Epochs(2, 10, now - seconds, now) for name, seconds in epochs.items()}
    return box, replaced


def test_a_training_that_will_not_make_it_gives_way_to_what_will(monkeypatch):
    plan = made("long", "other", long=1, other=20)
    plan.goals += [Goal("first", 0, ("long",)), Goal("second", 0, ("other",))]
    box, replaced = at_work(plan, 60, long=20)  # 80 s are left of it
    assert box._think() == ["other"] and replaced == ["long"]
    assert box.measured["long"].state == "stopped"
    box, replaced = at_work(plan, 60, long=10)  # 40 s: it ends in time, and the other one does not fit
    assert box._think() == [] and replaced == []
    box, replaced = at_work(plan, 120, long=20)  # there is time for both
    assert box._think() == ["other"] and replaced == []
    monkeypatch.setattr(timebox, "START_UP", 50.0)
    box, replaced = at_work(plan, 60, long=20)  # nothing would be gained
    assert box._think() == [] and replaced == []


def test_a_training_of_a_goal_that_will_not_make_it_as_a_whole_gives_way():
    """It would end in time itself, but what its item needs after it would not."""
    plan = made("half", "rest: half", "other", half=1, rest=100, other=10)
    plan.goals += [Goal("first", 0, ("half", "rest")), Goal("second", 0, ("other",))]
    box, replaced = at_work(plan, 45, half=10)
    assert box._think() == ["other"] and replaced == ["half"]


QUEUE = {"scale": "smoke", "only": ["tuned"], "seeds": [0], "minutes": 9, "settles": "whether it does"}


def test_the_committed_queue_can_be_planned():
    for name, piece in config.queue().items():
        assert goals.plan(config.load(piece.scale), piece.only, piece.seeds).goals, name


def test_an_entry_of_the_queue_is_a_box(tmp_path):
    place = boxes.house(tmp_path)
    (place / "config" / "queue.yaml").write_text(yaml.safe_dump({"first": QUEUE}))
    said = boxes.call(place, "box", "--entry", "first", "--processes", 1, "--dry-run", "--out", tmp_path / "box.zip")
    assert "tuned seed 0: fits" in said and "seed 1" not in said and "9 min are given" in said
    assert "leave out --scale and --only" in boxes.call(place, "box", "--entry", "first", "--only", "plain", status=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": "large"}, r"first: scale is 'large': one of smoke"),
        ({"only": []}, "first: only is .*: a list of items, notebooks or families"),
        ({"only": "tuned"}, "first: only is 'tuned': a list"),
        ({"minutes": 0}, "first: minutes is 0: a number above 0"),
        ({"seeds": [-1]}, "first: seeds is .*: a list of whole numbers from 0"),
        ({"settles": " "}, "first: settles is ' ': a sentence"),
        ({"hours": 2}, "first: unknown key 'hours'"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(tmp_path, monkeypatch, change, message):
    monkeypatch.setenv("NEURONS_CONFIG", str(tmp_path))
    (tmp_path / "queue.yaml").write_text(yaml.safe_dump({"first": {**QUEUE, **change}}))
    with pytest.raises(config.ConfigError, match=rf"queue\.yaml: {message}"):
        config.queue()
