"""What there is to do at a scale: notebooks, the families of networks they read, and their seeds."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from lib import config, store
from lib.config import ConfigError, Scale
from lib.config.estimates import epochs


@dataclass(frozen=True)
class Node:
    """The networks of one family and seed: trained by one job, evaluated by the next.

    Attributes:
        after: families that this one's networks start from.
        epochs: passes over the training images, all networks together, without what a branch shares with its trunk.
    """

    family: str
    seed: int
    networks: tuple[str, ...]
    after: tuple[str, ...]
    epochs: int


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
    wanted = [_notebook_of(name, known) for name in only]
    return [notebook for notebook in known if notebook in wanted or not only]


def _notebook_of(name: str, known: Mapping[str, Sequence[str]]) -> str:
    for notebook, made in known.items():
        if name in (notebook, f"{notebook}.ipynb", *made):
            return notebook
    every = [item for made in known.values() for item in made]
    raise ConfigError(f"no item {name!r}: one of {', '.join(every)}; or a notebook: {', '.join(known)}")


def stale(scale: Scale, chosen: Iterable[str]) -> dict[str, str]:
    """Notebooks with a record that is not of the scale's seeds and settings, or cannot be read: name -> the reason."""
    known, made = config.items(), notebooks()
    found: dict[str, str] = {}
    for notebook in chosen:
        for name in made[notebook]:
            path = config.results_dir(scale.name) / "numbers" / f"{name}.json"
            try:
                why = config.foreign(json.loads(path.read_bytes()), known[name], scale)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                why = f"it cannot be read ({error})"
            if why:
                found.setdefault(notebook, f"{name}: {why}")
    return found


def is_of(item: config.Item, notebook: str) -> bool:
    """Whether a notebook makes an item."""
    return Path(item.notebook).stem == notebook


def families(scale: Scale, notebook: str) -> list[str]:
    """Families whose networks a notebook reads, by its items or config/notebooks.yaml.

    Raises: ConfigError for one the scale does not have.
    """
    wanted = dict.fromkeys(config.notebooks().get(notebook, ()))
    for item in config.items().values():
        if is_of(item, notebook):
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


def studies(scale: Scale, family: str) -> list[str]:
    """Studies of the items that read a family."""
    names = {
        item.study for item in config.items().values() if any(fnmatchcase(family, pattern) for pattern in item.families)
    }
    return sorted(name for name in names if name in scale.study)


def evaluated(study: str) -> bool:
    """Whether a study has a module that evaluates its networks, family by family, before its notebooks show them."""
    return (config.ROOT / "lib" / "experiments" / f"{study}_evaluation.py").exists()


def seeds(scale: Scale, family: str) -> list[int]:
    """Seeds that the studies read a family at; [0] where none says."""
    found: set[int] = set()
    for study in studies(scale, family):
        found.update(scale.study[study].get("family_seeds", {}).get(family) or scale.study[study].get("seeds", (0,)))
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


def recipes_hash(scale: Scale, family: str) -> str:
    """Fingerprint of all that decides a family's networks but seed, data and code."""
    lines = ancestry(scale, [family])
    return store.fingerprint({name: scale.networks[name].plain() for line in lines for name in scale.families[line]})


def nodes(scale: Scale, chosen: Iterable[str] | None = None) -> list[Node]:
    """Every (family, seed) that the chosen notebooks need; that all need, for None."""
    wanted: dict[str, set[int]] = {}
    made = notebooks()
    for notebook in select() if chosen is None else chosen:
        for family in families(scale, notebook):
            read = seeds(scale, family) if made[notebook] else seeds(scale, family)[:1]
            for line in ancestry(scale, [family]):
                wanted.setdefault(line, set()).update(read)
    return [
        Node(
            family=family,
            seed=seed,
            networks=tuple(names),
            after=tuple(parents(scale, family)),
            epochs=sum(epochs(scale, name) for name in names),
        )
        for family, names in scale.families.items()
        for seed in sorted(wanted.get(family, ()))
    ]
