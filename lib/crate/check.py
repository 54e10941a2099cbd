"""A crate read back: it is whole, its files are there and are those it tells of, its references lead somewhere."""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lib import store

NAME = "ro-crate-metadata.json"
VERSION = "1.1"
PROFILE = f"https://w3id.org/ro/crate/{VERSION}"
ROOT_KEYS = ("name", "description", "datePublished", "license", "hasPart")
APART = (NAME, "checksums.lock")


class CrateError(ValueError):
    """A crate that cannot be written, or does not hold what it tells of; the message names the file or entity."""


def check(folder: Path) -> int:
    """Read the crate of a folder back and check it.

    Args:
        folder: with ro-crate-metadata.json in it, as `config.results_dir(scale)`.
    Returns: how many files it describes, each of which is there with the size and SHA-256 told.
    Raises: CrateError naming the first thing that does not hold.
    """
    path = folder / NAME
    entities = _entities(path)
    _readable(folder)
    root = _root(entities, path)
    for name, entity in entities.items():
        for key, target in _references(entity):
            if target not in entities and (key, target) != ("conformsTo", PROFILE):
                raise CrateError(f"{path}: {name!r}: {key} names {target!r}, which the crate does not describe")
    listed = {target for key, target in _references(root) if key == "hasPart"}
    described = set()
    for name, entity in entities.items():
        if "File" in _list(entity["@type"]):
            described.add(_file(folder, name, entity))
            if name not in listed:
                raise CrateError(f"{path}: {name!r} is described, and no part of the crate: it is not in hasPart")
    left_out = set(files(folder)) - described
    if left_out:
        raise CrateError(
            f"{folder}: {min(left_out)} is not in the crate: write it anew, ./run_all.sh crate {folder.name}"
        )
    return len(described)


def files(folder: Path) -> list[str]:
    """Every file that belongs in a folder's crate, as paths with forward slashes; its own metadata, locks and temporary
    files left out.

    Raises: CrateError for a link that leads out of the folder.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or name in APART or path.suffix == ".lock" or not path.is_file():
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise CrateError(f"{path} is a link out of the folder: put the file itself there")
        found.append(name)
    return found


def _entities(path: Path) -> dict[str, dict[str, Any]]:
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))["@graph"]
        entities = {str(entity["@id"]): dict(entity) for entity in graph}
        untyped = [name for name, entity in entities.items() if not entity.get("@type")]
    except FileNotFoundError:
        raise CrateError(f"{path}: no such file: write it with ./run_all.sh crate {path.parent.name}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CrateError(f"{path}: not an RO-Crate: {error!r}") from error
    if len(entities) != len(graph):
        raise CrateError(f"{path}: two entities have the same @id")
    if untyped:
        raise CrateError(f"{path}: {untyped[0]!r} has no @type")
    return entities


def _readable(folder: Path) -> None:
    """The library that others read crates with reads this one."""
    from rocrate.rocrate import ROCrate

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ROCrate(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CrateError(f"{folder / NAME}: not an RO-Crate: {error}") from error


def _root(entities: Mapping[str, Mapping[str, Any]], path: Path) -> Mapping[str, Any]:
    told = entities.get(NAME, {})
    if told.get("conformsTo") != {"@id": PROFILE} or told.get("about") != {"@id": "./"} or "./" not in entities:
        raise CrateError(f"{path}: not an RO-Crate {VERSION}: {NAME!r} must conform to {PROFILE} and be about './'")
    root = entities["./"]
    for key in ROOT_KEYS:
        if not root.get(key):
            raise CrateError(f"{path}: './' has no {key}")
    return root


def _references(entity: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, @id) of every reference of an entity."""
    for key, value in entity.items():
        for part in _list(value):
            if isinstance(part, dict):
                yield key, str(part.get("@id", ""))


def _file(folder: Path, name: str, entity: Mapping[str, Any]) -> str:
    place = unquote(name)
    path = folder / place
    if place.startswith("/") or ".." in Path(place).parts or not path.resolve().is_relative_to(folder.resolve()):
        raise CrateError(f"{folder / NAME}: {name!r} lies outside the crate's folder")
    if not path.is_file():
        raise CrateError(f"{path}: in the crate, and not there: write the crate anew, or get the file back")
    size, digest = path.stat().st_size, store.file_sha256(path).removeprefix("sha256:")
    for key, found in (("contentSize", str(size)), ("sha256", digest)):
        if entity.get(key) != found:
            told = entity.get(key, "nothing")
            raise CrateError(f"{path}: its {key} is {found}, the crate says {told}: it has changed since")
    return place


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
