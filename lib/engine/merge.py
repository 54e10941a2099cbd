"""Takes the archive of a time box into results/<scale>: what fits the present recipes, and replaces nothing unasked."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lib import cache, checksums, config, store
from lib.config import Scale
from lib.engine import jobs
from lib.engine.archive import CARD, TABLE, WEIGHTS, ArchiveError, code_hash, plain, read, rests_on, ships
from lib.engine.plan import Plan, call, survey, what_is_left


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

    def judge(self) -> None:
        """Look at every file: networks first, as tables rest on them.

        Raises: ConfigError where data are missing, without which a recipe has no address.
        """
        taken: dict[str, tuple[dict[str, Any], Path]] = {}
        for name in sorted(filter(CARD.fullmatch, self.files)):
            card = plain(self.files[name])
            why, folder = self._card(name, card)
            if why:
                self.refused[name] = why
            else:
                taken[name] = card, folder
        for name in sorted(filter(WEIGHTS.fullmatch, self.files)):
            card_name = name.replace(".safetensors", ".json")
            if card_name in taken:
                self._weights(name, card_name, *taken[card_name])
            else:
                self.refused[name] = "its card is not in the archive, or was refused"
        here = [*(self.results / "networks").glob("*.json")]
        here += (config.cache_dir(self.scale.name) / "networks").glob("*/card.json")
        gone = {path.with_suffix(".json") for path in self.removed} | set(self.removed)
        known = {_read(path).get("weights", "") for path in here if path not in gone}
        known |= {card["weights"] for card, _ in taken.values()}
        for name in sorted(filter(TABLE.fullmatch, self.files)):
            self._table(name, known)

    def _card(self, name: str, card: dict[str, Any]) -> tuple[str, Path]:
        """Why a card is refused, empty where it is not; and the network's folder in the cache."""
        network, seed = str(card.get("name")), card.get("seed")
        if card.get("checksum") != store.fingerprint({key: card[key] for key in card if key != "checksum"}):
            return "its checksum does not match", Path()
        if name != f"networks/{network}-seed{seed}.json" or not isinstance(seed, int):
            return f"it is the card of {network}, seed {seed}", Path()
        if network not in self.scale.networks or card.get("scale") != self.scale.name:
            return f"scale {self.scale.name!r} has no network {network!r}", Path()
        about = {"name": network, "scale": self.scale.name, "seed": seed}
        try:
            address, folder = call("lib.zoo:key", about), call("lib.zoo:folder", about)
        except Exception as error:  # as where its data are missing
            raise config.ConfigError(f"{name}: {error}") from error
        if card["key"] != address:
            return (
                f"network {network} was made from another recipe, other data or by another version of the code",
                folder,
            )
        target, cached = self.results / name, folder / "card.json"
        others = [path for path in (target, cached) if _read(path).get("weights", card["weights"]) != card["weights"]]
        if others and not any(fnmatchcase(network, pattern) for pattern in self.replace):
            why = (
                f"{others[0]} is of other weights: tables of these are kept. To take the archive's instead: --replace "
            )
            return why + network, folder
        self.removed += [cached, folder / "weights.safetensors"] if cached in others else []
        self.removed += [target.with_suffix(".safetensors")] if target in others else []
        if _read(target).get("key") == address and target not in others:
            self.there.append(name)
        else:
            self.new[name] = [target]
        return "", folder

    def _weights(self, name: str, card_name: str, card: dict[str, Any], folder: Path) -> None:
        """Weights go to the results where the scale ships them, else into the cache, with their card."""
        if store.bytes_sha256(self.files[name]) != card["weights"]:
            self.refused[name] = "it does not match its card"
            return
        shipped = ships(self.scale, card["name"], card["seed"])
        target = self.results / name if shipped else folder / "weights.safetensors"
        if target.exists() and target not in self.removed and store.file_sha256(target) == card["weights"]:
            self.there.append(name)
            return
        self.new[name] = [target]
        if not shipped:
            self.new.setdefault(card_name, []).append(folder / "card.json")

    def _table(self, name: str, known: Collection[str]) -> None:
        body, why = plain(self.files[name]), ""
        key, value = body.get("key"), body.get("value")
        if not isinstance(key, dict) or not isinstance(value, dict) or set(value) != {"columns", "rows"}:
            why = "it is no kept table"
        elif f"evaluations/{cache.name_of(name.split('/')[1], key)}" != name:
            why = "its name does not follow from its key"
        elif body.get("checksum") != store.fingerprint(value):
            why = "its checksum does not match"
        elif body.get("about", store.fingerprint(body.get("made", {}))) != store.fingerprint(body.get("made", {})):
            why = "the checksum of where it was made does not match"
        elif set(rests_on(key)) - set(known) and key.get("network", "") in ("", *self.scale.networks):
            why = "it rests on weights whose card is neither here nor taken from the archive"
        here = _read(self.results / name)
        if why:
            self.refused[name] = why
        elif here.get("key") == key and here.get("checksum") == store.fingerprint(here.get("value")):
            self.there.append(name)
        else:
            self.new[name] = [self.results / name]

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
            except config.ConfigError as error:  # an item or family that the scale has no longer
                print(f"{wanted}: {error}")
    return 1 if merging.refused else 0


def _counted(names: Iterable[str]) -> str:
    """12 cards, 3 weights, 48 tables."""
    kinds = {"cards": CARD, "weights": WEIGHTS, "tables": TABLE}
    counts = {kind: sum(1 for name in names if pattern.fullmatch(name)) for kind, pattern in kinds.items()}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing"


def _read(path: Path) -> dict[str, Any]:
    return plain(path.read_bytes()) if path.is_file() else {}
