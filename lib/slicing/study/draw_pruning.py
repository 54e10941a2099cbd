"""The plots of pruned and protected networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lib import plots
from lib.evaluations import frame
from lib.slicing.protection import METHODS as HIDING
from lib.slicing.pruning import METHODS, OF_CLASSES
from lib.slicing.study.pruning_records import NAMES, VIEWS, accuracies, viewed

Look = dict[str, Any]


def pruning(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Mean accuracy over the ratio, a line a method, a panel a view: as they are, centred, as released.

    Args:
        axes: three.
        numbers: of `pruning_records.pruning_numbers`.
    """
    rows = frame(numbers)
    for ax, (view, words) in zip(axes, VIEWS.items(), strict=True):
        shown = viewed(rows, view).assign(method=lambda part: part["method"].map(NAMES))
        plots.curves(ax, shown, x="ratio", hue="method", order=[NAMES[method] for method in METHODS])
        _accuracy(ax, words.replace(", ", ",\n"))
        ax.set_xlabel("share of each layer's weights dropped")
    axes[0].set_ylabel("accuracy on the target classes")
    _legend(axes, columns=3)


def _accuracy(ax: Axes, title: str) -> None:
    ax.set_title(title)
    ax.set_ylim(0, 1.02)
    for level, words, dashes in ((0.25, "one target class in four", (1, 2)), (0.1, "one class in ten", (1, 5))):
        look: Look = {"color": "#777777", "linewidth": 0.8, "linestyle": (0, dashes), "marker": "", "zorder": 0.5}
        ax.axhline(level, label=words, **look)


def _legend(axes: Sequence[Axes], columns: int = 5, order: Sequence[str] = ()) -> None:
    """One legend for all axes; labels in `order` first."""
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    labels = [*order, *(label for label in handles if label not in order)]
    axes[0].figure.legend([handles[k] for k in labels], labels, loc="outside lower center", ncols=columns)


def leads(axes: Sequence[Axes], frames: Mapping[int, pd.DataFrame]) -> None:
    """NNSlicer's accuracy less each other method's, subset by subset: median, and the middle 90 % of subsets.

    Args:
        axes: three, a panel a view.
        frames: seed -> as `evaluate_pruning.pruned` returns it.
    """
    for ax, (view, words) in zip(axes, VIEWS.items(), strict=True):
        wide = pd.concat([accuracies(table[table["ratio"] > 0], view) for table in frames.values()])
        parts = []
        for method in METHODS[1:]:
            grouped = (wide["nnslicer"] - wide[method]).groupby("ratio")
            quantiles = {name: grouped.quantile(q) for name, q in (("low", 0.05), ("value", 0.5), ("high", 0.95))}
            parts.append(pd.DataFrame(quantiles).reset_index().assign(method=NAMES[method]))
        plots.curves(ax, pd.concat(parts), x="ratio", hue="method", order=[NAMES[method] for method in METHODS[1:]])
        ax.axhline(0, color="#777777", linewidth=0.8, marker="", linestyle="-", zorder=0.5)
        ax.set_title(words.replace(", ", ",\n"))
        ax.set_xlabel("share of each layer's weights dropped")
    axes[0].set_ylabel("NNSlicer's accuracy less the other's")
    _legend(axes)


def best_shares(ax: Axes, numbers: Sequence[Any]) -> None:
    """The share of subsets in which NNSlicer alone is the most accurate, a line a view."""
    rows = frame(numbers, "best_share").assign(view=lambda part: part["view"].map(VIEWS))
    plots.curves(ax, rows, x="ratio", hue="view", order=list(VIEWS.values()))
    plots.chance(ax, 0.25, "one method in four")
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("share of each layer's weights dropped")
    ax.set_ylabel("subsets in which NNSlicer is best")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))


def ties(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Accuracy by the rule that orders equal scores: the first position, or the smaller weight, goes first.

    Args:
        axes: two, without and with compensation.
        numbers: of `pruning_records.pruning_numbers`, with ties.
    """
    rows = frame(numbers, "accuracy_by_ties")
    words = {"position": "first position", "weight": "smaller |w|"}
    rows["rule"] = rows["method"].map(NAMES) + ", " + rows["ties"].map(words)
    order = [f"{NAMES[method]}, {word}" for method in OF_CLASSES for word in words.values()]
    for ax, flag in zip(axes, (False, True), strict=True):
        plots.curves(ax, rows[rows["compensation"] == flag], x="ratio", hue="rule", order=order)
        _accuracy(ax, VIEWS["centred" if flag else "as it is"])
        ax.set_xlabel("share of each layer's weights dropped")
    axes[0].set_ylabel("accuracy on the target classes")
    _legend(axes, columns=2)


def sacrifice(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Accuracy on the target classes, and on the other classes, every network as it is; a line a method.

    Args:
        axes: two.
        numbers: of `pruning_records.pruning_numbers`, with others.
    """
    rows = frame(numbers, "accuracy_by_classes", compensation=False)
    rows["method"] = rows["method"].map(NAMES)
    for ax, (classes, words) in zip(axes, {"target": "target classes", "other": "other classes"}.items(), strict=True):
        shown = rows[rows["classes"] == classes]
        plots.curves(ax, shown, x="ratio", hue="method", order=[NAMES[method] for method in METHODS])
        ax.set_title(words)
        ax.set_ylim(0, 1.02)
        ax.set_xlabel("share of each layer's weights dropped")
    axes[0].set_ylabel("accuracy")
    _legend(axes)


def protection(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """The attacker's accuracy by method and number of images: last epoch (full), best (hollow), before training (x).

    Args:
        axes: two, for the target classes and for all.
        numbers: of `protection_records.numbers_of`.
    """
    rows = frame(numbers)
    counts = sorted(rows["images"].unique())
    for ax, (classes, words) in zip(axes, {"target": "target classes", "all": "all classes"}.items(), strict=True):
        for index, images in enumerate(counts):
            colour = plots.PALETTE[index]
            place = np.arange(len(HIDING)) + (index - (len(counts) - 1) / 2) * 0.22
            part = rows[(rows["images"] == images) & (rows["classes"] == classes)]
            last, best, hidden = (
                part[part["epoch"] == epoch].set_index("method").loc[list(HIDING)]
                for epoch in ("last", "best", "hidden")
            )
            spread = np.abs(last[["low", "high"]].to_numpy(float).T - last["value"].to_numpy(float))
            base: Look = {"color": colour, "linestyle": "none"}
            label = f"{int(images):,} images"
            ax.errorbar(place, last["value"], yerr=spread, marker="o", capsize=2, label=f"{label}, last epoch", **base)
            ax.plot(place + 0.07, best["value"], marker="o", fillstyle="none", label=f"{label}, best epoch", **base)
            if index == 0:
                look: Look = {"color": "#777777", "linestyle": "none", "marker": "x"}
                ax.plot(np.arange(len(HIDING)), hidden["value"], label="hidden, not trained", **look)
        victim = frame(numbers, "victim_accuracy", classes=classes)["value"].item()
        ax.axhline(victim, color="#000000", linewidth=0.8, marker="", linestyle="--", label="the victim")
        ax.set_xticks(range(len(HIDING)), [NAMES[method] for method in HIDING])
        ax.set_xlim(-0.5, len(HIDING) - 0.5)
        ax.set_ylim(0, 1.02)
        ax.set_title(words)
        ax.grid(axis="x", visible=False)
        plots.chance(ax)
    axes[0].set_ylabel("the attacker's accuracy")
    marks = [f"{int(images):,} images, {epoch} epoch" for epoch in ("last", "best") for images in counts]
    _legend(axes, columns=len(counts) * 2 - (len(counts) > 1), order=marks)


def recovery(axes: Sequence[Axes], frames: Mapping[int, pd.DataFrame], images: int) -> None:
    """The attacker's accuracy epoch by epoch: mean, and the range over seeds and target subsets.

    Args:
        axes: two, for the target classes and for all.
        frames: seed -> as `evaluate_protection.protected` returns it.
        images: of the attacker.
    """
    table = pd.concat(frames.values())
    table = table[table["images"] == images].assign(value=lambda part: part["right"] / part["n"])
    for ax, (classes, words) in zip(axes, {"target": "target classes", "all": "all classes"}.items(), strict=True):
        grouped = table[table["classes"] == classes].groupby(["method", "epoch"])["value"]
        shown = grouped.agg(value="mean", low="min", high="max").reset_index()
        shown["method"] = shown["method"].map(NAMES)
        plots.curves(ax, shown, x="epoch", hue="method", order=[NAMES[method] for method in HIDING])
        ax.set_title(f"{words}, {images:,} images")
        ax.set_xlabel("epochs of the attack")
        ax.set_ylim(0, 1.02)
    axes[0].set_ylabel("the attacker's accuracy")
    _legend(axes)


def sweep(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """The attacker's accuracy after the last epoch over the share of weights hidden, for target and for all classes."""
    rows = frame(numbers, "sweep_accuracy", epoch="last")
    for ax, (classes, words) in zip(axes, {"target": "target classes", "all": "all classes"}.items(), strict=True):
        shown = rows[rows["classes"] == classes].assign(method=lambda part: part["method"].map(NAMES))
        plots.curves(ax, shown, x="share_hidden", hue="method", order=[NAMES[method] for method in HIDING])
        victim = frame(numbers, "victim_accuracy", classes=classes)["value"].item()
        ax.axhline(victim, color="#000000", linewidth=0.8, marker="", linestyle="--", label="the victim, all subsets")
        ax.set_title(words)
        ax.set_xlabel("share of each convolution's weights hidden")
        ax.set_ylim(0, 1.02)
        plots.chance(ax)
    axes[0].set_ylabel("the attacker's accuracy, last epoch")
    _legend(axes)
