"""From companions of wrong inputs to the numbers, texts and record of the notebook on companions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib import evaluations, tables
from lib.evaluations import SHARE, frame
from lib.lancet.study import wrong
from lib.lancet.study.companions import METHODS, first_half

NAMES = {
    "hard": "hard mask (ours)",
    "stated": "soft mask, first success (stated)",
    "grad-cam": "hottest part of Grad-CAM",
    "random": "random region",
}
_SHARES = ("found", "survives")
_MEANS = {
    "area": "fraction of the image",
    "between": "fraction of pixels",
    "blobs": "connected pieces",
    "overlap": "intersection over union",
}


def numbers_of(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """A record's numbers of companions.

    Args:
        frames: seed -> as `companions.measured` returns it.
    Returns: at {method}: "found", the share of wrong inputs whose companion gets the true label; "survives", that
        still does with the mask rounded to 0 or 1; means over the inputs of "area", "between" (share of pixels that
        are neither clearly in nor out), "blobs" and "overlap" (with our mask); "median_area". Of Grad-CAM and random
        regions n are the inputs for which our mask was found, whose sizes they have.
    """
    rows: list[dict[str, Any]] = []
    for seed, table in frames.items():
        for method in METHODS:
            part = table[table["method"] == method]
            where = {"n": len(part), "method": method, "seed": seed}
            if not len(part):
                continue
            rows += [
                {"name": name, "value": part[name].astype(float).mean(), "unit": SHARE, **where} for name in _SHARES
            ]
            some = part[part["found"]] if method in ("hard", "stated") else part
            if not len(some):
                continue
            where = {**where, "n": len(some)}
            rows += [
                {"name": name, "value": some[name].astype(float).mean(), "unit": unit, **where}
                for name, unit in _MEANS.items()
                if not (name == "overlap" and method == "hard")
            ]
            value = {"value": float(some["area"].median()), "unit": _MEANS["area"]}
            rows.append({"name": "median_area", **value, **where})
    return evaluations.numbers(rows)


def table_of(numbers: Sequence[Any]) -> pd.DataFrame:
    """One row a method, one column a measure."""
    rows = pd.concat([frame(numbers, name) for name in (*_SHARES, "median_area", *_MEANS)])
    wide = rows.pivot(index="method", columns="name", values="value")
    wide = wide.reindex([method for method in METHODS if method in wide.index])
    wanted = [name for name in (*_SHARES, "median_area", "between", "blobs", "overlap") if name in wide]
    shown = wide[wanted].rename(columns=lambda name: str(name).replace("_", " ")).reset_index()
    shown["method"] = shown["method"].map(NAMES)
    return shown.rename_axis(columns=None)


def reading(numbers: Sequence[Any]) -> str:
    """What the masks show, computed, as Markdown."""

    def at(name: str, method: str) -> float:
        rows = frame(numbers, name, method=method)["value"]
        return float(rows.iloc[0]) if len(rows) else float("nan")

    lines = [
        f"- **Found:** {100 * at('found', 'hard'):.0f} % of wrong inputs have a companion with a hard mask, "
        f"{100 * at('found', 'stated'):.0f} % with the stated soft one. Rounded to 0 and 1, "
        f"{100 * at('survives', 'stated'):.0f} % of the soft masks still do it.",
        f"- **The three constraints:** hard masks cover {100 * at('median_area', 'hard'):.1f} % of the image in the "
        f"median, in {at('blobs', 'hard'):.1f} pieces on average, and no pixel is in between; soft masks sum up to "
        f"{100 * at('median_area', 'stated'):.1f} %, {100 * at('between', 'stated'):.0f} % of the pixels in between.",
    ]
    if len(frame(numbers, "found", method="grad-cam")):
        lines.append(
            f"- **Against heat maps:** as large a region, taken where Grad-CAM is hottest for the wrong class and "
            f"blurred alike, corrects {100 * at('found', 'grad-cam'):.0f} % of the inputs, a random one "
            f"{100 * at('found', 'random'):.0f} %; Grad-CAM's overlaps with our masks by "
            f"{at('overlap', 'grad-cam'):.2f} (random: {at('overlap', 'random'):.2f})."
        )
    return "\n".join(lines)


def setting(scale: str, seeds: Sequence[int], frames: Mapping[int, pd.DataFrame]) -> str:
    """What the notebook's run rests on, in a paragraph of Markdown."""
    chosen = wrong.settings(scale)
    count = min(len(table[table["method"] == "hard"]) for table in frames.values())
    rest = f"{count} wrong inputs of `{chosen['defect_network']}`, {chosen['companion_steps']} steps each"
    return evaluations.setting_text(scale, wrong.data_of(scale), seeds, rest)


def write(scale: str, seeds: Sequence[int], numbers: Sequence[Any], figure: Any, drawn: pd.DataFrame) -> None:
    """Write the record `lancet_companions`; `drawn` are the pictures that the figure shows."""

    def described(scale: str) -> dict[str, Any]:
        chosen = wrong.settings(scale)
        return {"wrong inputs": chosen["companion_images"], "steps": chosen["companion_steps"]}

    known = {f"{wrong.data_of(scale)}/test1": first_half(scale).fingerprint}
    wrong.write("lancet_companions", scale, seeds, numbers, figure, described, known, table_of(numbers), [drawn])


def markdown(table: pd.DataFrame) -> str:
    """A table for display, numbers to three places."""
    return tables.rounded(table)
