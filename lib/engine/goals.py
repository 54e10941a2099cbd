"""What a time box is asked for: goals, an item or family at one seed, and the tasks each takes, network by network."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lib import config, store
from lib.config import ConfigError, Scale
from lib.engine import graph, stages


@dataclass(frozen=True)
class Task:
    """One call that a worker carries out.

    Attributes:
        name: as "train resnet18-t1 seed 0"; no other task has it.
        kind: trunk, train, evaluate, attack, part or step.
        call: module:function.
        arguments: of the function, by name.
        seed: of the networks.
        after: tasks that must be done before.
        label: tasks of one kind and label take like times.
        network: the network that it trains or evaluates; of others nothing.
        epochs: that it trains for; 0 for what trains no named network.
        parts: module:function that names the parts of a step, see config/steps.yaml; else nothing.
    """

    name: str
    kind: str
    call: str
    arguments: Mapping[str, Any]
    seed: int
    after: tuple[str, ...]
    label: str
    network: str = ""
    epochs: int = 0
    parts: str = ""


@dataclass(frozen=True)
class Goal:
    """An item or family at one seed: worth something once all of its tasks are done.

    Attributes:
        wanted: the item's or family's name.
        tasks: the last ones; what they wait for belongs to it as well.
    """

    wanted: str
    seed: int
    tasks: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.wanted} seed {self.seed}"


@dataclass
class Plan:
    """Tasks by name, each after those it waits for, and the goals in order of priority."""

    scale: Scale
    tasks: dict[str, Task] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)

    def closure(self, names: Iterable[str], done: Collection[str] = ()) -> set[str]:
        """Tasks and all that they wait for, but those that are done and what only these wait for."""
        found: set[str] = set()
        left = list(names)
        while left:
            name = left.pop()
            if name not in found and name not in done:
                found.add(name)
                left += self.tasks[name].after
        return found

    def divide(self, name: str, parts: Sequence[Mapping[str, Any]]) -> None:
        """Put a step's parts before it: tasks that wait for what it waits for, and that it waits for."""
        whole, made = self.tasks.pop(name), []
        for part in parts:
            title = f"part {' '.join(map(str, part.values()))} of {name}"
            made.append(replace(whole, name=title, kind="part", arguments={**whole.arguments, **part}, parts=""))
            self.add(made[-1])
        self.add(replace(whole, after=(*whole.after, *(task.name for task in made)), parts=""))

    def add(self, task: Task) -> str:
        self.tasks.setdefault(task.name, task)
        return task.name


def plan(scale: Scale, only: Sequence[str], seeds: Sequence[int] = ()) -> Plan:
    """The goals of items, notebooks and families, all seeds of the first before the second.

    Args:
        only: names, the most urgent first.
        seeds: the most urgent first; none: all that the scale has for each.
    Raises: ConfigError for a name that does not exist, or a seed that nothing reads at this scale.
    """
    items = config.items()
    named = _written_out(scale, only, items)
    maker = _Maker(scale, items, [name for name in named if name in items])
    read: set[int] = set()
    for wanted in named:
        known = maker.seeds_of(wanted)
        read.update(known)
        for seed in seeds or known:
            last = tuple(maker.last_tasks(wanted, seed)) if seed in known else ()
            if last:
                maker.made.goals.append(Goal(wanted, seed, last))
    unread = [str(seed) for seed in seeds if seed not in read]
    if unread:
        raise ConfigError(f"nothing reads seed {', '.join(unread)} at scale {scale.name!r}: it has {sorted(read)}")
    return maker.made


def _written_out(scale: Scale, only: Sequence[str], items: Mapping[str, config.Item]) -> list[str]:
    """Items and families in order, each once; a notebook stands for its items."""
    notebooks = graph.notebooks()
    found: dict[str, None] = {}
    for name in only:
        if name in items or name in scale.families:
            found[name] = None
        elif notebooks.get(name.removesuffix(".ipynb")):
            found.update(dict.fromkeys(notebooks[name.removesuffix(".ipynb")]))
        else:
            raise ConfigError(
                f"no item, notebook or family {name!r} at scale {scale.name!r}: items are {', '.join(items)}; "
                f"families {', '.join(scale.families)}"
            )
    return list(found)


def branchings(scale: Scale, name: str) -> list[int]:
    """The epochs at which other networks branch off a network's training, in order."""
    starts = [recipe.start for recipe in scale.networks.values() if recipe.start]
    return sorted({start["epoch"] for start in starts if start["network"] == name and "epoch" in start})


class _Maker:
    """Makes the tasks of a plan, each once."""

    def __init__(self, scale: Scale, items: Mapping[str, config.Item], wanted: Sequence[str]) -> None:
        self.scale, self.items, self.made = scale, items, Plan(scale)
        found = stages.steps(scale, graph.select(wanted)) if wanted else []
        self.steps = {(step.study, step.name, step.seed): step for step in found}
        self._seeds: dict[str, list[int]] = {}

    def families(self, wanted: str) -> list[str]:
        if wanted not in self.items:
            return [wanted]
        return graph.matching(self.scale, self.items[wanted].families, f"item {wanted}")

    def seeds(self, family: str) -> list[int]:
        """Seeds at which a family is read."""
        if family not in self._seeds:
            self._seeds[family] = graph.seeds(self.scale, family)
        return self._seeds[family]

    def seeds_of(self, wanted: str) -> list[int]:
        """Seeds at which an item or family is read."""
        found = {seed for family in self.families(wanted) for seed in self.seeds(family)}
        if wanted in self.items:
            found.update(self.scale.study.get(self.items[wanted].study, {}).get("seeds", ()))
        return sorted(found)

    def last_tasks(self, wanted: str, seed: int) -> list[str]:
        """The tasks at which an item or family ends, added with all that they wait for."""
        item = self.items.get(wanted)
        studies = [item.study] if item else graph.studies(self.scale, wanted)
        studies = [study for study in studies if graph.evaluated(study)]
        found = []
        for family in self.families(wanted):
            for name in self.scale.families[family] if seed in self.seeds(family) else ():
                found += [self.train(name, seed), *(self.evaluate(study, name, seed) for study in studies)]
        for name in item.steps if item else ():
            if item and (item.study, name, seed) in self.steps:
                found.append(self.step(self.steps[item.study, name, seed]))
        return list(dict.fromkeys(found))

    def train(self, name: str, seed: int) -> str:
        recipe = self.scale.recipe(name)
        start, own = recipe.start or {}, branchings(self.scale, name)
        after = self._parent(name, seed)
        if "epoch" in start:
            after.append(self.trunk(start["network"], seed, start["epoch"]))
        elif own:
            after.append(self.trunk(name, seed, own[0]))
        epochs = recipe.epochs - (start.get("epoch") or (own[0] if own else 0))
        title = f"train {name} seed {seed}"
        return self._training(title, "train", "lib.zoo:get", name, seed, after, epochs)

    def trunk(self, name: str, seed: int, epoch: int) -> str:
        title = f"trunk {name} seed {seed} to epoch {epoch}"
        return self._training(title, "trunk", "lib.zoo:trunk", name, seed, self._parent(name, seed), epoch)

    def _parent(self, name: str, seed: int) -> list[str]:
        """The training whose weights a network starts from, or whose network prepares its images."""
        recipe = self.scale.recipe(name)
        needed = recipe.start and ("epoch" not in recipe.start or recipe.prepare)
        return [self.train(recipe.start["network"], seed)] if needed and recipe.start else []

    def _training(
        self, title: str, kind: str, call: str, name: str, seed: int, after: Sequence[str], epochs: int
    ) -> str:
        arguments = {"name": name, "scale": self.scale.name, "seed": seed}
        if kind == "trunk":
            arguments["epoch"] = epochs
        recipe = self.scale.recipe(name)
        hooks = [hook["use"].rpartition(".")[2] for hook in recipe.hooks]
        label = " ".join([recipe.arch, store.canonical_json(recipe.arch_args), recipe.data, *hooks])
        return self.made.add(Task(title, kind, call, arguments, seed, tuple(after), label, name, epochs))

    def evaluate(self, study: str, name: str, seed: int) -> str:
        """What a study asks of one network; the first of its family is the one that others are compared with."""
        family = self.scale.recipe(name).family
        after = dict.fromkeys(self.train(other, seed) for other in (name, self.scale.families[family][0]))
        arguments = {"scale": self.scale.name, "name": name, "seed": seed}
        call, title = f"lib.experiments.{study}_evaluation:evaluate_network", f"evaluate {study} {name} seed {seed}"
        return self.made.add(Task(title, "evaluate", call, arguments, seed, tuple(after), family, name))

    def step(self, step: stages.StepNode) -> str:
        after = []
        for family in step.families:
            seed = step.seed if step.seed in self.seeds(family) else self.seeds(family)[0]
            after += [self.train(name, seed) for name in self.scale.families[family]]
        before = [(step.study, name, step.seed) for name in step.after]
        after += [self.step(self.steps[key]) for key in before if key in self.steps]
        after += [self.attack(name, step.seed, one) for name, several in step.attacks for one in several.split()]
        arguments, label = {"scale": self.scale.name, "seed": step.seed}, f"{step.study}.{step.name}"
        title = f"step {label} seed {step.seed}"
        task = Task(title, "step", step.run, arguments, step.seed, tuple(after), label, parts=step.parts)
        return self.made.add(task)

    def attack(self, network: str, seed: int, attack: str) -> str:
        arguments = {"network": network, "scale": self.scale.name, "seed": seed, "name": attack}
        title, after = f"attack {network} seed {seed} {attack}", (self.train(network, seed),)
        return self.made.add(Task(title, "attack", "lib.attacks.sets:adversarials", arguments, seed, after, attack))
