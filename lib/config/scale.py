"""A scale: one of config/<scale>.yaml, checked."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lib import store
from lib.config.networks import written_out
from lib.config.places import config_dir
from lib.config.recipe import Compute, Recipe
from lib.config.values import ConfigError, build, freeze, mapping, only_keys, read_yaml

SCALES = ("smoke", "cpu", "paper")
_SECTIONS = ("compute", "estimate", "recipes", "networks", "study", "attacks")


@dataclass(frozen=True)
class Scale:
    """One of config/<scale>.yaml, checked."""

    name: str
    compute: Compute
    networks: Mapping[str, Recipe]
    ship: tuple[str, ...]
    study: Mapping[str, Any]
    attacks: Mapping[str, Any]
    estimate: Mapping[str, Any]
    hash: str

    @property
    def families(self) -> dict[str, list[str]]:
        """Family name -> its networks, parents before those that start from them."""
        grouped: dict[str, list[str]] = {}
        for name, recipe in self.networks.items():
            grouped.setdefault(recipe.family, []).append(name)
        return grouped

    def recipe(self, name: str) -> Recipe:
        """The recipe of a named network. Raises: ConfigError listing the names that exist."""
        if name not in self.networks:
            raise ConfigError(f"no network {name!r} at scale {self.name!r}: one of {', '.join(self.networks)}")
        return self.networks[name]


def load(scale: str = "smoke", path: str | os.PathLike | None = None) -> Scale:
    """A scale's settings.

    Args:
        scale: smoke, cpu or paper.
        path: a YAML file to read in place of config/<scale>.yaml.
    Raises: ConfigError naming file and key.
    """
    if path is None and scale not in SCALES:
        raise ConfigError(f"no scale {scale!r}: one of {', '.join(SCALES)}")
    source = Path(path) if path else config_dir() / f"{scale}.yaml"
    return _load(scale, source, source.stat().st_mtime_ns if source.exists() else 0)


@lru_cache(maxsize=16)
def _load(scale: str, source: Path, _changed: int) -> Scale:
    raw = read_yaml(source)
    try:
        only_keys(raw, {*_SECTIONS, "ship"}, source.name)
        parts = {key: mapping(raw.get(key), key) for key in _SECTIONS}
        compute = build(Compute, parts["compute"], "compute")
        networks = written_out(parts["recipes"], parts["networks"], compute)
        asked = list(raw.get("ship") or ())
        unknown = sorted(pattern for pattern in asked if not any(fnmatchcase(name, pattern) for name in networks))
        if unknown:
            raise ConfigError(f"ship: {unknown} are not networks of this scale")
        ship = tuple(name for name in networks if any(fnmatchcase(name, pattern) for pattern in asked))
        digest = store.fingerprint(raw)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{source}: {error}") from error
    return Scale(
        name=scale,
        compute=compute,
        networks=MappingProxyType(networks),
        ship=ship,
        study=freeze(parts["study"]),
        attacks=freeze(parts["attacks"]),
        estimate=freeze(parts["estimate"]),
        hash=digest,
    )
