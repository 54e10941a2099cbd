"""Scale presets, recipes and places: the only module that reads config/*.yaml or the environment."""

import copy
import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lib import store

ROOT = Path(__file__).resolve().parent.parent
SCALES = ("smoke", "cpu", "paper")
_SECTIONS = ("compute", "estimate", "recipes", "networks", "study", "attacks")


class ConfigError(ValueError):
    """A configuration file or name that cannot be used; the message names the file, the key and what fits."""


def config_dir() -> Path:
    """Folder of the YAML files: NEURONS_CONFIG, else config/ of this checkout."""
    return Path(os.environ.get("NEURONS_CONFIG") or ROOT / "config")


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Folder of the image sets, in torchvision's layout: the argument, else DATA_ROOT, else data/."""
    return Path(root or os.environ.get("DATA_ROOT") or ROOT / "data")


def cache_dir(scale: str) -> Path:
    """Folder of a scale's rebuildable artefacts: NEURONS_CACHE, else cache/; then the scale's name."""
    return Path(os.environ.get("NEURONS_CACHE") or ROOT / "cache") / scale


def results_dir(scale: str) -> Path:
    """Folder of a scale's records, tables and figures: NEURONS_RESULTS, else results/; then the scale's name."""
    return Path(os.environ.get("NEURONS_RESULTS") or ROOT / "results") / scale


def quiet() -> bool:
    """Whether progress bars stay silent: NEURONS_QUIET, set by the engine."""
    return os.environ.get("NEURONS_QUIET", "") not in ("", "0")


@dataclass(frozen=True)
class Compute:
    """Where and how a scale computes."""

    device: str = "auto"
    threads: int = 1
    training_precision: str = "bfloat16"
    channels_last: bool = True

    def __post_init__(self) -> None:
        if self.training_precision not in ("bfloat16", "float32"):
            raise ConfigError(f"compute.training_precision is {self.training_precision!r}: bfloat16 or float32")
        if not _counts(self.threads):
            raise ConfigError(f"compute.threads is {self.threads!r}: a whole number from 1")


@dataclass(frozen=True)
class Recipe:
    """Everything that makes a trained network, except the seed.

    Attributes:
        arch, arch_args: a name in `lib.models.ARCHITECTURES` and its arguments.
        data: a set of `lib.data`; train_limit keeps a stratified part of it (None: all); fit_split is its split.
        epochs, batch: passes over the training images; images a step.
        optimizer: sgd or adamw; learning_rate is the schedule's peak.
        schedule: onecycle (linear up for `warmup` of the steps, linear down to 0), step (/10 at half and at
            three quarters), or constant.
        temperature: T of the training loss, cross-entropy of logits / T.
        augment: crop (zero padding of an eighth of the side), flip.
        start: {network, epoch?}: begin from that network's weights or, with `epoch`, branch off its training there.
        transforms, hooks: {use: dotted path, **arguments}, applied to the module, plugged into training.
        storage: float32, or float16: parameters are rounded to half precision when training ends.
        family: the networks that one node of the graph trains together.
    """

    arch: str
    data: str
    epochs: int
    batch: int
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "onecycle"
    warmup: float = 0.2
    label_smoothing: float = 0.0
    temperature: float = 1.0
    augment: tuple[str, ...] = ()
    train_limit: int | None = None
    fit_split: str = "train"
    start: Mapping[str, Any] | None = None
    transforms: tuple[Mapping[str, Any], ...] = ()
    hooks: tuple[Mapping[str, Any], ...] = ()
    storage: str = "float32"
    precision: str = "bfloat16"
    channels_last: bool = True
    family: str = ""

    def __post_init__(self) -> None:
        checks = [
            (_counts(self.epochs), "epochs", "a whole number from 1"),
            (_counts(self.batch), "batch", "a whole number from 1"),
            (self.train_limit is None or _counts(self.train_limit), "train_limit", "a whole number from 1"),
            (self.optimizer in ("sgd", "adamw"), "optimizer", "sgd or adamw"),
            (self.schedule in ("onecycle", "step", "constant"), "schedule", "onecycle, step or constant"),
            (self.temperature > 0, "temperature", "a number above 0"),
            (self.learning_rate > 0, "learning_rate", "a number above 0"),
            (0 <= self.warmup < 1, "warmup", "a share of the steps, from 0 to below 1"),
            (set(self.augment) <= {"crop", "flip"}, "augment", "any of crop, flip"),
            (self.fit_split in ("train", "fit"), "fit_split", "train or fit"),
            (self.storage in ("float32", "float16"), "storage", "float32 or float16"),
            (self.precision in ("bfloat16", "float32"), "precision", "bfloat16 or float32"),
        ]
        for fits, key, wanted in checks:
            if not fits:
                raise ConfigError(f"{key} is {getattr(self, key)!r}: {wanted}")
        if self.start is not None:
            _only_keys(self.start, {"network", "epoch"}, "start")
        for plug in (*self.hooks, *self.transforms):
            if not isinstance(plug, Mapping) or not str(plug.get("use", "")).startswith("lib."):
                raise ConfigError(f"{thaw(plug)}: `use` names a hook or transform of this package (lib.…)")

    def plain(self) -> dict[str, Any]:
        """The recipe as plain values; what its network is addressed by. `family` only groups, so it is left out."""
        values = {f.name: thaw(getattr(self, f.name)) for f in fields(self)}
        del values["family"]
        return values


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


@dataclass(frozen=True)
class Item:
    """One table or figure: what it is, and which notebook makes it."""

    item: str
    title: str
    paper: str
    source: str
    notebook: str
    claims: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """What is computed between trained networks and a notebook; config/steps.yaml explains the keys.

    Attributes:
        seeds: how many of the study's seeds it is for; None: all.
    """

    run: str
    families: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    attacks: str = ""
    seeds: int | None = None


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
        _only_keys(raw, {*_SECTIONS, "ship"}, source.name)
        parts = {key: _mapping(raw.get(key), key) for key in _SECTIONS}
        compute = _build(Compute, parts["compute"], "compute")
        networks = _networks(parts["recipes"], parts["networks"], compute)
        ship = tuple(raw.get("ship") or ())
        if not set(ship) <= set(networks):
            raise ConfigError(f"ship: {sorted(set(ship) - set(networks))} are not networks of this scale")
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


def items() -> dict[str, Item]:
    """Every table and figure item, by name, from config/items.yaml."""
    source = config_dir() / "items.yaml"
    found = {}
    for name, entry in read_yaml(source).items():
        try:
            found[name] = _build(Item, {"item": name, **freeze(_mapping(entry, name))}, name)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error
    return found


def steps() -> dict[str, dict[str, Step]]:
    """The steps of each study, by name, from config/steps.yaml; none where there is no such file."""
    source = config_dir() / "steps.yaml"
    if not source.exists():
        return {}
    try:
        return {
            study: {
                name: _build(Step, freeze(_mapping(entry, name)), f"{study}.{name}") for name, entry in known.items()
            }
            for study, known in read_yaml(source).items()
        }
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def claims() -> dict[str, Any]:
    """The papers' claims with their rules, from config/claims.yaml."""
    return read_yaml(config_dir() / "claims.yaml")


def read_yaml(source: Path) -> dict[str, Any]:
    """A YAML mapping. Raises: ConfigError naming the file where it is missing or not a mapping."""
    import yaml

    try:
        raw = yaml.safe_load(source.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{source}: no such file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{source}: expected a mapping at the top, found {type(raw).__name__}")
    return raw


def freeze(value: Any) -> Any:
    """Plain values made read-only: mappings and tuples all the way down."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: freeze(entry) for key, entry in value.items()})
    return tuple(freeze(entry) for entry in value) if isinstance(value, (list, tuple)) else value


def thaw(value: Any) -> Any:
    """The inverse of `freeze`: dicts and lists all the way down."""
    if isinstance(value, Mapping):
        return {key: thaw(entry) for key, entry in value.items()}
    return [thaw(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _networks(templates: Mapping[str, Any], entries: Mapping[str, Any], compute: Compute) -> dict[str, Recipe]:
    """Entries with `like` (an earlier entry or template) merged in and `grid` written out, one recipe a name."""
    defaults = {"precision": compute.training_precision, "channels_last": compute.channels_last}
    merged: dict[str, dict[str, Any]] = {}
    networks: dict[str, Recipe] = {}
    for pattern, entry in entries.items():
        entry = dict(_mapping(entry, f"networks.{pattern}"))
        grid = _grid(entry.pop("grid", None), pattern)
        for values in itertools.product(*grid.values()):
            bound = dict(zip(grid, values, strict=True))
            name = _fill(pattern, {key: str(value) for key, value in bound.items()})
            if name in networks:
                raise ConfigError(f"networks: {name!r} is named twice")
            whole = _fill(_merge(entry, templates, merged, name), bound)
            whole.setdefault("family", name)
            merged[name] = whole
            networks[name] = _build(Recipe, freeze({**defaults, **whole}), f"networks.{name}")
            _check_start(name, networks)
    return networks


def _grid(raw: Any, pattern: str) -> Mapping[str, Any]:
    """The values of each key of a grid, every one of which makes a name of its own."""
    grid = _mapping(raw, f"networks.{pattern}.grid")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"networks.{pattern}: grid.{key} is {values!r}: a list of values")
    wanted = set(re.findall(r"{(\w+)}", pattern))
    if wanted != set(grid):
        raise ConfigError(f"networks.{pattern}: its name has {sorted(wanted)} in braces, its grid has {sorted(grid)}")
    return grid


def _merge(
    entry: Any, templates: Mapping[str, Any], merged: Mapping[str, Any], name: str, seen: tuple[str, ...] = ()
) -> dict[str, Any]:
    entry = copy.deepcopy(dict(_mapping(entry, f"recipes.{seen[-1]}" if seen else f"networks.{name}")))
    parent = entry.pop("like", None)
    if parent is None:
        return entry
    if parent in seen:
        raise ConfigError(f"networks.{name}: like: {' -> '.join([*seen, parent])} goes round in a circle")
    if parent not in templates and parent not in merged:
        raise ConfigError(f"networks.{name}: like: {parent!r} is neither a recipe nor an earlier network")
    if parent in templates:
        base = _merge(templates[parent], templates, merged, name, (*seen, parent))
    else:
        base = copy.deepcopy(merged[parent])
    if "arch_args" in base and "arch_args" in entry:
        entry["arch_args"] = {**base["arch_args"], **entry["arch_args"]}
    return {**base, **entry}


def _fill(value: Any, bound: dict[str, Any]) -> Any:
    """`{key}` as a whole string becomes the grid's value itself, inside a longer string its text."""
    if isinstance(value, dict):
        return {key: _fill(entry, bound) for key, entry in value.items()}
    if isinstance(value, list):
        return [_fill(entry, bound) for entry in value]
    if isinstance(value, str):
        for key, chosen in bound.items():
            if value == f"{{{key}}}":
                return chosen
            value = value.replace(f"{{{key}}}", str(chosen))
    return value


def _check_start(name: str, networks: Mapping[str, Recipe]) -> None:
    recipe = networks[name]
    if recipe.start is None:
        return
    parent = networks.get(recipe.start.get("network", ""))
    if parent is None:
        raise ConfigError(f"networks.{name}: start: {recipe.start.get('network')!r} is not an earlier network")
    epoch = recipe.start.get("epoch")
    if epoch is None:
        return
    same = {**recipe.plain(), "hooks": parent.plain()["hooks"], "start": parent.plain()["start"]}
    if same != parent.plain() or parent.hooks or not 1 <= epoch < parent.epochs:
        raise ConfigError(
            f"networks.{name}: a branch at epoch {epoch} of {recipe.start['network']!r} shares all of its recipe "
            f"but the hooks, and leaves it between epochs 1 and {parent.epochs - 1}"
        )


def _build(kind: type, values: Mapping[str, Any], where: str) -> Any:
    known = {f.name for f in fields(kind)}
    _only_keys(values, known, where)
    try:
        return kind(**values)
    except (TypeError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    """A mapping, or an empty one for nothing at all."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a mapping, found {value!r}")
    return value


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _only_keys(values: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; one of {', '.join(sorted(known))}")
