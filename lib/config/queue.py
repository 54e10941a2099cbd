"""The pieces of work that wait for a machine, in order of their value: config/queue.yaml."""

from dataclasses import dataclass

from lib.config.places import config_dir
from lib.config.scale import SCALES
from lib.config.values import ConfigError, build, counts, freeze, mapping, read_yaml


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
            (self.scale in SCALES, "scale", f"one of {', '.join(SCALES)}"),
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
    source = config_dir() / "queue.yaml"
    if not source.exists():
        return {}
    try:
        return {name: build(Piece, freeze(mapping(entry, name)), name) for name, entry in read_yaml(source).items()}
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
