"""What makes a trained network, and how a scale computes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lib.config.values import ConfigError, counts, only_keys, thaw


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
        if not counts(self.threads):
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
