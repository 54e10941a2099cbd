"""What is computed between trained networks and notebooks: a node for each step and seed, and for each attack."""

from collections.abc import Iterable
from dataclasses import dataclass

from lib import config
from lib.config import ConfigError, Scale
from lib.engine import graph


@dataclass(frozen=True)
class StepNode:
    """A step of a study for one seed.

    Attributes:
        study, name: as in config/steps.yaml.
        seed: of the networks.
        run: module:function, called with scale and seed.
        families: networks that must be trained before.
        after: steps of the same study and seed that must be done before.
        attacks: (network, names of attacks) whose adversarial sets must be made before.
        parts: module:function that names the parts it can be made in, or nothing.
    """

    study: str
    name: str
    seed: int
    run: str
    families: tuple[str, ...]
    after: tuple[str, ...]
    attacks: tuple[tuple[str, str], ...]
    parts: str = ""


def steps(scale: Scale, chosen: Iterable[str] | None = None) -> list[StepNode]:
    """The steps that the chosen notebooks need, in an order in which they can be done; all, for None.

    Raises: ConfigError for a step that config/steps.yaml does not have, or steps that wait for one another.
    """
    wanted: dict[tuple[str, str], None] = {}
    for notebook in graph.select() if chosen is None else chosen:
        for item in config.items().values():
            if graph.is_of(item, notebook):
                for name in item.steps:
                    _add(wanted, item.study, name, ())
    known = config.steps()
    return [
        StepNode(
            study,
            name,
            seed,
            known[study][name].run,
            tuple(graph.matching(scale, known[study][name].families, f"step {study}.{name}")),
            known[study][name].after,
            tuple((known[study][name].attacks, attack) for attack in suite(scale) if known[study][name].attacks),
            known[study][name].parts,
        )
        for study, name in wanted
        for seed in _seeds(scale, study, known[study][name].seeds)
    ]


def suite(scale: Scale) -> tuple[str, ...]:
    """Names of the attacks that a scale carries out; those of one entry, with blanks between, in one node."""
    return tuple(scale.attacks.get("suite", ()))


def attacks(nodes: Iterable[StepNode]) -> list[tuple[str, int, str]]:
    """(network, seed, names of attacks) of every node of adversarial sets that steps need, each once."""
    found = {(network, node.seed, attack): None for node in nodes for network, attack in node.attacks}
    return list(found)


def _seeds(scale: Scale, study: str, count: int | None) -> list[int]:
    seeds = list(scale.study.get(study, {}).get("seeds", (0,)))
    return seeds if count is None else seeds[:count]


def _add(wanted: dict[tuple[str, str], None], study: str, name: str, waiting: tuple[str, ...]) -> None:
    known = config.steps().get(study, {})
    if name not in known:
        raise ConfigError(f"study {study!r} has no step {name!r} in config/steps.yaml: one of {', '.join(known)}")
    if name in waiting:
        raise ConfigError(f"steps of {study!r} wait for one another: {' -> '.join([*waiting, name])}")
    for before in known[name].after:
        _add(wanted, study, before, (*waiting, name))
    wanted[(study, name)] = None
