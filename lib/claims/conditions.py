"""What a verdict rests on: how accurate its networks are beside what is usual for them, and which seeds are fresh."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from lib import config, store

FAR = 0.03  # below the usual accuracy


def settings() -> dict[str, Any]:
    """config/verdicts.yaml: usual accuracies, and when the rules were frozen; empty where there is no such file."""
    path = config.config_dir() / "verdicts.yaml"
    return config.read_yaml(path) if path.exists() else {}


def rules_hash() -> str:
    """Fingerprint of what judges: the rules and controls of every claim, not their words."""
    judging = ("items", "rule", "controls")
    return store.fingerprint({name: {k: v for k, v in claim.items() if k in judging} for name, claim in config.claims().items()})


def frozen(scale: str) -> dict[str, Any]:
    """Since when the rules are as they are: {rules, date (None: changed since), seen: the scale's seeds known then}."""
    known = settings().get("frozen") or {}
    same = known.get("rules") == rules_hash()
    return {
        "rules": rules_hash(),
        "date": str(known["date"]) if same else None,
        "seen": list((known.get("seen") or {}).get(scale, ())),
    }


def networks(items: Sequence[str], records: Mapping[str, Any], scale: str) -> list[dict[str, Any]]:
    """The accuracy of the networks that some items rest on, by architecture and data set.

    Args:
        items: of the claim.
        records: item -> its record; the networks that it names count, else those of the item's families.
        scale: whose cards are read, results/<scale>/networks/*.json.
    Returns: rows {arch, data, low, high (mean over seeds, of the least and the most accurate network that was trained
        plainly: without hook or start), usual, source (None where we know none), below}; networks without a card are
        not there.
    """
    try:
        families = config.load(scale).families
    except config.ConfigError:
        return []
    wanted = _names(items, families)
    named = {n["where"].get("network") for item in items for n in records[item]["numbers"]} & wanted
    cards = _cards(config.results_dir(scale) / "networks", wanted)
    kinds = {_kind(card) for card in cards if card["name"] in (named or wanted)}
    groups: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for kind in kinds:
        same = [card for card in cards if _kind(card) == kind]
        plain = [card for card in same if _plain(card)] or [card for card in same if card["name"] in (named or wanted)]
        for card in plain:
            groups[kind][card["name"]].append(card["test_accuracy"])
    usual = {(row["arch"], row["data"]): row for row in settings().get("usual") or ()}
    rows = []
    for kind, found in sorted(groups.items()):
        means = [float(np.mean(values)) for values in found.values()]
        known = usual.get(kind)
        row = {"arch": kind[0], "data": kind[1], "low": round(min(means), 4), "high": round(max(means), 4)}
        row |= {"usual": known["accuracy"] if known else None, "source": known["source"] if known else None}
        rows.append(row | {"below": bool(known and max(means) < known["accuracy"] - FAR)})
    return rows


def in_words(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """(what a verdict adds to its own words where networks are far below the usual accuracy, all of it in a sentence)."""
    if not rows:
        return "", ""
    far = [row for row in rows if row["below"]]
    own = ", ".join(f"{row['arch']} {_percent(row['high'])} where {_percent(row['usual'])} is usual" for row in far)
    said = []
    for row in rows:
        span = "to".join(dict.fromkeys(f"{_percent(row[k])}" for k in ("low", "high"))).replace("to", " to ")
        usual = f"usual {_percent(row['usual'])}, {row['source']}" if row["usual"] else "no usual value known"
        said.append(f"{row['arch']} on {row['data']} {span} ({usual})")
    return (f"on networks far below the usual accuracy ({own})" if far else ""), f"Clean accuracy: {'; '.join(said)}."


def _names(items: Sequence[str], families: Mapping[str, Sequence[str]]) -> set[str]:
    patterns = [pattern for item in items for pattern in config.items()[item].families]
    fitting = [names for family, names in families.items() if any(fnmatchcase(family, p) for p in patterns)]
    return {name for names in fitting for name in names}


def _cards(folder: Path, wanted: set[str]) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.stem.rsplit("-seed", 1)[0] in wanted:
            card = json.loads(path.read_text(encoding="utf-8"))
            if {"name", "recipe", "test_accuracy"} <= set(card):
                found.append(card)
    return found


def _kind(card: Mapping[str, Any]) -> tuple[str, str]:
    return card["recipe"]["arch"], card["recipe"]["data"]


def _plain(card: Mapping[str, Any]) -> bool:
    return not any(card["recipe"].get(key) for key in ("hooks", "start", "prepare"))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %".replace(".0 %", " %")
