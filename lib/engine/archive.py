"""The archive of a time box: cards of networks, kept tables, small weights, and a manifest that vouches for them."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib import config, store
from lib.config import ConfigError, Scale

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS_MB = 3.0  # largest file of weights that is packed
LARGEST_MB = 64.0  # largest file that is taken out of an archive
CARD = re.compile(r"networks/([A-Za-z0-9][\w.+-]*)-seed(\d+)\.json")
WEIGHTS = re.compile(r"networks/([A-Za-z0-9][\w.+-]*)-seed(\d+)\.safetensors")
TABLE = re.compile(r"evaluations/([a-z0-9][a-z0-9-]*)/([0-9a-f]{24})\.json")
_RESTS_ON = ("weights", "twin", "reference", "from")  # keys of a table's key whose hashes are those of weights


class ArchiveError(ConfigError):
    """An archive that cannot be used; the message names it and what is wrong."""


@dataclass(frozen=True)
class Contents:
    """An archive read and checked: its manifest, and its files' bytes by path."""

    manifest: Mapping[str, Any]
    files: Mapping[str, bytes]


def read(path: Path) -> Contents:
    """Read an archive that `Archive.write` wrote.

    Raises: ArchiveError where it is damaged, of another format, or holds a file that no archive holds.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            names = [entry.filename for entry in packed.infolist()]
            for entry in packed.infolist():
                if not any(kind.fullmatch(entry.filename) for kind in (CARD, WEIGHTS, TABLE, re.compile(MANIFEST))):
                    raise ArchiveError(f"{path}: {entry.filename!r} is no file that an archive of networks holds")
                if entry.file_size > LARGEST_MB * 1e6:
                    raise ArchiveError(f"{path}: {entry.filename} has {entry.file_size} bytes, more than any file here")
            if len(set(names)) < len(names):
                raise ArchiveError(f"{path}: it holds a file twice")
            files = {name: packed.read(name) for name in names}
        manifest = json.loads(files.pop(MANIFEST))
        told = {key: value for key, value in manifest.items() if key != "checksum"}
        if manifest["format"] != FORMAT:
            raise ArchiveError(f"{path}: format {manifest['format']!r}; this version reads {FORMAT}")
        if manifest["checksum"] != store.fingerprint(told):
            raise ArchiveError(f"{path}: the manifest does not match its checksum")
        listed = dict(manifest["files"])
    except ArchiveError:
        raise
    except FileNotFoundError:
        raise ArchiveError(f"{path}: no such file") from None
    except Exception as error:  # zipfile and zlib raise many kinds on a damaged file; each means the same here
        raise ArchiveError(f"{path}: damaged, or no archive of a time box ({type(error).__name__}: {error})") from error
    if set(listed) != set(files):
        raise ArchiveError(f"{path}: what it holds is not what its manifest lists: {sorted(set(listed) ^ set(files))}")
    for name, content in files.items():
        if store.bytes_sha256(content) != listed[name]:
            raise ArchiveError(f"{path}: {name} does not match its checksum")
    return Contents(manifest, files)


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


def first_seed(scale: Scale) -> int:
    """The seed of the weights that ship with the package: the first of the scale's studies."""
    return min((seed for study in scale.study.values() for seed in study.get("seeds", ())), default=0)


def code_hash() -> str:
    """Fingerprint of the package's source, whatever git knows of it."""
    files = sorted((config.ROOT / "lib").rglob("*.py"))
    return store.fingerprint({path.relative_to(config.ROOT).as_posix(): store.file_sha256(path) for path in files})


@dataclass
class Archive:
    """One archive under way.

    Attributes:
        path: its file.
        weights_mb: weights are packed until it has this size; 0: none.
        everything: whether what was there before the run is packed, too.
        commit: where git cannot tell, the code's commit as the user tells it, with "-dirty" where it was changed.
    """

    path: Path
    scale: Scale
    weights_mb: float = 15.0
    everything: bool = False
    commit: str = ""
    _before: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _carried: Contents | None = None
    _known: dict[Path, tuple[tuple[int, int], bytes]] = field(default_factory=dict)
    _about: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> None:
        """Note what is there before the run, and take over what an archive of an earlier run at this path holds.

        Raises: ArchiveError where another file is there.
        """
        if self.path.exists():
            self._carried = read(self.path)
            of = self._carried.manifest["scale"], self._carried.manifest["config"]
            if of != (self.scale.name, self.scale.hash):
                raise ArchiveError(f"{self.path}: it is of other settings ({of[0]}): name another file with --out")
        if not self.everything:
            self._before = {path: _stamp(path) for path in (*self._cards(), *self._tables())}
        from lib import record

        commit, dirty = record.git_state()
        if commit == "unknown" and self.commit:
            commit, dirty = self.commit.removesuffix("-dirty"), self.commit.endswith("-dirty")
        lock = config.ROOT / "requirements.txt"
        self._about = {
            "format": FORMAT,
            "scale": self.scale.name,
            "config": self.scale.hash,
            "commit": commit,
            "dirty": dirty,
            "code": code_hash(),
            "lock": store.file_sha256(lock) if lock.is_file() else "unknown",
            "python": sys.version.split()[0],
            "began": _now(),
        }

    def write(self, account: Mapping[str, Any]) -> Path:
        """Write the archive with what is there now; the old one stays until the new one is whole.

        Args:
            account: what the manifest says beside the files, as `TimeBox.account` has it.
        """
        files = self._collect()
        manifest = {**self._about, "written": _now(), **account}
        if self._carried:
            manifest |= _together(self._carried.manifest, account)
        manifest["files"] = {name: store.bytes_sha256(content) for name, content in files.items()}
        manifest["checksum"] = store.fingerprint(manifest)
        return pack(self.path, manifest, files)

    def _collect(self) -> dict[str, bytes]:
        """The files of the run by path in the archive; of a network trained twice the later one."""
        files = dict(self._carried.files) if self._carried else {}
        rest: set[str] = set()
        for path in self._tables():
            if self._is_new(path):
                content = self._bytes(path)
                files[f"evaluations/{path.parent.name}/{path.name}"] = content
                rest.update(rests_on(json.loads(content)["key"]))
        folders = {}
        for path in sorted(self._cards(), key=_stamp):
            about = self._card(path)
            if about is None:
                continue
            if self._is_new(path) or about["weights"] in rest:
                name = f"networks/{about['name']}-seed{about['seed']}"
                files[f"{name}.json"] = self._bytes(path)
                files.pop(f"{name}.safetensors", None)
                folders[name] = path.with_name("weights.safetensors")
        return self._with_weights(files, folders)

    def _card(self, path: Path) -> dict[str, Any] | None:
        """A card of the cache; None where it cannot be read: its network will be made anew, and told then."""
        try:
            about = json.loads(self._bytes(path))
            return about if {"name", "seed", "weights"} <= set(about) else None
        except (ValueError, TypeError):
            return None

    def _with_weights(self, files: dict[str, bytes], folders: Mapping[str, Path]) -> dict[str, bytes]:
        """Small weights on top, those that ship with the package first."""
        size = sum(map(len, files.values()))
        shipped = {f"networks/{name}-seed{first_seed(self.scale)}" for name in self.scale.ship}
        sizes = {name: path.stat().st_size for name, path in folders.items() if path.exists()}
        for name in sorted(sizes, key=lambda name: (name not in shipped, sizes[name], name)):
            if sizes[name] > WEIGHTS_MB * 1e6 or size + sizes[name] > self.weights_mb * 1e6:
                continue
            content = self._bytes(folders[name])
            if store.bytes_sha256(content) == json.loads(files[f"{name}.json"])["weights"]:  # not just being replaced
                files[f"{name}.safetensors"] = content
                size += sizes[name]
        return files

    def _cards(self) -> list[Path]:
        return list((config.cache_dir(self.scale.name) / "networks").glob("*/card.json"))

    def _tables(self) -> list[Path]:
        found = (config.results_dir(self.scale.name) / "evaluations").glob("*/*.json")
        return [path for path in found if not path.name.startswith(".")]

    def _is_new(self, path: Path) -> bool:
        return self._before.get(path) != _stamp(path)

    def _bytes(self, path: Path) -> bytes:
        stamp = _stamp(path)
        if path not in self._known or self._known[path][0] != stamp:
            self._known[path] = (stamp, path.read_bytes())
        return self._known[path][1]


def pack(path: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Path:
    """Write a manifest and files as one archive, atomically; the same content gives the same bytes."""

    def fill(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
            for name in sorted(files):
                packed.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED)
            text = json.dumps(manifest, indent=1).encode()
            packed.writestr(zipfile.ZipInfo(MANIFEST), text, zipfile.ZIP_DEFLATED)

    return store.write_atomic(path, fill)


def _together(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for and done in an earlier run and in this one."""
    finished = list(dict.fromkeys([*earlier["finished"], *now["finished"]]))
    unfinished = {**earlier["unfinished"], **now["unfinished"]}
    return {
        "asked": list(dict.fromkeys([*earlier["asked"], *now["asked"]])),
        "finished": finished,
        "unfinished": {name: tasks for name, tasks in unfinished.items() if name not in finished},
        "tasks": {**earlier["tasks"], **now["tasks"]},
    }


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
