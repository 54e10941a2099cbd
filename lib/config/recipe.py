"""What makes a trained network, how a scale computes, and a scale's networks written out from templates and grids."""

import copy
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lib.config.values import ConfigError, build, counts, freeze, mapping, only_keys, thaw


@dataclass(frozen=True)
class Compute:
    """Where and how a scale computes.

    Attributes:
        steps: whether each step of config/steps.yaml, and each set of adversarial images, has a job of its own ahead of
            the notebooks that show it; else a notebook makes what it shows, which saves starting as many processes
            where each is done in seconds.
    """

    device: str = "auto"
    threads: int = 1
    training_precision: str = "bfloat16"
    channels_last: bool = True
    steps: bool = True

    def __post_init__(self) -> None:
        if self.training_precision not in ("bfloat16", "float32"):
            raise ConfigError(f"compute.training_precision is {self.training_precision!r}: bfloat16 or float32")
        if not counts(self.threads):
            raise ConfigError(f"compute.threads is {self.threads!r}: a whole number from 1")
        if not isinstance(self.steps, bool):
            raise ConfigError(f"compute.steps is {self.steps!r}: true or false")


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
        prepare: {use: dotted path, **arguments}, in turn applied to the training images before the first step:
            function(images, start=parent network or None, seed=seed, **arguments) -> ImageSet.
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
    prepare: tuple[Mapping[str, Any], ...] = ()
    storage: str = "float32"
    precision: str = "bfloat16"
    channels_last: bool = True
    family: str = ""

    def __post_init__(self) -> None:
        checks = [
            (counts(self.epochs), "epochs", "a whole number from 1"),
            (counts(self.batch), "batch", "a whole number from 1"),
            (self.train_limit is None or counts(self.train_limit), "train_limit", "a whole number from 1"),
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
            only_keys(self.start, {"network", "epoch"}, "start")
        for plug in (*self.hooks, *self.transforms, *self.prepare):
            if not isinstance(plug, Mapping) or not str(plug.get("use", "")).startswith("lib."):
                raise ConfigError(f"{thaw(plug)}: `use` names a function or hook of this package (lib.…)")

    def plain(self) -> dict[str, Any]:
        """The recipe as plain values; what its network is addressed by. `family` only groups, so it is left out."""
        values = {f.name: thaw(getattr(self, f.name)) for f in fields(self)}
        del values["family"]
        if not self.prepare:  # so that addresses given before this key existed stay
            del values["prepare"]
        return values


def written_out(templates: Mapping[str, Any], entries: Mapping[str, Any], compute: Compute) -> dict[str, Recipe]:
    """Entries with `like` (an earlier entry or template) merged in and `grid` written out, one recipe a name."""
    defaults = {"precision": compute.training_precision, "channels_last": compute.channels_last}
    merged: dict[str, dict[str, Any]] = {}
    networks: dict[str, Recipe] = {}
    for pattern, entry in entries.items():
        entry = dict(mapping(entry, f"networks.{pattern}"))
        grid = _grid(entry.pop("grid", None), pattern)
        for values in itertools.product(*grid.values()):
            bound = dict(zip(grid, values, strict=True))
            name = _fill(pattern, {key: str(value) for key, value in bound.items()})
            if name in networks:
                raise ConfigError(f"networks: {name!r} is named twice")
            whole = _fill(_merge(entry, templates, merged, name), bound)
            whole.setdefault("family", name)
            merged[name] = whole
            networks[name] = build(Recipe, freeze({**defaults, **whole}), f"networks.{name}")
            _check_start(name, networks)
    return networks


def _grid(raw: Any, pattern: str) -> Mapping[str, Any]:
    """The values of each key of a grid, every one of which makes a name of its own."""
    grid = mapping(raw, f"networks.{pattern}.grid")
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
    entry = copy.deepcopy(dict(mapping(entry, f"recipes.{seen[-1]}" if seen else f"networks.{name}")))
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
