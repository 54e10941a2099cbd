"""What a verdict rests on: how accurate its networks are beside what is usual for them, and which seeds are fresh."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from lib import config, store

FAR = 0.03  # below the usual accuracy


def settings() -> dict[str, Any]:
    """config/verdicts.yaml: usual accuracies, and when the rules were frozen; empty where there is no such file."""
    path = config.config_dir() / "verdicts.yaml"
    return config.read_yaml(path) if path.exists() else {}


def rules_hash() -> str:
    """Fingerprint of what judges: items, rule and controls of every claim, not the words around them."""
    judging = ("items", "rule", "controls")
    claims = config.claims().items()
    return store.fingerprint({name: {key: claim.get(key) for key in judging} for name, claim in claims})


def frozen(scale: str) -> dict[str, Any]:
    """Since when the rules are as they are: {rules, date (None: changed since), seen: the scale's seeds known then}."""
    known, rules = settings().get("frozen") or {}, rules_hash()
    date = str(known["date"]) if known.get("rules") == rules else None
    return {"rules": rules, "date": date, "seen": list((known.get("seen") or {}).get(scale, ()))}


def frozen_in_words(scale: str) -> str:
    """Since when the rules are as they are, and which seeds were known then."""
    known = frozen(scale)
    seen = ", ".join(map(str, known["seen"]))
    seeds = f"the numbers of seeds {seen} had been seen by then" if seen else "no numbers of this scale had been seen"
    since = f"last changed on {known['date']}; {seeds}" if known["date"] else "changed since they were last frozen"
    return f"Rules {known['rules'][:19]}, {since}."


def networks(
    named: set[Any],
    patterns: Collection[str],
    families: Mapping[str, Sequence[str]],
    cards: Sequence[Mapping[str, Any]],
    usual: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The accuracy of the networks that some items rest on, by architecture and data set.

    Args:
        named: networks or architectures that the comparisons name; where no card fits, all of the families count.
        patterns: the items' families, as "lancet-*".
        families: family -> networks.
        cards: of networks.
        usual: rows {arch, data, accuracy, source}.
    Returns: rows {arch, data, low, high, usual, source (None where we know none), below}: the mean over the seeds of
        the least and of the most accurate network of a kind that was trained plainly, without hook or start (of all,
        where none was); `below` says that even the best is more than FAR below the usual accuracy.
    """
    fitting = [names for family, names in families.items() if any(fnmatchcase(family, p) for p in patterns)]
    wanted = {name for names in fitting for name in names}
    own = [card for card in cards if card["name"] in wanted]
    used = [card for card in own if named & {card["name"], card["recipe"]["arch"]}] or own
    groups: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for kind in {_kind(card) for card in used}:
        these, all_of_kind = ([card for card in some if _kind(card) == kind] for some in (used, own))
        for card in next(filter(None, (list(filter(_plain, some)) for some in (these, all_of_kind))), these):
            groups[kind][card["name"]].append(card["test_accuracy"])
    rows = []
    for kind, found in sorted(groups.items()):
        means = [float(np.mean(values)) for values in found.values()]
        known = next((row for row in usual if (row["arch"], row["data"]) == kind), None)
        row = {"arch": kind[0], "data": kind[1], "low": round(min(means), 4), "high": round(max(means), 4)}
        row |= {"usual": known["accuracy"] if known else None, "source": known["source"] if known else None}
        rows.append(row | {"below": bool(known and max(means) < known["accuracy"] - FAR)})
    return rows


def in_words(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What a verdict adds to its own words where networks are far below the usual accuracy, and a sentence on all."""
    far = [f"{row['arch']} {_percent(row['high'])}, usual {_percent(row['usual'])}" for row in rows if row["below"]]
    said = []
    for row in rows:
        span = " to ".join(dict.fromkeys(_percent(row[end]) for end in ("low", "high")))
        usual = f"usual {_percent(row['usual'])}: {row['source']}" if row["usual"] else "no usual value known"
        said.append(f"{row['arch']} on {row['data']} {span} ({usual})")
    own = f"on networks far below the usual accuracy ({'; '.join(far)})" if far else ""
    return own, f"Clean accuracy: {'; '.join(said)}." if said else ""


def fresh_in_words(fresh: Mapping[str, Any]) -> str:
    """Which seeds had been seen when the rules were frozen, and what the fresh ones say alone."""
    if not fresh or not (fresh["seeds"] or fresh["seen"]):
        return ""
    seen, new = (", ".join(map(str, fresh[key])) for key in ("seen", "seeds"))
    if not new:
        return f"Seeds {seen} had been seen when the rules were last changed; none is fresh."
    alone = "; ".join(f"{row['text']}, {row['outcome']}" for row in fresh["effects"])
    told = f"Seeds {new} are fresh{f', {seen} had been seen when the rules were last changed' if seen else ''}"
    return f"{told}{f'; the fresh alone: {alone}' if alone and seen else ''}."


def _kind(card: Mapping[str, Any]) -> tuple[str, str]:
    return card["recipe"]["arch"], card["recipe"]["data"]


def _plain(card: Mapping[str, Any]) -> bool:
    return not any(card["recipe"].get(key) for key in ("hooks", "start", "prepare"))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %".replace(".0 %", " %")
