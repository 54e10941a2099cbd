"""What a time box is asked for: goals, an item or family at one seed, and the tasks each takes, network by network."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lib import config, store
from lib.config import ConfigError, Scale
from lib.engine import graph, stages


@dataclass(frozen=True)
class Task:
    """One call that a worker carries out.

    Attributes:
        name: as "train resnet18-t1 seed 0"; no other task has it.
        kind: trunk, train, evaluate, attack or step.
        call: module:function.
        arguments: of the function, by name.
        seed: of the networks.
        after: tasks that must be done before.
        label: tasks of one kind and label take like times.
        network: the network that it trains or evaluates; of others nothing.
        epochs: that it trains for; 0 for what trains no named network.
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
    made, read = Plan(scale), set()
    for wanted in _written_out(scale, only):
        known = _seeds(scale, wanted)
        read.update(known)
        for seed in seeds or known:
            last = tuple(_last_tasks(made, wanted, seed)) if seed in known else ()
            if last:
                made.goals.append(Goal(wanted, seed, last))
    unread = [str(seed) for seed in seeds if seed not in read]
    if unread:
        raise ConfigError(f"nothing reads seed {', '.join(unread)} at scale {scale.name!r}: it has {sorted(read)}")
    return made


def _written_out(scale: Scale, only: Sequence[str]) -> list[str]:
    """Items and families in order, each once; a notebook stands for its items."""
    items, notebooks = config.items(), graph.notebooks()
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


def _families(scale: Scale, wanted: str) -> list[str]:
    items = config.items()
    return graph.matching(scale, items[wanted].families, f"item {wanted}") if wanted in items else [wanted]


def _seeds(scale: Scale, wanted: str) -> list[int]:
    """Seeds at which an item or family is read."""
    found = {seed for family in _families(scale, wanted) for seed in graph.seeds(scale, family)}
    items = config.items()
    if wanted in items:
        found.update(scale.study.get(items[wanted].study, {}).get("seeds", ()))
    return sorted(found)


def _last_tasks(made: Plan, wanted: str, seed: int) -> list[str]:
    """The tasks at which an item or family ends, added with all that they wait for."""
    scale, items = made.scale, config.items()
    studies = [items[wanted].study] if wanted in items else graph.studies(scale, wanted)
    found = []
    for family in _families(scale, wanted):
        if seed not in graph.seeds(scale, family):
            continue
        for name in scale.families[family]:
            found.append(_train(made, name, seed))
            found += [_evaluate(made, study, name, seed) for study in studies if graph.evaluated(study)]
    if wanted in items:
        known = {(step.name, step.seed): step for step in stages.steps(scale, graph.select([wanted]))}
        own = [known[name, seed] for name in items[wanted].steps if (name, seed) in known]
        found += [_step(made, step, known) for step in own]
    return list(dict.fromkeys(found))


def _train(made: Plan, name: str, seed: int) -> str:
    recipe = made.scale.recipe(name)
    start, own = recipe.start or {}, branchings(made.scale, name)
    after = []
    if start and ("epoch" not in start or recipe.prepare):
        after.append(_train(made, start["network"], seed))
    if "epoch" in start:
        after.append(_trunk(made, start["network"], seed, start["epoch"]))
    elif own:
        after.append(_trunk(made, name, seed, own[0]))
    epochs = recipe.epochs - (start.get("epoch") or (own[0] if own else 0))
    arguments = {"name": name, "scale": made.scale.name, "seed": seed}
    title = f"train {name} seed {seed}"
    return made.add(
        Task(title, "train", "lib.zoo:get", arguments, seed, tuple(after), _label(made, name), name, epochs)
    )


def _trunk(made: Plan, name: str, seed: int, epoch: int) -> str:
    recipe = made.scale.recipe(name)
    start = recipe.start or {}
    after = (_train(made, start["network"], seed),) if start and ("epoch" not in start or recipe.prepare) else ()
    arguments = {"name": name, "scale": made.scale.name, "seed": seed, "epoch": epoch}
    title = f"trunk {name} seed {seed} to epoch {epoch}"
    return made.add(Task(title, "trunk", "lib.zoo:trunk", arguments, seed, after, _label(made, name), name, epoch))


def branchings(scale: Scale, name: str) -> list[int]:
    """The epochs at which other networks branch off a network's training, in order."""
    starts = [recipe.start for recipe in scale.networks.values() if recipe.start]
    return sorted({start["epoch"] for start in starts if start["network"] == name and "epoch" in start})


def _label(made: Plan, name: str) -> str:
    recipe = made.scale.recipe(name)
    hooks = [hook["use"].rpartition(".")[2] for hook in recipe.hooks]
    return " ".join([recipe.arch, store.canonical_json(recipe.arch_args), recipe.data, *hooks])


def _evaluate(made: Plan, study: str, name: str, seed: int) -> str:
    """What a study asks of one network; the first of its family is the one that others are compared with."""
    family = made.scale.recipe(name).family
    first = made.scale.families[family][0]
    after = tuple(dict.fromkeys((_train(made, name, seed), _train(made, first, seed))))
    arguments = {"scale": made.scale.name, "name": name, "seed": seed}
    call = f"lib.{study}.evaluation:evaluate_network"
    return made.add(
        Task(f"evaluate {study} {name} seed {seed}", "evaluate", call, arguments, seed, after, family, name)
    )


def _step(made: Plan, step: stages.StepNode, known: Mapping[tuple[str, int], stages.StepNode]) -> str:
    scale = made.scale
    after = []
    for family in step.families:
        seeds = graph.seeds(scale, family)
        seed = step.seed if step.seed in seeds else seeds[0]
        after += [_train(made, name, seed) for name in scale.families[family]]
    after += [_step(made, known[name, step.seed], known) for name in step.after]
    for network, attacks in step.attacks:
        after += [_attack(made, network, step.seed, attack) for attack in attacks.split()]
    arguments = {"scale": scale.name, "seed": step.seed}
    label = f"{step.study}.{step.name}"
    return made.add(Task(f"step {label} seed {step.seed}", "step", step.run, arguments, step.seed, tuple(after), label))


def _attack(made: Plan, network: str, seed: int, attack: str) -> str:
    arguments = {"network": network, "scale": made.scale.name, "seed": seed, "name": attack}
    after = (_train(made, network, seed),)
    title = f"attack {network} seed {seed} {attack}"
    return made.add(Task(title, "attack", "lib.attacks.sets:adversarials", arguments, seed, after, attack))
