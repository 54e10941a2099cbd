"""The one cache: a value is read where it is kept, else made once, under a lock, and kept.

    cache.get("companions", {"weights": weights, "seed": 0}, make, folder=config.cache_dir(scale))

A kept value is one file, addressed by its key: all that the value depends on. A file that is damaged, or of another
key, is made anew, with a warning. How a value becomes a file is its `Codec`: `JSON` for plain values, `MADE` for plain
values with what is said of their making, `TENSORS` for tensors; other modules have codecs of their own.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock

from lib import store, tensors

Value = TypeVar("Value")
Key = Mapping[str, Any]
_only_kept = False


class NotKept(RuntimeError):
    """Something would have to be made inside `only_kept`; the message says what."""


@contextmanager
def only_kept(on: bool = True) -> Iterator[None]:
    """Within this block nothing is made: what is not kept raises NotKept. With `on` False, it is made after all."""
    global _only_kept
    before, _only_kept = _only_kept, on
    try:
        yield
    finally:
        _only_kept = before


def about_to_make(what: str) -> None:
    """Called before a value is made. Raises: NotKept inside `only_kept`."""
    if _only_kept:
        raise NotKept(f"{what} is not there")


@dataclass(frozen=True)
class Codec(Generic[Value]):
    """How a value is kept as a file.

    Attributes:
        suffix: of the file's name, with its dot.
        write: (path, key, value) -> any; writes the file whole or not at all.
        read: (path, key) -> the value; called where the file exists. Raises FileNotFoundError for a file that is to
            be passed over in silence, and OSError, ValueError, TypeError, KeyError or AttributeError for a damaged one.
    """

    suffix: str
    write: Callable[[Path, Key, Value], Any]
    read: Callable[[Path, Key], Value]


def get(
    kind: str,
    key: Key,
    make: Callable[[], Value],
    codec: Codec[Value] | None = None,
    *,
    folder: str | os.PathLike,
    name: str | None = None,
    also: Path | None = None,
    anew: bool = False,
) -> Value:
    """The value that `key` stands for: read where it is kept, else made once and kept.

    Args:
        kind: what the values are; a sub-folder.
        key: everything that the value depends on, plain.
        make: makes the value; called under a lock, so that two runs do not both make it.
        codec: how the value is kept; None: `JSON`.
        folder: the cache's folder, as `config.cache_dir(scale)`.
        name: the file's name below folder/kind, without its ending; None: from a hash of the key.
        also: another place where the value may lie, which is only read.
        anew: make the value whatever is kept.
    Returns: the value as the codec reads it back.
    Raises: NotKept inside `only_kept` where it is not kept; OSError where it cannot be written.
    """
    chosen = JSON if codec is None else codec
    path = Path(folder) / kind / f"{name or digest(key)}{chosen.suffix}"
    if not anew:
        for place in (path, also):
            found = None if place is None else _read(place, key, chosen)
            if found is not None:
                return found[0]
    about_to_make(f"{kind}/{name or digest(key)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        found = None if anew else _read(path, key, chosen, warn=False)
        if found is None:
            chosen.write(path, key, make())
            found = (chosen.read(path, key),)
    return found[0]


def digest(key: Key, length: int = 24) -> str:
    """The first hexadecimal digits of a key's hash."""
    return store.fingerprint(key).removeprefix("sha256:")[:length]


def name_of(kind: str, key: Key) -> str:
    """Where `get` keeps a plain value, from its folder on: "kind/<hash of key>.json"."""
    return f"{kind}/{digest(key)}.json"


def _read(path: Path, key: Key, codec: Codec[Value], warn: bool = True) -> tuple[Value] | None:
    """The value, in a tuple, as it may be None; None where there is none, or a damaged one."""
    if not path.exists():
        return None
    try:
        return (codec.read(path, key),)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if warn:
            warnings.warn(f"cache entry {path} is damaged: {error}; it is made anew", stacklevel=4)
        return None


def _write_made(path: Path, key: Key, value: tuple[Any, Mapping[str, Any]]) -> None:
    plain, about = json.loads(store.canonical_json(value))  # as it is read back, so that the checksum is the same
    body = {"key": key, "value": plain, "checksum": store.fingerprint(plain)}
    store.write_atomic(path, store.canonical_json(body | {"made": about, "about": store.fingerprint(about)}))


def unpacked(content: bytes, key: Key) -> tuple[Any, dict[str, Any]]:
    """A plain value, and what is said of its making, from the bytes of the file that it is kept in.

    Raises: ValueError in words where the file is damaged, or of another key.
    """
    try:
        body = json.loads(content)
        value, about = body["value"], body.get("made", {})
        same = body["checksum"] == store.fingerprint(value)
        same_key = store.fingerprint(body["key"]) == store.fingerprint(key)
        same_about = body.get("about", store.fingerprint(about)) == store.fingerprint(about)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it cannot be read ({error})") from error
    if not same:
        raise ValueError("its checksum does not match")
    if not same_key:
        raise ValueError("it is that of another key")
    if not same_about:
        raise ValueError("the checksum of where it was made does not match")
    return value, about


def _read_made(path: Path, key: Key) -> tuple[Any, dict[str, Any]]:
    return unpacked(path.read_bytes(), key)


def _write_tensors(path: Path, key: Key, value: Mapping[str, Any]) -> None:
    tensors.write(path, value, {"key": store.fingerprint(key)})


def _read_tensors(path: Path, key: Key) -> dict[str, Any]:
    held, about = tensors.read(path, before=())
    if about.get("key", store.fingerprint(key)) != store.fingerprint(key):
        raise ValueError("it is that of another key")
    return held


MADE: Codec[tuple[Any, Mapping[str, Any]]] = Codec(".json", _write_made, _read_made)
"""A plain value, and what is said of how it was made, as device and seconds; tuples come back as lists."""

JSON: Codec[Any] = Codec(
    ".json", lambda path, key, value: _write_made(path, key, (value, {})), lambda path, key: _read_made(path, key)[0]
)
"""A plain value."""

TENSORS: Codec[Mapping[str, Any]] = Codec(".safetensors", _write_tensors, _read_tensors)
"""Tensors by name, on the CPU."""
