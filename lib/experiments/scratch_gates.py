"""Are gates learned for long enough? As many steps as in the source, from two kinds of first weights (notebook 24).

The other experiments of a reduced scale learn most gates for fewer steps. Here they are looked at after each epoch of a
long learning: how many are zero, whether the published rule of selection is met, and how the structure that they stand
for still changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import nn

from lib import config, plots
from lib.dynamic.scratch.gates import learn_gates
from lib.dynamic.scratch.search import search_threshold
from lib.experiments import scratch_networks
from lib.experiments.dynamic import Budget, Dynamic, DynamicRun, Names, titled
from lib.experiments.item import Item, Results
from lib.experiments.scratch_diversity import correlation
from lib.progress import bar

FIRST = {"own": "our first weights", "released": "first weights of the released code"}
"""How random weights are drawn, in words; the source does not say."""


class Settings(Dynamic):
    """Settings of the experiment.

    Attributes:
        networks: of the scale.
        budget: share of the FLOPs that structures are cut to, in (0, 1).
        expansion: of the widths before gates are learned, from 1; the source: 1.25.
    """

    section: ClassVar[str] = "gates"

    networks: Names = Field(("scratch-vgg16",), title="networks")
    budget: Budget = 0.5
    expansion: float = Field(1.25, ge=1)

    def compared(self, names: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
        """Also the widths of the networks, which are not trained here."""
        used, full = super().compared(names)
        for name in self.networks:
            for found, scale in ((used, self.scale), (full, "paper")):
                if name in config.load(scale).networks:
                    word = f"channels in the first layer of {name}"
                    found[word] = config.load(scale).recipe(name).arch_args["width"]
        return used, full


class GatesRun(DynamicRun[Settings]):
    """One seed: of first weights, and of the order of the images."""

    def first(self, name: str, drawn: str) -> nn.Module:
        """A widened network with first weights, drawn in one of the ways of `FIRST`.

        The released code draws convolutions by fan-out and the last layer with a deviation of .01, and starts the scale
        of batch normalisation at .5.
        """
        model = self.fresh(name, self.settings.expansion)
        if drawn == "released":
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(self.seed)
                for layer in model.modules():
                    if isinstance(layer, nn.Conv2d):
                        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                    elif isinstance(layer, nn.BatchNorm2d):
                        layer.weight.fill_(0.5)
                    elif isinstance(layer, nn.Linear):
                        layer.weight.normal_(std=0.01)
        return model

    def learned(self, name: str, drawn: str) -> pd.DataFrame:
        """Gates after each epoch, and the structure that they stand for; kept.

        Returns: one row an epoch and convolution: step (since the start), zeros (share of all gates), mean_gate,
            accuracy (on held-out training images), n (of these), layer, share (of its channels that stay).
        """
        chosen, precision = self.settings, self.preset.compute.training_precision
        images = self.images("train", chosen.gate_images, self.preset.recipe(name).data)
        learning: dict[str, Any] = {
            "ratio": chosen.gate_ratio,
            "weight": chosen.gate_weight,
            "epochs": chosen.gate_epochs,
            "batch": chosen.gate_batch,
            "learning_rate": chosen.gate_rate,
            "precision": precision,
        }

        def rows() -> Iterator[dict[str, Any]]:
            model, shape, whole = self.first(name, drawn), self.shape(name), self.macs(name)
            gates = learn_gates(model, images.images, images.labels, seed=self.seed, **learning)
            for told, values in zip(gates.history, gates.by_epoch, strict=True):
                found = search_threshold(model, values, chosen.budget, shape, reference=whole)
                about = {"step": int(told["epoch"]) * gates.steps, "zeros": told["zeros"], "mean_gate": told["mean"]}
                about |= {"accuracy": told["accuracy"], "n": len(images) - gates.fitted}
                for layer, mask in found.keep.items():
                    yield {**about, "layer": layer, "share": found.channels[layer] / len(mask)}

        key = {**self.network_key(name), **learning, "seed": self.seed, "first": drawn, "images": images.fingerprint}
        return self.table("scratch-gates", key | {"budget": chosen.budget, "expansion": chosen.expansion}, rows)

    def usual(self, name: str) -> np.ndarray:
        """The share of each convolution's channels in the structure that the scale's other experiments find."""
        other = scratch_networks.ScratchRun(scratch_networks.Settings.of(self.scale), self.seed)
        found = other.structure(name, "scratch", self.settings.budget, self.settings.expansion)
        self.read.add(other.read)
        return (found["kept"] / found["width"]).to_numpy(float)


def make(scale: str, seed: int, name: str = "", drawn: str = "") -> None:
    """All that is measured of one seed: a step of the graph; or, with the arguments of `parts`, one part."""
    run = GatesRun(Settings.of(scale), seed)
    for network in [name] if name else run.settings.networks:
        for first in [drawn] if drawn else FIRST:
            run.learned(network, first)


def parts(scale: str, seed: int) -> list[dict[str, Any]]:
    """What `make` can be asked for one by one."""
    return [{"name": name, "drawn": drawn} for name in Settings.of(scale).networks for drawn in FIRST]


def gates(settings: Settings, seed: int) -> pd.DataFrame:
    """Gates epoch by epoch.

    Returns: tidy, at {network, first, step}: "zeros" and "mean_gate" of all gates, "accuracy" on held-out images, and
        "likeness": Pearson's r over the layers between the shares of channels that stay then and at the end. At
        {network, first}: "met", 1 where after some epoch so few gates are not zero as the published rule of selection
        wants; "likeness_of_usual", the same r between the structure of the scale's other experiments and that at the
        end.
    """
    run = GatesRun(settings, seed)
    rows: list[dict[str, Any]] = []
    for name in bar(settings.networks, desc="gates"):
        usual = run.usual(name)
        for drawn in FIRST:
            table, where = run.learned(name, drawn), {"network": name, "first": drawn}
            shares = {step: part["share"].to_numpy(float) for step, part in table.groupby("step")}
            last = shares[max(shares)]
            for row in table.drop_duplicates("step").to_dict("records"):
                likeness = correlation(shares[row["step"]], last)
                measured = {"zeros": (row["zeros"], 1), "mean_gate": (row["mean_gate"], 1)}
                measured |= {"accuracy": (row["accuracy"], int(row["n"])), "likeness": (likeness, len(last))}
                for measure, (value, n) in measured.items():
                    rows.append({"measure": measure, "value": float(value), "n": n, **where, "step": int(row["step"])})
            met = bool((1 - table["zeros"] <= settings.gate_ratio).any())
            rows.append({"measure": "met", "value": float(met), "n": 1, **where})
            rows.append({"measure": "likeness_of_usual", "value": correlation(usual, last), "n": len(last), **where})
    return run.tidy(rows)


def table(results: Results) -> pd.DataFrame:
    """A row a network and kind of first weights: gates at the end, and the structure's likeness to earlier ones."""
    rows = []
    for (network, first), part in results.values("zeros").groupby(["network", "first"], sort=False):
        at = {"network": network, "first": first}
        last = {"step": part["step"].max()}
        rows.append(
            {
                "network": titled(network),
                "first weights": FIRST[first],
                "steps": last["step"],
                "zeros": results.value("zeros", **at, **last),
                "mean gate": results.value("mean_gate", **at, **last),
                "rule met": "yes" if results.value("met", **at) else "no",
                "accuracy, held out": results.value("accuracy", **at, **last),
                "r with the structure after the first epoch": results.value("likeness", **at, step=part["step"].min()),
                "r with the usual structure": results.value("likeness_of_usual", **at),
            }
        )
    return pd.DataFrame(rows)


SHOWN = {
    "zeros": "share of gates\nthat are zero",
    "mean_gate": "mean of all gates",
    "likeness": "r of the structure\nwith that at the end",
}


def draw(results: Results) -> Figure:
    """Zeros, mean and likeness of the structure, step by step; a line a kind of first weights, of the first network."""
    network = results.settings.networks[0]
    figure, axes = plots.grid(len(SHOWN), 1, 1.5, plots.SINGLE, sharex=True)
    for ax, (measure, words) in zip(axes, SHOWN.items(), strict=True):
        rows = results.values(measure, network=network).replace({"first": FIRST})
        plots.curves(ax, rows, x="step", hue="first", order=list(FIRST.values()))
        ax.set_ylabel(words)
    axes[-1].set_xlabel("steps of the gates")
    axes[0].set_ylim(-0.02, 1.02)
    look: Any = {"color": "#666666", "linestyle": (0, (2, 2)), "linewidth": 0.9}
    axes[0].axhline(1 - results.settings.gate_ratio, label="enough for the published rule", **look)
    axes[1].axhline(results.settings.gate_ratio, label="_", **look)
    axes[1].set_ylim(-0.02, 1.02)
    plots.legend_below(axes, 1)
    return figure


UNITS = {
    "zeros": "fraction of gates",
    "mean_gate": "mean of all gates",
    "accuracy": "fraction of held-out images",
    "likeness": "Pearson's r over the layers",
    "likeness_of_usual": "Pearson's r over the layers",
    "met": "fraction of searches",
}
GATES = Item(
    "scratch_gates", gates, UNITS, table=table, draw=draw, about=("networks", "gate_images", "gate_epochs"),
)  # fmt: skip
ITEMS = (GATES,)
