"""From located errors to the numbers, texts and record of the notebook on localisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib import config, evaluations, tables
from lib.evaluations import frame
from lib.lancet.study import localisation
from lib.lancet.study import settings as shared

NAMES = {
    "stated": "as released",
    "both": "both features differentiated",
    "not-target": "until not the target",
    "signed": "signed importance (ours)",
}
RULES = {"most-pairs": "most pairs (stated)", "smallest-fraction": "smallest part (ours)"}


def numbers_of(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """A record's numbers of located errors.

    Args:
        frames: seed -> as `localisation.measured` returns it.
    Returns: at {network, variant, layer, depth}: "repaired", the share of the pairs that some part of the layer
        repairs, and "fraction", the median part that does. At {network, variant, rule}: "chosen_repaired",
        "chosen_fraction" and "chosen_depth" (0: the first layer, 1: the last) of the layer that the rule takes.
    """
    rows: list[dict[str, Any]] = []
    for seed, table in frames.items():
        last = table.groupby("network")["depth"].transform("max")
        for (_, row), deepest in zip(table.iterrows(), last, strict=True):
            where = {"network": row["network"], "variant": row["variant"]}
            some: dict[str, Any] = {"n": int(row["pairs"]), "seed": seed, **where}
            place = {"layer": row["layer"], "depth": int(row["depth"])}
            rows.append({"name": "repaired", "value": row["repaired"], "unit": "fraction of pairs", **some, **place})
            if row["fraction"] is not None and not pd.isna(row["fraction"]):
                part = {"value": row["fraction"], "unit": "fraction of the layer's weights"}
                rows.append({"name": "fraction", **part, **some, **place})
            for rule in filter(None, str(row["chosen"]).split(", ")):
                for name, value, unit in (
                    ("chosen_repaired", row["repaired"], "fraction of pairs"),
                    ("chosen_fraction", row["fraction"], "fraction of the layer's weights"),
                    ("chosen_depth", row["depth"] / max(1, deepest), "fraction of the layers"),
                ):
                    rows.append({"name": name, "value": value, "unit": unit, **some, "rule": rule})
    return evaluations.numbers(rows)


def table_of(numbers: Sequence[Any], scale: str) -> pd.DataFrame:
    """One row a network, variant and rule: the layer's depth, what it repairs and with which part of its weights."""
    wide = None
    for name in ("chosen_repaired", "chosen_fraction", "chosen_depth"):
        column = frame(numbers, name)[["network", "variant", "rule", "value"]].rename(columns={"value": name})
        wide = column if wide is None else wide.merge(column, on=["network", "variant", "rule"])
    assert wide is not None
    shown = localisation.about(scale).merge(wide, on="network")
    shown["variant"], shown["rule"] = shown["variant"].map(NAMES), shown["rule"].map(RULES)
    return shown.rename(columns=lambda name: str(name).removeprefix("chosen_"))


def reading(numbers: Sequence[Any]) -> str:
    """What the layers show, computed, as Markdown."""

    def mean(name: str, **where: Any) -> float:
        return float(frame(numbers, name, **where)["value"].mean())

    def median(**where: Any) -> float:
        return 100 * float(frame(numbers, "chosen_fraction", **where)["value"].median())

    stated = {"variant": "stated", "rule": "most-pairs"}
    ours = {"variant": "stated", "rule": "smallest-fraction"}
    either = {name: 100 * mean("repaired", variant=name) for name in NAMES}
    signed = {"variant": "signed", "rule": "smallest-fraction"}
    lines = [
        f"- **It locates:** in the layer of the stated rule {100 * mean('chosen_repaired', **stated):.0f} % of the "
        f"pairs are repaired by removing {median(**stated):.2g} % of its weights (median over the networks); in the "
        f"layer of our rule {100 * mean('chosen_repaired', **ours):.0f} % by {median(**ours):.2g} %.",
        f"- **Where:** on average the stated rule takes a layer {100 * mean('chosen_depth', **stated):.0f} % of the "
        f"way through the network, ours one at {100 * mean('chosen_depth', **ours):.0f} %.",
        f"- **How the formula is read:** over all layers {either['stated']:.0f} % of the pairs are repaired with the "
        f"companion's features held fixed, {either['both']:.0f} % with them differentiated too.",
        f"- **When to stop:** until the prediction is no longer the target instead of the true label: "
        f"{either['not-target']:.0f} %.",
        f"- **With the sign** of what a weight contributes, the part is {median(**signed):.2g} % in the layer of our "
        "rule.",
    ]
    return "\n".join(lines)


def setting(scale: str, seeds: Sequence[int]) -> str:
    """What the notebook's run rests on, in a paragraph of Markdown."""
    chosen, networks = localisation.settings(scale), localisation.names(scale)
    sets = dict.fromkeys(config.load(scale).recipe(name).data for name in networks)
    rest = f"{len(networks)} backdoored networks, {chosen['localisation_pairs']} pairs each"
    return evaluations.setting_text(scale, tuple(sets), seeds, rest)


def write(scale: str, seeds: Sequence[int], numbers: Sequence[Any], figure: Any) -> None:
    """Write the record `lancet_localisation`."""

    def described(scale: str) -> dict[str, Any]:
        return {"pairs a network": localisation.settings(scale)["localisation_pairs"]}

    full = {"seeds": evaluations.seeds_of("paper", "lancet"), **described("paper")}
    networks, preset = localisation.names(scale), config.load(scale)
    sets = sorted({preset.recipe(name).data for name in networks})
    known = {f"{name}/repair": shared.parts(scale, name)[0].fingerprint for name in sets}
    evaluations.write(
        *("lancet_localisation", scale, seeds, networks, numbers, figure, described(scale), full, known),
        table_of(numbers, scale),
    )


def markdown(table: pd.DataFrame) -> str:
    """A table for display, numbers to three figures."""
    return tables.rounded(table, ".3g")
