"""What the sources state of their settings, and what is our reading: config/sources.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lib.config.places import config_dir
from lib.config.values import ConfigError, mapping, only_keys, read_yaml


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
    source = config_dir() / "sources.yaml"
    if not source.exists():
        return Sources()
    raw = read_yaml(source)
    try:
        only_keys(raw, {"networks", "whole_training_set", "studies"}, source.name)
        networks = []
        for entry in raw.get("networks") or ():
            only_keys(mapping(entry, "networks"), {"names", "states"}, "networks")
            networks.append((_words(entry.get("names")), frozenset(_words(entry.get("states")))))
        studies = {paper: frozenset(_words(words)) for paper, words in mapping(raw.get("studies"), "studies").items()}
        return Sources(tuple(networks), _words(raw.get("whole_training_set") or []), studies)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _words(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ConfigError(f"expected a list of words, found {value!r}")
    return tuple(value)


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
