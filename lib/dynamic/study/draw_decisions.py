"""The plots of what networks decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lib import plots
from lib.attacks import SUITE
from lib.dynamic.study.decision_records import MEAN
from lib.dynamic.study.decisions import TRAINED, UNTRAINED
from lib.dynamic.study.names import titled
from lib.evaluations import frame

GREY = "#8c8c8c"
# Ten hues, none of them grey, for ten classes; further classes begin anew.
CLASSES = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf", "#000000")


def maps(usage: pd.DataFrame, classes: Sequence[str], most: int = 10) -> Figure:
    """Which row each class takes in each layer: a line of panels a network, a panel a layer.

    Args:
        usage: as `decisions.usage` returns it, of one seed and one or several networks.
        classes: their names.
        most: classes shown.
    Returns: the figure; dark is a row that all of the class's images take.
    """
    names = list(dict.fromkeys(usage["network"]))
    columns = max(part["layer"].nunique() for _, part in usage.groupby("network"))
    shown = list(classes[:most])
    height = 0.45 + len(names) * (0.35 + 0.1 * len(shown))
    figure, axes = plt.subplots(len(names), columns, figsize=(plots.DOUBLE, height), squeeze=False)
    plt.close(figure)
    picture = None
    for line, name in zip(axes, names, strict=True):
        part = usage[(usage["network"] == name) & (usage["label"] < len(shown))]
        for ax, (layer, one) in zip(line, part.groupby("layer", sort=False), strict=False):
            values = one.pivot(index="label", columns="row", values="share")
            picture = ax.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            ax.set_title(_short(str(layer)), fontsize=5.5, pad=2)
        for ax in line:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(visible=False)
            ax.set_axis_on() if ax.images else ax.set_axis_off()
        line[0].set_yticks(range(len(shown)), shown, fontsize=5.5)
        line[0].set_ylabel(titled(name), fontsize=plots.SMALLEST)
    figure.supxlabel("rows of the layer's masks; a line a class", fontsize=plots.SMALLEST)
    if picture is not None:
        figure.colorbar(picture, ax=axes, fraction=0.015, pad=0.01, label="share of the class")
    return figure


def _short(layer: str) -> str:
    """A layer's name as a panel has room for it: its block's, where every block has one masked convolution."""
    words = layer.split(".")
    return ".".join(words[-3:-1] if words[-1] == "conv1" else words[-1:])[-14:]


def by_layer(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Entropy of the choices and their information on the class from layer to layer; a panel a network.

    Args:
        axes: one a network, in the order of the numbers, sharing y.
        numbers: of `decision_records.layer_numbers`.
    """
    entropy, told = frame(numbers, "entropy", choices="measured"), frame(numbers, "information")
    for ax, name in zip(axes, dict.fromkeys(entropy["network"]), strict=False):
        lines = {
            "entropy": entropy[entropy["units"] == TRAINED],
            "entropy, untrained units": entropy[entropy["units"] == UNTRAINED],
            "information": told[(told["units"] == TRAINED) & (told["classes"] == "true")],
            "information, untrained units": told[(told["units"] == UNTRAINED) & (told["classes"] == "true")],
            "information, permuted classes": told[(told["units"] == TRAINED) & (told["classes"] == "permuted")],
        }
        parts = []
        for label, rows in lines.items():
            rows = rows[(rows["network"] == name) & (rows["layer"] != MEAN)]
            parts.append(rows.assign(line=label))
        plots.curves(ax, pd.concat(parts), x="place", hue="line", order=list(lines))
        ax.set_title(titled(str(name)))
        ax.set_xlabel("masked layer, first to last")
        ax.set_ylim(bottom=-0.05)
    axes[0].set_ylabel("bits")
    plots.legend_below(axes, 3)


def pictures(images: Tensor, rows: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Images on the rarest and on the commonest rows, with what the network calls them.

    Args:
        images: (N, C, H, W) in [0, 1], one a row.
        rows: the rows of `decisions.paths` of one network that are images, "rare" first.
        classes: names.
    """
    kinds = {"rare": "rare rows", "usual": "common rows"}
    count = max(1, *(int((rows["kind"] == kind).sum()) for kind in kinds))
    figure, axes = plt.subplots(2, count, figsize=(plots.DOUBLE, 0.6 + 2.3 * plots.DOUBLE / count), squeeze=False)
    plt.close(figure)
    for line, (kind, words) in zip(axes, kinds.items(), strict=True):
        chosen = np.flatnonzero((rows["kind"] == kind).to_numpy())
        for ax, i in zip(line, chosen, strict=False):
            pixels = images[i].permute(1, 2, 0).numpy()
            ax.imshow(pixels if pixels.shape[2] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=1)
            row = rows.iloc[i]
            told = classes[int(row["label"])]
            told += "" if row["label"] == row["predicted"] else f"\ncalled {classes[int(row['predicted'])]}"
            ax.set_title(f"{told}\n{row['bits']:.1f} bits", fontsize=5.5)
        for ax in line:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(visible=False)
            for side in ax.spines.values():
                side.set_visible(False)
        line[0].set_ylabel(words, fontsize=plots.SMALLEST)
    return figure


def plane(axes: Sequence[Axes], points: pd.DataFrame, classes: Sequence[str], colour: str = GREY) -> None:
    """The decision feature in two dimensions: training images by class, adversarials in grey; a panel a network.

    Args:
        axes: one a network.
        points: the rows of `decisions.embedding` of one seed that are points.
        classes: names.
        colour: of the adversarials.
    """
    for ax, (name, part) in zip(axes, points.groupby("network", sort=False), strict=False):
        train = part[part["inputs"] == "train"]
        look: dict[str, Any] = {"s": max(0.6, 2500 / len(train)) ** 1.0 / 2, "linewidths": 0, "alpha": 0.6}
        for label, group in train.groupby("label"):
            shade = CLASSES[int(label) % len(CLASSES)]
            ax.scatter(group["x"], group["y"], color=shade, label=classes[int(label)], **look)
        adversarial = part[part["inputs"].isin(SUITE)]
        grey = {**look, "alpha": 0.8, "s": 1.6 * look["s"], "color": colour, "zorder": 3}
        ax.scatter(adversarial["x"], adversarial["y"], label="adversarial", **grey)
        ax.set_title(titled(str(name)))
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_xlabel("first dimension of UMAP")
        ax.grid(visible=False)
    axes[0].set_ylabel("second dimension of UMAP")
    handles, labels = axes[0].get_legend_handles_labels()
    legend = axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=6, markerscale=4)
    for handle in legend.legend_handles:
        handle.set_alpha(1)  # type: ignore[union-attr]
