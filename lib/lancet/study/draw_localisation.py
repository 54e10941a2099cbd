"""The plots of located errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

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


def legend(axes: Sequence[Axes]) -> None:
    """One legend for all panels, below them."""
    plots.legend_below(axes, 2)


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
