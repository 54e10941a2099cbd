"""Which weights cause a backdoor's error (notebook 32): each layer of some networks, by each reading of the method.

Pairs are images of the repair split, stamped with the true trigger, and the same without it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field

from lib import config, data, plots
from lib.experiments import lancet
from lib.experiments.item import Item, Results
from lib.experiments.lancet import BackdoorRun, backdoored, networks
from lib.experiments.settings import Count
from lib.lancet.locating import Votes, choose_layer, locate
from lib.lancet.pairs import stamped_pairs
from lib.progress import bar

NAMES = {
    "stated": "as released",
    "both": "both features differentiated",
    "not-target": "until not the target",
    "signed": "signed importance (ours)",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "stated": {},
    "both": {"formula": "both"},
    "not-target": {"until": "not-target"},
    "signed": {"signed": True},
}
"""Readings of the method: as the released code (the companion's features fixed, until the true label); the companion's
features differentiated too; until the prediction is no longer the target; importance with its sign (ours)."""
RULES = {"most-pairs": "most pairs (stated)", "smallest-fraction": "smallest part (ours)"}
COLUMNS = ["network", "variant", "layer", "depth", "weights", "pairs", "repaired", "fraction", "chosen"]


class Settings(lancet.Backdoors):
    """Settings of the experiment.

    Attributes:
        networks: backdoored networks of the scale that are looked at; None: all of `families`.
        pairs: stamped images and their clean companions of each network; the source does not say how many.
    """

    section: ClassVar[str] = "localisation"
    kinds: ClassVar[Sequence[str]] = ("badnets",)

    networks: tuple[str, ...] | None = Field(None, min_length=1)
    pairs: Count = Field(100, title="pairs a network")

    @property
    def names(self) -> list[str]:
        """The networks looked at."""
        return list(self.networks or (network.name for network in networks(self)))


class LocalisationRun(BackdoorRun[Settings]):
    """Votes of a seed's networks."""

    def votes(self, name: str, variant: str = "stated") -> dict[str, Votes]:
        """Votes of a network's pairs on the weights of each layer, by a reading of the method."""
        model, one = self.network(name), backdoored(self.scale, name)
        on = next(model.parameters()).device
        repair = self.parts(one.data)[0]
        images, labels = repair.float(on), repair.labels.to(on)
        trigger = self.attack(name).trigger.to(on)
        inputs, companions, truth = stamped_pairs(model, trigger, images, labels, one.target, self.settings.pairs)
        target = one.target if VARIANTS[variant].get("until") == "not-target" else None
        return locate(model, inputs, companions, truth, target=target, **VARIANTS[variant])

    def key(self, name: str, **more: str) -> dict[str, Any]:
        images = self.parts(backdoored(self.scale, name).data)[0]
        return {"images": images.fingerprint, "pairs": self.settings.pairs, **more}

    def layers(self, name: str, variant: str) -> pd.DataFrame:
        """Each layer of a network by a variant: depth (from 0), weights, pairs, repaired (share of the pairs that some
        part of the layer repairs), fraction (the median part that does; None where none does), chosen ("" or the rules
        of `choose_layer` that take this layer)."""

        def rows() -> Iterator[list[Any]]:
            votes = self.votes(name, variant)
            rules = {rule: choose_layer(votes, rule) for rule in RULES}
            for depth, (layer, found) in enumerate(votes.items()):
                chosen = ", ".join(rule for rule, taken in rules.items() if taken == layer)
                fraction = None if pd.isna(found.fraction) else found.fraction
                about = [name, variant, layer, depth, found.counts.numel(), len(found.repaired)]
                yield [*about, found.share, fraction, chosen]

        return self.table("lancet-localisation", self.key(name, variant=variant), rows, name, columns=COLUMNS)

    def heat_map(self, name: str) -> pd.DataFrame:
        """Votes of the pairs on the layer with the smallest part: network, layer, output, input, votes (share of the
        pairs, the largest over the positions of the kernel), one row for each output and input channel."""

        def make() -> pd.DataFrame:
            votes = self.votes(name)
            layer = choose_layer(votes, "smallest-fraction")
            counts = votes[layer].counts.cpu()
            share = (counts.flatten(2).amax(2) if counts.ndim == 4 else counts).float() / len(votes[layer].repaired)
            corner = [share.shape[0] - 1, share.shape[1] - 1]  # kept whatever its votes: it tells the layer's size
            places = [place for place in share.nonzero().tolist() if place != corner] + [corner]
            rows = [[name, layer, output, source, share[output, source].item()] for output, source in places]
            return pd.DataFrame(rows, columns=["network", "layer", "output", "input", "votes"])

        return every_place(self.table("lancet-heat-map", self.key(name, rows="with votes"), make, name))


def every_place(table: pd.DataFrame) -> pd.DataFrame:
    """The rows without a vote put back, those that are not kept."""
    sides = [range(int(table[side].max()) + 1) for side in ("output", "input")]
    whole = pd.MultiIndex.from_product(sides, names=["output", "input"])
    votes = table.set_index(["output", "input"])["votes"].reindex(whole, fill_value=0.0).reset_index()
    about = {column: table[column].iloc[0] for column in ("network", "layer")}
    return votes.assign(**about)[["network", "layer", "output", "input", "votes"]]


def measured(settings: Settings, seed: int) -> pd.DataFrame:
    """Each layer of each network by each variant.

    Returns: tidy, at {network, variant, layer, depth}: "repaired", the share of the pairs that some part of the layer
        repairs, and "fraction", the median part that does. At {network, variant, rule}: "chosen_repaired",
        "chosen_fraction" and "chosen_depth" (0: the first layer, 1: the last) of the layer that the rule takes.
    """
    run, rows = LocalisationRun(settings, seed), []
    for name in bar(settings.names, desc="networks"):
        for variant in VARIANTS:
            table = run.layers(name, variant)
            for row in table.to_dict("records"):
                at = {"network": name, "variant": variant, "n": int(row["pairs"])}
                place = {**at, "layer": row["layer"], "depth": int(row["depth"])}
                depth = row["depth"] / max(1, table["depth"].max())
                rows.append({"measure": "repaired", "value": row["repaired"], **place})
                if not pd.isna(row["fraction"]):
                    rows.append({"measure": "fraction", "value": row["fraction"], **place})
                for rule in filter(None, row["chosen"].split(", ")):
                    taken = {"repaired": row["repaired"], "fraction": row["fraction"], "depth": depth}
                    rows += [{"measure": f"chosen_{k}", "value": v, **at, "rule": rule} for k, v in taken.items()]
    run.heat_map(settings.names[0])
    return run.tidy(rows)


def lay_out(results: Results) -> pd.DataFrame:
    """One row a network, variant and rule: the layer's depth, what it repairs and with which part of its weights."""
    known = config.load(results.settings.scale).networks
    about = [[name, data.SETS[known[name].data].title, known[name].arch] for name in results.settings.names]
    shown = pd.DataFrame(about, columns=["network", "data", "architecture"])
    wide = pd.concat([results.values(f"chosen_{name}") for name in ("repaired", "fraction", "depth")])
    wide = wide.pivot_table(index=["network", "variant", "rule"], columns="name", values="value", sort=False)
    shown = shown.merge(wide.reset_index(), on="network").replace({"variant": NAMES, "rule": RULES})
    return shown.rename(columns=lambda name: str(name).removeprefix("chosen_"))


def draw(results: Results) -> Figure:
    """A heat map of layers and readings for each network: the share of the pairs that the layer repairs as colour, and
    the median part of its weights that it takes, in per cent, as a number."""
    names, looked = results.settings.names, ["depth", "layer"]
    measured = [results.values(name) for name in ("repaired", "fraction")]
    sizes = [measured[0][measured[0]["network"] == name]["layer"].nunique() for name in names]
    columns = columns_of(sizes)
    rows = max(sum(sizes[k] + 2 for k in column) for column in columns)  # one for the name and one between
    width = plots.SINGLE * plots.SMALLEST / 6  # in one column its smallest text has 6 points
    figure = plt.figure(figsize=(width * max(1, len(columns) / 2), 0.118 * rows + 1.5))
    plt.close(figure)
    longest = measured[0].groupby("network")["layer"].agg(lambda layers: layers.str.len().max())
    ratios = [max(longest[names[k]] for k in column) + 16 for column in columns]  # cells are as wide in each column
    outer = figure.add_gridspec(2, len(columns), height_ratios=[rows, 1], width_ratios=ratios)
    for place, column in enumerate(columns):
        inner = outer[0, place].subgridspec(len(column), 1, height_ratios=[sizes[k] for k in column])
        for row, k in enumerate(column):
            ax = figure.add_subplot(inner[row])
            shares, parts = (
                found[found["network"] == names[k]].pivot(index=looked, columns="variant", values="value")
                for found in measured
            )
            shares, parts = (wide.reindex(index=shares.index, columns=list(NAMES)) for wide in (shares, parts))
            sns.heatmap(
                shares.droplevel("depth"), ax=ax, cmap="Blues", vmin=0, vmax=1, cbar=False, linewidths=0.4,
                annot=parts.map(per_cent), fmt="", annot_kws={"fontsize": plots.SMALLEST}, yticklabels=True,
            )  # fmt: skip
            ax.set(xlabel="", ylabel="")
            ax.set_title(names[k].removeprefix("lancet-"), fontsize=plots.SMALLEST, fontweight="bold")
            ax.tick_params(length=0, rotation=0)
            words = [textwrap.fill(name, 20) for name in NAMES.values()] if k == column[-1] else []
            ax.set_xticklabels(words, rotation=90, linespacing=0.9)
    bar = figure.colorbar(ax.collections[0], cax=figure.add_subplot(outer[1, :]), location="bottom")
    told = "colour: share of the pairs that the layer repairs\nnumber: median part of its weights, %"
    bar.set_label(told, fontsize=plots.SMALLEST)
    return figure


def per_cent(share: float) -> str:
    """A share in per cent with two digits, as short as can be; empty where there is none."""
    if pd.isna(share):
        return ""
    value = 100 * share
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.95 else f"{value:.2f}".removeprefix("0")


def columns_of(sizes: Sequence[int], longest: int = 45) -> list[list[int]]:
    """Places of heat maps in columns of about equal height, in order.

    Args:
        sizes: rows of each.
        longest: rows that a column should have, at most.
    """
    count = min(len(sizes), math.ceil(sum(sizes) / longest))
    middles = np.cumsum(sizes) - np.array(sizes) / 2
    at = np.minimum(middles * count // sum(sizes), count - 1)
    return [found for k in range(count) if (found := np.flatnonzero(at == k).tolist())]


def votes_map(ax: Axes, table: pd.DataFrame) -> None:
    """Votes on a layer's weights as a map of output and input channels.

    Args:
        ax: where.
        table: of `LocalisationRun.heat_map`.
    """
    grid = table.pivot(index="output", columns="input", values="votes")
    most = max(float(np.max(grid)), 1e-9)
    sns.heatmap(grid, ax=ax, cmap="cividis", vmin=0, vmax=most, cbar_kws={"label": "votes (share of the pairs)"})
    ax.set(xlabel="input channel", ylabel="output channel", title=f"{table.network[0]}, {table.layer[0]}")


LOCALISATION = Item(
    "lancet_localisation",
    measured,
    {
        "repaired": "fraction of pairs",
        "fraction": "fraction of the layer's weights",
        "chosen_repaired": "fraction of pairs",
        "chosen_fraction": "fraction of the layer's weights",
        "chosen_depth": "fraction of the layers",
    },
    table=lay_out,
    draw=draw,
    about=("pairs",),
)
ITEMS = (LOCALISATION,)
