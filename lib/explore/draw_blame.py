"""The panel of the weights that AI-Lancet blames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lib import plots
from lib.explore import draw
from lib.explore.blame import CLEAN, Blame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def blamed(found: Blame, layer: str | None = None) -> Figure:
    """The pair, the part of each layer whose removal makes the network right, and one layer's weights.

    Args:
        found: of a network that is wrong.
        layer: whose weights are mapped; None: the layer with the smallest part, or the last.
    Raises: ExploreError for a layer that does not exist, or where nothing is located.
    """
    layer = layer or found.chosen or next(reversed(found.votes), "")
    heat, counts = found.map(layer)
    figure, axes = draw.mosaic(
        [["adversarial", "other", "layers"], ["map", "map", "layers"]], 3.5, width_ratios=[1, 1, 1.9],
        height_ratios=[1, 1.25],
    )  # fmt: skip
    draw.picture(axes["adversarial"], found.attacked.adversarial)
    axes["adversarial"].set_title("adversarial", color=draw.ADVERSARIAL)
    draw.picture(axes["other"], found.image)
    if found.mask is not None and 0 < float(found.mask.sum()) < found.mask.numel():
        border: dict[str, Any] = {
            "levels": [0.5],
            "colors": [plots.PALETTE[4]],
            "linewidths": 1.2,
            "linestyles": "solid",
        }
        for name in ("adversarial", "other"):
            axes[name].contour(found.mask[0].numpy(), **border)
    axes["other"].set_title("the clean image" if found.companion == CLEAN else "companion", color=draw.CLEAN)
    _layers(axes["layers"], found, layer)
    ax = axes["map"]
    image = ax.imshow(heat.numpy(), cmap="cividis", aspect="auto", interpolation="none", vmin=0, vmax=1)
    rows, columns = np.nonzero(counts.numpy())
    size = max(110 / max(heat.shape), 8 if len(rows) <= 60 else 1.5)
    ax.scatter(columns, rows, s=size, color=plots.PALETTE[1], marker="s", linewidths=0)
    ax.set_xlim(-0.5, heat.shape[1] - 0.5)
    ax.set_ylim(heat.shape[0] - 0.5, -0.5)
    ax.set_title(f"{draw.label(layer)}: importance; orange: blamed")
    ax.set_xlabel("input channel")
    ax.set_ylabel("output channel")
    ax.grid(visible=False)
    draw.whole(ax)
    figure.colorbar(image, ax=ax, shrink=0.9)
    return figure


def _layers(ax: Axes, found: Blame, layer: str) -> None:
    """The blamed part of each layer, on a logarithmic axis; layers that repair nothing are said to."""
    table = found.table
    lowest = 10 ** np.floor(np.log10(min([*table["part"][table["part"] > 0], 1e-2]) * 0.99))
    for place, row in enumerate(table.to_dict("records")):
        colour, marker = (plots.PALETTE[1], "s") if row["layer"] == layer else (draw.OTHER, "o")
        look: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 6.2}
        if not row["blamed"]:
            ax.annotate("no part repairs it", (lowest, place), xytext=(3, 0), color=draw.OTHER, **look)
            continue
        ax.plot([lowest, row["part"]], [place, place], color=colour, linewidth=2.2, linestyle="-", marker="")
        ax.plot(row["part"], place, color=colour, marker=marker, markersize=5)
        wide = row["part"] > 0.05  # no room at the right: the number stands above the line
        shift = {"xytext": (-6, 4.5), "ha": "right"} if wide else {"xytext": (6, 0), "ha": "left"}
        ax.annotate(f"{row['blamed']:,} of {row['weights']:,}", (row["part"], place), **look, **shift)
    ax.set_xscale("log")
    ax.set_xlim(lowest, 1.2)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_yticks(range(len(table)), [draw.label(name) for name in table["layer"]])
    ax.set_xlabel("part of the layer to take away")
    ax.grid(axis="y", visible=False)
