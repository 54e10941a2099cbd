"""What the page and the gallery show of the claims."""

from collections.abc import Iterable, Mapping
from typing import Any

from lib import claims, tables

MARKS = dict(zip(claims.VERDICTS, "✓◐✗⊘?○", strict=True))
COLUMNS = ["item", "comparison", "setting", "measure", "left", "right", "difference", "95 % interval", "outcome"]


def slug(verdict: str) -> str:
    """A verdict as a class and in an address: "reproduced", "reproduced-in-part", "not-testable" and so on."""
    return verdict.split(" at ")[0].replace(" ", "-")


def view(verdict: claims.Verdict) -> dict[str, Any]:
    """What the page shows of one claim."""
    rows = [_pooled(effect) for effect in verdict.effects]
    for row in () if verdict.evidence.empty else verdict.evidence.to_dict("records"):
        interval = "" if row["low"] != row["low"] else f"[{row['low']:+.3f}, {row['high']:+.3f}]"
        difference = "" if row["difference"] != row["difference"] else f"{row['difference']:+.3f}"
        sides = [tables.cell(row["left"]), tables.cell(row["right"])]
        head = [row["item"], row["comparison"], row["setting"], row["measure"]]
        rows.append([*head, *sides, difference, interval, row["outcome"]])
    keys = ("id", "statement", "verdict", "why", "paper", "source", "ours", "items", "rule")
    told = {name: getattr(verdict, name) for name in (*keys, "stability", "accuracy", "freshness")}
    # Where a verdict says more than its name: the part it holds for, and the networks it was seen on.
    told["words"] = "" if verdict.headline == verdict.verdict else verdict.headline[0].upper() + verdict.headline[1:]
    return told | {"slug": slug(verdict.verdict), "columns": COLUMNS, "rows": rows}


def _pooled(effect: Mapping[str, Any]) -> list[str]:
    """The row of a pooled effect, above those of its comparisons."""
    value, low, high = (effect[key] - effect["relative"] for key in ("value", "low", "high"))
    against = f"against {effect['rival']}, the strongest" if effect["rival"] else ""
    head = ["all together", effect["name"], against, effect["measure"]]
    return [*head, "", "", f"{value:+.3f}", f"[{low:+.3f}, {high:+.3f}]", effect["outcome"]]


def tally(verdicts: Iterable[claims.Verdict]) -> list[dict[str, Any]]:
    """How many claims have each verdict: name, mark, slug, count (the sources' claims), ours; in the order of MARKS."""
    found = [(verdict.verdict, verdict.ours) for verdict in verdicts]
    return [
        {"name": n, "mark": mark, "slug": slug(n), "count": found.count((n, False)), "ours": found.count((n, True))}
        for n, mark in MARKS.items()
    ]
