"""The archive of a time box: cards of networks, kept tables, small weights, each with the checksum it is kept with."""

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib import config, store
from lib.config import ConfigError, Scale

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS_MB = 3.0  # largest file of weights that is packed
PACKED_MB = 15.0  # weights are packed until the archive has this size
LARGEST_MB = 64.0  # largest file that is taken out of an archive
CARD = re.compile(r"networks/([A-Za-z0-9][\w.+-]*)-seed(\d+)\.json")
WEIGHTS = re.compile(r"networks/([A-Za-z0-9][\w.+-]*)-seed(\d+)\.safetensors")
TABLE = re.compile(r"evaluations/([a-z0-9][a-z0-9-]*)/([0-9a-f]{24})\.json")
_RESTS_ON = ("weights", "twin", "reference", "from")  # keys of a table's key whose hashes are those of weights


class ArchiveError(ConfigError):
    """An archive that cannot be used; the message names it and what is wrong."""


def read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read an archive that `Archive.write` wrote.

    Returns: its manifest, and its files' bytes by path.
    Raises: ArchiveError where it is damaged, of another format, or holds a file that no archive holds.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            names = packed.namelist()
            for entry in packed.infolist():
                if not any(kind.fullmatch(entry.filename) for kind in (CARD, WEIGHTS, TABLE, re.compile(MANIFEST))):
                    raise ArchiveError(f"{path}: {entry.filename!r} is no file that an archive of networks holds")
                if entry.file_size > LARGEST_MB * 1e6:
                    raise ArchiveError(f"{path}: {entry.filename} has {entry.file_size} bytes, more than any file here")
            files = {name: packed.read(name) for name in names}
        manifest = json.loads(files.pop(MANIFEST))
        made, *_ = (manifest[key] for key in ("format", "scale", "config"))
        if made != FORMAT:
            raise ArchiveError(f"{path}: format {made!r}; this version reads {FORMAT}")
    except ArchiveError:
        raise
    except FileNotFoundError:
        raise ArchiveError(f"{path}: no such file") from None
    except Exception as error:  # zipfile and zlib raise many kinds on a damaged file; each means the same here
        raise ArchiveError(f"{path}: damaged, or no archive of a time box ({type(error).__name__}: {error})") from error
    if len(files) + 1 < len(names):
        raise ArchiveError(f"{path}: it holds a file twice")
    return manifest, files


def pack(path: Path, about: Mapping[str, Any], files: Mapping[str, bytes]) -> Path:
    """Write files and a manifest as one archive, atomically; the same content gives the same bytes."""

    def fill(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in [*sorted(files.items()), (MANIFEST, json.dumps(about, indent=1).encode())]:
                packed.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)

    return store.write_atomic(path, fill)


def rests_on(key: Any, named: str = "") -> Iterator[str]:
    """The hashes of the weights that a table rests on, found in its key."""
    if isinstance(key, Mapping):
        for name, value in key.items():
            yield from rests_on(value, name)
    elif isinstance(key, list):
        for value in key:
            yield from rests_on(value, named)
    elif isinstance(key, str) and named in _RESTS_ON and key.startswith("sha256:"):
        yield key


def ships(scale: Scale, name: str, seed: int) -> bool:
    """Whether a network's weights lie with the results: those of the scale's `ship`, at its studies' first seed."""
    first = min((seed for study in scale.study.values() for seed in study.get("seeds", ())), default=0)
    return name in scale.ship and seed == first


def code_hash() -> str:
    """Fingerprint of the package's source, whatever git knows of it."""
    files = sorted((config.ROOT / "lib").rglob("*.py"))
    return store.fingerprint({path.relative_to(config.ROOT).as_posix(): store.file_sha256(path) for path in files})


class Archive:
    """One archive under way: cards, tables and small weights that are made after this.

    Raises: ArchiveError where its file is there already.
    """

    def __init__(self, path: Path, scale: Scale) -> None:
        if path.exists():
            raise ArchiveError(f"{path} is there already: merge it, then delete it; or name another file with --out")
        self.path, self.scale = path, scale
        self._before = {path: _stamp(path) for path in (*self._cards(), *self._tables())}
        self._about = {"format": FORMAT, "scale": scale.name, "config": scale.hash, "code": code_hash()}

    def write(self, account: Mapping[str, Any]) -> Path:
        """Write the archive with what is there now; the old one stays until the new one is whole.

        Args:
            account: what the manifest says beside the files, as `Box.write` has it.
        """
        written = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return pack(self.path, {**self._about, **account, "written": written}, self._collect())

    def _collect(self) -> dict[str, bytes]:
        """The files of the run by path in the archive; of a network trained twice the later one."""
        files, rest = dict[str, bytes](), set[str]()
        for path in self._tables():
            if self._before.get(path) != _stamp(path):
                content = path.read_bytes()
                files[f"evaluations/{path.parent.name}/{path.name}"] = content
                rest.update(rests_on(json.loads(content)["key"]))
        small: dict[str, bytes] = {}
        for path in sorted(self._cards(), key=_stamp):
            content, weights = path.read_bytes(), path.with_name("weights.safetensors")
            card = plain(content)
            if not {"name", "seed", "weights"} <= set(card):
                continue
            if self._before.get(path) != _stamp(path) or card["weights"] in rest:
                name = f"networks/{card['name']}-seed{card['seed']}"
                files[f"{name}.json"] = content
                for known in (files, small):
                    known.pop(f"{name}.safetensors", None)
                if weights.exists() and weights.stat().st_size <= WEIGHTS_MB * 1e6:
                    blob = weights.read_bytes()
                    if store.bytes_sha256(blob) == card["weights"]:  # not just being replaced
                        small[f"{name}.safetensors"] = blob
        room = PACKED_MB * 1e6 - sum(map(len, files.values()))
        for name in sorted(small, key=lambda name: (not self._ships(name), len(small[name]), name)):
            if len(small[name]) <= room:
                files[name] = small[name]
                room -= len(small[name])
        return files

    def _ships(self, name: str) -> bool:
        match = WEIGHTS.fullmatch(name)
        return match is not None and ships(self.scale, match[1], int(match[2]))

    def _cards(self) -> list[Path]:
        return list((config.cache_dir(self.scale.name) / "networks").glob("*/card.json"))

    def _tables(self) -> list[Path]:
        found = (config.results_dir(self.scale.name) / "evaluations").glob("*/*.json")
        return [path for path in found if not path.name.startswith(".")]


def plain(content: bytes) -> dict[str, Any]:
    """A JSON mapping; an empty one for anything else."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size
