"""lib.engine's time box: goals and tasks, the forecast, what is taken into a box and what gives way; the queue."""

import fnmatch
import itertools
import random
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import boxes
import pytest
import torch
import yaml

from lib import config, evaluations
from lib.engine import box as timebox
from lib.engine import plan as planning
from lib.engine.box import Box
from lib.engine.plan import Goal, Plan, Task


@pytest.fixture
def scale(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_CONFIG", str(boxes.house(tmp_path) / "config"))
    return config.load("smoke")


@pytest.mark.parametrize(
    ("run", "part", "made"),
    [("", {}, ["a 0", "b 0", "a 7", "b 7"]), (":B", {"network": "n"}, ["b 0 n", "b 7 n"]), (":make", {}, ["made 0"])],
)
def test_a_step_is_an_experiment_one_of_its_items_or_a_function(monkeypatch, run, part, made):
    """Seed 7 is the experiment's own: the study does not have it."""
    done = []

    def note(name, seed, network=""):
        done.append(f"{name} {seed} {network}".strip())

    settings = SimpleNamespace(seeds=(0, 7), study="robustness")
    items = [SimpleNamespace(measure=lambda _, seed, k=k, **part: note(k, seed, **part)) for k in "ab"]
    experiment = SimpleNamespace(Settings=SimpleNamespace(of=lambda scale: settings), ITEMS=items, B=items[1])
    experiment.make = lambda scale, seed: note("made", seed)
    monkeypatch.setitem(sys.modules, "an_experiment", experiment)
    strict = torch.are_deterministic_algorithms_enabled()
    evaluations.carry_out(f"an_experiment{run}", "smoke", 0, **part)
    torch.use_deterministic_algorithms(strict)
    assert done == made


def made(scale, *edges: str, **seconds: float) -> Plan:
    """A plan of steps: "c: a b" waits for a and b; their seconds are what the scale's estimate says."""
    plan = Plan(scale)
    plan.scale = SimpleNamespace(estimate={"step_seconds": seconds})  # type: ignore[assignment]
    for edge in edges:
        name, _, after = edge.partition(": ")
        plan.tasks[name] = Task(name, "step", "", {"scale": "smoke", "seed": 0}, tuple(after.split()), name)
    return plan


class Busy:
    """Stands for a worker at a task that it began some seconds ago."""

    def __init__(self, task: str, seconds: float) -> None:
        self.task, self.began = task, time.monotonic() - seconds


def taken(plan: Plan, left: float, workers: int = 1, busy=(), done=(), failed=()) -> tuple[list[str], list[str]]:
    """The goals that fit into the seconds left, and the tasks to begin."""
    pool = SimpleNamespace(count=workers, workers=[Busy(*one) for one in busy])
    box = Box(plan, pool, None, time.monotonic() + left + 0.5)  # type: ignore[arg-type]
    box.done = set(done)
    box.ended = {name: {"state": "failed", "seconds": 1.0} for name in failed}
    goals, order = box.order()
    return [goal.wanted for goal in goals], order


def test_parents_come_first_and_a_trunk_once(scale):
    plan = Plan(scale, ["robustness_pruned"], [0])
    trunk = "trunk dense seed 0 to epoch 1"
    after = {name: set(task.after) for name, task in plan.tasks.items() if task.kind != "step"}
    assert after == {
        trunk: set(),
        "train dense seed 0": {trunk},
        "train dense-s0.5 seed 0": {trunk},
        "train dense-s0.9 seed 0": {trunk},
    }
    assert [plan.tasks[name].epochs for name in after] == [1, 2, 2, 2]
    step = plan.tasks["step robustness.pruned seed 0"]
    assert set(step.after) == set(after) - {trunk}
    tuned = Plan(scale, ["tuned"], [0]).tasks
    assert tuned["train low seed 0"].after == ("train dense seed 0",)
    order = list(tuned)
    assert all(order.index(other) < order.index(name) for name, task in tuned.items() for other in task.after)


def test_goals_are_in_the_order_asked_for_seeds_within(scale):
    names = [goal.name for goal in Plan(scale, ["tuned", "robustness_pruned"], [1, 0]).goals]
    assert names == ["tuned seed 1", "tuned seed 0", "robustness_pruned seed 1", "robustness_pruned seed 0"]
    assert [goal.seed for goal in Plan(scale, ["slow"]).goals] == [0]
    assert [goal.seed for goal in Plan(scale, ["tuned", "slow"], [1]).goals] == [1]


def test_every_item_of_every_scale_can_be_planned():
    for name in config.SCALES:
        preset = config.load(name)
        items = [
            name
            for name, item in config.items().items()
            if all(fnmatch.filter(preset.families, pattern) for pattern in item.families)
        ]
        plan = Plan(preset, items)
        assert {goal.wanted for goal in plan.goals} == set(items) and items
        assert {task.network for task in plan.tasks.values() if task.kind == "train"} <= set(preset.networks)
        for task in plan.tasks.values():
            assert set(task.after) <= set(plan.tasks)


def test_a_goal_that_does_not_fit_leaves_the_time_to_those_after_it(scale):
    plan = made(scale, "a", "b: a", "c", a=10, b=10, c=5)
    plan.goals += [Goal("first", 0, ("b",)), Goal("second", 0, ("c",))]
    assert taken(plan, 40) == (["first", "second"], ["a", "b", "c"])
    assert taken(plan, 20) == (["second"], ["c", "b"])  # a would end, and nothing could be made of it
    assert taken(plan, 5) == ([], [])
    assert taken(plan, 30, workers=2) == (["first", "second"], ["a", "b", "c"])
    assert taken(plan, 15, workers=2) == (["second"], ["c", "b"])
    assert taken(plan, 12, done={"a"}) == (["first"], ["b", "c"])
    assert taken(plan, 40, failed={"c"})[1] == ["a", "b"]
    assert taken(plan, 12, busy=[("a", 2.0)]) == ([], ["b", "c"])
    assert taken(plan, 30, busy=[("a", 2.0)]) == (["first", "second"], ["b", "c"])


def test_what_is_left_goes_to_parts_of_goals_that_do_not_fit(scale):
    """Network by network, each with its part of a step; a network alone is not worth beginning."""
    seconds = {f"{kind}{k}": 4.0 for kind in "te" for k in (1, 2, 3)}
    plan = made(scale, "t1", "e1: t1", "t2", "e2: t2", "t3", "e3: t3", **seconds)
    plan.goals.append(Goal("all", 0, ("t1", "e1", "t2", "e2", "t3", "e3")))
    assert taken(plan, 30) == (["all"], ["t1", "e1", "t2", "e2", "t3", "e3"])
    assert taken(plan, 19) == ([], ["t1", "e1", "t2", "e2", "t3", "e3"])
    assert taken(plan, 8) == ([], ["e1", "e2", "e3"])
    assert taken(plan, 8, done={"t1", "t2"}) == ([], ["e1", "e2", "e3"])


def test_goals_taken_are_not_more_than_there_is_time_for_and_none_before_what_it_waits_for(scale):
    draw = random.Random(1)
    for _ in range(30):
        edges, seconds = [], {}
        for k in range(8):
            before = draw.sample([f"t{j}" for j in range(k)], min(k, draw.randrange(2)))
            edges.append(f"t{k}: {' '.join(before)}" if before else f"t{k}")
            seconds[f"t{k}"] = float(draw.randrange(1, 9))
        plan = made(scale, *edges, **seconds)
        plan.goals += [Goal(f"g{k}", 0, (f"t{k}",)) for k in draw.sample(range(8), 4)]
        for workers, left in itertools.product((1, 2), (8, 15, 25)):
            found, order = taken(plan, left, workers)
            need = plan.closure(task for goal in plan.goals if goal.wanted in found for task in goal.tasks)
            assert need <= set(order) and set(order[: len(need)]) == need
            assert sum(seconds[name] for name in need) * timebox.CAUTION <= workers * (left + 0.5) + 1e-9
            place = {name: number for number, name in enumerate(order)}
            assert all(place[other] < place[name] for name in need for other in plan.tasks[name].after)
            alone = made(scale, *edges, **seconds)
            alone.goals.append(plan.goals[0])
            assert (plan.goals[0].wanted in found) == (taken(alone, left, workers)[0] != [])


def test_estimates_come_from_the_scale_then_from_what_was_measured(scale, monkeypatch):
    monkeypatch.setattr(planning, "is_kept", lambda *_: False)
    plan = Plan(scale, ["robustness_pruned", "robustness_slow"], [0])
    plan.divide("step robustness.pruned seed 0")
    box = Box(plan, None, None, 0.0)
    dense, branch, slow = "train dense seed 0", "train dense-s0.5 seed 0", "train slow seed 0"
    epoch = 60 / 10_000

    def learn(name: str, seconds: float) -> None:
        box.done.add(name)
        box.ended[name] = {"state": "done", "seconds": seconds}

    assert box.seconds(dense) == pytest.approx(2 * epoch)
    assert box.seconds("part dense of step robustness.pruned seed 0") == 1.0  # three seconds for three networks
    learn("trunk dense seed 0 to epoch 1", 3.0)
    assert box.seconds(dense) == pytest.approx(2 * 3.0)
    assert box.seconds(branch) == pytest.approx(2 * 3.0)  # has a hook: by how far off the other's estimate was
    assert box.seconds(slow) == pytest.approx(100_000 * 3.0)
    learn(branch, 80.0)  # what is like it counts, the others only where nothing is like it
    assert box.seconds(branch) == pytest.approx(80.0)
    assert box.seconds(dense) == pytest.approx(2 * 3.0)
    assert box.seconds("part dense of step robustness.pruned seed 0") == 1.0
    for name, seconds in (("dense", 7.0), ("dense-s0.5", 8.0), ("dense-s0.9", 12.0)):
        learn(f"part {name} of step robustness.pruned seed 0", seconds)
    assert box.seconds("part dense-s0.5 of step robustness.pruned seed 0") == 8


def test_what_is_there_is_not_made_again(scale, monkeypatch):
    """n is a network, e a step on it, m another network that starts from it, f a step on m."""

    def left(cards: str, weights: str, tables: str) -> set[str]:
        plan = made(scale, "n", "e: n", "m: n", "f: m")
        for name in "nm":
            plan.tasks[name] = Task(name, "train", "", {"name": name}, plan.tasks[name].after, name, name, 1)
        for name in "ef":
            plan.tasks[name] = replace(plan.tasks[name], call=name)
        plan.goals.append(Goal("all", 0, ("n", "e", "m", "f")))
        monkeypatch.setattr(planning, "is_kept", lambda call, about: about.get("name", call) in cards + tables)
        monkeypatch.setattr(planning, "call", lambda call, about: about["name"] in weights)
        return set("nemf") - planning.survey(plan)

    assert left("", "", "") == set("nemf")
    assert left("nm", "", "ef") == set()  # notebooks need no weights
    assert left("nm", "nm", "e") == {"f"}
    assert left("nm", "n", "e") == {"m", "f"}
    assert left("n", "n", "") == {"e", "m", "f"}
    assert left("n", "", "e") == {"n", "m", "f"}  # m's parent is there without its weights: it is trained again


def test_a_step_made_in_parts_waits_for_them(scale, monkeypatch):
    plan = made(scale, "n", "s: n", "u: s", n=1, s=30, u=5)
    plan.goals.append(Goal("all", 0, ("u",)))
    plan.tasks["s"] = replace(plan.tasks["s"], parts="parts")
    monkeypatch.setattr(planning, "call", lambda *_: [{"name": name, "budget": 0.5} for name in "ab"])
    monkeypatch.setattr(planning, "is_kept", lambda *_: False)
    plan.divide("s")
    parts = ["part a 0.5 of s", "part b 0.5 of s"]
    assert plan.tasks["s"].after == ("n", *parts) and plan.tasks[parts[0]].after == ("n",)
    assert plan.tasks[parts[1]].arguments == {"scale": "smoke", "seed": 0, "name": "b", "budget": 0.5}
    assert plan.closure(["u"]) == {"n", "s", "u", *parts}
    assert [plan.seconds(name) for name in (*parts, "s")] == [15, 15, 15]
    assert set(taken(plan, 90)[1]) == {"n", *parts, "s", "u"}
    assert plan.closure(["s"], done={"n", parts[0]}) == {"s", parts[1]}  # what a part keeps is there for the next box


def test_a_networks_part_of_a_step_waits_for_it_alone_and_comes_before_the_next_training(scale, monkeypatch):
    """Cards of all, weights of none: only the networks whose part is left are trained again."""

    def order(*left: str) -> list[str]:
        plan = Plan(scale, ["robustness_pruned"], [0])
        monkeypatch.setattr(planning, "call", lambda *_: False)  # no weights
        kept = lambda call, about: call == "lib.zoo:card" or about.get("network") not in left  # noqa: E731
        monkeypatch.setattr(planning, "is_kept", kept)
        done = planning.survey(plan)
        assert plan.seconds(whole) == 0
        return taken(plan, 90, done=done)[1]

    whole, trunk = "step robustness.pruned seed 0", "trunk dense seed 0 to epoch 1"

    def each(name: str) -> list[str]:
        return [f"train {name} seed 0", f"part {name} of {whole}"]

    names = ("dense", "dense-s0.5", "dense-s0.9")
    assert order(None, *names) == [trunk, *(task for name in names for task in each(name)), whole]
    assert order(None, "dense-s0.9") == [trunk, "train dense seed 0", *each("dense-s0.9"), whole]


def test_parts_that_are_made_are_left_out(scale, monkeypatch):
    plan = made(scale, "s", s=30)
    plan.goals.append(Goal("it", 0, ("s",)))
    plan.tasks["s"] = replace(plan.tasks["s"], call="run", parts="parts")
    kept = {"a"}
    monkeypatch.setattr(planning, "call", lambda name, arguments: [{"name": "a"}, {"name": "b"}])
    monkeypatch.setattr(planning, "is_kept", lambda name, arguments: arguments.get("name") in kept)
    assert planning.survey(plan) == set()
    assert set(plan.tasks) == {"s", "part b of s"}
    kept.add(None)  # the whole is there
    plan.tasks["s"] = replace(plan.tasks["s"], parts="parts", after=())
    assert planning.survey(plan) == {"s", "part b of s"}
    assert set(plan.tasks) == {"s", "part b of s"}


def test_what_is_left_is_told_item_by_item(scale):
    plan = Plan(scale, ["robustness_pruned"])
    done = plan.closure(plan.goals[0].tasks) | {"trunk dense seed 1 to epoch 1"}
    told = planning.what_is_left(plan, done)
    assert told[0] == "robustness_pruned: complete at seed 0"
    assert told[1].startswith("  seed 1: 4 tasks are left, about 3 s, as step robustness.pruned seed 1")
    assert planning.what_is_left(plan, plan.tasks) == ["robustness_pruned: complete at seed 0 1"]


def test_every_step_that_can_be_made_in_parts_names_them():
    import importlib

    for study, steps in config.steps().items():
        for step in steps.values():
            if ":" in step.parts:
                module, _, function = step.parts.partition(":")
                found = getattr(importlib.import_module(module), function)("cpu", 0)
                assert found and all(set(part) == set(found[0]) for part in found), study
            else:
                assert step.parts in ("", "network")


QUEUE = {"scale": "smoke", "only": ["tuned"], "seeds": [0], "minutes": 9, "settles": "whether it does"}


def test_the_committed_queue_can_be_planned():
    for name, piece in config.queue().items():
        assert Plan(config.load(piece.scale), piece.only, piece.seeds).goals, name


def test_an_entry_of_the_queue_is_a_box(tmp_path):
    place = boxes.house(tmp_path)
    (place / "config" / "queue.yaml").write_text(yaml.safe_dump({"first": QUEUE}))
    said = boxes.call(place, "box", "--entry", "first", "--processes", 1, "--dry-run", "--out", tmp_path / "box.zip")
    assert "tuned seed 0: fits" in said and "seed 1" not in said and "9 min for 1 processes" in said
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
