"""Takes the archive of a time box into results/<scale>: what fits the present recipes, and replaces nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lib import checksums, config, store
from lib.config import Scale
from lib.engine import archive, goals
from lib.engine.alone import Alone
from lib.engine.archive import CARD, TABLE, WEIGHTS, ArchiveError, Contents, rests_on
from lib.engine.pool import Pool
from lib.engine.survey import survey


@dataclass
class Merge:
    """What becomes of each file of an archive.

    Attributes:
        replace: networks whose cards may be replaced, as names or patterns.
        new: {path in the archive: the files that it is written to}.
        there: paths that are there already.
        refused: {path: why}.
        outdated: hashes of weights whose cards are replaced.
        removed: files of the cache that would stand before a card that is replaced.
    """

    scale: Scale
    contents: Contents
    replace: Sequence[str] = ()
    new: dict[str, list[Path]] = field(default_factory=dict)
    there: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    outdated: dict[str, str] = field(default_factory=dict)
    removed: list[Path] = field(default_factory=list)

    @property
    def results(self) -> Path:
        return config.results_dir(self.scale.name)

    def judge(self, pool: Pool) -> None:
        """Look at every file: networks first, as tables rest on them."""
        cards = self._read_cards()
        asked = [
            (call, {"name": about["name"], "scale": self.scale.name, "seed": about["seed"]})
            for about in cards.values()
            for call in ("lib.zoo:key", "lib.zoo:folder")
        ]
        answers = pool.ask(asked)
        accepted: dict[str, tuple[dict[str, Any], Path]] = {}
        for (name, about), key, folder in zip(cards.items(), answers[::2], answers[1::2], strict=True):
            if key["event"] != "done":
                raise config.ConfigError(f"{name}: {key['error']}")
            reason = self._card(name, about, key["value"], Path(folder["value"]))
            if reason:
                self.refused[name] = reason
            else:
                accepted[name] = about, Path(folder["value"])
        for name in sorted(self.contents.files):
            if WEIGHTS.fullmatch(name):
                self._weights(name, accepted.get(name.replace(".safetensors", ".json")))
        known = {about["weights"] for about in self._present()} - set(self.outdated)
        known |= {about["weights"] for about, _ in accepted.values()}
        for name in sorted(self.contents.files):
            if TABLE.fullmatch(name):
                self._table(name, known)

    def _read_cards(self) -> dict[str, dict[str, Any]]:
        """The cards that are whole and name a network of this scale; the others are refused."""
        found = {}
        for name, content in sorted(self.contents.files.items()):
            match = CARD.fullmatch(name)
            if match is None:
                continue
            about = _plain(content)
            told = {key: value for key, value in about.items() if key != "checksum"}
            if about.get("checksum") != store.fingerprint(told):
                self.refused[name] = "its checksum does not match"
            elif (about.get("name"), about.get("seed")) != (match[1], int(match[2])):
                self.refused[name] = f"it is the card of {about.get('name')}, seed {about.get('seed')}"
            elif match[1] not in self.scale.networks or about.get("scale") != self.scale.name:
                self.refused[name] = f"scale {self.scale.name!r} has no network {match[1]!r}"
            else:
                found[name] = about
        return found

    def _card(self, name: str, about: Mapping[str, Any], key: str, folder: Path) -> str:
        """Why a card is refused; empty where it is not."""
        if about["key"] != key:
            return f"network {about['name']} was made from another recipe, other data or by another version of the code"
        target, cached = self.results / name, folder / "card.json"
        here, own = _card_at(target), _card_at(cached)
        other = [card for card in (here, own) if card and card.get("weights") != about["weights"]]
        if other and not any(fnmatchcase(about["name"], pattern) for pattern in self.replace):
            place = target if here in other else cached
            return (
                f"{place} is of other weights: tables of these are kept. To take the archive's instead: "
                f"--replace {about['name']}"
            )
        self.outdated.update({str(card["weights"]): str(about["name"]) for card in other})
        if own in other and own is not None:
            self.removed += [cached, folder / "weights.safetensors"]
        if here and here in other:
            self.removed.append(target.with_suffix(".safetensors"))
        if here and here not in other and here.get("key") == key:
            self.there.append(name)
        else:
            self.new[name] = [target]
        return ""

    def _weights(self, name: str, held: tuple[dict[str, Any], Path] | None) -> None:
        """Weights go to the results where the scale ships them, else into the cache, with their card."""
        if held is None:
            self.refused[name] = "its card is not in the archive, or was refused"
            return
        about, folder = held
        content = self.contents.files[name]
        if store.bytes_sha256(content) != about["weights"]:
            self.refused[name] = "it does not match its card"
            return
        ships = about["name"] in self.scale.ship and about["seed"] == archive.first_seed(self.scale)
        ships = ships and len(content) <= archive.WEIGHTS_MB * 1e6
        target = self.results / name if ships else folder / "weights.safetensors"
        if target.exists() and target not in self.removed and store.file_sha256(target) == about["weights"]:
            self.there.append(name)
            return
        self.new[name] = [target]
        if not ships:
            card = name.replace(".safetensors", ".json")
            self.new[card] = [*self.new.get(card, []), folder / "card.json"]

    def _table(self, name: str, known: Collection[str]) -> None:
        match = TABLE.fullmatch(name)
        body, why = _plain(self.contents.files[name]), ""
        key, value = body.get("key"), body.get("value")
        made = body.get("made", {})
        if not isinstance(key, dict) or not isinstance(value, dict) or set(value) != {"columns", "rows"}:
            why = "it is no kept table"
        elif match is None or store.fingerprint(key).removeprefix("sha256:")[:24] != match[2]:
            why = "its name does not follow from its key"
        elif body.get("checksum") != store.fingerprint(value):
            why = "its checksum does not match"
        elif body.get("about", store.fingerprint(made)) != store.fingerprint(made):
            why = "the checksum of where it was made does not match"
        elif set(rests_on(key)) - set(known) and key.get("network", "") in ("", *self.scale.networks):
            why = "it rests on weights whose card is neither here nor taken from the archive"
        if why:
            self.refused[name] = why
        elif key and _table_at(self.results / name, key):
            self.there.append(name)
        else:
            self.new[name] = [self.results / name]

    def _present(self) -> list[dict[str, Any]]:
        """The cards that are here, with the results or in the cache."""
        paths = [*(self.results / "networks").glob("*.json")]
        paths += (config.cache_dir(self.scale.name) / "networks").glob("*/card.json")
        return [card for card in map(_card_at, paths) if card and "weights" in card]

    def write(self) -> None:
        """Write what is new: weights, their cards, tables; and enter the checksums."""
        for path in self.removed:
            path.unlink(missing_ok=True)
        for name in sorted(self.new, key=lambda name: (not WEIGHTS.fullmatch(name), name)):
            for target in self.new[name]:
                store.write_atomic(target, self.contents.files[name])
        places = [path for paths in self.new.values() for path in paths] + self.removed
        entered = [path.relative_to(self.results).as_posix() for path in places if path.is_relative_to(self.results)]
        if entered:
            checksums.note(self.results, entered)

    def orphans(self) -> Counter[str]:
        """Tables here that rest on weights which were replaced, by kind."""
        found: Counter[str] = Counter()
        for path in (self.results / "evaluations").glob("*/*.json"):
            if not path.name.startswith(".") and set(rests_on(_plain(path.read_bytes()).get("key"))) & set(
                self.outdated
            ):
                found[path.parent.name] += 1
        return found


def merge(path: Path, dry_run: bool = False, replace: Sequence[str] = ()) -> int:
    """Take an archive into the results of its scale, and say what became of it.

    Args:
        path: the archive.
        dry_run: only say it.
        replace: networks, or patterns of their names, whose cards may be replaced by those of other weights.
    Returns: 0, or 1 where a part was refused.
    Raises: ArchiveError for an archive that is damaged or of another format: nothing of it is taken.
    """
    contents = archive.read(path)
    name = str(contents.manifest["scale"])
    if name not in config.SCALES:
        raise ArchiveError(f"{path}: no scale {name!r} here: one of {', '.join(config.SCALES)}")
    preset = config.load(name)
    merging = Merge(preset, contents, replace)
    with nullcontext() if dry_run else Alone(name):
        pool = Pool(name, 1, preset.compute.threads)
        try:
            merging.judge(pool)
            if not dry_run:
                merging.write()
            print("\n".join([*_told(path, merging, dry_run), *_items(merging, pool, dry_run)]))
        finally:
            pool.end()
    return 1 if merging.refused else 0


def _told(path: Path, merging: Merge, dry_run: bool) -> list[str]:
    about = merging.contents.manifest
    changed = {True: ", changed", False: "", None: ", changed or not: unknown"}[about.get("dirty")]
    lines = [
        f"{path}: scale {merging.scale.name}, commit {about.get('commit')}{changed}, {about.get('device', 'unknown')}, "
        f"torch {about.get('torch', 'unknown')}, written {about.get('written')}"
    ]
    if about.get("code") != archive.code_hash():
        lines.append("made by other code than is here; what fits the present recipes is taken all the same")
    if about.get("config") != merging.scale.hash:
        lines.append(f"made with other settings than config/{merging.scale.name}.yaml now has; the same holds")
    lines.append(f"{'would be new' if dry_run else 'new'}: {_counted(merging.new)}")
    lines.append(f"there already: {_counted(merging.there)}")
    if merging.refused:
        lines.append(f"refused: {_counted(merging.refused)}")
        lines += [f"  {name}: {why}" for name, why in merging.refused.items()]
    orphans = merging.orphans()
    for weights, name in merging.outdated.items():
        lines.append(f"{'would be replaced' if dry_run else 'replaced'}: {name}, whose weights were {weights[:19]}")
    if orphans:
        counted = ", ".join(f"{count} of {kind}" for kind, count in sorted(orphans.items()))
        lines.append(f"tables of the replaced weights, which nothing reads any more: {counted}")
    return lines


def _items(merging: Merge, pool: Pool, dry_run: bool) -> list[str]:
    """For each item or family asked for, the seeds at which all is there now, and what is missing at others."""
    about = merging.contents.manifest
    if dry_run:
        return [f"finished, as the archive says: {', '.join(about.get('finished', ())) or 'nothing'}"]
    lines, known = [], []
    for wanted in dict.fromkeys(name.rpartition(" seed ")[0] for name in about.get("asked", ())):
        try:
            goals.plan(merging.scale, [wanted])
            known.append(wanted)
        except config.ConfigError as error:  # an item or family that the scale has no longer
            lines.append(f"{wanted}: {error}")
    plan = goals.plan(merging.scale, known)
    done = survey(plan, pool)
    for wanted in known:
        left = {goal.seed: plan.closure(goal.tasks, done) for goal in plan.goals if goal.wanted == wanted}
        whole = " ".join(str(seed) for seed, tasks in left.items() if not tasks)
        lines.append(f"{wanted}: complete at seed {whole}" if whole else f"{wanted}: complete at no seed yet")
        lines += [
            f"  seed {seed}: {len(tasks)} tasks are left, as {min(tasks)}" for seed, tasks in left.items() if tasks
        ]
    return lines


def _counted(names: Iterable[str]) -> str:
    """12 cards, 3 weights, 48 tables."""
    kinds = {"cards": CARD, "weights": WEIGHTS, "tables": TABLE}
    counts = {kind: sum(1 for name in names if pattern.fullmatch(name)) for kind, pattern in kinds.items()}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing"


def _plain(content: bytes) -> dict[str, Any]:
    """A JSON mapping; an empty one for anything else."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _card_at(path: Path) -> dict[str, Any] | None:
    return _plain(path.read_bytes()) or None if path.is_file() else None


def _table_at(path: Path, key: Mapping[str, Any]) -> bool:
    """Whether a whole table of this key is there."""
    body = _plain(path.read_bytes()) if path.is_file() else {}
    if "value" not in body or body.get("checksum") != store.fingerprint(body["value"]):
        return False
    return store.fingerprint(body.get("key")) == store.fingerprint(key)
