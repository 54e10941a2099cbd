"""The plots of pruned networks: accuracy against FLOPs, the choices compared, time against FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lib import plots
from lib.dynamic.study.names import titled
from lib.dynamic.study.pruning import FORMS
from lib.dynamic.study.pruning_records import CHOICES, METHODS
from lib.evaluations import frame

WHOLE = ("dense", "dense-on")


def networks(numbers: Sequence[Any]) -> list[str]:
    """The dense networks, in order: a panel each."""
    return list(dict.fromkeys(frame(numbers)["network"]))


def methods(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Accuracy of each method at each budget, its interval over seeds, and the dense networks as lines.

    Args:
        axes: one a dense network.
        numbers: as `pruning_records.numbers` returns them.
    """
    held = frame(numbers)
    order = [method for method in METHODS if method not in WHOLE and method in set(held["method"])]
    for ax, network in zip(axes, networks(numbers), strict=True):
        rows = held[held["network"] == network]
        budgets = sorted(b for b in set(rows["budget"]) if b < 1)
        for index, budget in enumerate(budgets):
            part = rows[rows["budget"] == budget].set_index("method").reindex(order)
            heights = np.arange(len(order)) + 0.16 * (index - (len(budgets) - 1) / 2)
            _points(ax, part, heights, index, f"{budget:g} of the FLOPs")
        for method, dash in zip(WHOLE, ("-", (0, (3, 2))), strict=True):
            value = rows[rows["method"] == method]["value"].iloc[0]
            ax.axvline(value, color="#555555", linewidth=0.9, linestyle=dash, marker="", label=METHODS[method])
        plots.named_rows(ax, [METHODS[method] for method in order])
        ax.set_title(titled(network))
        ax.set_xlabel("accuracy on test images")
    for ax in list(axes)[1:]:
        ax.tick_params(labelleft=False)
    plots.legend_below(axes, 4)


def choices(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Accuracy of the fine-tuned networks with masks chosen in each way, by form, at the smallest budget.

    Args:
        axes: one a dense network.
        numbers: as `pruning_records.numbers` returns them.
    """
    held = frame(numbers, "choice_accuracy")
    held = held[held["budget"] == held["budget"].min()]
    order = list(CHOICES)
    for ax, network in zip(axes, networks(numbers), strict=True):
        for index, form in enumerate(FORMS):
            part = held[(held["network"] == network) & (held["form"] == form)].set_index("choice").reindex(order)
            _points(ax, part, np.arange(len(order)) + 0.2 * (index - 0.5), index, form)
        plots.named_rows(ax, [CHOICES[choice] for choice in order])
        ax.set_title(titled(network))
        ax.set_xlabel("accuracy on test images")
    for ax in list(axes)[1:]:
        ax.tick_params(labelleft=False)
    plots.legend_below(axes, 4)


def times(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Share of the time saved against share of the FLOPs saved, a point a network and budget; a panel a batch size.

    Args:
        axes: one a batch size.
        numbers: as `pruning_records.numbers` returns them.
    """
    shares = frame(numbers, "share").set_index(["network", "method", "budget"])["value"]
    held = frame(numbers, "time")
    held = held[held["budget"] < 1]
    for ax, batch in zip(axes, sorted(set(held["batch"])), strict=True):
        for index, method in enumerate(method for method in METHODS if method in set(held["method"])):
            part = held[(held["batch"] == batch) & (held["method"] == method)]
            places = zip(part["network"], part["method"], part["budget"], strict=True)
            saved = [1 - shares[place] for place in places]
            look: dict[str, Any] = {"color": plots.PALETTE[index % 7], "marker": plots.MARKERS[index % 7]}
            ax.plot(saved, 1 - part["value"], linestyle="none", label=METHODS[method], **look)
        ax.plot([0, 1], [0, 1], color="#777777", linewidth=0.8, marker="", linestyle="-", zorder=0.5)
        ax.axhline(0, color="#777777", linewidth=0.8, marker="", linestyle=(0, (1, 2)), zorder=0.5)
        ax.set_xlim(0, 1)
        ax.set_title(f"batch {int(batch)}")
        ax.set_xlabel("FLOPs saved")
    axes[0].set_ylabel("time saved")
    plots.legend_below(axes, 4)


def _points(ax: Axes, part: Any, heights: np.ndarray, index: int, label: str) -> None:
    """Values with their intervals, where there are any."""
    there = part["value"].notna().to_numpy()
    spread = None
    if "low" in part and part["low"].notna().any():
        ends = part[["low", "high"]].to_numpy(float).T
        spread = np.nan_to_num(np.abs(ends - part["value"].to_numpy(float)))[:, there]
    look: dict[str, Any] = {"color": plots.PALETTE[index % 7], "marker": plots.MARKERS[index % 7]}
    values = part["value"].to_numpy(float)[there]
    ax.errorbar(values, heights[there], xerr=spread, linestyle="none", capsize=2, elinewidth=1, label=label, **look)
