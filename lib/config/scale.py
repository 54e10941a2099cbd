"""A scale: one of config/<scale>.yaml, checked; and what training costs by the rates that its `estimate:` gives."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lib import store
from lib.config.places import config_dir
from lib.config.recipe import Compute, Recipe, written_out
from lib.config.values import ConfigError, build, freeze, mapping, one_of, only_keys, read_yaml

SCALES = ("smoke", "cpu", "gpu", "paper")
"""From the smallest to the largest."""
SECTIONS = {
    "robustness": ("magnitude_pruning", "low_rank", "temperature", "spectra", "bounds", "autoattack"),
    "nnslicer": (
        "overhead",
        "anatomy",
        "detection",
        "pruning",
        "protection",
        "theta_sweep",
        "theta_detection",
        "large",
    ),
    "dynamic": ("pruning", "training", "sweep", "curve", "decisions", "detection", "scratch", "diversity", "gates"),
    "lancet": (
        "companions",
        "localisation",
        "backdoors",
        "trojannn",
        "widths",
        "defects",
        "tuning",
        "explanation",
        "adaptive",
        "evasions",
    ),
}
"""Study -> its experiments, each with a section of its own in the study's settings."""
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
            raise ConfigError(f"no network {name!r} at scale {self.name!r}: {one_of(name, self.networks)}")
        return self.networks[name]

    def branchings(self, name: str) -> list[int]:
        """The epochs at which other networks branch off a network's training, in order."""
        starts = [recipe.start for recipe in self.networks.values() if recipe.start is not None]
        return sorted({start["epoch"] for start in starts if start["network"] == name and "epoch" in start})


def load(scale: str = "smoke", path: str | os.PathLike | None = None) -> Scale:
    """A scale's settings.

    Args:
        scale: a name in `SCALES`.
        path: a YAML file to read in place of config/<scale>.yaml.
    Raises: ConfigError naming file and key.
    """
    if path is None and scale not in SCALES:
        raise ConfigError(f"no scale {scale!r}: {one_of(scale, SCALES)}")
    source = Path(path) if path else config_dir() / f"{scale}.yaml"
    files = (source, *(config_dir() / f"{other}.yaml" for other in SCALES))  # `like` reads another's
    return _load(scale, source, tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files))


def read_scale(source: Path) -> dict[str, Any]:
    """A scale's file, merged into that of the scale that it is `like`, which lies beside it or in the config folder.

    Mappings are merged key by key, lists and plain values replaced. `without` names networks of the other scale, or
    patterns as "lancet-imagenet-*", that this one leaves out.

    Raises: ConfigError naming the file, where the other scale does not exist or has no such network.
    """
    raw = read_yaml(source)
    like, without = raw.pop("like", None), raw.pop("without", None) or ()
    if like is None:
        if without:
            raise ConfigError(f"{source}: `without` leaves out networks of another scale: name it with `like`")
        return raw
    others = SCALES[SCALES.index(source.stem) + 1 :] if source.stem in SCALES else SCALES
    if like not in others:
        raise ConfigError(f"{source}: like: {like!r} is no larger scale: one of {', '.join(others)}")
    beside = source.with_name(f"{like}.yaml")
    whole = read_scale(beside if beside.exists() else config_dir() / beside.name)
    known = mapping(whole.get("networks"), "networks")
    for pattern in without:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ConfigError(f"{source}: without: {pattern!r} is no network of scale {like!r}")
    left = {name: entry for name, entry in known.items() if not any(fnmatchcase(name, p) for p in without)}
    return _merged({**whole, "networks": left}, raw)


def _merged(base: Any, own: Any) -> Any:
    if not isinstance(base, Mapping) or not isinstance(own, Mapping):
        return own
    return {**base, **{key: _merged(base[key], value) if key in base else value for key, value in own.items()}}


@lru_cache(maxsize=16)
def _load(scale: str, source: Path, _changed: tuple[int, ...]) -> Scale:
    raw = read_scale(source)
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


# ---- what training a network costs

TRAIN_IMAGES = {
    "mnist5k": 3500,
    "mnist": 60_000,
    "fashion-mnist": 60_000,
    "cifar10": 50_000,
    "gtsrb": 39_209,
    "orl-faces": 280,
    "imagenet-sample": 1000,
    "imagenet": 1_281_167,
}
"""Training images of each set; a scale's `estimate: {images: {...}}` overrides it."""


def network_seconds(scale: Scale, name: str) -> float | None:
    """Images x epochs / rate, times what its hooks cost.

    `estimate:` holds images_per_second, by network, family or architecture, and hook_cost, by the hook's last name.
    """
    recipe, known = scale.networks[name], scale.estimate
    rates = known.get("images_per_second", {})
    rate = rates.get(name) or rates.get(recipe.family) or rates.get(recipe.arch)
    images = recipe.train_limit or known.get("images", {}).get(recipe.data) or TRAIN_IMAGES.get(recipe.data)
    if not rate or not images:
        return None
    factor = 1.0
    for hook in recipe.hooks:
        factor *= known.get("hook_cost", {}).get(hook["use"].rpartition(".")[2], 1.0)
    return images * epochs(scale, name) * factor / rate


def epochs(scale: Scale, name: str) -> int:
    """Epochs that a network's own training takes: a branch leaves out those of its trunk."""
    recipe = scale.networks[name]
    return recipe.epochs - ((recipe.start or {}).get("epoch") or 0)


def in_words(seconds: float | None) -> str:
    """A duration as a reader says it: 40 s, 12 min, 3.4 h, 2.1 days; "unknown" for None."""
    if seconds is None:
        return "unknown"
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}" if unit < 3600 else f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86400:.1f} days"
