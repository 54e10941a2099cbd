"""The plots of repaired backdoored networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lib import plots
from lib.evaluations import frame
from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.study.backdoor_records import SIZED, with_change
from lib.lancet.study.repairs import METHODS

PANELS = {
    "attack_success": "success of the attack",
    "accuracy_change": "change in accuracy",
    "target_recall": "recall of the target class",
}
KNOWN = {False: "true trigger known", True: "reversed trigger known"}


def methods(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Every network after every method: a point each, the mean as a bar across; a panel a measure.

    Args:
        axes: three.
        numbers: of `backdoor_records.backdoor_numbers`.
    """
    shown = {name: frame(numbers, name) for name in PANELS}
    used = {method for rows in shown.values() for method in rows["method"]}
    order = [method for method in METHODS if method in used]
    for ax, (name, words) in zip(axes, PANELS.items(), strict=True):
        for index, (flag, label) in enumerate(KNOWN.items()):
            part = shown[name][shown[name]["reversed"] == flag]
            look: dict[str, Any] = {"color": plots.PALETTE[index], "linestyle": "none"}
            for place, method in enumerate(order):
                values = _each(part[part["method"] == method])
                if not len(values):
                    continue
                height = place + (index - 0.5) * 0.36
                spread = np.linspace(-0.1, 0.1, len(values)) if len(values) > 1 else np.zeros(1)
                named = label if place == 0 else None
                ax.plot(values, height + spread, marker=plots.MARKERS[index], markersize=2, alpha=0.45, **look)
                ax.plot([values.mean()], [height], marker="|", markersize=9, markeredgewidth=2, label=named, **look)
        ax.set_title(words)
        ax.set_xlabel("share of images")
        plots.named_rows(ax, [METHODS[method] for method in order], 0.6)
    for ax in axes[1:]:
        ax.tick_params(labelleft=False)
    axes[1].axvline(0, color="#777777", linewidth=0.8, marker="", linestyle="-", zorder=0.5)
    plots.legend_below(axes, 2)


def _each(rows: pd.DataFrame) -> np.ndarray:
    """The values of rows, seed by seed."""
    seeds = dict.fromkeys(seed for values in rows["per_seed"] for seed in values)
    return np.asarray([values[seed] for seed in seeds for values in rows["per_seed"] if seed in values], dtype=float)


def rules(axes: Sequence[Axes], frames: Mapping[int, pd.DataFrame]) -> None:
    """The stated layer rule against ours, a point a network and trigger: success, accuracy and target recall after it.

    Args:
        axes: three.
        frames: seed -> as `backdoors.table` returns it.
    """
    whole = with_change(pd.concat(frames.values(), ignore_index=True))
    panels = {"attack_success": "success", "accuracy": "accuracy", "target_recall": "target recall"}
    for ax, (name, words) in zip(axes, panels.items(), strict=True):
        part = whole[whole["method"].isin(["flip-stated", "flip-tried"])]
        wide = part.pivot_table(index=["network", "reversed"], columns="method", values=name)
        for index, (flag, label) in enumerate(KNOWN.items()):
            held = wide[wide.index.get_level_values("reversed").astype(bool) == flag]
            look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index], "linestyle": "none"}
            ax.plot(held["flip-stated"], held["flip-tried"], label=label, alpha=0.7, **look)
        ax.plot([0, 1], [0, 1], color="#777777", linewidth=0.8, marker="", linestyle="-", zorder=0.5)
        ax.set_xlim(-0.03, 1.03)
        ax.set_ylim(-0.03, 1.03)
        ax.set_aspect("equal")
        ax.set_title(words)
        ax.set_xlabel("stated rule")
    axes[0].set_ylabel("layers tried (ours)")
    plots.legend_below(axes, 2)


def sizes(axes: Sequence[Axes], numbers: Sequence[Any], name: str = "attack_success", words: str = "success") -> None:
    """A measure over the trigger's size, mean and 95 % interval over the sets; a panel for each kind and trigger known.

    Args:
        axes: four: regular and transparent with the true trigger known, then with the reversed one.
        numbers: of `backdoor_records.size_numbers`.
        name, words: the measure, and what the axis calls it.
    """
    found = frame(numbers, f"{name}_over_networks")
    place = ["trigger", "size", "kind", "method", "reversed"]
    ends = found.pivot_table(index=place, columns="statistic", values="value")
    ends = ends.reindex(columns=["low", "high"])  # none with one set
    rows = found[found["statistic"] == "mean"].drop(columns=["low", "high"], errors="ignore").join(ends, on=place)
    panels = [(flag, kind) for flag in KNOWN for kind in ("regular", "transparent")]
    for ax, (flag, kind) in zip(axes, panels, strict=True):
        part = rows[(rows["reversed"] == flag) & (rows["kind"] == kind) & rows["method"].isin(SIZED)]
        part = part.assign(method=part["method"].map(METHODS), percent=100 * part["size"])
        order = [METHODS[method] for method in SIZED]
        plots.curves(ax, part, x="percent", hue="method", order=order, low=None, high=None)
        for index, method in enumerate(order):
            line = part[part["method"] == method].dropna(subset=["low", "high"])
            beside = line["percent"] + (index - (len(order) - 1) / 2) * 0.35  # percent: so that bars do not hide others
            ax.vlines(beside, line["low"], line["high"], color=plots.PALETTE[index], linewidth=0.8, alpha=0.7)
        ax.set_title(f"{kind},\n{KNOWN[flag]}")
        ax.set_xlabel("size, % of the image")
        ax.set_xlim(0, 1.08 * 100 * rows["size"].max())
        ax.set_ylim(-0.03, 1.03)
    axes[0].set_ylabel(f"{words}, share of images")
    plots.legend_below(axes, 3)


def forms(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """TrojanNN: success (full) and accuracy (hollow) of every method; a panel a network.

    Args:
        axes: one a network.
        numbers: of `backdoor_records.trojannn_numbers`.
    """
    success, accuracy = frame(numbers, "attack_success"), frame(numbers, "accuracy")
    order = [method for method in METHODS if method in set(accuracy["method"])]
    for ax, network in zip(axes, dict.fromkeys(accuracy["network"]), strict=True):
        for index, (flag, label) in enumerate(KNOWN.items()):
            means = [
                rows[(rows["network"] == network) & (rows["reversed"] == flag)].set_index("method")["value"]
                for rows in (success, accuracy)
            ]
            places = np.arange(len(order)) + (index - 0.5) * 0.3
            look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index], "linestyle": "none"}
            ax.plot(means[0].reindex(order), places, label=f"success, {label}", **look)
            ax.plot(means[1].reindex(order), places, fillstyle="none", label=f"accuracy, {label}", **look)
        plots.named_rows(ax, [METHODS[method] for method in order], 0.6)
        ax.set_xlim(-0.03, 1.03)
        ax.set_title(str(network).rpartition("-")[2])
        ax.set_xlabel("share of images")
    for ax in axes[1:]:
        ax.tick_params(labelleft=False)
    plots.legend_below(axes, 2)


def stamps(image: Tensor, triggers: Sequence[tuple[str, Trigger, Trigger]]) -> Figure:
    """Triggers side by side: the image with the true one, with the reversed one, and the reversed one alone.

    Args:
        image: (C, H, W) in [0, 1], clean.
        triggers: name, true and reversed trigger of each network, all for images of that shape.
    Returns: the figure, a column a trigger.
    """
    size = (min(plots.DOUBLE, 0.4 + 1.1 * len(triggers)), 0.3 + 3 * min(1.1, plots.DOUBLE / len(triggers)))
    figure, axes = plt.subplots(3, len(triggers), figsize=size, squeeze=False)
    plt.close(figure)
    for column, (name, true, found) in enumerate(triggers):
        pictures = [true.stamp(image[None])[0], found.stamp(image[None])[0], found.mask * found.pattern]
        for row, picture in enumerate(pictures):
            ax = axes[row][column]
            pixels = picture.detach().cpu().permute(1, 2, 0).numpy()
            ax.imshow(pixels if pixels.shape[2] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(visible=False)
            for side in ax.spines.values():
                side.set_visible(False)
        axes[0][column].set_title(name, fontsize=plots.SMALLEST)
    for row, words in enumerate(("true trigger", "reversed trigger", "reversed alone")):
        axes[row][0].set_ylabel(words, fontsize=plots.SMALLEST)
    return figure
