"""The archive of a time box: cards of networks, kept tables, small weights, each with the checksum it is kept with; and
how it is taken into results/<scale>: what fits the present recipes, replacing nothing unasked."""

import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from lib import cache, checksums, config, store
from lib.config import ConfigError, Scale
from lib.engine import jobs
from lib.engine.plan import Plan, call, survey, what_is_left

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


# ---- taking an archive into the results


class Refused(Exception):
    """A file that is not taken; the message says why."""


class Merge:
    """What becomes of each file of an archive.

    Args:
        replace: networks whose cards may be replaced by those of other weights, as names or patterns.

    Attributes:
        new: {path in the archive: the files that it is written to}.
        there: paths that are there already.
        refused: {path: why}.
        removed: files that go, as they belong to a card that is replaced.
    """

    def __init__(self, scale: Scale, files: dict[str, bytes], replace: Sequence[str] = ()) -> None:
        self.scale, self.files, self.replace = scale, files, replace
        self.results = config.results_dir(scale.name)
        self.new: dict[str, list[Path]] = {}
        self.there: list[str] = []
        self.refused: dict[str, str] = {}
        self.removed: list[Path] = []
        self._taken: dict[str, tuple[dict[str, Any], Path]] = {}  # cards, each with its network's folder in the cache

    def judge(self) -> None:
        """Look at every file: networks first, as tables rest on them.

        Raises: ConfigError where data are missing, without which a recipe has no address.
        """
        for kind, targets in ((CARD, self._card), (WEIGHTS, self._weights), (TABLE, self._table)):
            for name in sorted(filter(kind.fullmatch, self.files)):
                try:
                    found = targets(name)
                except Refused as why:
                    self.refused[name] = str(why)
                    continue
                if found:
                    self.new[name] = found
                else:
                    self.there.append(name)

    def _card(self, name: str) -> list[Path]:
        """Where a card is to be written; nowhere where it is there already. Raises: Refused."""
        card = plain(self.files[name])
        network, seed = str(card.get("name")), card.get("seed")
        if card.get("checksum") != store.fingerprint({key: card[key] for key in card if key != "checksum"}):
            raise Refused("its checksum does not match")
        if name != f"networks/{network}-seed{seed}.json" or not isinstance(seed, int):
            raise Refused(f"it is the card of {network}, seed {seed}")
        if network not in self.scale.networks or card.get("scale") != self.scale.name:
            raise Refused(f"scale {self.scale.name!r} has no network {network!r}")
        about = {"name": network, "scale": self.scale.name, "seed": seed}
        try:
            address, folder = call("lib.zoo:key", about), call("lib.zoo:folder", about)
        except Exception as error:  # as where its data are missing
            raise ConfigError(f"{name}: {error}") from error
        if card["key"] != address:
            raise Refused(
                f"network {network} was made from another recipe, other data or by another version of the code"
            )
        target, cached = self.results / name, folder / "card.json"
        others = [path for path in (target, cached) if _read(path).get("weights", card["weights"]) != card["weights"]]
        if others and not any(fnmatchcase(network, pattern) for pattern in self.replace):
            raise Refused(
                f"{others[0]} is of other weights: tables of these are kept. To take the archive's instead: "
                f"--replace {network}"
            )
        self.removed += [cached, folder / "weights.safetensors"] if cached in others else []
        self.removed += [target.with_suffix(".safetensors")] if target in others else []
        self._taken[name] = card, folder
        return [] if _read(target).get("key") == address and target not in others else [target]

    def _weights(self, name: str) -> list[Path]:
        """Weights go to the results where the scale ships them, else into the cache, with their card."""
        card_name = name.replace(".safetensors", ".json")
        if card_name not in self._taken:
            raise Refused("its card is not in the archive, or was refused")
        card, folder = self._taken[card_name]
        if store.bytes_sha256(self.files[name]) != card["weights"]:
            raise Refused("it does not match its card")
        shipped = ships(self.scale, card["name"], card["seed"])
        target = self.results / name if shipped else folder / "weights.safetensors"
        if target.exists() and target not in self.removed and store.file_sha256(target) == card["weights"]:
            return []
        if not shipped:
            self.new.setdefault(card_name, []).append(folder / "card.json")
        return [target]

    def _table(self, name: str) -> list[Path]:
        """Where a kept table is to be written; nowhere where it is there already. Raises: Refused."""
        body, target = plain(self.files[name]), self.results / name
        key, value = body.get("key"), body.get("value")
        if not isinstance(key, dict) or not isinstance(value, dict) or set(value) != {"columns", "rows"}:
            raise Refused("it is no kept table")
        if f"evaluations/{cache.name_of(name.split('/')[1], key)}" != name:
            raise Refused("its name does not follow from its key")
        try:
            cache.unpacked(self.files[name], key)
        except ValueError as error:
            raise Refused(str(error)) from error
        if set(rests_on(key)) - self._known and key.get("network", "") in ("", *self.scale.networks):
            raise Refused("it rests on weights whose card is neither here nor taken from the archive")
        try:
            cache.unpacked(target.read_bytes(), key)
        except (OSError, ValueError):
            return [target]
        return []

    @cached_property
    def _known(self) -> set[str]:
        """The weights whose cards are here or taken."""
        here = [*(self.results / "networks").glob("*.json")]
        here += (config.cache_dir(self.scale.name) / "networks").glob("*/card.json")
        gone = {path.with_suffix(".json") for path in self.removed} | set(self.removed)
        known = {_read(path).get("weights", "") for path in here if path not in gone}
        return known | {card["weights"] for card, _ in self._taken.values()}

    def write(self) -> None:
        """Write what is new: weights, their cards, tables; and enter the checksums."""
        for path in self.removed:
            path.unlink(missing_ok=True)
        for name in sorted(self.new, key=lambda name: (not WEIGHTS.fullmatch(name), name)):
            for target in self.new[name]:
                store.write_atomic(target, self.files[name])
        changed = [path for paths in self.new.values() for path in paths] + self.removed
        entered = [path.relative_to(self.results).as_posix() for path in changed if path.is_relative_to(self.results)]
        if entered:
            checksums.note(self.results, entered)


def merge(archive: Path, dry_run: bool = False, replace: Sequence[str] = ()) -> int:
    """Take an archive into the results of its scale, and say what became of it.

    Args:
        archive: its file.
        dry_run: only say it.
        replace: networks, or patterns of their names, whose cards may be replaced by those of other weights.
    Returns: 0, or 1 where a part was refused.
    Raises: ArchiveError for an archive that is damaged or of another format: nothing of it is taken.
    """
    about, files = read(archive)
    name = str(about["scale"])
    if name not in config.SCALES:
        raise ArchiveError(f"{archive}: no scale {name!r} here: {config.one_of(name, config.SCALES)}")
    scale = config.load(name)
    merging = Merge(scale, files, replace)
    with nullcontext() if dry_run else jobs.alone(name):
        merging.judge()
        if not dry_run:
            merging.write()
        machine = f"{about.get('device', 'unknown')}, torch {about.get('torch', 'unknown')}"
        print(f"{archive}: scale {name}, {machine}, written {about.get('written')}")
        if (about.get("code"), about["config"]) != (code_hash(), scale.hash):
            print("made by other code or with other settings than are here; what fits the present recipes is taken")
        print(f"{'would be new' if dry_run else 'new'}: {_counted(merging.new)}")
        print(f"there already: {_counted(merging.there)}")
        if merging.refused:
            print(f"refused: {_counted(merging.refused)}")
        print("".join(f"  {file}: {why}\n" for file, why in merging.refused.items()), end="")
        for wanted in {} if dry_run else dict.fromkeys(name.rpartition(" seed ")[0] for name in about.get("asked", ())):
            try:
                plan = Plan(scale, [wanted])
                print("\n".join(what_is_left(plan, survey(plan))))
            except ConfigError as error:  # an item or family that the scale has no longer
                print(f"{wanted}: {error}")
    return 1 if merging.refused else 0


def _counted(names: Iterable[str]) -> str:
    """12 cards, 3 weights, 48 tables."""
    kinds = {"cards": CARD, "weights": WEIGHTS, "tables": TABLE}
    counts = {kind: sum(1 for name in names if pattern.fullmatch(name)) for kind, pattern in kinds.items()}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing"


def _read(path: Path) -> dict[str, Any]:
    return plain(path.read_bytes()) if path.is_file() else {}
