"""Does low rank add robustness? Figures 5 and 6 (notebook 02): networks at a limited rank, under FGSM.

Beside them, how strong the nuclear norm should be: networks trained on with its weight in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field

from lib import config, plots
from lib.experiments import robustness
from lib.experiments.item import Item, Results
from lib.experiments.robustness import RobustnessRun
from lib.experiments.settings import Share
from lib.robustness.spectra import layer_spectra

BASES = ("alexnet-b512", "resnet18-b128")
RANKS = ("stable_rank", "effective_rank")


class Settings(robustness.Robustness):
    """Settings of the experiment.

    Attributes:
        rank_ratios: shares of a layer's weights that its two factors hold, in [0, 1], of those that the scale trains
            networks at; the source does not list its own.
        norm_weights: of the nuclear norm in the loss, beside that of the figures, of those that the scale trains
            networks with; the source names none.
    """

    section: ClassVar[str] = "low_rank"
    needs: ClassVar[Mapping[str, Sequence[str]]] = {
        "rank_ratios": [f"{base}-r{{:g}}" for base in BASES],
        "norm_weights": [f"{BASES[0]}-nuclear-w{{:g}}"],
    }

    rank_ratios: tuple[Share, ...] = Field((0.5, 0.25, 0.125), min_length=1)
    norm_weights: tuple[float, ...] = Field((0.003, 0.01, 0.03), title="weights of the norm beside .001")


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


def normed(settings: Settings) -> robustness.Networks:
    """The networks of Figure 5 trained on without and with the norm, and those with other weights of it."""
    known, base = config.load(settings.scale), BASES[0]
    names = [f"{base}-dense", f"{base}-nuclear", *(f"{base}-nuclear-w{weight:g}" for weight in settings.norm_weights)]
    hooks = {name: known.recipe(name).hooks for name in names}
    return {name: {"weight": float(own[0]["weight"]) if own else 0.0} for name, own in hooks.items()}


def by_weight(settings: Settings, seed: int, network: str = "") -> pd.DataFrame:
    """Every network under FGSM, and the ranks of its weights.

    Returns: tidy, the measures of `robustness.SWEEP` at {weight, epsilon}; of `RANKS`, means over the layers, at
        {weight}.
    """
    run, shown = RobustnessRun(settings, seed), robustness.only(normed(settings), network)
    rows: list[dict[str, Any]] = list(run.accuracies(shown))
    for name, where in shown.items():
        ranks = run.table("robustness-ranks", {}, partial(mean_ranks, run, name), name, robustness.VERSION)
        rows += [{"measure": rank, **where, "value": ranks[rank].iloc[0], "n": 1} for rank in RANKS]
    return run.tidy(rows)


def mean_ranks(run: RobustnessRun, network: str) -> pd.DataFrame:
    """One row: the ranks of a network's layers, averaged."""
    return layer_spectra(run.network(network))[list(RANKS)].mean().to_frame().T


def shown_epsilons(results: Results) -> list[float]:
    """Some of the eps, with 0: those of table and figure."""
    epsilons = sorted(results.values("accuracy")["epsilon"].unique())
    return [epsilons[0], *epsilons[1 + len(epsilons) // 8 :: max(1, len(epsilons) // 5)][:3]]


def layout(results: Results) -> pd.DataFrame:
    """A row a weight: accuracy at some eps, and the ranks."""
    accuracy = results.values("accuracy", epsilon=shown_epsilons(results))
    accuracy = accuracy.assign(shown=(255 * accuracy["epsilon"]).map("accuracy, ε = {:.3g}/255".format))
    wide = accuracy.pivot_table(index="weight", columns="shown", values="value", sort=False)
    for rank in RANKS:
        wide[rank.replace("_", " ")] = results.values(rank).set_index("weight")["value"]
    return wide.sort_index().reset_index().rename_axis(columns=None)


def draw_weights(results: Results) -> Figure:
    """By the weight of the norm: accuracy at some eps, and below the effective rank."""
    accuracy, ranks = results.values("accuracy", epsilon=shown_epsilons(results)), results.values("effective_rank")
    figure, axes = plots.grid(2, 1, 2, plots.SINGLE, sharex=True)
    shown = accuracy.assign(at=(255 * accuracy["epsilon"]).round(2))
    plots.curves(axes[0], shown, x="weight", hue="at", label="ε = {:g}/255")
    axes[0].set(ylabel="accuracy under FGSM", ylim=(0, 1))
    plots.chance(axes[0])
    plots.curves(axes[1], ranks, x="weight")
    axes[1].set(xlabel="weight of the nuclear norm", ylabel="effective rank,\nmean over layers", ylim=(0, None))
    weights = sorted(ranks["weight"])
    axes[1].set_xscale("symlog", linthresh=weights[1], linscale=0.5)
    axes[1].set_xlim(-weights[1] / 4, 1.3 * weights[-1])
    axes[1].set_xticks(weights, [f"{weight:g}" for weight in weights])
    axes[1].minorticks_off()
    axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


FIGURE_5, FIGURE_6 = tuple(
    Item(
        f"robustness_fig{number}",
        partial(robustness.swept, networks=networks, base=base),
        robustness.SWEEP,
        draw=draw,
        about=("test_images",),
    )
    for number, base in enumerate(BASES, 5)
)
NUCLEAR_NORM = Item(
    "robustness_nuclear_norm", by_weight, robustness.SWEEP | dict.fromkeys(RANKS, "singular directions"),
    table=layout, draw=draw_weights, about=("test_images", "norm_weights"),
)  # fmt: skip
ITEMS = (FIGURE_5, FIGURE_6, NUCLEAR_NORM)
