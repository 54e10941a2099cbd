"""Numbers, table and plot of what slicing costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from lib import evaluations, plots, tables
from lib.evaluations import frame
from lib.slicing.study import overhead as evaluate_overhead

PAPER = {
    ("resnet10", "single"): 40.0,
    ("resnet18", "single"): 550.0,
    ("resnet10", "batched"): 3.0,
    ("resnet18", "batched"): 40.0,
}
"""Seconds an input that the source states for a whole slice."""
PHASES = (
    "forward",
    "backward",
    "slice",
    "slice-to-last-convolution",
    "forward-and-backward-pass",
    "plain-rule",
    "profile",
)
AXES = {"batch": "inputs sliced together", "width": "filters of the stem", "blocks": "residual blocks a stage"}


def short(network: str) -> str:
    """nnslicer-resnet10 -> resnet10."""
    return network.removeprefix("nnslicer-")


def overhead_numbers(scale: str, seed: int = 0) -> list[Any]:
    """Seconds an input by phase, growth, and peak memory, as a record's numbers.

    Args:
        scale, seed: whose networks.
    """
    rows = []
    for row in evaluate_overhead.overhead(scale, seed).to_dict("records"):
        where = {"network": short(row["network"]), "inputs": row["inputs"], "phase": row["phase"]}
        memory = row["phase"] == "peak-memory"
        stated = PAPER.get((where["network"], where["inputs"])) if row["phase"] == "slice" else None
        entry = {"name": "peak_memory" if memory else "seconds", "unit": "MB" if memory else "seconds an input"}
        rows.append({**entry, **where, "value": row["value"], "n": row["n"], "seed": seed, "paper_value": stated})
    for row in evaluate_overhead.growth(scale, seed).to_dict("records"):
        entry = {"name": "seconds", "unit": "seconds an input"}
        where = {"axis": row["axis"], "size": float(row["size"])}
        rows.append({**entry, **where, "value": row["value"], "n": row["n"], "seed": seed})
    return evaluations.numbers(rows)


def costs(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Seconds an input by phase, a panel a network, with what the source states."""
    rows = frame(numbers, "seconds")
    rows = rows[rows["phase"].notna()]
    for ax, network in zip(axes, dict.fromkeys(rows["network"]), strict=True):
        phases = [phase for phase in PHASES if phase in set(rows[rows["network"] == network]["phase"])]
        for index, inputs in enumerate(("single", "batched")):
            part = rows[(rows["network"] == network) & (rows["inputs"] == inputs)].set_index("phase")
            part = part.loc[[phase for phase in phases if phase in part.index]]
            place = [phases.index(phase) + 0.18 * (2 * index - 1) for phase in part.index]
            ax.barh(place, part["value"], 0.34, color=plots.PALETTE[index], label=f"{inputs}, ours")
            stated = part["paper_value"].astype(float).to_numpy()
            look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index + 2]}
            ax.scatter(stated, place, s=28, label=f"{inputs}, as stated", **look)
        ax.set_yticks(range(len(phases)), [phase.replace("-", " ") for phase in phases])
        ax.invert_yaxis()
        ax.set_xscale("log")
        ax.set_xlabel("seconds an input")
        ax.set_title(network)
        ax.grid(axis="y", visible=False)
    plots.legend_below(axes, 4)


def growth(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Seconds an input as batch, width and depth grow, a panel each."""
    rows = frame(numbers, "seconds")
    for index, (ax, (axis, words)) in enumerate(zip(axes, AXES.items(), strict=True)):
        part = rows[rows["axis"] == axis].sort_values("size")
        ax.plot(part["size"], part["value"] * 1e3, color=plots.PALETTE[index], marker=plots.MARKERS[index])
        ax.set_xscale("log", base=2)
        ax.set_xticks(part["size"], [f"{size:g}" for size in part["size"]])
        ax.minorticks_off()
        ax.set_ylim(bottom=0)
        ax.set_xlabel(words)
    axes[0].set_ylabel("milliseconds an input")


def reading(numbers: Sequence[Any]) -> str:
    """What the costs show, in Markdown."""
    rows = frame(numbers, "seconds")
    lines = []
    for (network, inputs), stated in PAPER.items():
        part = rows[(rows["network"] == network) & (rows["inputs"] == inputs)].set_index("phase")["value"]
        if "slice" not in part:
            continue
        line: dict[str, Any] = {"network": network, "inputs": inputs, "stated, s": f"{stated:g}"}
        line |= {"ours, s": f"{part['slice']:.4f}", "stated / ours": f"{stated / part['slice']:,.0f}"}
        line["ours / one forward and backward pass"] = f"{part['slice'] / part['forward-and-backward-pass']:.1f}"
        line["plain rule / ours"] = f"{part['plain-rule'] / part['slice']:.0f}" if "plain-rule" in part else ""
        lines.append(line)
    return tables.markdown(pd.DataFrame(lines))
