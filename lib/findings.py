"""What a record says in words: its caption, its figure's alternative text, and its finding; all from its own numbers.

The finding judges the claims that the item bears on by this item alone, so that it changes with the record and with
nothing else; what all items of a claim say together is the verdict in claims.json. Of an item without a claim it is the
sentence that config/items.yaml has, with the record's numbers.
"""

import re
import textwrap
from collections.abc import Mapping
from typing import Any

from lib import claims, config, names, tables, units

ALTERNATIVE = 150  # characters of an alternative text
KEYS = ("caption", "alternative_text", "finding")


def words(found: Mapping[str, Any]) -> dict[str, str]:
    """A record's caption, alternative_text and finding, composed from its numbers and the claims' rules.

    Args:
        found: a record; what it holds of KEYS is not read.
    """
    caption = f"{found['title']}: {shows(found)}"
    short = textwrap.shorten(caption, ALTERNATIVE, placeholder=" ...")
    return {"caption": caption, "alternative_text": short, "finding": finding(found)}


def of(found: Mapping[str, Any]) -> dict[str, str]:
    """The words that a record holds; composed where an earlier version wrote it, without any."""
    return {key: found[key] for key in KEYS} if all(key in found for key in KEYS) else words(found)


def shows(found: Mapping[str, Any]) -> str:
    """What is measured, over which settings."""
    measures = dict.fromkeys(names.value("measure", number["name"]) for number in found["numbers"])
    settings = [names.column(key) for key in tables.where_keys(found)]
    over = f" by {', '.join(settings)}" if settings else ""
    return f"{', '.join(measures)}{over}"


def finding(found: Mapping[str, Any]) -> str:
    """What a record shows, in one paragraph: the source's first claim and what becomes of it here, then the others;
    where it bears on no claim, its own sentence, or its numbers beside those that the source states.

    Raises: ClaimError where the claims cannot be read.
    """
    judged = claims.alone(found)
    if not judged:
        item = config.items().get(found["item"])
        return (filled(item.finding, found) if item else "") or _beside(found)
    tested = [verdict for verdict in judged if verdict.verdict != claims.NOT_TESTABLE]
    first = min(tested or judged, key=lambda verdict: verdict.ours)
    others = [verdict.verdict for verdict in judged if verdict is not first]
    counts = [f"{others.count(name)} {name}" for name in claims.VERDICTS if name in others]
    told = f"{first.statement} From this item alone: {names.sentence(first.headline)}. {names.sentence(first.why)}"
    return told + (f" Other claims, from this item alone: {', '.join(counts)}." if counts else "")


def filled(template: str, found: Mapping[str, Any]) -> str:
    """A sentence with numbers in place of "{measure; key=value; ...}": the one that fits, or the least and the most of
    those that do; of "{stated measure; ...}", what the source states for it. Empty where there is none, as at a scale
    that leaves some out.
    """

    def number(place: re.Match[str]) -> str:
        name, *wanted = place[1].removeprefix("stated ").split("; ")
        fits = [n for n in found["numbers"] if n["name"] == name and all(_is(n["where"], each) for each in wanted)]
        if place[1].startswith("stated "):
            return _in_words(min(n["paper_value"] for n in fits if n["paper_value"] is not None), fits[0]["unit"])
        low, high = (end(fits, key=lambda n: n["value"]) for end in (min, max))  # ValueError where none fits
        words = " to ".join(dict.fromkeys(_in_words(n["value"], n["unit"]) for n in (low, high)))
        ends = [_in_words(end, low["unit"]) for end in low["ci95"] or ()] if len(fits) == 1 else []
        return f"{words} [{', '.join(ends)}]" if len({words, *ends}) > 1 else words

    try:
        return re.sub(r"\{([^}]+)\}", number, template)
    except ValueError:
        return ""


def _in_words(value: float, unit: str) -> str:
    if unit.startswith(("fraction", "share")):
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _is(where: Mapping[str, Any], wanted: str) -> bool:
    key, _, text = wanted.partition("=")
    return key in where and tables.cell(where[key], key) == text


def _beside(found: Mapping[str, Any]) -> str:
    stated = [number for number in found["numbers"] if number["paper_value"] is not None]
    if not stated:
        return f"No claim is judged by it, and the source has no number for it. It shows {shows(found)}."
    told = [f"{setting(n)}: {tables.cell(n['value'])} (stated: {tables.cell(n['paper_value'])})" for n in stated]
    measures = dict.fromkeys(names.value("measure", units.measure(number)) for number in stated)
    return f"No claim is judged by it. {opening(' and '.join(measures))}, for {'; '.join(told)}."


def setting(number: Mapping[str, Any]) -> str:
    """Where a number was measured, as "trigger known, network resnet"."""
    where = {key: names.value(key, tables.cell(value, key)) for key, value in number["where"].items()}
    return ", ".join(f"{names.column(key)} {text}" for key, text in where.items())


def opening(text: str) -> str:
    """Words as they open a line: the first letter large."""
    return text[:1].upper() + text[1:]
