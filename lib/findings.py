"""What a record says in words: its caption, its figure's alternative text, and its finding; all from its own numbers.

The finding judges the claims that the item bears on by this item alone, so that it changes with the record and with
nothing else; what all items of a claim say together is the verdict in claims.json.
"""

import textwrap
from collections.abc import Mapping
from typing import Any

from lib import claims, names, tables, units

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
    where it bears on no claim, its numbers beside those that the source states.

    Raises: ClaimError where the claims cannot be read.
    """
    judged = claims.alone(found)
    if not judged:
        return _beside(found)
    tested = [verdict for verdict in judged if verdict.verdict != claims.NOT_TESTABLE]
    first = min(tested or judged, key=lambda verdict: verdict.ours)
    others = [verdict.verdict for verdict in judged if verdict is not first]
    counts = [f"{others.count(name)} {name}" for name in claims.VERDICTS if name in others]
    told = f"{first.statement} From this item alone: {names.sentence(first.headline)}. {names.sentence(first.why)}"
    return told + (f" Other claims, from this item alone: {', '.join(counts)}." if counts else "")


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
