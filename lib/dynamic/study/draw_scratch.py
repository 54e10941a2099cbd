"""The plots of pruning from scratch: accuracies, structures, cost, diversity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lib import plots
from lib.dynamic.study.diversity import matrix
from lib.dynamic.study.diversity_records import MEASURES, start_of, starts_in, wide
from lib.dynamic.study.names import titled
from lib.dynamic.study.scratch import METHODS
from lib.evaluations import frame

GROUPS = {
    "trained for E epochs": ("scratch", "plain", "random", "uniform"),
    "for as much work as the whole network": (
        "scratch-budget",
        "scratch-counted",
        "uniform-budget",
        "l1",
        "slimming",
        "slimming-floor",
    ),
}


def accuracies(axes: Sequence[Axes], numbers: Sequence[Any], budget: float) -> None:
    """Accuracy of each method, a panel a network: seeds as small points, their mean with its interval.

    Args:
        axes: one a network.
        numbers: of `scratch_records.pruning_numbers`.
        budget: which one is shown.
    """
    rows = frame(numbers)
    names = list(dict.fromkeys(rows["network"]))
    methods = [method for group in GROUPS.values() for method in group]
    for ax, name in zip(axes, names, strict=True):
        part = rows[(rows["network"] == name) & rows["budget"].isin([budget, 1.0])].set_index("method")
        for index, group in enumerate(GROUPS):
            places = [methods.index(method) for method in GROUPS[group] if method in part.index]
            shown = part.loc[[methods[place] for place in places]]
            look: dict[str, Any] = {"color": plots.PALETTE[index], "linestyle": "none"}
            spread = np.abs(shown[["low", "high"]].to_numpy(float).T - shown["value"].to_numpy(float))
            spread = np.nan_to_num(spread)
            ax.errorbar(
                shown["value"], places, xerr=spread, marker=plots.MARKERS[index], capsize=2, label=group, **look
            )
            for place, each in zip(places, shown["per_seed"], strict=True):
                ax.plot(list(each.values()), [place + 0.22] * len(each), marker=".", markersize=3, alpha=0.6, **look)
        _say_same(ax, [methods.index(method) for method in methods if method not in part.index])
        if "full" in part.index:
            ax.axvline(
                part.loc["full", "value"],
                color="#000000",
                linewidth=0.8,
                marker="",
                linestyle="--",
                label="the whole network",
            )
        plots.named_rows(ax, [METHODS[method] for method in methods], 0.6)
        ax.set_title(titled(name) + _fewer(rows, name, ",\ninterval over images"))
        ax.set_xlabel("accuracy")
    plots.legend_below(axes, 3)


def structures(ax: Axes, rows: pd.DataFrame) -> None:
    """The share of each layer's channels that a structure keeps, a line a method.

    Args:
        ax: where to draw.
        rows: as `scratch.structures` returns them.
    """
    shown = rows[rows["method"] != "l1"]  # the uniform one's channels, by other filters
    shown = shown.assign(ratio=shown["kept"] / shown["width"], place=shown.groupby("method").cumcount() + 1)
    shown["method"] = shown["method"].map(METHODS)
    plots.curves(ax, shown, x="place", y="ratio", hue="method", order=list(dict.fromkeys(shown["method"])))
    ax.set_ylim(0, 1.05)
    ax.set_xlabel("convolution with gates, in order")
    ax.set_ylabel("share of channels kept")


def costs(axes: Sequence[Axes], numbers: Sequence[Any], budget: float) -> None:
    """Seconds before the structure is known, and after, a panel a network.

    Args:
        axes: one a network.
        numbers: of `scratch_records.cost_numbers`.
        budget: which one is shown.
    """
    search, train = frame(numbers, "search_seconds"), frame(numbers, "train_seconds")
    names = list(dict.fromkeys(search["network"]))
    methods = list(METHODS)
    for ax, name in zip(axes, names, strict=True):
        parts = [rows[(rows["network"] == name) & rows["budget"].isin([budget, 1.0])] for rows in (search, train)]
        before, after = (part.set_index("method")["value"].reindex(methods) for part in parts)
        ax.barh(range(len(methods)), before, color=plots.PALETTE[1], label="before the structure is known")
        ax.barh(
            range(len(methods)), after, left=before, color=plots.PALETTE[0], hatch="///", label="training it, after"
        )
        _say_same(ax, [place for place, method in enumerate(methods) if method not in before.dropna().index])
        plots.named_rows(ax, [METHODS[method] for method in methods], 0.6)
        ax.set_title(titled(name) + _fewer(search, name))
        ax.set_xlabel("seconds")
    plots.legend_below(axes, 2)


def _fewer(rows: pd.DataFrame, name: str, more: str = "") -> str:
    """What a panel's title adds for a network of one seed beside others of several."""
    seeds = rows.groupby("network")["seeds"].max()
    return f", one seed{more}" if seeds[name] == 1 < seeds.max() else ""


def _say_same(ax: Axes, places: Sequence[int]) -> None:
    """Rows without a number: their structure stands in another row already (`scratch_records.distinct`)."""
    for place in places:
        ax.text(
            0.03, place, "the same structure", va="center", fontsize=plots.SMALLEST, transform=ax.get_yaxis_transform()
        )


def matrices(axes: Sequence[Axes], tables: dict[str, pd.DataFrame]) -> None:
    """Correlation of the keep ratios of every two structures, a panel a network, ordered by start.

    Args:
        axes: one a network.
        tables: network -> as `diversity.structures` returns it.
    """
    for ax, (name, rows) in zip(axes, tables.items(), strict=True):
        values = matrix(rows)
        image = ax.imshow(values.to_numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
        epochs = values.index.get_level_values("epoch")
        last, count = int(max(epochs)), len(epochs)
        for epoch in dict.fromkeys(epochs):
            own = np.flatnonzero(epochs == epoch)
            if own[0]:
                ax.axhline(own[0] - 0.5, color="#000000", linewidth=0.6, marker="", linestyle="-")
                ax.axvline(own[0] - 0.5, color="#000000", linewidth=0.6, marker="", linestyle="-")
        middles = [float(np.flatnonzero(epochs == epoch).mean()) for epoch in dict.fromkeys(epochs)]
        words = [start_of(int(epoch), last) for epoch in dict.fromkeys(epochs)]
        ax.set_yticks(middles, words)
        ax.set_xticks(middles, words, rotation=30, ha="right")
        ax.set_xlim(-0.5, count - 0.5)
        ax.set_title(titled(name))
        ax.grid(visible=False)
        ax.figure.colorbar(image, ax=ax, shrink=0.8)


def by_start(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Each measure by what gates were learned on: a point an initialisation, the mean as a line; a colour a network.

    Args:
        axes: one for each of correlation, distance, accuracy.
        numbers: of `diversity_records.numbers_of`.
    """
    table, order = wide(numbers), starts_in(numbers)
    for ax, measure in zip(axes, ("correlation", "distance", "accuracy"), strict=True):
        title = MEASURES[measure]
        for index, (name, group) in enumerate(table.groupby("network", sort=False)):
            if title not in group or group[title].isna().all():
                continue
            place = group["start"].map(order.index) + 0.12 * (index - 0.5)
            look: dict[str, Any] = {"color": plots.PALETTE[index], "linestyle": "none"}
            ax.plot(place, group[title], marker=plots.MARKERS[index], alpha=0.6, label=titled(str(name)), **look)
            mean = group.groupby("start")[title].mean()
            ax.plot([order.index(str(k)) for k in mean.index], mean, marker="_", markersize=9, **look)
        ax.set_xticks(range(len(order)), order, rotation=30, ha="right")
        ax.set_title(title)
    handles, labels = axes[-1].get_legend_handles_labels()
    axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=max(1, len(labels)))
