"""Plain values read from YAML: checked, frozen, thawed, and the error that names what does not fit."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import fields
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any


class ConfigError(ValueError):
    """A configuration file or name that cannot be used; the message names the file, the key and what fits."""


def one_of(given: object, known: Iterable[str]) -> str:
    """The end of an error about a name that does not exist: those that do, and the one that was probably meant."""
    names = list(known)
    meant = get_close_matches(str(given), names, 1)
    return f"one of {', '.join(names)}" + "".join(f"; did you mean {name!r}?" for name in meant)


def read_yaml(source: Path) -> dict[str, Any]:
    """A YAML mapping. Raises: ConfigError naming the file where it is missing, not a mapping, or says a key twice."""
    try:
        return deepcopy(_parsed(source, source.read_text()))
    except FileNotFoundError:
        raise ConfigError(f"{source}: no such file") from None


@lru_cache(maxsize=64)
def _parsed(source: Path, text: str) -> dict[str, Any]:
    """What a file's text says; a text that was read before is not parsed again."""
    import yaml

    # The C parser, where PyYAML has it, is ten times as fast; both make plain values only.
    class Once(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            lines: dict[Any, int] = {}
            for key, _ in node.value:
                line, same = key.start_mark.line + 1, (key.tag, str(key.value))
                if same in lines:
                    raise ConfigError(
                        f"{source}: line {line}: key {key.value!r} stands in line {lines[same]} already; "
                        "keep one of the two"
                    )
                lines[same] = line
            return super().construct_mapping(node, deep)

    try:
        raw = yaml.load(text, Loader=Once)
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


def build(kind: type, values: Mapping[str, Any], where: str) -> Any:
    known = {f.name for f in fields(kind)}
    only_keys(values, known, where)
    try:
        return kind(**values)
    except (TypeError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from error


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """A mapping, or an empty one for nothing at all."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a mapping, found {value!r}")
    return value


def counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def only_keys(values: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; {one_of(key, sorted(known))}")
