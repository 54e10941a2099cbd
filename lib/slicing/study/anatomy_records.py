"""Numbers and plots of what a slice is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lib import evaluations, plots
from lib.evaluations import frame
from lib.slicing.study import anatomy as evaluate_anatomy
from lib.slicing.study.anatomy import METHODS

MEASURES = {
    "synapses": "share of synapses in a slice",
    "neurons": "share of neurons in a slice",
    "same_class": "overlap of two images' slices, one class",
    "other_class": "overlap of two images' slices, two classes",
}
NAMES = {"nnslicer": "NNSlicer", "nnslicer-dataset": "NNSlicer, mean over the set", "effective-path": "EffectivePath"}


def anatomy_numbers(scale: str, seeds: Sequence[int]) -> list[Any]:
    """Sizes and overlaps layer by layer, and the overlap of classes, as a record's numbers."""
    rows = []
    for seed in seeds:
        for method in METHODS:
            for row in evaluate_anatomy.layers(scale, seed, method).to_dict("records"):
                for measure, words in MEASURES.items():
                    entry = {"name": measure, "unit": "Jaccard index" if "overlap" in words else "share"}
                    where = {"method": method, "layer": row["layer"]}
                    rows.append({**entry, **where, "value": row[measure], "n": row["n"], "seed": seed})
            for row in evaluate_anatomy.classes(scale, seed, method).to_dict("records"):
                where = {"method": method, "first": row["first"], "second": row["second"]}
                entry = {"name": "class_overlap", "unit": "Jaccard index", "value": row["value"], "n": row["n"]}
                rows.append({**entry, **where, "seed": seed})
    return evaluations.numbers(rows)


def by_layer(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Synapses, neurons and overlaps from the image to the logits; a line a method.

    Args:
        axes: three.
    """
    for ax, measures in zip(axes, (["synapses"], ["neurons"], ["same_class", "other_class"]), strict=True):
        for index, method in enumerate(METHODS):
            for measure in measures:
                rows = frame(numbers, measure, method=method)
                rows = rows[rows["layer"] != "all"]
                place = np.arange(len(rows))
                look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index]}
                look["linestyle"] = (0, (1, 1)) if measure == "other_class" else "-"
                ax.plot(place, rows["value"], label=NAMES[method] if measure != "other_class" else None, **look)
                if rows["low"].notna().all():
                    ax.fill_between(place, rows["low"], rows["high"], color=look["color"], alpha=0.16, linewidth=0)
        ax.set_ylim(0, 1.02)
        ax.set_ylabel("\nsame class (line), other class (dots)" if len(measures) > 1 else MEASURES[measures[0]])
        ax.set_xticks(range(len(rows)), rows["layer"].str.replace("blocks.", "b", regex=False), rotation=90)
    axes[2].set_ylabel("overlap (Jaccard): one class —,\ntwo classes ···")
    plots.legend_below(axes, 3)


def class_matrix(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Overlap of whole slices, class against class, a panel a method."""
    for ax, method in zip(axes, METHODS, strict=True):
        rows = frame(numbers, "class_overlap", method=method)
        wide = rows.pivot(index="first", columns="second", values="value")
        order = list(dict.fromkeys(rows["first"]))
        image = ax.imshow(wide.loc[order, order], cmap="viridis")
        ax.set_xticks(range(len(order)), order, rotation=90)
        ax.set_yticks(range(len(order)), order)
        ax.set_title(NAMES[method])
        ax.grid(visible=False)
        ax.figure.colorbar(image, ax=ax, shrink=0.7)


def picture(axes: Sequence[Axes], frame: pd.DataFrame, layers: Sequence[str]) -> None:
    """One image's slice: the image, then CONTRIB by position, a panel a layer; positive and negative.

    Args:
        frame: of `evaluate_anatomy.picture`.
        layers: of it, one for each axes.
    """
    for ax, layer in zip(axes, layers, strict=True):
        rows = frame[frame["layer"] == layer]
        value = rows.pivot(index="row", columns="column", values="value").to_numpy()
        if layer == "image":
            ax.imshow(value, cmap="gray", vmin=0, vmax=1)
        else:
            top = max(np.abs(value).max(), 1)
            ax.imshow(value, cmap="PuOr", vmin=-top, vmax=top)
        ax.set_title("image" if layer == "image" else "pixels" if layer == "input" else layer.replace("blocks.", "b"))
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(visible=False)


def reading(numbers: Sequence[Any]) -> str:
    """What sizes and overlaps show, in Markdown."""
    lines = []
    for method in METHODS:
        whole = {m: frame(numbers, m, method=method, layer="all")["value"].item() for m in MEASURES}
        rows = frame(numbers, "synapses", method=method)
        rows = rows[rows["layer"] != "all"]
        least, most = rows.loc[rows["value"].idxmin()], rows.loc[rows["value"].idxmax()]
        lines.append(
            f"- **{NAMES[method]}**: a slice holds {whole['synapses']:.0%} of the synapses and {whole['neurons']:.0%} "
            f"of the neurons, most in `{most['layer']}` ({most['value']:.0%}), least in `{least['layer']}` "
            f"({least['value']:.1%}); slices of one class share {whole['same_class']:.2f}, of two classes "
            f"{whole['other_class']:.2f}."
        )
    return "\n".join(lines)
