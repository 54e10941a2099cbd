"""The pictures and plots that explain errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes

from lib import plots
from lib.evaluations import frame
from lib.lancet.study.draw_companions import grid, short, show
from lib.lancet.study.explanation import REGIONS, Pictured
from lib.lancet.study.explanation_records import NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def classes(shown: Sequence[Pictured]) -> Figure:
    """A row a class: a wrong input with the blamed region, its companion, the class visualised three ways.

    Args:
        shown: of `explanation.pictured`, at least one.
    """
    figure, axes = grid(len(shown), 5, side=1.25)
    titles = ("input,\nblamed region", "its companion", "class,\nwhole network", "isolated", "without them")
    for column, title in enumerate(titles):
        axes[0, column].set_title(title, fontsize=plots.SMALLEST)
    for row, entry in enumerate(shown):
        show(axes[row, 0], entry.image, entry.mask)
        for column, image in enumerate((entry.companion, entry.whole, entry.isolated, entry.ablated), start=1):
            show(axes[row, column], image)
        name = f"{short(entry.truth)}\nas {short(entry.name)}"
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=plots.SMALLEST)
    return figure


def blurs(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """How the answer and the confidence in the wrong class follow a region that is blurred more and more.

    Args:
        axes: three: corrected and confidence on the network itself, corrected on another.
        numbers: of `explanation_records.numbers_of`.
    """
    panels = (
        ("corrected", "own", "given the true class", "the network itself"),
        ("wrong_confidence", "own", "confidence in the wrong class", "the network itself"),
        ("corrected", "other", "given the true class", "a network of another seed"),
    )
    for ax, (name, viewer, label, title) in zip(axes, panels, strict=True):
        rows = frame(numbers, name, viewer=viewer)
        rows = rows.assign(region=rows["region"].map(NAMES))
        if len(rows):
            plots.curves(ax, rows, x="sigma", hue="region", order=[NAMES[region] for region in REGIONS])
        ax.set_title(title)
        ax.set_xlabel("σ of the blur, in pixels of 32")
        ax.set_ylabel(label)
        ax.set_ylim(-0.02, 1.02)
    plots.legend_below(axes, 3)
