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


def phrases(scale: str, networks: Iterable[str], study: Mapping[str, Any], full: Mapping[str, Any]) -> list[str]:
    """Each setting that is below the paper scale's, as "width 16 instead of 64".

    Args:
        scale: smoke, cpu or paper.
        networks: names of the networks that a figure rests on, and with them those that they started from; what the
            paper scale does not have is left out.
        study: settings that the run used, as {"seeds": [0], "test images": 2000}; lists are compared by length.
        full: the same settings at the paper scale.
    Returns: one phrase a difference, networks first; empty at the paper scale.
    """
    here, there = config.load(scale), config.load("paper")
    found: dict[str, None] = {}
    for name in _with_parents(here, networks):
        if name not in there.networks:
            continue
        own, paper = here.recipe(name), there.recipe(name)
        for key in ("data", "arch", "epochs", "train_limit"):
            found |= _compare(_WORDS[key], getattr(own, key), getattr(paper, key))
        for key in {**paper.arch_args, **own.arch_args}:
            found |= _compare(_WORDS.get(key, key), own.arch_args.get(key), paper.arch_args.get(key))
    for key, value in study.items():
        found |= _compare(key, value, full.get(key))
    return list(found)


def _with_parents(scale: config.Scale, networks: Iterable[str]) -> list[str]:
    """The networks, each after those that its training started from."""
    found: dict[str, None] = {}
    for name in networks:
        chain = [name]
        while (start := scale.recipe(chain[-1]).start) is not None:
            chain.append(start["network"])
        found |= dict.fromkeys(reversed(chain))
    return list(found)


def _compare(what: str, own: Any, paper: Any) -> dict[str, None]:
    if own == paper:
        return {}
    if what in ("data set", "architecture"):
        return {f"{own} instead of {paper}": None}
    if isinstance(own, (list, tuple)) and isinstance(paper, (list, tuple)) and what != "hidden units":
        what = what.removesuffix("s") if len(own) == 1 else what
        return {} if len(own) == len(paper) else {f"{len(own)} {what} instead of {len(paper)}": None}
    own, paper = (_text(value) for value in (own, paper))
    return {
        f"{what} {own} instead of {paper}"
        if what in ("width", "hidden units")
        else f"{own} {what} instead of {paper}": None
    }


def _text(value: Any) -> str:
    if value is None:
        return "the usual"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
