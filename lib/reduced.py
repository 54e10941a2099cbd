"""How a scale's settings differ from the papers', in words: read off the two configurations, never typed.

What is smaller is told first, then what is merely different, marked by OTHER. Of a setting that the source states, a
phrase says "12 epochs instead of 160"; of one that it does not (config/sources.yaml), "12 epochs (not stated; our
reading: 160)".
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lib import config

OTHER = "different, not smaller: "
OTHERWISE = {"-long": "", "-strong": "-stated"}
"""In a network's name: as the one that is named so in its place, at other lengths of training or other settings."""

_RECIPE = {
    "data": "data set",
    "arch": "architecture",
    "epochs": "epochs",
    "train_limit": "training images",
    "batch": "images a step",
    "optimizer": "optimiser",
    "learning_rate": "learning rate",
    "schedule": "schedule",
    "warmup": "warm-up",
    "momentum": "momentum",
    "weight_decay": "weight decay",
    "label_smoothing": "label smoothing",
    "temperature": "temperature",
    "augment": "augmentation",
    "storage": "weights kept as",
}
_ARGUMENTS = {
    "hidden": "hidden units",
    "weight of Alternate": "lambda of LCS",
    "target of Alternate": "target rate of LCS",
    "weight of Slimming": "weight of slimming",
    "weight of NuclearNorm": "weight of the nuclear norm",
    "masks of insert": "masks a layer",
    "begin of GradualPruning": "first epoch of pruning",
    "end of GradualPruning": "last epoch of pruning",
    "every of GradualPruning": "steps from mask to mask",
}
_SIZES = ("epochs", "training images", "width", "hidden units")  # of a recipe: less of them is a reduction
_BEHIND = ("width", "hidden units")  # the number stands behind the word, as behind every setting that is no size
_ALONE = ("data set", "architecture")  # the value says it all


def phrases(
    scale: str,
    networks: Iterable[str],
    study: Mapping[str, Any],
    full: Mapping[str, Any],
    paper: str = "",
    defaults: Callable[[str], Mapping[str, Any]] | None = None,
) -> list[str]:
    """Each setting that differs from the source's, or from our reading of it.

    Args:
        scale: smoke, cpu, gpu or paper.
        networks: names of the networks that a figure rests on, and with them those that they started from; one that
            is trained for longer or at other settings is compared with the one that `OTHERWISE` names. What the paper
            scale does not have is left out.
        study: settings that the run used, as {"seeds": [0], "test images": 2000}; lists are compared by length.
        full: the same settings at the paper scale; a setting that is not there is not compared.
        paper: whose stated settings count for `study`, as config/items.yaml names it.
        defaults: architecture -> the arguments it has where a recipe gives none.
    Returns: one phrase a difference, networks first; where networks differ in theirs, what all share and then a phrase
        for each kind of network, "fc5 on mnist: 3 epochs instead of 20, width 16 instead of 64". What is not smaller
        comes last and begins with OTHER.
    """
    here, there, sources = config.load(scale), config.load("paper"), config.sources()
    by_network = {
        name: split(_of_network(like, here.recipe(name), there.recipe(like), sources, defaults))
        for name in _with_parents(here, networks)
        if (like := name if name in there.networks else _counterpart(name)) in there.networks
    }
    stated = sources.of_paper(paper)
    of_study = split([_difference(key, value, full[key], key in stated) for key, value in study.items() if key in full])
    found = []
    for part, mark in enumerate(("", OTHER)):
        shared = _together({name: tuple(both[part]) for name, both in by_network.items()}, here)
        found += [mark + phrase for phrase in dict.fromkeys([*shared, *of_study[part]])]
    return found


def _counterpart(name: str) -> str:
    for part, other in OTHERWISE.items():
        name = name.replace(part, other)
    return name


def split(found: Sequence[str]) -> tuple[list[str], list[str]]:
    """Phrases as those of what is smaller and those of what is different, these without their mark; empty ones go."""
    smaller = [phrase for phrase in found if phrase and not phrase.startswith(OTHER)]
    return smaller, [phrase.removeprefix(OTHER) for phrase in found if phrase.startswith(OTHER)]


def _of_network(
    name: str,
    recipe: config.Recipe,
    paper: config.Recipe,
    sources: config.Sources,
    defaults: Callable[[str], Mapping[str, Any]] | None,
) -> list[str]:
    """How a recipe differs from the paper scale's, of that name; a phrase a setting, empty where it does not."""
    states = sources.of_network(name)
    mine, theirs = _settings(recipe, defaults), _settings(paper, defaults)
    if sources.on_all_images(name):
        theirs["training images"] = None
    if theirs["training images"] is None and "data set" in states:  # who names a set trains on all of it
        states = states | {"training images"}
    skipped: set[str] = set()
    if recipe.data != paper.data:  # counts of other images do not compare
        skipped.add("training images")
    if recipe.arch != paper.arch:  # so do arguments that only one of two architectures takes
        skipped |= _arguments(recipe, defaults).keys() ^ _arguments(paper, defaults).keys()
    return [
        _difference(what, mine.get(what), theirs.get(what), what in states, what in _SIZES)
        for what in {**theirs, **mine}
        if what not in skipped
    ]


def _settings(recipe: config.Recipe, defaults: Callable[[str], Mapping[str, Any]] | None) -> dict[str, Any]:
    """A recipe's settings by the words that describe them."""
    found = {word: config.thaw(getattr(recipe, key)) for key, word in _RECIPE.items()}
    found |= _arguments(recipe, defaults)
    for plug in (*recipe.transforms, *recipe.hooks, *recipe.prepare):
        kind = plug["use"].rpartition(".")[2]
        for key, value in plug.items():
            named = f"{key} of {kind}"
            if key != "use":
                found[_ARGUMENTS.get(named, named.replace("_", " "))] = config.thaw(value)
    return found


def _arguments(recipe: config.Recipe, defaults: Callable[[str], Mapping[str, Any]] | None) -> dict[str, Any]:
    """Those of the architecture, in words."""
    given = {**(defaults(recipe.arch) if defaults else {}), **config.thaw(recipe.arch_args)}
    return {_ARGUMENTS.get(key, key.replace("_", " ")): value for key, value in given.items()}


def _together(by_network: Mapping[str, tuple[str, ...]], scale: config.Scale) -> list[str]:
    """What all networks share, then what each kind has: by architecture and data, by name where these agree."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, phrases in by_network.items():
        groups.setdefault(phrases, []).append(name)
    shared = [phrase for phrase in next(iter(groups), ()) if all(phrase in phrases for phrases in groups)]
    kinds = {key: list(dict.fromkeys(_kind(scale.recipe(name)) for name in names)) for key, names in groups.items()}
    found = list(shared)
    for phrases, names in groups.items():
        rest = [phrase for phrase in phrases if phrase not in shared]
        others = [kind for key, some in kinds.items() if key != phrases for kind in some]
        named = names if set(kinds[phrases]) & set(others) else kinds[phrases]
        if rest:
            listed = ", ".join(named) if len(named) <= 3 else f"{named[0]} and {len(named) - 1} more"
            found.append(f"{listed}: {', '.join(rest)}")
    return found


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


def _difference(what: str, own: Any, paper: Any, stated: bool, size: bool | None = None) -> str:
    """One setting as a phrase, marked by OTHER where it is not smaller; empty where it is the same.

    Args:
        what: its word.
        own, paper: the two values; lists of a study are compared by length.
        stated: whether the source states it.
        size: whether less is a reduction; None: where both are whole numbers.
    """
    if isinstance(own, (list, tuple)) and isinstance(paper, (list, tuple)) and size is None:
        own, paper = len(own), len(paper)
    if own == paper:
        return ""
    counts = all(isinstance(value, int) and not isinstance(value, bool) for value in (own, paper))
    below = (counts and own < paper) or ("images" in what and paper is None and own is not None)
    if isinstance(own, list) and isinstance(paper, list) and size:
        below = sum(own) < sum(paper)
    rather = f"instead of {_text(paper, what)}" if stated else f"(not stated; our reading: {_text(paper, what)})"
    if what in _ALONE:
        return f"{_text(own, what)} {rather}"
    mark = "" if below and size is not False else OTHER
    if size is False or what in _BEHIND or not (counts or "images" in what or what in _SIZES):
        return f"{mark}{what} {_text(own, what)} {rather}"
    return f"{mark}{_text(own, what)} {_one(what) if own == 1 else what} {rather}"


def _one(what: str) -> str:
    """The word for one of them: seeds of all classes -> seed of all classes."""
    head, tail = re.fullmatch(r"(.*?)((?: (?:of|in|a|an|for|under) .*)?)", what).groups()  # type: ignore[union-attr]
    return head.removesuffix("s") + tail


def _text(value: Any, what: str) -> str:
    if value is None:
        return "all" if "images" in what else "none"
    if isinstance(value, float):
        return f"{value:.10f}".rstrip("0").rstrip(".")
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
