"""What a scale makes smaller than the papers' settings, in words: read off the two configurations, never typed."""

from collections.abc import Iterable, Mapping
from typing import Any

from lib import config

_WORDS = {
    "data": "data set",
    "arch": "architecture",
    "epochs": "epochs",
    "train_limit": "training images",
    "width": "width",
    "hidden": "hidden units",
}
_AFTER = ("width", "hidden units", "dropout", "last dropout")  # the number stands behind


def phrases(scale: str, networks: Iterable[str], study: Mapping[str, Any], full: Mapping[str, Any]) -> list[str]:
    """Each setting that is below the paper scale's, as "width 16 instead of 64".

    Args:
        scale: smoke, cpu or paper.
        networks: names of the networks that a figure rests on, and with them those that they started from; what the
            paper scale does not have is left out.
        study: settings that the run used, as {"seeds": [0], "test images": 2000}; lists are compared by length.
        full: the same settings at the paper scale.
    Returns: one phrase a difference, networks first; where networks differ in theirs, what all share and then a phrase
        for each kind of network, "fc5 on mnist: 3 epochs instead of 20, width 16 instead of 64". Empty at the paper
        scale.
    """
    here, there = config.load(scale), config.load("paper")
    each = {
        name: _of_network(here.recipe(name), there.recipe(name))
        for name in _with_parents(here, networks)
        if name in there.networks
    }
    found = [*_together({name: said for name, said in each.items() if said}, here)]
    for key, value in study.items():
        found += _compare(key, value, full.get(key))
    return list(dict.fromkeys(found))


def _of_network(own: config.Recipe, paper: config.Recipe) -> tuple[str, ...]:
    """What one network's recipe has less of."""
    found: list[str] = []
    for key in ("data", "arch", "epochs", "train_limit"):
        found += _compare(_WORDS[key], getattr(own, key), getattr(paper, key))
    for key in {**paper.arch_args, **own.arch_args}:
        found += _compare(_WORDS.get(key, key.replace("_", " ")), own.arch_args.get(key), paper.arch_args.get(key))
    return tuple(found)


def _together(each: Mapping[str, tuple[str, ...]], scale: config.Scale) -> list[str]:
    """What all networks have less of, then what each kind has: by architecture and data, by name where these agree."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, said in each.items():
        groups.setdefault(said, []).append(name)
    shared = [phrase for phrase in next(iter(groups), ()) if all(phrase in said for said in groups)]
    found = list(shared)
    kinds = {said: dict.fromkeys(_kind(scale.recipe(name)) for name in names) for said, names in groups.items()}
    for said, names in groups.items():
        rest = [phrase for phrase in said if phrase not in shared]
        own = all(kind not in other for kind in kinds[said] for key, other in kinds.items() if key != said)
        if rest:
            found.append(f"{_listed(list(kinds[said]) if own else names)}: {', '.join(rest)}")
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"


def _kind(recipe: config.Recipe) -> str:
    return f"{recipe.arch} on {recipe.data}"


def _with_parents(scale: config.Scale, networks: Iterable[str]) -> list[str]:
    """The networks, each after those that its training started from."""
    found: dict[str, None] = {}
    for name in networks:
        chain = [name]
        while (start := scale.recipe(chain[-1]).start) is not None:
            chain.append(start["network"])
        found |= dict.fromkeys(reversed(chain))
    return list(found)


def _compare(what: str, own: Any, paper: Any) -> list[str]:
    if own == paper:
        return []
    if what in ("data set", "architecture"):
        return [f"{own} instead of {paper}"]
    if isinstance(own, (list, tuple)) and isinstance(paper, (list, tuple)) and what != "hidden units":
        what = _one(what) if len(own) == 1 else what
        return [] if len(own) == len(paper) else [f"{len(own)} {what} instead of {len(paper)}"]
    missing = "all" if "images" in what else "the default"
    own, paper = (missing if value is None else _text(value) for value in (own, paper))
    if what in _AFTER:
        return [f"{what} {own} instead of {paper}"]
    return [f"{own} {_one(what) if own == '1' else what} instead of {paper}"]


def _one(what: str) -> str:
    """The word for one of them: seeds of all classes -> seed of all classes."""
    counted, of, rest = what.partition(" of ")
    return counted.removesuffix("s") + of + rest


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
