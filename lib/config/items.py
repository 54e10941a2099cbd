"""What is made of the networks: tables and figures, the steps before them, the claims they bear on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.config.places import config_dir
from lib.config.scale import Scale
from lib.config.values import ConfigError, build, freeze, mapping, only_keys, read_yaml

CHANGED = "changed for this run: "  # begins what a record's `reduced` says of settings that are not the scale's


@dataclass(frozen=True)
class Item:
    """One table or figure: what it is, and which notebook makes it.

    Attributes:
        study: whose settings, seeds and steps it has; the first word of its name, where the file does not say.
        seeds: the study's setting that lists its seeds, as "defects.seeds" of an experiment's section; where a scale
            leaves it out, the study's `seeds`.
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


@dataclass(frozen=True)
class Step:
    """What is computed between trained networks and a notebook; config/steps.yaml explains the keys.

    Attributes:
        seeds: how many of the study's seeds it is for; None: all.
        parts: module:function, called with scale and seed, for the arguments of calls of `run` that can be made side by
            side before the whole; empty: there are none.
    """

    run: str
    families: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    attacks: str = ""
    seeds: int | None = None
    parts: str = ""


def items() -> dict[str, Item]:
    """Every table and figure item, by name, from config/items.yaml."""
    source = config_dir() / "items.yaml"
    found = {}
    for name, entry in read_yaml(source).items():
        try:
            found[name] = build(Item, {"item": name, "study": name.split("_")[0], **freeze(mapping(entry, name))}, name)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error
    return found


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
    source = config_dir() / "steps.yaml"
    if not source.exists():
        return {}
    try:
        return {
            study: {name: build(Step, freeze(mapping(entry, name)), f"{study}.{name}") for name, entry in known.items()}
            for study, known in read_yaml(source).items()
        }
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def notebooks() -> dict[str, tuple[str, ...]]:
    """Families shown by notebooks that make no item, from config/notebooks.yaml; none where there is no such file."""
    source = config_dir() / "notebooks.yaml"
    if not source.exists():
        return {}
    try:
        found = {name: mapping(entry, name) for name, entry in read_yaml(source).items()}
        for name, entry in found.items():
            only_keys(entry, {"families"}, name)
        return {name: tuple(entry.get("families", ())) for name, entry in found.items()}
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def claims() -> dict[str, Any]:
    """The papers' claims with their rules, from config/claims.yaml."""
    return read_yaml(config_dir() / "claims.yaml")
