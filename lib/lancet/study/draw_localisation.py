"""The plots of located errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib import plots
from lib.evaluations import frame
from lib.lancet.study.localisation_records import NAMES


def layers(axes: Sequence[Axes], numbers: Sequence[Any], network: str) -> None:
    """What each layer repairs, and the part of it that does; a line a reading of the method.

    Args:
        axes: two.
        numbers: of `localisation_records.numbers_of`.
        network: which.
    """
    for ax, name in zip(axes, ("repaired", "fraction"), strict=True):
        rows = frame(numbers, name, network=network)
        for index, (variant, text) in enumerate(NAMES.items()):
            line = rows[rows["variant"] == variant].sort_values("depth")
            look: Any = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index]}
            ax.plot(line["depth"], line["value"], linestyle=plots.LINESTYLES[index], label=text, **look)
        names = frame(numbers, "repaired", network=network, variant="stated").sort_values("depth")
        ax.set_xticks(names["depth"], names["layer"], rotation=90, fontsize=plots.SMALLEST)
    axes[0].set_ylabel("pairs repaired (share)")
    axes[0].set_ylim(-0.02, 1.02)
    axes[1].set_ylabel("part of the layer (median)")
    axes[1].set_yscale("log")


def overview(numbers: Sequence[Any], networks: Sequence[str], columns: int = 4) -> Figure:
    """`layers` of several networks as small panels, two rows a group of networks, the layers without their names.

    Args:
        numbers: of `localisation_records.numbers_of`.
        networks: which, in order.
        columns: networks side by side.
    """
    across, groups = min(columns, len(networks)), math.ceil(len(networks) / columns)
    size = (plots.DOUBLE, 0.5 + 2.6 * groups)
    figure, grid = plt.subplots(2 * groups, across, figsize=size, sharey="row", squeeze=False)
    plt.close(figure)
    for place, network in enumerate(networks):
        group, column = divmod(place, columns)
        pair = grid[2 * group : 2 * group + 2, column]
        layers(list(pair), numbers, network)
        pair[0].set_title(network.removeprefix("lancet-"))
        for ax in pair:
            ax.set_xticks([])
            ax.set_ylabel("" if column else ax.get_ylabel().replace(" (", "\n("))
        pair[1].set_xlabel("layer, first to last")
    for ax in grid.flat:
        ax.set_visible(bool(ax.lines))
    plots.legend_below(list(grid.flat), 4)
    return figure


def votes(ax: Axes, table: pd.DataFrame) -> None:
    """Votes on a layer's weights as a map of output and input channels.

    Args:
        ax: where.
        table: of `localisation.heat_map`.
    """
    grid = table.pivot(index="output", columns="input", values="votes").to_numpy()
    image = ax.imshow(
        grid, cmap="cividis", vmin=0, vmax=max(float(np.max(grid)), 1e-9), aspect="auto", interpolation="none"
    )
    ax.grid(False)
    ax.set_xlabel("input channel")
    ax.set_ylabel("output channel")
    ax.figure.colorbar(image, ax=ax, label="votes (share of the pairs)")
