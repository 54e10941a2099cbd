"""Does low rank add robustness? Figures 5 and 6 (notebook 02): networks at a limited rank, under FGSM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field

from lib.experiments import robustness
from lib.experiments.item import Item, Results
from lib.experiments.settings import Share

BASES = ("alexnet-b512", "resnet18-b128")


class Settings(robustness.Robustness):
    """Settings of the experiment.

    Attributes:
        rank_ratios: shares of a layer's weights that its two factors hold, in [0, 1], of those that the scale trains
            networks at; the source does not list its own.
    """

    section: ClassVar[str] = "low_rank"
    needs: ClassVar[Mapping[str, Sequence[str]]] = {"rank_ratios": [f"{base}-r{{:g}}" for base in BASES]}

    rank_ratios: tuple[Share, ...] = Field((0.5, 0.25, 0.125), min_length=1)


def networks(settings: Settings, base: str) -> robustness.Networks:
    """The dense network trained on, its low-rank forms, and the one trained on with the nuclear norm."""
    return {
        f"{base}-dense": {"variant": "dense", "rank_ratio": 1.0},
        **{f"{base}-r{r:g}": {"variant": "low-rank", "rank_ratio": r} for r in settings.rank_ratios},
        f"{base}-nuclear": {"variant": "nuclear", "rank_ratio": 1.0},
    }


def methods(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with a column "method" of variant and rank ratio: "dense", "low rank 0.25", "nuclear norm"."""
    names = {"low-rank": "low rank {:g}", "nuclear": "nuclear norm"}
    told = [names.get(v, v).format(r) for v, r in zip(rows["variant"], rows["rank_ratio"], strict=True)]
    return rows.assign(method=told)


def draw(results: Results) -> Figure:
    """A line a method; the large panel is the difference to the dense network trained on for as long."""
    accuracy, relative = (methods(results.values(measure)) for measure in robustness.SWEEP)
    return robustness.figure(accuracy, relative, "method", "dense", "the dense network")


FIGURE_5, FIGURE_6 = ITEMS = tuple(
    Item(
        f"robustness_fig{number}", partial(robustness.swept, networks=networks, base=base), robustness.SWEEP, draw=draw
    )
    for number, base in enumerate(BASES, 5)
)
