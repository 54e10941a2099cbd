"""What there is to do at a scale: notebooks, the families of networks they read, and the steps between."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from lib import config
from lib.config import ConfigError, Scale, network_seconds


@dataclass(frozen=True)
class Node:
    """The networks of one family and seed, trained by one job.

    Attributes:
        after: families that this one's networks start from.
    """

    family: str
    seed: int
    networks: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class StepNode:
    """A step of a study for one seed.

    Attributes:
        study, name: as in config/steps.yaml.
        seed: of the networks.
        run: what is carried out, as `lib.evaluations.carry_out` takes it.
        families: networks that must be trained before.
        after: steps of the same study and seed that must be done before.
        attacks: (network, names of attacks) whose adversarial sets must be made before.
        parts: "network", or module:function that names the parts it can be made in, or nothing.
    """

    study: str
    name: str
    seed: int
    run: str
    families: tuple[str, ...]
    after: tuple[str, ...]
    attacks: tuple[tuple[str, str], ...]
    parts: str = ""


# ---- notebooks and the items they make


def notebooks() -> dict[str, list[str]]:
    """Notebook name -> the items it makes. Those without, that show no networks either, come last."""
    made: dict[str, list[str]] = {}
    for name, item in config.items().items():
        made.setdefault(Path(item.notebook).stem, []).append(name)
    for path in sorted((config.ROOT / "notebooks").glob("*.ipynb")):
        made.setdefault(path.stem, [])
    shown = config.notebooks()
    return dict(sorted(made.items(), key=lambda entry: (not entry[1] and entry[0] not in shown, entry[0])))


def select(only: Sequence[str] = ()) -> list[str]:
    """The notebooks of items or of notebooks' names, in the order in which a run shows them; all of them for none.

    Raises: ConfigError listing what exists.
    """
    known = notebooks()
    home = {name: notebook for notebook, made in known.items() for name in (notebook, f"{notebook}.ipynb", *made)}
    for name in only:
        if name not in home:
            items = [item for made in known.values() for item in made]
            raise ConfigError(f"no item {name!r}: {config.one_of(name, [*items, *known])}")
    return [notebook for notebook in known if not only or notebook in {home[name] for name in only}]


def stale(scale: Scale, chosen: Iterable[str]) -> dict[str, str]:
    """Notebooks whose records must be made again: name -> the reason.

    A record must be there once its notebook has run, be readable, and be of the scale's seeds and settings.
    """
    known, made = config.items(), notebooks()
    found: dict[str, str] = {}
    for notebook in chosen:
        for name in made[notebook]:
            path = config.results_dir(scale.name) / "numbers" / f"{name}.json"
            try:
                why = config.foreign(json.loads(path.read_bytes()), known[name], scale)
            except FileNotFoundError:
                why = "its record is not there"
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                why = f"it cannot be read ({error})"
            if why:
                found.setdefault(notebook, f"{name}: {why}")
    return found


# ---- families of networks


def families(scale: Scale, notebook: str) -> list[str]:
    """Families whose networks a notebook reads, by its items or config/notebooks.yaml.

    Raises: ConfigError for one the scale does not have.
    """
    wanted = dict.fromkeys(config.notebooks().get(notebook, ()))
    for item in config.items().values():
        if Path(item.notebook).stem == notebook:
            wanted.update(dict.fromkeys(item.families))
    return matching(scale, wanted, f"notebook {notebook}")


def matching(scale: Scale, patterns: Iterable[str], reader: str) -> list[str]:
    """The scale's families that are named, or fit a pattern as "lancet-*".

    Args:
        reader: who names them, for the error.
    Raises: ConfigError for a name or pattern that fits none.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        fitting = [family for family in scale.families if fnmatchcase(family, pattern)]
        if not fitting:
            raise ConfigError(
                f"{reader} reads family {pattern!r}, which scale {scale.name!r} does not have: "
                f"one of {', '.join(scale.families)}"
            )
        found.update(dict.fromkeys(fitting))
    return list(found)


def seeds(scale: Scale, family: str) -> list[int]:
    """Seeds that the studies read a family at; [0] where none says."""
    found: set[int] = set()
    for item in config.items().values():
        if item.study in scale.study and any(fnmatchcase(family, name) for name in item.families):
            study = scale.study[item.study]
            found.update(study.get("family_seeds", {}).get(family) or study.get("seeds", (0,)))
    return sorted(found) or [0]


def parents(scale: Scale, family: str) -> list[str]:
    """Other families whose networks this one's start from."""
    started = [scale.networks[name].start for name in scale.families[family]]
    found = dict.fromkeys(scale.networks[start["network"]].family for start in started if start)
    return [parent for parent in found if parent != family]


def ancestry(scale: Scale, wanted: Iterable[str]) -> list[str]:
    """The families named and all that they start from, in the order of the configuration."""
    found: set[str] = set()
    queue = list(wanted)
    while queue:
        family = queue.pop()
        if family not in found:
            found.add(family)
            queue.extend(parents(scale, family))
    return [family for family in scale.families if family in found]


def nodes(scale: Scale, chosen: Iterable[str] | None = None) -> list[Node]:
    """Every (family, seed) that the chosen notebooks need; that all need, for None."""
    wanted: dict[str, set[int]] = {}
    made = notebooks()
    for notebook in made if chosen is None else chosen:
        for family in families(scale, notebook):
            read = seeds(scale, family) if made[notebook] else seeds(scale, family)[:1]
            for line in ancestry(scale, [family]):
                wanted.setdefault(line, set()).update(read)
    return [
        Node(family, seed, tuple(names), tuple(parents(scale, family)))
        for family, names in scale.families.items()
        for seed in sorted(wanted.get(family, ()))
    ]


def node_seconds(scale: Scale, node: Node) -> float | None:
    """Seconds to train a node's networks on one core (or one GPU); None where the scale gives no rate for one."""
    costs = [network_seconds(scale, name) for name in node.networks]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


# ---- steps and adversarial sets


def steps(scale: Scale, chosen: Collection[str] | None = None) -> list[StepNode]:
    """The steps that the chosen items need, in an order in which they can be done; all, for None.

    Raises: ConfigError for a step that config/steps.yaml does not have, or steps that wait for one another.
    """
    known, wanted = config.steps(), dict[tuple[str, str], None]()
    for item in config.items().values():
        for name in item.steps if chosen is None or item.item in chosen else ():
            _add(wanted, known.get(item.study, {}), item.study, name, ())
    suite = scale.attacks.get("suite", ())
    found = []
    for study, name in wanted:
        step = known[study][name]
        families = tuple(matching(scale, step.families, f"step {study}.{name}"))
        attacks = tuple((step.attacks, attack) for attack in suite if step.attacks)
        for seed in list(scale.study.get(study, {}).get("seeds", (0,)))[: step.seeds]:
            found.append(StepNode(study, name, seed, step.run, families, step.after, attacks, step.parts))
    return found


def attacks(nodes: Iterable[StepNode]) -> list[tuple[str, int, str]]:
    """(network, seed, names of attacks) of every node of adversarial sets that steps need, each once."""
    return list(dict.fromkeys((network, node.seed, attack) for node in nodes for network, attack in node.attacks))


def _add(
    wanted: dict[tuple[str, str], None], known: Mapping[str, config.Step], study: str, name: str, waiting: tuple
) -> None:
    """Enter a step, after those that it waits for."""
    if name not in known:
        raise ConfigError(f"study {study!r} has no step {name!r} in config/steps.yaml: one of {', '.join(known)}")
    if name in waiting:
        raise ConfigError(f"steps of {study!r} wait for one another: {' -> '.join([*waiting, name])}")
    for before in known[name].after:
        _add(wanted, known, study, before, (*waiting, name))
    wanted[(study, name)] = None
