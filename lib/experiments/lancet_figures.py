"""Figures of repaired networks: every method with each trigger known, and the size of the trigger."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lib import dotplots, plots
from lib.experiments.item import Results
from lib.experiments.lancet_repairs import KNOWN, METHODS

PANELS = {
    "attack_success": "attack\nsuccess rate\n(share)",
    "accuracy_change": "change in\naccuracy\n(difference)",
    "target_recall": "recall of the\ntarget class\n(share)",
}
GROUPS = {
    "methods of the source": ("none", "flip-stated", "tune", "unlearn-literal", "unlearn-matched", "fine-prune"),
    "our variants and controls": (
        *("flip-smallest", "flip-tried", "flip-signed", "zero", "random", "tune-random", "tune-whole"),
    ),
}
"""Methods as the figure groups them."""


def draw_methods(results: Results) -> Figure:
    """Every network after every method as a faint point, their mean with its interval, and the source's mean as a star;
    a column a measure, a block a group of methods."""
    shown = {name: results.values(name) for name in PANELS}
    used = set(shown["accuracy_change"]["method"])
    groups = {words: [m for m in methods if m in used] for words, methods in GROUPS.items()}
    sizes = [len(methods) for methods in groups.values()]
    figure, flat = plots.grid(3 * len(groups), 3, 2.4, plots.SINGLE, height_ratios=sizes, sharex="col")
    for row, (words, methods) in zip(flat.reshape(-1, 3), groups.items(), strict=True):
        for ax, name in zip(row, PANELS, strict=True):
            each, means = shown[name].groupby(["method", "reversed"]), over(results, name, ["method", "reversed"])
            for index, (flag, known) in enumerate(KNOWN.items()):
                part = means[(means["reversed"] == flag) & means["method"].isin(methods)]
                places = dotplots.row_of(part["method"], methods) + (index - 0.5) * 0.42
                for method, place in zip(part["method"], places, strict=True):
                    values = _each_seed(each.get_group((method, flag)))
                    spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
                    look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": ".", "linestyle": "none"}
                    ax.plot(values, place + spread, markersize=3, markeredgewidth=0, alpha=0.45, **look)
                dotplots.intervals(ax, part, places, index, label=f"{known} trigger known", zorder=2.5)
                dotplots.published(ax, part, places)
            plots.named_rows(ax, method_names(methods), 0.6)
            ax.tick_params(labelleft=ax is row[0])
        plots.zero(row[list(PANELS).index("accuracy_change")])
        plots.heading(row[0], words)
    for ax, title in zip(row, PANELS.values(), strict=True):
        ax.set_xlabel(title, fontsize=plots.SMALLEST)
        ax.xaxis.set_major_locator(MaxNLocator(2, steps=[1, 5, 10]))
        if title.endswith("(share)"):
            ax.set(xlim=(-0.05, 1.05), xticks=(0, 0.5, 1), xticklabels=("0", ".5", "1"))
    plots.legend_below(flat, 2)
    return figure


def method_names(methods: Sequence[str], width: int = 20) -> list[str]:
    """Methods in words, on lines of at most `width` letters."""
    return [textwrap.fill(METHODS[method], width) for method in methods]


def over(results: Results, name: str, places: Sequence[str], **where: Any) -> pd.DataFrame:
    """The mean of a measure over the networks, by `places`: value, low and high (NaN with one network), paper_value."""
    found = results.values(f"{name}_over_networks", **where)
    wide = found.pivot_table(index=list(places), columns="statistic", values="value", sort=False)
    wide = wide.reindex(columns=["mean", "low", "high"]).rename(columns={"mean": "value"})
    means = found[found["statistic"] == "mean"].set_index(list(places))
    return wide.assign(paper_value=means.get("paper_value")).reset_index()


def _each_seed(rows: pd.DataFrame) -> np.ndarray:
    seeds = dict.fromkeys(seed for values in rows["per_seed"] for seed in values)
    return np.asarray([values[seed] for seed in seeds for values in rows["per_seed"] if seed in values], dtype=float)


def draw_sizes(results: Results, name: str = "attack_success", words: str = "attack success rate") -> Figure:
    """A measure over the trigger's size, mean and 95 % interval over the sets; a row a method, a column a kind.

    Args:
        name, words: the measure, and what the axis calls it.
    """
    found = over(results, name, ["kind", "method", "reversed", "size"])
    found["percent"] = 100 * found["size"]
    methods = [method for method in METHODS if method in set(found["method"])]
    kinds = sorted(found["kind"].unique())
    most = [found[found["kind"] == kind]["percent"].max() for kind in kinds]
    figure, axes = plots.grid(
        len(methods) * len(kinds), len(kinds), 0.76, plots.SINGLE, width_ratios=most, sharex="col", sharey=True
    )
    for place, ax in enumerate(axes):
        method, kind = methods[place // len(kinds)], kinds[place % len(kinds)]
        for index, (flag, known) in enumerate(KNOWN.items()):
            line = found[(found["method"] == method) & (found["kind"] == kind) & (found["reversed"] == flag)]
            line = line.assign(percent=line["percent"] + (index - 0.5) * 0.6)  # so that no bar hides another
            look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index], "capsize": 1.5}
            look |= {"markersize": 2.6, "linewidth": 1, "elinewidth": 0.8, "label": f"{known} trigger known"}
            ax.errorbar(line["percent"], line["value"], yerr=plots.spread(line), linestyle="-", clip_on=False, **look)
        ax.set(ylim=(0, 1), yticks=(0, 0.5, 1), yticklabels=("0", ".5", "1"))
        ax.set_xlim(0, 1.06 * most[place % len(kinds)])
        if place % len(kinds) == 0:
            plots.heading(ax, METHODS[method])
    for ax, kind in zip(axes[-len(kinds) :], kinds, strict=True):
        ax.set_xlabel(f"{kind} trigger,\n% of the image")
    figure.supylabel(f"{words}, share of images", fontsize="medium")
    plots.legend_below(axes, 2)
    return figure
