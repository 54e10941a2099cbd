"""What is made of the networks: items, the steps before them, the queue, claims, and what the sources state."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from lib.config.places import config_dir
from lib.config.scale import SCALES, Scale
from lib.config.values import ConfigError, build, counts, freeze, mapping, one_of, only_keys, read_yaml

CHANGED = "changed for this run: "  # begins what a record's `reduced` says of settings that are not the scale's


@dataclass(frozen=True)
class Item:
    """One table or figure: what it is, and which notebook makes it.

    Attributes:
        study: whose settings, seeds and steps it has; the first word of its name, where the file does not say.
        seeds: the study's setting that lists its seeds, as "defects.seeds" of an experiment's section; where a scale
            leaves it out, the study's `seeds`.
        finding: of an item without a claim, what its record shows: a sentence with places for its numbers, as
            "Found: {found; method=hard}."
    """

    item: str
    title: str
    paper: str
    source: str
    notebook: str
    claims: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    study: str = ""
    seeds: str = "seeds"
    finding: str = ""


@dataclass(frozen=True)
class Step:
    """What is computed between trained networks and a notebook; config/steps.yaml explains the keys.

    Attributes:
        seeds: how many of the study's seeds it is for; None: all.
        parts: into which calls of `run` it can be divided: "network", one for each network of the families; or
            module:function, called with scale and seed, for the calls' further arguments; empty: it is made as a whole.
    """

    run: str
    families: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    attacks: str = ""
    seeds: int | None = None
    parts: str = ""


@contextmanager
def _reading(name: str, required: bool = False) -> Iterator[dict[str, Any]]:
    """What a file of the config folder holds, empty where it is not there; errors inside name the file."""
    source = config_dir() / name
    raw = read_yaml(source) if required or source.exists() else {}
    try:
        yield raw
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def items() -> dict[str, Item]:
    """Every table and figure item, by name, from config/items.yaml."""
    source = config_dir() / "items.yaml"
    about = source.stat() if source.exists() else None
    return dict(_items(source, (about.st_mtime_ns, about.st_size) if about else None))


@lru_cache(maxsize=8)  # it is asked for once a claim, and more
def _items(_source: Path, _as_written: tuple[int, int] | None) -> dict[str, Item]:
    with _reading("items.yaml", required=True) as raw:
        return {
            name: build(Item, {"item": name, "study": name.split("_")[0], **freeze(mapping(entry, name))}, name)
            for name, entry in raw.items()
        }


def item_seeds(item: Item, scale: Scale) -> list[int]:
    """The seeds that a scale gives an item: its study's, or the first of them where all its steps are for those."""
    chosen = scale.study.get(item.study, {})
    section, _, key = item.seeds.rpartition(".")
    seeds = list((chosen.get(section, {}) if section else chosen).get(key) or chosen.get("seeds", (0,)))
    known = steps().get(item.study, {})
    counts = [known[name].seeds for name in item.steps if name in known]
    first = [count for count in counts if count is not None]
    return seeds[: max(first)] if first and len(first) == len(counts) else seeds


def foreign(record: Mapping[str, Any], item: Item, scale: Scale) -> str:
    """Why a record is not that of a run with the scale's seeds and settings; empty where it is.

    Raises: KeyError or TypeError for what is not a record.
    """
    changed = [phrase for phrase in record.get("reduced", ()) if phrase.startswith(CHANGED)]
    if changed:
        return "; ".join(changed)
    seeds = sorted({seed for number in record.get("numbers", ()) for seed in number["seeds"]})
    own = sorted(item_seeds(item, scale))
    return f"its numbers are of seeds {seeds}, scale {scale.name} gives it {own}" if seeds and seeds != own else ""


def steps() -> dict[str, dict[str, Step]]:
    """The steps of each study, by name, from config/steps.yaml; none where there is no such file."""
    with _reading("steps.yaml") as raw:
        return {
            study: {name: build(Step, freeze(mapping(entry, name)), f"{study}.{name}") for name, entry in known.items()}
            for study, known in raw.items()
        }


def notebooks() -> dict[str, tuple[str, ...]]:
    """Families shown by notebooks that make no item, from config/notebooks.yaml; none where there is no such file."""
    with _reading("notebooks.yaml") as raw:
        for name, entry in raw.items():
            only_keys(mapping(entry, name), {"families"}, name)
        return {name: tuple(mapping(entry, name).get("families", ())) for name, entry in raw.items()}


def claims() -> dict[str, Any]:
    """The papers' claims with their rules, from config/claims.yaml."""
    return read_yaml(config_dir() / "claims.yaml")


@dataclass(frozen=True)
class Piece:
    """One entry of the queue.

    Attributes:
        scale: whose networks it makes.
        only: items, notebooks or families, the most urgent first.
        minutes: that it is meant to take.
        settles: the question that its results answer, in words.
        seeds: of the networks; none: all that the scale's studies have.
    """

    scale: str
    only: tuple[str, ...]
    minutes: float
    settles: str
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        number = isinstance(self.minutes, (int, float)) and not isinstance(self.minutes, bool)
        names = isinstance(self.only, tuple) and all(isinstance(name, str) for name in self.only)
        seeds = isinstance(self.seeds, tuple) and all(seed == 0 or counts(seed) for seed in self.seeds)
        checks = [
            (self.scale in SCALES, "scale", one_of(self.scale, SCALES)),
            (names and self.only, "only", "a list of items, notebooks or families"),
            (number and self.minutes > 0, "minutes", "a number above 0"),
            (isinstance(self.settles, str) and self.settles.strip(), "settles", "a sentence"),
            (seeds, "seeds", "a list of whole numbers from 0"),
        ]
        for fits, key, wanted in checks:
            if not fits:
                raise ConfigError(f"{key} is {getattr(self, key)!r}: {wanted}")


def queue() -> dict[str, Piece]:
    """The pieces by name, the most valuable first, from config/queue.yaml; none where there is no such file.

    Raises: ConfigError naming the file and the entry that cannot be used.
    """
    with _reading("queue.yaml") as raw:
        return {name: build(Piece, freeze(mapping(entry, name)), name) for name, entry in raw.items()}


@dataclass(frozen=True)
class Sources:
    """Which settings the sources state; of all others config/paper.yaml has our reading.

    Attributes:
        networks: patterns of names -> the stated settings of their recipes; the first that fits counts.
        whole_training_set: patterns of the networks that are trained on all images of their set.
        studies: paper -> the stated settings of its experiments.
    """

    networks: tuple[tuple[tuple[str, ...], frozenset[str]], ...] = ()
    whole_training_set: tuple[str, ...] = ()
    studies: Mapping[str, frozenset[str]] | None = None

    def of_network(self, name: str) -> frozenset[str]:
        """The stated settings of a network's recipe."""
        return next((states for names, states in self.networks if _fits(name, names)), frozenset())

    def of_paper(self, paper: str) -> frozenset[str]:
        """The stated settings of a paper's experiments."""
        return (self.studies or {}).get(paper, frozenset())

    def on_all_images(self, name: str) -> bool:
        """Whether the source trains a network on all images of its set."""
        return _fits(name, self.whole_training_set)


def sources() -> Sources:
    """What config/sources.yaml says; nothing is stated where there is no such file.

    Raises: ConfigError naming the file and the entry that does not fit.
    """
    with _reading("sources.yaml") as raw:
        only_keys(raw, {"networks", "whole_training_set", "studies"}, "sources.yaml")
        networks = []
        for entry in raw.get("networks") or ():
            only_keys(mapping(entry, "networks"), {"names", "states"}, "networks")
            networks.append((_words(entry.get("names")), frozenset(_words(entry.get("states")))))
        studies = {paper: frozenset(_words(words)) for paper, words in mapping(raw.get("studies"), "studies").items()}
        return Sources(tuple(networks), _words(raw.get("whole_training_set") or []), studies)


def _words(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ConfigError(f"expected a list of words, found {value!r}")
    return tuple(value)


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
