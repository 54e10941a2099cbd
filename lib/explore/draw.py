"""The panels of the explorer, one function each; every one returns a figure that stands on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

from lib import plots
from lib.explore.attacking import ATTACKS, EPSILON, Attacked
from lib.explore.paths import ABSENT, BOTH, NEITHER, ONLY_ADVERSARIAL, ONLY_CLEAN, Path
from lib.explore.slices import Compared

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLEAN, ADVERSARIAL, OTHER = plots.PALETTE[0], plots.PALETTE[1], "#666666"
BARS = 5  # classes of the bar chart
SHOWN = 0.25  # a class whose probability comes so high at some strength has a line of its own


def mosaic(layout: Sequence[Sequence[str]], height: float, **kwargs: Any) -> tuple[Figure, dict[str, Axes]]:
    """A figure two columns wide with named axes, which a notebook shows only where it says so."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplot_mosaic(
        [list(row) for row in layout], figsize=(plots.DOUBLE, height), layout="constrained", **kwargs
    )
    plt.close(figure)
    return figure, axes


def prediction(attacked: Attacked, sweep: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """The image, the change and the attacked image; probabilities before and after; and at every strength.

    Args:
        attacked: the two images.
        sweep: of `attacking.sweep`, for the same image and attack.
        classes: names.
    """
    figure, axes = mosaic(
        [["clean", "change", "adversarial", "bars"], ["sweep", "sweep", "sweep", "bars"]],
        3.9,
        width_ratios=[1, 1, 1, 1.25],
        height_ratios=[1.25, 1],
    )
    before, after = int(attacked.before.argmax()), int(attacked.after.argmax())
    picture(axes["clean"], attacked.clean)
    axes["clean"].set_title(f"clean\n{short(classes[before])}, {attacked.before[before]:.0%}", color=CLEAN)
    change(axes["change"], attacked.adversarial - attacked.clean)
    picture(axes["adversarial"], attacked.adversarial)
    axes["adversarial"].set_title(
        f"attacked\n{short(classes[after])}, {attacked.after[after]:.0%}",
        color=CLEAN if after == attacked.truth else ADVERSARIAL,
    )
    _bars(axes["bars"], attacked, classes)
    _sweep(axes["sweep"], attacked, sweep, classes)
    return figure


def slice_layers(found: Compared) -> Figure:
    """How much of each layer is in the two slices, and how much of it they share; layers from image to logits."""
    figure, axes = plots.panels(3, height=2.9)
    table = found.table
    lines: list[tuple[Axes, str, int, str]] = [
        (axes[0], "clean", 0, "clean"),
        (axes[0], "adversarial", 1, "adversarial"),
        (axes[1], "neurons_clean", 0, "clean"),
        (axes[1], "neurons_adversarial", 1, "adversarial"),
        (axes[2], "overlap", 3, "clean and adversarial"),
    ]
    if found.peer is not None:
        lines.append((axes[2], "peer", 2, "two images of the class"))
    for ax, column, index, words in lines:
        look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index]}
        ax.plot(range(len(table)), table[column], label=words, linestyle=plots.LINESTYLES[index], **look)
    titles = ("synapses in the slice", "neurons in the slice", "overlap of synapses (Jaccard)")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
        ax.set_xticks(range(len(table)), [label(layer) for layer in table["layer"]], rotation=90)
        ax.set_ylim(0, 1.05)
        ax.set_ylabel("share" if ax is axes[0] else "")
        ax.legend(loc="best")
    return figure


def slice_layer(found: Compared, layer: str) -> Figure:
    """One layer of the slices: synapses by output and input channel, and what reaches each position.

    Args:
        found: the slices.
        layer: one of `found.layers`.
    Raises: ExploreError for another layer.
    """
    figure, axes = mosaic([["s0", "s1", "difference", "n0", "n1"]], 2.3)
    clean, adversarial = (part.numpy() for part in found.synapses(layer))
    for ax, part, words in ((axes["s0"], clean, "clean"), (axes["s1"], adversarial, "adversarial")):
        shares = ax.imshow(part, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="none")
        ax.set_title(f"synapses, {words}")
    both = axes["difference"].imshow(
        adversarial - clean, cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto", interpolation="none"
    )
    axes["difference"].set_title("adversarial less clean")
    for name in ("s0", "s1", "difference"):
        axes[name].set_xlabel("input channel")
        axes[name].grid(visible=False)
        whole(axes[name])
        if name != "s0":
            axes[name].tick_params(labelleft=False)
    axes["s0"].set_ylabel("output channel")
    look: dict[str, Any] = {"location": "bottom", "aspect": 12}
    figure.colorbar(shares, ax=[axes["s0"], axes["s1"]], shrink=0.5, label="share of the kernel in the slice", **look)
    figure.colorbar(both, ax=axes["difference"], label="violet: clean only", **look)
    neurons = found.neurons(layer).numpy()
    top = max(1, np.abs(neurons).max())
    for ax, part, words in zip((axes["n0"], axes["n1"]), neurons, ("clean", "adversarial"), strict=True):
        image = ax.imshow(part, cmap="PuOr_r", vmin=-top, vmax=top, aspect="auto" if len(part) == 1 else "equal")
        ax.set_title(f"neurons, {words}")
        bare(ax)
        ax.set_xlabel("neuron" if len(part) == 1 else "position")
    figure.colorbar(image, ax=[axes["n0"], axes["n1"]], shrink=0.5, label="CONTRIB, sum over channels", **look)
    return figure


def path(found: Path) -> Figure:
    """The row of masks that each layer takes, and the channels that it so uses, clean beside adversarial."""
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    layers = len(found.table)
    figure, axes = mosaic([["clean", "adversarial", "channels"]], 0.9 + 0.24 * layers, width_ratios=[1, 1, 3.4])
    names = [label(layer) for layer in found.table["layer"]]
    most = found.rows.shape[2]
    for index, kind in enumerate(("clean", "adversarial")):
        ax = axes[kind]
        image = ax.imshow(found.rows[:, index], cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="none")
        taken = found.table[kind].to_numpy()
        ax.plot(taken, range(layers), color="white", linestyle="-", linewidth=1, marker="o", markersize=5,
                markerfacecolor=plots.PALETTE[index], markeredgecolor="white")  # fmt: skip
        ax.set_title(kind, color=plots.PALETTE[index])
        ax.set_xticks(range(most), [str(row + 1) for row in range(most)])
        ax.set_yticks(range(layers), names if index == 0 else [""] * layers)
        ax.set_xlabel("row of masks")
        ax.grid(visible=False)
    figure.colorbar(image, ax=[axes["clean"], axes["adversarial"]], location="bottom", label="probability of the row")
    colours = {ABSENT: "#ffffff", NEITHER: "#dddddd", BOTH: "#8c8c8c", ONLY_CLEAN: CLEAN, ONLY_ADVERSARIAL: ADVERSARIAL}
    norm = BoundaryNorm(np.arange(ABSENT - 0.5, ONLY_ADVERSARIAL + 1), len(colours))
    ax = axes["channels"]
    ax.imshow(
        found.channels, cmap=ListedColormap([colours[code] for code in range(ABSENT, ONLY_ADVERSARIAL + 1)]), norm=norm,
        aspect="auto", interpolation="none",
    )  # fmt: skip
    ax.set_yticks(
        range(layers), [f"{n}/{m}" for n, m in zip(found.table["changed"], found.table["channels"], strict=True)]
    )
    ax.yaxis.tick_right()
    ax.set_yticks(np.arange(layers - 1) + 0.5, minor=True)
    ax.grid(visible=False)
    ax.grid(visible=True, which="minor", axis="y", color="white", linewidth=2)
    ax.tick_params(which="minor", length=0)
    ax.set_xlabel("channel")
    ax.set_title("channels in use; at the right, how many differ")
    words = {BOTH: "both", NEITHER: "neither", ONLY_CLEAN: "only clean", ONLY_ADVERSARIAL: "only adversarial"}
    handles = [Patch(facecolor=colours[code], label=text) for code, text in words.items()]
    figure.legend(handles=handles, loc="outside lower right", ncols=4)
    return figure


def picture(ax: Axes, image: Tensor) -> None:
    """An image (C, H, W) in [0, 1] without axes."""
    pixels = image.detach().cpu().permute(1, 2, 0).squeeze(-1).numpy()
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    bare(ax)


def change(ax: Axes, difference: Tensor) -> None:
    """A perturbation (C, H, W), made visible: its largest value is full colour, and the title says how large it is."""
    top = float(difference.abs().max())
    if difference.shape[0] == 1:
        ax.imshow(difference[0].numpy(), cmap="PuOr_r", vmin=-max(top, 1e-9), vmax=max(top, 1e-9))
    else:
        ax.imshow((0.5 + difference / (2 * max(top, 1e-9))).permute(1, 2, 0).clamp(0, 1).numpy())
    ax.set_title(f"change\nup to {255 * top:.3g}/255")
    bare(ax)


def bare(ax: Axes) -> None:
    """No ticks, no grid, no frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set_visible(False)


def whole(ax: Axes) -> None:
    """Ticks at whole numbers only: channels have no halves."""
    from matplotlib.ticker import MaxNLocator

    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))


def label(layer: str) -> str:
    """A layer's name, shortened for an axis: blocks.0.conv1 -> b0.conv1."""
    return layer.replace("blocks.", "b").replace("features.", "")


def short(text: str, longest: int = 12) -> str:
    """A class's name, cut where it is long."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _bars(ax: Axes, attacked: Attacked, classes: Sequence[str]) -> None:
    most = np.maximum(attacked.before.numpy(), attacked.after.numpy())
    order = [attacked.truth, *(k for k in np.argsort(-most, kind="stable") if k != attacked.truth)][:BARS]
    place = np.arange(len(order))
    for shift, values, colour, words in (
        (-0.2, attacked.before, CLEAN, "clean"),
        (0.2, attacked.after, ADVERSARIAL, "attacked"),
    ):
        heights = values.numpy()[order]
        ax.barh(place + shift, heights, height=0.36, color=colour, label=words)
        for y, value in zip(place + shift, heights, strict=True):
            ax.annotate(
                f"{value:.0%}", (value, y), xytext=(2, 0), textcoords="offset points", va="center", fontsize=6.5
            )
    ax.set_yticks(place, [short(classes[k]) + (" (true)" if k == attacked.truth else "") for k in order])
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.set_xlim(0, 1.16)
    ax.set_xticks([0, 0.5, 1])
    ax.set_xlabel("probability")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _sweep(ax: Axes, attacked: Attacked, sweep: pd.DataFrame, classes: Sequence[str]) -> None:
    top = sweep.groupby("label")["probability"].max()
    others = [int(k) for k in top.sort_values(ascending=False).index if k != attacked.truth and top[k] >= SHOWN]
    for index, k in enumerate([attacked.truth, *others[:4]]):
        line = sweep[sweep["label"] == k]
        look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index]}
        words = short(classes[k]) + (" (true)" if k == attacked.truth else "")
        ax.plot(line["strength"], line["probability"], label=words, linestyle=plots.LINESTYLES[index], **look)
    ax.axvline(attacked.strength, color=OTHER, linewidth=1, linestyle=(0, (2, 2)), marker="")
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel("probability")
    unit = "ε of {}, in 255ths" if attacked.unit == EPSILON else "strength: times what {} found"
    ax.set_xlabel(unit.format(ATTACKS.get(attacked.attack, attacked.attack)))
    ax.legend(loc="best")
