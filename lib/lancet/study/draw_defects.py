"""The plots of repaired general defects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lib import plots
from lib.evaluations import frame
from lib.lancet.study.defect_records import METHODS, RULE_NAMES
from lib.lancet.study.defects import RULES

TUNED = ("error-inducing", "random", "all", "whole network")


def tradeoff(axes: Sequence[Axes], numbers: Sequence[Any], network: str) -> None:
    """What is gained on M_test2 against what it costs on the rest of test2: a line a method, a point a learning rate.

    Args:
        axes: two, a panel a rule of the layer.
        numbers: of `defect_records.numbers_of`.
        network: which.
    """
    for ax, rule in zip(axes, RULES, strict=True):
        for index, method in enumerate(TUNED):
            right = frame(numbers, "errors_right_at_rate", network=network, method=method)
            right = right[right["rule"] == (RULES[-1] if method == "whole network" else rule)]
            kept = frame(numbers, "still_right_at_rate", network=network, method=method)
            both = right.merge(kept, on=["rule", "learning_rate"]).sort_values("learning_rate")
            look: Any = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index]}
            ax.plot(
                1 - both["value_y"], both["value_x"], linestyle=plots.LINESTYLES[index], label=METHODS[method], **look
            )
        other = {
            name: frame(numbers, name, network=network, method="another seed")["value"]
            for name in ("errors_right", "still_right")
        }
        if len(other["errors_right"]):
            look = {"color": plots.PALETTE[6], "marker": "X", "linestyle": "none"}
            ax.plot(1 - other["still_right"], other["errors_right"], label=METHODS["another seed"], **look)
        ax.set_title(f"layer by {RULE_NAMES[rule]}")
        ax.set_xlabel("right before, wrong now (share)")
        ax.set_xscale("symlog", linthresh=0.02)  # a learning rate that wrecks a network must not hide the others
        ax.set_xticks([0, 0.01, 0.02, 0.05, 0.2, 1], ["0", ".01", ".02", ".05", ".2", "1"])
        ax.set_xlim(-0.001, 1)
        ax.set_ylim(bottom=-0.01)
    axes[0].set_ylabel("accuracy on M_test2")
    plots.legend_below(axes, 3)


def layers(axes: Sequence[Axes], numbers: Sequence[Any], network: str) -> None:
    """Where errors are located: the share of pairs that a layer repairs, and the median part of it that does.

    Args:
        axes: two.
        numbers: of `defect_records.numbers_of`.
        network: which.
    """
    rows = frame(numbers, "pairs_repaired", network=network)
    names = list(rows["layer"])
    place = np.arange(len(names))
    axes[0].barh(place, rows["value"].to_numpy(float), color=plots.PALETTE[0], height=0.7)
    axes[0].set_xlim(0, 1.02)
    axes[0].set_xlabel("share of the pairs repaired")
    small = frame(numbers, "fraction", network=network).set_index("layer")["value"].reindex(names)
    axes[1].plot(small.to_numpy(float), place, color=plots.PALETTE[1], marker="o", linestyle="none")
    axes[1].set_xscale("log")
    axes[1].set_xlabel("part of the layer's weights (median)")
    for ax in axes:
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_yticks(place, names if ax is axes[0] else [""] * len(names), fontsize=plots.SMALLEST)
        ax.grid(axis="y", visible=False)
