"""Goals, an item or family at one seed, and the tasks each takes, network by network: what is there, what is left."""

import importlib
from collections.abc import Collection, Iterable, KeysView, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lib import cache, config, store
from lib.config import ConfigError, Scale, epochs, in_words, network_seconds
from lib.engine import graph
from lib.engine.jobs import say


@dataclass(frozen=True)
class Task:
    """One call, of a function that keeps what it makes.

    Attributes:
        name: as "train resnet18-t1 seed 0"; no other task has it.
        kind: trunk, train, attack, part or step.
        call: module:function.
        arguments: of the function, by name.
        after: tasks that must be done before.
        label: tasks of one kind and label take like times.
        network: the network that it trains; of others nothing.
        epochs: that it trains for; 0 for what trains no named network.
        parts: what a step that can be made in parts has in config/steps.yaml; else nothing.
        share: of the estimated time of a step that is made in parts.
    """

    name: str
    kind: str
    call: str
    arguments: Mapping[str, Any]
    after: tuple[str, ...]
    label: str
    network: str = ""
    epochs: int = 0
    parts: str = ""
    share: float = 1.0


@dataclass(frozen=True)
class Goal:
    """An item or family at one seed, complete once its last tasks, and all that they wait for, are done."""

    wanted: str
    seed: int
    tasks: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.wanted} seed {self.seed}"


class Plan:
    """Goals in order of priority and their tasks, each after those that it waits for.

    Args:
        only: items, notebooks and families, the most urgent first; all seeds of one come before the next.
        seeds: the most urgent first; none: all that the scale has for each.
    Raises: ConfigError for a name that does not exist, or a seed that nothing reads at this scale.
    """

    def __init__(self, scale: Scale, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> None:
        self.scale, self.items = scale, config.items()
        self.tasks: dict[str, Task] = {}
        self.goals: list[Goal] = []
        named = self._written_out(only)
        self._steps = {(step.study, step.name, step.seed): step for step in graph.steps(scale, named)}
        read = {wanted: self._seeds_of(wanted) for wanted in named}
        unread = sorted(set(seeds) - set().union(*read.values()))
        if unread:
            every = sorted(set().union(*read.values()))
            raise ConfigError(
                f"nothing reads seed {', '.join(map(str, unread))} at scale {scale.name!r}: it has {every}"
            )
        for wanted, known in read.items():
            for seed in [seed for seed in seeds or known if seed in known]:
                last = self._last_tasks(wanted, seed)
                if last:
                    self.goals.append(Goal(wanted, seed, tuple(dict.fromkeys(last))))

    def closure(self, names: Iterable[str], done: Collection[str] = ()) -> KeysView[str]:
        """Tasks and all that they wait for, but those that are done and what only these wait for; each right after the
        last one that it waits for, so that a network's part of a step comes before the next network's training."""
        found: dict[str, None] = {}

        def add(name: str) -> None:
            if name not in found and name not in done:
                for other in self.tasks[name].after:
                    add(other)
                found[name] = None

        for name in names:
            add(name)
        return found.keys()

    def seconds(self, name: str) -> float | None:
        """A task's seconds by the scale's `estimate:`; None where it does not say."""
        task, known = self.tasks[name], self.scale.estimate
        if task.epochs:
            whole = network_seconds(self.scale, task.network)
            return None if whole is None else whole * task.epochs / epochs(self.scale, task.network)
        if not task.share:  # its parts do all of it
            return 0.0
        found = known.get(f"{task.kind.replace('part', 'step')}_seconds", {}).get(task.label)
        return None if found is None else found * task.share

    def divide(self, name: str) -> None:
        """Put those parts of a step before it that are left, each an equal share of it.

        They wait for what it waits for. A part that is one network's waits for this network alone, of all that the step
        reads, and the first of its family, which it may be compared with; the step then waits for its parts.
        """
        whole = self.tasks.pop(name)
        trained = {other: network for other in whole.after if (network := self.tasks[other].network)}
        if whole.parts == "network":
            parts = [{"network": network} for network in trained.values()]
        else:
            parts, trained = call(whole.parts, {key: whole.arguments[key] for key in ("scale", "seed")}), {}
        share, made = 1 / max(len(parts), 1), []
        for part in parts:
            arguments = {**whole.arguments, **part}
            if not is_kept(whole.call, arguments):
                near = {part["network"], self._first(part["network"])} if trained else set()
                after = tuple(other for other in whole.after if trained.get(other) in {None, *near})
                title = f"part {' '.join(map(str, part.values()))} of {name}"
                made.append(self._add(Task(title, "part", whole.call, arguments, after, whole.label, share=share)))
        rest = [other for other in whole.after if other not in trained]
        self._add(replace(whole, after=(*rest, *made), parts="", share=0.0 if trained else share))

    # ---- how the tasks come about

    def _written_out(self, only: Sequence[str]) -> list[str]:
        """Items and families in order, each once; a notebook stands for its items."""
        made = {
            name: items for notebook, items in graph.notebooks().items() for name in (notebook, f"{notebook}.ipynb")
        }
        found: dict[str, None] = {}
        for name in only:
            if name not in self.items and name not in self.scale.families and not made.get(name):
                raise ConfigError(
                    f"no item, notebook or family {name!r} at scale {self.scale.name!r}: "
                    f"{config.one_of(name, [*self.items, *graph.notebooks(), *self.scale.families])}"
                )
            found.update(dict.fromkeys(made.get(name) or [name]))
        return list(found)

    def _families(self, wanted: str) -> list[str]:
        if wanted not in self.items:
            return [wanted]
        return graph.matching(self.scale, self.items[wanted].families, f"item {wanted}")

    def _seeds_of(self, wanted: str) -> list[int]:
        """Seeds at which an item or family is read."""
        found = {seed for family in self._families(wanted) for seed in graph.seeds(self.scale, family)}
        if wanted in self.items:
            found.update(self.scale.study.get(self.items[wanted].study, {}).get("seeds", ()))
        return sorted(found)

    def _last_tasks(self, wanted: str, seed: int) -> list[str]:
        """The tasks at which an item or family ends, added with all that they wait for."""
        item = self.items.get(wanted)
        ahead = [(item.study, name, seed) for name in item.steps] if item else []
        families = [family for family in self._families(wanted) if seed in graph.seeds(self.scale, family)]
        networks = [self._train(name, seed) for family in families for name in self.scale.families[family]]
        return [*(self._step(self._steps[key]) for key in ahead if key in self._steps), *networks]

    def _add(self, task: Task) -> str:
        self.tasks.setdefault(task.name, task)
        return task.name

    def _train(self, name: str, seed: int) -> str:
        """A network's training; what it shares with others that branch off it is a task of its own, its trunk."""
        start, starts = self.scale.recipe(name).start or {}, [each.start or {} for each in self.scale.networks.values()]
        branches = [each["epoch"] for each in starts if each.get("network") == name and "epoch" in each]
        trunk, epoch = (start["network"], start["epoch"]) if "epoch" in start else (name, min(branches, default=0))
        after = self._parents(name, seed)
        if epoch:
            arguments = {"name": trunk, "scale": self.scale.name, "seed": seed, "epoch": epoch}
            title, first = f"trunk {trunk} seed {seed} to epoch {epoch}", tuple(self._parents(trunk, seed))
            after.append(
                self._add(Task(title, "trunk", "lib.zoo:trunk", arguments, first, self._label(trunk), trunk, epoch))
            )
        arguments, own = {"name": name, "scale": self.scale.name, "seed": seed}, self.scale.recipe(name).epochs - epoch
        title = f"train {name} seed {seed}"
        return self._add(Task(title, "train", "lib.zoo:get", arguments, tuple(after), self._label(name), name, own))

    def _parents(self, name: str, seed: int) -> list[str]:
        """The training whose weights a network starts from, or whose network prepares its images."""
        recipe = self.scale.recipe(name)
        needed = recipe.start and ("epoch" not in recipe.start or recipe.prepare)
        return [self._train(recipe.start["network"], seed)] if needed and recipe.start else []

    def _label(self, name: str) -> str:
        recipe = self.scale.recipe(name)
        hooks = [hook["use"].rpartition(".")[2] for hook in recipe.hooks]
        return " ".join([recipe.arch, store.canonical_json(recipe.arch_args), recipe.data, *hooks])

    def _first(self, network: str) -> str:
        """The first network of a network's family."""
        return self.scale.families[self.scale.recipe(network).family][0]

    def _step(self, step: graph.StepNode) -> str:
        after = []
        for family in step.families:
            known = graph.seeds(self.scale, family)
            seed = step.seed if step.seed in known else known[0]
            after += [self._train(name, seed) for name in self.scale.families[family]]
        before = [(step.study, name, step.seed) for name in step.after]
        after += [self._step(self._steps[key]) for key in before if key in self._steps]
        after += [self._attack(name, step.seed, one) for name, several in step.attacks for one in several.split()]
        arguments, label = {"run": step.run, "scale": self.scale.name, "seed": step.seed}, f"{step.study}.{step.name}"
        title, function = f"step {label} seed {step.seed}", "lib.evaluations:carry_out"
        return self._add(Task(title, "step", function, arguments, tuple(after), label, parts=step.parts))

    def _attack(self, network: str, seed: int, attack: str) -> str:
        arguments = {"network": network, "scale": self.scale.name, "seed": seed, "name": attack}
        title, after = f"attack {network} seed {seed} {attack}", (self._train(network, seed),)
        return self._add(Task(title, "attack", "lib.attacks.sets:adversarials", arguments, after, attack))


# ---- what is there already


def call(name: str, arguments: Mapping[str, Any]) -> Any:
    """Call a function by module:function."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)(**arguments)


def is_kept(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a call finds all that it makes, and makes nothing."""
    try:
        with cache.only_kept():
            call(name, arguments)
    except cache.NotKept:
        return False
    return True


def survey(plan: Plan) -> set[str]:
    """The tasks that need not be carried out: whose results are there, or that only lead to some that are.

    Steps that can be made in parts and are not there are divided, into the parts that are left.

    Raises: ConfigError where it cannot be told which networks are there, as without their data.
    """
    there, weights = set[str](), set[str]()
    for name, task in plan.tasks.items():
        if task.kind == "train":
            try:
                there |= {name} if is_kept("lib.zoo:card", task.arguments) else set()
                weights |= {name} if call("lib.zoo:kept", task.arguments) else set()
            except Exception as error:  # as where data are missing
                raise ConfigError(f"it cannot be told whether {task.network} is there: {error}") from error
    last = {name for goal in plan.goals for name in goal.tasks}
    for name in [name for name in plan.tasks if name in last and plan.tasks[name].kind != "train"]:
        try:
            there |= {name} if is_kept(plan.tasks[name].call, plan.tasks[name].arguments) else set()
        except Exception as error:  # whatever a study raises, the task itself will tell
            say(f"not known whether it is done: {name}: {type(error).__name__}: {error}")
    for name in list(plan.closure(last - there, weights)):
        if plan.tasks[name].parts:
            plan.divide(name)
    # A network whose card is there counts as made, unless something that is left reads its weights.
    return set(plan.tasks) - plan.closure(last - there, weights)


def what_is_left(plan: Plan, done: Collection[str]) -> list[str]:
    """For each item or family, the seeds at which it is complete, and the tasks that others still need."""
    lines = []
    for wanted in dict.fromkeys(goal.wanted for goal in plan.goals):
        left = {goal.seed: plan.closure(goal.tasks, done) for goal in plan.goals if goal.wanted == wanted}
        whole = " ".join(str(seed) for seed, tasks in left.items() if not tasks)
        lines.append(f"{wanted}: complete at {f'seed {whole}' if whole else 'no seed yet'}")
        for seed, tasks in left.items():
            if tasks:
                lines.append(f"  seed {seed}: {len(tasks)} tasks are left, {estimate(plan, tasks)}, as {min(tasks)}")
    return lines


def estimate(plan: Plan, names: Collection[str]) -> str:
    """The time that tasks take one by one, in words, by the scale's `estimate:`."""
    known = [seconds for name in names if (seconds := plan.seconds(name)) is not None]
    unknown = f" and {len(names) - len(known)} tasks of unknown time" if len(known) < len(names) else ""
    return f"about {in_words(sum(known))}{unknown}" if known else "of unknown time"
