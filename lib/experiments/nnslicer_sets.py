"""Two sets' slices as a table and as pictures (notebook 16), from what `nnslicer_theta` measures."""

from __future__ import annotations

from math import ceil, sqrt
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib import data, plots
from lib.experiments.item import Results
from lib.experiments.nnslicer_anatomy import short


def parts(settings: Any) -> dict[str, str]:
    """Digit of a neuron, as `ThetaRun.sets` has it -> which slices it is in, in words."""
    known = data.SETS[settings.data].names
    first, second = (known[label] if known else f"class {label}" for label in settings.set_classes)
    return {"1": f"{first} alone", "2": f"{second} alone", "3": "both", "0": "neither"}


def set_table(results: Results) -> pd.DataFrame:
    """A row a layer: the share of its neurons in each part."""
    wide = results.values("neurons").pivot_table(index="layer", columns="part", values="value", sort=False)
    return wide.reset_index().rename_axis(columns=None)


def mosaic(rows: pd.DataFrame) -> np.ndarray:
    """A layer's neurons as one picture, its channels side by side with a gap of one between them.

    Args:
        rows: of one layer, as `ThetaRun.sets` has them.
    Returns: (rows, columns) of the digits; NaN in the gaps.
    """
    width = int(rows["width"].iloc[0])
    tiles = [np.array(list(map(float, cells))).reshape(-1, width) for cells in rows["cells"]]
    height = len(tiles[0])
    across = ceil(sqrt(len(tiles)))
    found = np.full((ceil(len(tiles) / across) * (height + 1) - 1, across * (width + 1) - 1), np.nan)
    for index, tile in enumerate(tiles):
        top, left = (index // across) * (height + 1), (index % across) * (width + 1)
        found[top : top + height, left : left + width] = tile
    return found


def drawn_layers(rows: pd.DataFrame) -> list[str]:
    """Of each size of a layer's pictures, the last layer among those whose neurons have most synapses; in order.

    Args:
        rows: as `ThetaRun.sets` has them.
    """
    layers = rows.assign(size=rows["cells"].map(len)).groupby("layer", sort=False)[["inputs", "width", "size"]].first()
    most = layers["inputs"] == layers.groupby(["width", "size"])["inputs"].transform("max")
    return list(layers[most].reset_index().drop_duplicates(["width", "size"], keep="last")["layer"])


def draw_sets(results: Results) -> Figure:
    """The neurons of two sets' slices at the first seed, a panel a layer, a tile a channel."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    rows = results.rows("picture")
    shown = {layer: mosaic(rows[rows["layer"] == layer]) for layer in drawn_layers(rows)}
    layers = list(shown)
    pairs = [layers[k : k + 2] for k in range(0, len(layers), 2)]
    heights = [max(shown[layer].shape[0] / shown[layer].shape[1] / len(pair) for layer in pair) for pair in pairs]
    pairs = [pair if len(pair) == 2 else pair * 2 for pair in pairs]
    figure, axes = plots.mosaic(pairs, plots.SINGLE * sum(heights) + 1, height_ratios=heights)
    colours = {"0": "#e6e6e6", "1": plots.PALETTE[0], "2": plots.PALETTE[1], "3": "#4d4d4d"}
    look: dict[str, Any] = {"cmap": ListedColormap(list(colours.values())), "vmin": -0.5, "vmax": 3.5}
    for layer, ax in axes.items():
        ax.imshow(shown[layer], interpolation="nearest", **look)
        ax.set_title(short(layer))
        ax.set_anchor("N")
        plots.bare(ax)
    names = parts(results.settings)
    patches = [Patch(color=colours[digit], label=name) for digit, name in names.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), handlelength=1.2)
    return figure
