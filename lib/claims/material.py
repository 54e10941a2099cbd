"""What claims are judged by, each read once: the records of a scale, its networks' cards, and what is frozen."""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np

from lib import config, record, store
from lib.claims.numbers import Cell, cells

FAR = 0.03  # below the usual accuracy


class Material:
    """The records and cards of a scale, read when they are asked for.

    Args:
        scale: smoke, cpu, gpu or paper.
    """

    def __init__(self, scale: str) -> None:
        self.scale = scale
        self._numbers: dict[str, list[Cell] | str] = {}

    @classmethod
    def alone(cls, found: Mapping[str, Any]) -> "Material":
        """One record, written or not, and no cards."""
        made = cls(found["scale"])
        made._numbers[found["item"]], made.cards = cells(found), []
        return made

    @cached_property
    def _frozen(self) -> dict[str, Any]:
        return frozen(self.scale)

    def seen(self, claim: str) -> list[int]:
        """The seeds whose numbers were known when the rules were frozen, or when this claim's was written."""
        return sorted({*self._frozen["seen"], *self._frozen["seen_too"].get(claim, ())})

    def numbers(self, item: str) -> list[Cell] | str:
        """An item's numbers; why there are none, in words, where its record is missing or damaged."""
        if item not in self._numbers:
            try:
                self._numbers[item] = cells(record.read(item, self.scale))
            except record.RecordError as error:
                there = record.exists(item, self.scale)
                why = str(error).replace(f"{config.results_dir(self.scale)}/", "")  # no folder of a machine
                self._numbers[item] = f"{item} is damaged ({why})" if there else f"{item} has no record"
        return self._numbers[item]

    @cached_property
    def cards(self) -> list[dict[str, Any]]:
        """The cards of the scale's networks that say how accurate these are, by name."""
        found = []
        for path in sorted((config.results_dir(self.scale) / "networks").glob("*.json")):
            try:
                card = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                continue  # the zoo tells of cards that cannot be read
            if isinstance(card, dict) and {"name", "seed", "recipe", "test_accuracy"} <= set(card):
                found.append(card)
        return found

    def accuracies(self, items: Sequence[str], named: Collection[Any]) -> list[dict[str, Any]]:
        """How accurate the networks are that some items rest on, at their seeds, beside what is usual, as `networks`
        gives it.

        Args:
            items: of a claim.
            named: networks that its comparisons name; empty: those that the records name.
        """
        if not named:
            found = [cell for item in items if not isinstance(own := self.numbers(item), str) for cell in own]
            named = {cell.where.get("network") for cell in found}
        known = config.items()
        patterns = {pattern for item in items for pattern in known[item].families}
        try:
            preset = config.load(self.scale)
        except config.ConfigError:
            return []
        seeds = {seed for item in items for seed in config.item_seeds(known[item], preset)}
        wanted = {
            network
            for family, names in preset.families.items()
            if any(fnmatchcase(family, pattern) for pattern in patterns)
            for network in names
        }
        cards = [card for card in self.cards if card["name"] in wanted and card["seed"] in seeds]
        return networks(cards, set(named), settings().get("usual") or ())


def networks(
    cards: Sequence[Mapping[str, Any]], named: set[Any], usual: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The accuracy of networks by architecture and data set, beside what is usual.

    Args:
        cards: of networks.
        named: the networks or architectures that count; where no card fits, all cards do.
        usual: rows {arch, data, accuracy, source}.
    Returns: rows {arch, data, low, high, usual, source (None where we know none), below}: the mean over the seeds of
        the least and of the most accurate network of a kind that was trained plainly, without hook or start (of all,
        where none was); `below` says that even the best is more than FAR below the usual accuracy.
    """
    used = [card for card in cards if named & {card["name"], card["recipe"]["arch"]}] or cards
    rows = []
    for kind in sorted(set(map(_kind, used))):
        these, every = ([card for card in some if _kind(card) == kind] for some in (used, cards))
        plain = next(filter(None, ([card for card in some if _plain(card)] for some in (these, every))), these)
        by_name: dict[str, list[float]] = defaultdict(list)
        for card in plain:
            by_name[card["name"]].append(card["test_accuracy"])
        means = [float(np.mean(values)) for values in by_name.values()]
        known = next((row for row in usual if (row["arch"], row["data"]) == kind), None)
        row = {"arch": kind[0], "data": kind[1], "low": round(min(means), 4), "high": round(max(means), 4)}
        row |= {"usual": known["accuracy"] if known else None, "source": known["source"] if known else None}
        rows.append(row | {"below": bool(known and max(means) < known["accuracy"] - FAR)})
    return rows


def _kind(card: Mapping[str, Any]) -> tuple[str, str]:
    return card["recipe"]["arch"], card["recipe"]["data"]


def _plain(card: Mapping[str, Any]) -> bool:
    return not any(card["recipe"].get(key) for key in ("hooks", "start", "prepare"))


def settings() -> dict[str, Any]:
    """config/verdicts.yaml: usual accuracies, and when the rules were frozen; empty where there is no such file."""
    path = config.config_dir() / "verdicts.yaml"
    return config.read_yaml(path) if path.exists() else {}


def rules_hash() -> str:
    """Fingerprint of what judges: items, rule and controls of every claim, not the words around them or their names."""

    def nameless(rules: Any) -> list[dict[str, Any]]:
        parts = rules if isinstance(rules, list) else [rules or {}]
        return [{key: value for key, value in part.items() if key != "name"} for part in parts]

    claims = {
        name: [claim["items"], nameless(claim["rule"]), nameless(claim.get("controls"))]
        for name, claim in config.claims().items()
    }
    return store.fingerprint(claims)


def frozen(scale: str) -> dict[str, Any]:
    """Since when the rules are as they are: {rules, date (None: changed since), seen: the scale's seeds known then,
    seen_too: claim -> more of them that were known when its rule was written}."""
    known, rules = settings().get("frozen") or {}, rules_hash()
    date = str(known["date"]) if known.get("rules") == rules else None
    seen, more = ((known.get(key) or {}).get(scale) for key in ("seen", "seen_too"))
    return {"rules": rules, "date": date, "seen": list(seen or ()), "seen_too": dict(more or {})}


def frozen_in_words(scale: str) -> str:
    """Since when the rules are as they are, and which seeds were known then."""
    known = frozen(scale)
    seen = ", ".join(map(str, known["seen"]))
    seeds = f"the numbers of seeds {seen} had been seen by then" if seen else "no numbers of this scale had been seen"
    seeds += f", for {len(known['seen_too'])} claims those of more seeds" if known["seen_too"] else ""
    since = f"last changed on {known['date']}; {seeds}" if known["date"] else "changed since they were last frozen"
    return f"Rules {known['rules'][:19]}, {since}."
