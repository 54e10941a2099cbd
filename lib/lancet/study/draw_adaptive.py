"""The plots of the adaptive attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from torch import Tensor

from lib import plots
from lib.evaluations import frame
from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.study import adaptive
from lib.lancet.study.adaptive_records import ROLES
from lib.lancet.study.repairs import METHODS
from lib.lancet.study.settings import TARGET

PANELS = {
    "attack_success": "success of the attack",
    "accuracy": "accuracy",
    "target_recall": "recall of the target class",
}


def repairs(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Each measure before and after each flip, with its 95 % interval over the seeds where there are several: colours
    tell the networks apart, filling the trigger that is known.

    Args:
        axes: three.
        numbers: of `adaptive_records.numbers`.
    """
    for ax, (name, words) in zip(axes, PANELS.items(), strict=True):
        for index, role in enumerate(("adaptive", "badnets")):
            for flag in (False, True):
                found = frame(numbers, name, role=role, reversed=flag).set_index("method")
                places = [k for k, method in enumerate(adaptive.METHODS) if method in found.index]
                found = found.loc[[adaptive.METHODS[k] for k in places]]
                height = np.array(places) + 0.3 * (index - 0.5) + 0.12 * (flag - 0.5)
                face = plots.PALETTE[index] if flag else "none"
                ends = found[["low", "high"]].astype(float)  # none with one seed
                ax.hlines(height, ends["low"], ends["high"], color=plots.PALETTE[index], linewidth=0.8)
                ax.plot(
                    found["value"],
                    height,
                    linestyle="none",
                    marker=plots.MARKERS[index],
                    color=plots.PALETTE[index],
                    markerfacecolor=face,
                    label=f"{ROLES[role]}, {'reversed' if flag else 'true'} trigger known",
                )
        ax.set_title(words)
        ax.set_xlabel("share of images")
        ax.set_xlim(-0.04, 1.04)
        plots.named_rows(ax, [METHODS[method] for method in adaptive.METHODS])
    for ax in axes[1:]:
        ax.tick_params(labelleft=False)
    plots.legend_below(axes, 2)


def lifted(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """How far each trigger moves important and other neurons, layer by layer.

    Args:
        axes: two, one a network.
        numbers: of `adaptive_records.numbers`.
    """
    rows = frame(numbers, "lifted")
    for ax, role in zip(axes, ("adaptive", "badnets"), strict=True):
        part = rows[rows["role"] == role]
        layers = list(dict.fromkeys(part["layer"]))
        for index, group in enumerate(("important", "others")):
            found = part[part["group"] == group].set_index("layer")["value"].reindex(layers)
            place = np.arange(len(layers)) + 0.36 * (index - 0.5)
            ax.bar(place, found, 0.34, color=plots.PALETTE[index], label=f"{group} for clean inputs")
        ax.set_xticks(range(len(layers)), layers)
        ax.axhline(0, color="#777777", linewidth=0.8, marker="", linestyle="-")
        ax.set_title(ROLES[role])
    axes[0].set_ylabel("moved by the trigger (standard deviations)")
    plots.legend_below(axes, 2)


def norms(axes: Sequence[Axes], classes: Mapping[int, pd.DataFrame]) -> None:
    """The size of every class's smallest stamp, the target's marked, a panel a network.

    Args:
        axes: three.
        classes: seed -> as `adaptive.every_class` returns it; the first seed's are drawn.
    """
    table = next(iter(classes.values()))
    for ax, role in zip(axes, ROLES, strict=True):
        part = table[table["role"] == role].sort_values("norm").reset_index(drop=True)
        mine = part["class"] == TARGET
        for index, (which, label) in enumerate(((~mine, "other classes"), (mine, "target class"))):
            look: dict[str, Any] = {"linestyle": "none", "marker": plots.MARKERS[index], "color": plots.PALETTE[index]}
            ax.plot(part.index[which], part["norm"][which], label=label, markersize=5 if index else 3, **look)
        ax.axhline(part["norm"].median(), color="#777777", linewidth=0.8, marker="", linestyle="-", label="median")
        ax.set_title(f"{ROLES[role]}\n(anomaly index {float(part['index'][mine].iloc[0]):.1f})")
        ax.set_xlabel("classes, by size of stamp")
        ax.set_ylim(0, 1.05 * table["norm"].max())
    axes[0].set_ylabel("pixels")
    plots.legend_below(axes, 3)


def triggers(axes: Sequence[Axes], true: Trigger, found: Trigger, image: Tensor) -> None:
    """An image, with the true trigger, with the reversed one, and the two stamps themselves.

    Args:
        axes: five.
        true, found: the trigger that was trained, and the one reversed from the network.
        image: float (C, H, W) in [0, 1].
    """
    shown = {
        "clean": image,
        "with the\ntrue trigger": true.stamp(image[None])[0],
        "with the\nreversed one": found.stamp(image[None])[0],
        "the true stamp": true.mask * true.pattern,
        "the reversed stamp": found.mask * found.pattern,
    }
    for ax, (words, picture) in zip(axes, shown.items(), strict=True):
        pixels = picture.detach().cpu().permute(1, 2, 0).numpy()
        ax.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(words)
        ax.grid(visible=False)
        ax.set_xticks([])
        ax.set_yticks([])
