"""Are robust networks sparse and of low rank? Spectra of dense, robust, pruned and low-rank networks (notebook 04)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field

from lib import dotplots, plots
from lib.experiments import robustness
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.robustness import RobustnessRun
from lib.experiments.run import measures
from lib.experiments.settings import Count, Share
from lib.robustness.spectra import layer_spectra, prunable_share

BASES = {"resnet18": "resnet18-b128", "alexnet": "alexnet-b128", "fc5": "fc5-b512"}
"""Architecture -> its dense network."""
VARIANTS = ("dense", "adversarial", "pruned", "low-rank", "nuclear")
MEASURES = {
    "stable_rank": "singular directions",
    "effective_rank": "singular directions",
    "prunable_share": "fraction of weights",
}


class Settings(robustness.Robustness):
    """Settings of the experiment; the source names none.

    Attributes:
        sparsity, rank_ratio: of the pruned and the low-rank networks beside the twins, in [0, 1], of those that the
            scale trains.
        prunable_images: test images that the prunable share is measured on.
        prunable_tolerance: accuracy that pruning may cost, in [0, 1]; 0.01 is one point.
    """

    section: ClassVar[str] = "spectra"
    needs: ClassVar[Mapping[str, Sequence[str]]] = {
        "sparsity": [f"{base}-s{{:g}}" for base in BASES.values()],
        "rank_ratio": ["resnet18-b128-r{:g}"],
    }

    sparsity: Share = 0.95
    rank_ratio: Share = 0.125
    prunable_images: Count = Field(1000, title="images for the prunable share")
    prunable_tolerance: Share = 0.01


def networks(settings: Settings) -> robustness.Networks:
    """Dense and adversarially trained twins of each architecture, and networks made sparse or of low rank."""
    found: dict[str, dict[str, Any]] = {}
    for network, base in BASES.items():
        found[base] = {"network": network, "variant": "dense"}
        found[f"{base}-adversarial"] = {"network": network, "variant": "adversarial"}
        found[f"{base}-s{settings.sparsity:g}"] = {"network": network, "variant": "pruned"}
    found[f"resnet18-b128-r{settings.rank_ratio:g}"] = {"network": "resnet18", "variant": "low-rank"}
    found["resnet18-b128-nuclear"] = {"network": "resnet18", "variant": "nuclear"}
    return found


class SpectraRun(RobustnessRun[Settings]):
    """Networks of one seed, by their weights."""

    def spectra(self, network: str) -> pd.DataFrame:
        """Spectra of a network's layers, and the share of its weights that can be pruned; kept.

        Returns: one row a layer as `layer_spectra` has it, and a last row, layer "mean", that averages them; that row
            alone has prunable_share (all weights ranked together), prunable_n (images), accuracy (theirs).
        """
        images = self.images("test", self.settings.prunable_images)
        tolerance = self.settings.prunable_tolerance

        def make() -> pd.DataFrame:
            model = self.network(network)
            layers = layer_spectra(model)
            prunable = prunable_share(model, images.images, images.labels, tolerance)
            mean = {"layer": "mean", **layers.drop(columns="layer").mean().to_dict()}
            mean |= {"prunable_share": prunable.share, "prunable_n": prunable.n, "accuracy": prunable.accuracy}
            return pd.concat([layers, pd.DataFrame([mean])], ignore_index=True)

        key = {"tolerance": tolerance, "images": images.fingerprint}
        return self.table("robustness-spectra", key, make, network, robustness.VERSION)


def weighed(settings: Settings, seed: int, network: str = "") -> pd.DataFrame:
    """Spectra of all networks, or of one, and the robustness of the twins.

    Returns: tidy, "stable_rank" and "effective_rank" at {network, variant, layer}, layer "mean" averages them;
        "prunable_share" at layer "mean"; "accuracy" at {network, variant, epsilon}, of the twins.
    """
    run, shown = SpectraRun(settings, seed), robustness.only(networks(settings), network)
    rows: list[dict[str, Any]] = []
    for name, where in shown.items():
        table = run.spectra(name).assign(n=1)
        rows += measures(table, ["stable_rank", "effective_rank"], ["layer"], **where)
        mean = table[table["layer"] == "mean"]
        rows += measures(mean, ["prunable_share"], ["layer"], n="prunable_n", **where)
    twins = {name: where for name, where in shown.items() if where["variant"] in ("dense", "adversarial")}
    return run.tidy([*rows, *run.accuracies(twins)])


def collapsed(results: Results, rise: float = 0.1) -> pd.DataFrame:
    """Robust twins that a stronger FGSM attack fools less often: robust to the steps of their training only.

    Source: Wong, Rice and Kolter 2020, section 5 (catastrophic overfitting).

    Args:
        rise: accuracy, in [0, 1], by which a stronger attack must do worse than a weaker one.
    Returns: network, seed; weak and strong, the two eps in 255ths; at_weak and at_strong, the accuracies under them.
    """
    found = []
    rows = results.rows("accuracy")
    for (network, seed), curve in rows[rows["variant"] == "adversarial"].groupby(["network", "seed"]):
        low = curve.loc[curve["value"].idxmin()]
        beyond = curve[curve["epsilon"] >= low["epsilon"]]
        high = beyond.loc[beyond["value"].idxmax()]
        if high["value"] - low["value"] > rise:
            weak, strong = 255 * low["epsilon"], 255 * high["epsilon"]
            found.append((network, seed, weak, low["value"], strong, high["value"]))
    return pd.DataFrame(found, columns=["network", "seed", "weak", "at_weak", "strong", "at_strong"])


def draw(results: Results) -> Figure:
    """One measure a panel, averaged over layers: points with intervals, a group for each architecture."""
    figure, axes = plots.grid(3, 1, 1.6, plots.SINGLE, sharex=True)
    for ax, measure in zip(axes, MEASURES, strict=True):
        rows = results.values(measure, layer="mean")
        names = list(dict.fromkeys(rows["network"]))
        for index, variant in enumerate(VARIANTS):
            part = rows[rows["variant"] == variant]
            place = [names.index(network) + (index - 2) * 0.15 for network in part["network"]]
            dotplots.intervals(ax, part, place, index, upright=True, capsize=2, elinewidth=None, label=variant)
        ax.set_xticks(range(len(names)), names)
        ending = "\nof the weights" if measure == "prunable_share" else ",\nmean over layers"
        ax.set_ylabel(measure.replace("_", " ") + ending)
        ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(0, None))
        ax.grid(axis="x", visible=False)
    plots.legend_below(axes, 3)
    return figure


def draw_twins(results: Results) -> Figure:
    """Accuracy of the dense and the adversarially trained twins under FGSM, a panel an architecture."""
    figure, axes = plots.panels(3, sharey=True)
    for ax, network in zip(axes, BASES, strict=True):
        rows = results.values("accuracy", network=network)
        plots.curves(ax, rows, hue="variant", order=["dense", "adversarial"])
        plots.epsilon_axis(ax, label="ε, in 255ths")
        plots.chance(ax)
        ax.set_title(network)
    axes[0].set(ylabel="accuracy under FGSM", ylim=(0, 1))
    axes[0].legend()
    return figure


def draw_layers(results: Results, network: str = "resnet18") -> Figure:
    """The ranks layer by layer of one architecture, dense and adversarially trained."""
    figure, axes = plots.panels(2, height=2.4)
    for ax, measure in zip(axes, ("stable_rank", "effective_rank"), strict=True):
        rows = results.values(measure, network=network, variant=["dense", "adversarial"])
        rows = rows[rows["layer"] != "mean"]
        order = {layer: index for index, layer in enumerate(dict.fromkeys(rows["layer"]))}
        plots.curves(ax, rows.assign(place=rows["layer"].map(order)), x="place", hue="variant", order=VARIANTS[:2])
        ax.set_xlabel(f"layer of {network}, from the image to the logits")
        ax.set_ylabel(measure.replace("_", " "))
        ax.set_ylim(bottom=0)
    axes[0].legend(loc="best")
    return figure


def layout(results: Results) -> pd.DataFrame:
    """A row a network: its measures, averaged over layers."""
    return results.wide({name: name.replace("_", " ") for name in MEASURES}, ["network", "variant"], layer="mean")


SPECTRA = Item("robustness_spectra", weighed, {**MEASURES, "accuracy": SHARE}, table=layout, draw=draw)
ITEMS = (SPECTRA,)
