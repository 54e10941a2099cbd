"""Does pruning cost robustness? Figures 1 to 4 (notebook 01): networks pruned while they were trained, under FGSM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from matplotlib.figure import Figure
from pydantic import Field

from lib.experiments import robustness
from lib.experiments.item import Item, Results
from lib.experiments.settings import Share

BASES = ("resnet18-b512", "resnet18-b128", "alexnet-b128", "fc5-b512")
"""The dense networks; `<base>-s0.9` is its twin pruned to nine zeros in ten."""


class Settings(robustness.Robustness):
    """Settings of the experiment.

    Attributes:
        sparsities: shares of zero weights, in [0, 1], of those that the scale trains networks at; the source does not
            list its own.
    """

    section: ClassVar[str] = "magnitude_pruning"
    needs: ClassVar[Mapping[str, Sequence[str]]] = {"sparsities": [f"{base}-s{{:g}}" for base in BASES]}

    sparsities: tuple[Share, ...] = Field((0.5, 0.8, 0.9, 0.95), min_length=1)


def networks(settings: Settings, base: str) -> robustness.Networks:
    """The dense network and its pruned twins."""
    return {base: {"sparsity": 0.0}, **{f"{base}-s{s:g}": {"sparsity": s} for s in settings.sparsities}}


def draw(results: Results) -> Figure:
    """A line a sparsity; the large panel is the difference to the dense twin."""
    accuracy, relative = results.values("accuracy"), results.values("relative_accuracy")
    return robustness.figure(accuracy, relative, "sparsity", 0.0, "the dense network", "{:.0%} zeros")


FIGURE_1, FIGURE_2, FIGURE_3, FIGURE_4 = ITEMS = tuple(
    Item(
        f"robustness_fig{number}", partial(robustness.swept, networks=networks, base=base), robustness.SWEEP, draw=draw
    )
    for number, base in enumerate(BASES, 1)
)
