"""What theta does (notebook 16): how large slices are, what they share, what pruning by them costs; the slice of a set.

Slices are those of `nnslicer_anatomy`, pruned networks those of `nnslicer_pruning`, at each theta in turn, and at one
theta with a mean for each channel in place of one for each position.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import Field, ValidationInfo, field_validator

from lib import data, plots
from lib.experiments import nnslicer, nnslicer_anatomy, nnslicer_pruning
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.nnslicer import NAMES, NNSlicer, SlicingRun, Theta, mean_accuracies, spread
from lib.experiments.nnslicer_anatomy import TWO_CLASSES, AnatomyRun, any_synapse, short
from lib.experiments.nnslicer_pruning import CHUNK, COLUMNS, PruningRun
from lib.experiments.nnslicer_sets import draw_sets, parts, set_table
from lib.experiments.run import measures
from lib.experiments.settings import Count, Share, once
from lib.progress import bar
from lib.slicing.masks import subsets
from lib.slicing.slices import Slices

VERSION = 1  # raise it when the numbers change
VERSION_OF_LAYERS = 2  # and this one when those of `ThetaRun.layers` do
NEURONS = {"position": "a mean for each position", "channel": "one mean a channel"}
Other = TypeVar("Other", bound=NNSlicer)


class Settings(nnslicer.NNSlicer):
    """Settings of the experiment. `theta` is that of the slices of sets.

    Attributes:
        thetas: those that are compared, in [0, 1); the source: .2 alone.
        images_per_class: correctly classified test images of each class that are sliced; not in the source.
        ratios: shares of each layer's weights that are dropped, two of the source's .2 to .8.
        subset_size, subsets, test_images: as for `nnslicer_pruning`.
        set_classes: the two classes whose sets of images are sliced, from 0.
    """

    section: ClassVar[str] = "theta_sweep"  # `theta` is a setting of the whole study

    thetas: tuple[Theta, ...] = Field((0.05, 0.1, 0.2, 0.3, 0.5), min_length=1)
    images_per_class: int = Field(20, ge=2)
    ratios: tuple[Share, ...] = Field((0.5, 0.7), min_length=1)
    subset_size: Count = 4
    subsets: Count | None = Field(None, title="subsets of classes")
    test_images: Count = Field(10000, title="test images")
    set_classes: tuple[int, int] = (3, 5)

    _each_once = field_validator("thetas", "ratios", "set_classes")(once)

    @field_validator("set_classes")
    @classmethod
    def _known(cls, pair: tuple[int, int], info: ValidationInfo) -> tuple[int, int]:
        known = data.SETS[info.data["data"]].classes if info.data.get("data") in data.SETS else max(pair) + 1
        if not all(0 <= label < known for label in pair):
            raise ValueError(f"classes are numbered from 0 to {known - 1}")
        return pair

    def wanted(self) -> list[tuple[int, ...]]:
        """The subsets of target classes."""
        return subsets(data.SETS[self.data].classes, self.subset_size, self.subsets)

    def told(self, name: str) -> Any:
        return len(self.wanted()) if name == "subsets" else super().told(name)

    def at(self, kind: type[Other], theta: float, seed: int, **own: Any) -> Other:
        """Another experiment's settings, with a theta and what is chosen here."""
        shared = ("data", "network", "reference", "profile_per_class")
        return kind.of(self.scale, theta=theta, seeds=[seed], **{name: getattr(self, name) for name in shared}, **own)


class ThetaRun(SlicingRun[Settings]):
    """Slices and pruned networks of one network, at every theta."""

    def of(self, neuron: str) -> ThetaRun:
        """The same with another neuron: a "position" or a "channel"."""
        made = ThetaRun(self.settings, self.seed)
        made.neuron, made.read = neuron, self.read
        return made

    def anatomy(self, theta: float) -> AnatomyRun:
        """The anatomy of slices at a theta."""
        own = {"images_per_class": self.settings.images_per_class, "neuron": self.neuron}
        return AnatomyRun(self.settings.at(nnslicer_anatomy.Settings, theta, self.seed, **own), self.seed)

    def pruning(self, theta: float) -> PruningRun:
        """Pruning by the scores of slices at a theta."""
        own = {name: getattr(self.settings, name) for name in ("scores_per_class", "ratios", "test_images")}
        own["neuron"] = self.neuron
        return PruningRun(self.settings.at(nnslicer_pruning.Settings, theta, self.seed, **own), self.seed)

    def slices(self, theta: float) -> tuple[Slices, torch.Tensor]:
        """Slices of the test images, and their labels."""
        return self.anatomy(theta).slices(self._method)

    @property
    def _method(self) -> str:
        """The name that anatomy has for slices with the settings' reference."""
        return "nnslicer" if self.settings.reference == "predicted" else "nnslicer-dataset"

    def layers(self, theta: float) -> pd.DataFrame:
        """Each layer's part in the slices, as `AnatomyRun.layers` has it, and what a slice shares with others; kept.

        Returns: its rows, with same_class_held and other_class_held besides: the mean share of an image's synapses that
            are in the slice of another image of its class, and of another class (of images that have any there).
        """

        def make() -> pd.DataFrame:
            rows = self.anatomy(theta).layers(self._method)
            found, labels = self.slices(theta)
            alike = labels[:, None] == labels[None]
            same = alike & ~torch.eye(len(labels), dtype=torch.bool)
            names = [None if layer == "all" else layer for layer in rows["layer"]]
            held = [found.containment(found, None if name is None else [name]) for name in names]
            for name, one in zip(names, held, strict=True):
                one[~any_synapse(found, name)] = torch.nan
            return rows.assign(
                same_class_held=[one[same].nanmean().item() for one in held],
                other_class_held=[one[~alike].nanmean().item() for one in held],
            )

        return self.table(
            "nnslicer-theta-layers", self._of_slices(theta), make, self.settings.network, VERSION_OF_LAYERS
        )

    def accuracies(self, theta: float | None) -> pd.DataFrame:
        """Right decisions of networks pruned for every subset by the scores at a theta; kept.

        Args:
            theta: None: by the methods that know none, Weight and Channel, and nothing dropped (method "").
        Returns: rows as `nnslicer_pruning.COLUMNS`.
        """
        chosen, wanted = self.settings, self.settings.wanted()
        key: dict[str, Any] = {
            "theta": theta,
            "ratios": list(chosen.ratios),
            "subsets": [list(classes) for classes in wanted],
            "images": self.images("test", chosen.test_images).fingerprint,
            "precision": self.preset.compute.training_precision,
            "means": self.profile_key(),
        }

        def make() -> pd.DataFrame:
            run = self.pruning(chosen.theta if theta is None else theta)
            ratios = [float(ratio) for ratio in chosen.ratios]
            if theta is None:
                frames = [run.by_class("", [0.0]), *(run.by_class(method, ratios) for method in ("weight", "channel"))]
                return pd.concat([spread(frame, wanted) for frame in frames], ignore_index=True)[COLUMNS]
            chunks = [wanted[k : k + CHUNK] for k in range(0, len(wanted), CHUNK)]
            return pd.concat([run.of_subsets("nnslicer", chunk) for chunk in chunks], ignore_index=True)

        if theta is not None:
            key |= {"reference": chosen.reference, "scores": chosen.scores_per_class}
        return self.table("nnslicer-theta-pruned", key, make, chosen.network, VERSION)

    def sets(self) -> pd.DataFrame:
        """Which neurons are in the slices of two classes' sets of images, at the settings' theta; kept.

        Returns: rows of layer, inputs (synapses of each neuron), channel (of a linear layer 0, its neurons side by
            side), width (neurons of a row), cells (text, a digit a neuron, row by row: 0 in neither slice, 1 in the
            first's, 2 in the second's, 3 in both), n (images of both sets).
        """

        def rows() -> Iterator[dict[str, Any]]:
            found, labels = self.slices(self.settings.theta)
            pair = [(labels == label).nonzero()[:, 0] for label in self.settings.set_classes]
            first, second = (found[index].merge() for index in pair)
            for layer in first.synapses:
                inside = (first.neurons[layer][0] != 0).int() + 2 * (second.neurons[layer][0] != 0).int()
                channels = inside.flatten(1) if inside.ndim > 1 else inside[None]
                for channel, cells in enumerate(channels.tolist()):
                    row = {"layer": layer, "inputs": first.synapses[layer][0, 0].numel(), "channel": channel}
                    row |= {"width": inside.shape[-1], "cells": "".join(map(str, cells)), "n": sum(map(len, pair))}
                    yield row

        key = {**self._of_slices(self.settings.theta), "classes": list(self.settings.set_classes)}
        return self.table("nnslicer-set-slice", key, rows, self.settings.network, VERSION)

    def _of_slices(self, theta: float) -> dict[str, Any]:
        """What the test images' slices depend on beside the network's weights."""
        chosen = self.settings
        return {
            "theta": theta,
            "reference": chosen.reference,
            "per_class": chosen.images_per_class,
            "profile": self.profile_key(),
            "images": self.images("test").fingerprint,
        }


def swept(settings: Settings, seed: int) -> pd.DataFrame:
    """Sizes and overlaps of slices, and accuracies of networks pruned by them, at each theta.

    Returns: tidy, the measures of `SLICES` at {theta, layer}, layer "all" is the whole network; "accuracy" at {method,
        ratio, compensation} and of NNSlicer {theta}, the mean over the subsets; method "dense": nothing dropped.
    """
    run = ThetaRun(settings, seed)
    rows: list[dict[str, Any]] = []
    for theta in bar(settings.thetas, desc="theta"):
        rows += measures(run.layers(theta), SLICES, ["layer"], theta=theta)
        rows += [{**row, "theta": theta} for row in mean_accuracies("accuracy", run.accuracies(theta))]
    return run.tidy([*rows, *mean_accuracies("accuracy", run.accuracies(None).replace({"method": {"": "dense"}}))])


def granularity(settings: Settings, seed: int) -> pd.DataFrame:
    """The same at the settings' theta, with each position of a channel as a neuron and with each channel as one.

    Returns: tidy, the measures of `SLICES` at {neuron, layer}; "accuracy" at {neuron, method, ratio, compensation}.
    """
    run, theta = ThetaRun(settings, seed), settings.theta
    rows: list[dict[str, Any]] = []
    for neuron in NEURONS:
        rows += measures(run.of(neuron).layers(theta), SLICES, ["layer"], neuron=neuron)
        rows += mean_accuracies("accuracy", run.of(neuron).accuracies(theta), neuron=neuron)
    return run.tidy(rows)


def set_slices(settings: Settings, seed: int) -> pd.DataFrame:
    """The slices of two classes' sets.

    Returns: tidy, "neurons" at {layer, part}: the share of a layer's neurons that are in one slice alone, in both, or
        in neither; beyond the record, at the first seed, "picture" at {layer, channel, width, cells}.
    """
    run = ThetaRun(settings, seed)
    found = run.sets()
    rows: list[dict[str, Any]] = []
    names = parts(settings)
    for layer, part in found.groupby("layer", sort=False):
        cells = "".join(part["cells"])
        where = {"measure": "neurons", "layer": layer, "n": int(part["n"].iloc[0])}
        rows += [{**where, "part": name, "value": cells.count(digit) / len(cells)} for digit, name in names.items()]
    if seed == settings.seeds[0]:
        rows += [{"measure": "picture", "value": None, **row} for row in found.to_dict("records")]
    return run.tidy(rows)


def make(scale: str, seed: int) -> None:
    """All that is measured at a seed: a step before the notebook. A scale may have fewer seeds here than its study."""
    settings = Settings.of(scale)
    for item in ITEMS if seed in settings.seeds else ():
        item.measure(settings, seed)


def draw(results: Results) -> Figure:
    """Over theta: the slice's share, layer by layer too; overlaps; and the accuracy of pruned networks."""
    figure, (sizes, overlaps, accuracies) = plots.grid(3, 1, 2, plots.SINGLE, sharex=True)
    layers = results.values("synapses")
    shades = np.linspace(0.85, 0.25, layers["layer"].nunique() - 1)
    for shade, (_, rows) in zip(shades, layers[layers["layer"] != "all"].groupby("layer", sort=False), strict=True):
        look = {"color": str(shade), "linewidth": 0.7, "marker": "", "linestyle": "-", "zorder": 1}
        (line,) = sizes.plot(rows["theta"], rows["value"], **look)
    line.set_label("synapses of one layer")
    whole = pd.concat([results.values(measure, layer="all") for measure in SLICES], ignore_index=True)
    whole["name"] = whole["name"].map(WORDS)
    plots.curves(sizes, whole, "theta", hue="name", order=[WORDS["neurons"], WORDS["synapses"]])
    sizes.set(ylabel="share that is in a slice")
    plots.curves(overlaps, whole, "theta", hue="name", order=[WORDS[measure] for measure in OVERLAPS])
    overlaps.set(ylabel="overlap of two slices")
    _draw_accuracies(accuracies, results)
    for ax in (sizes, overlaps, accuracies):
        ax.set_ylim(0, 1.02)
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handlelength=1.8, columnspacing=1)
    accuracies.set_xlabel("θ, share of a neuron's sum that may be missed")
    return figure


def _draw_accuracies(ax: Any, results: Results) -> None:
    """NNSlicer over theta, a line a ratio, and beside each what does not depend on theta, level."""
    rows = results.values("accuracy", compensation=False)
    dense = rows[rows["method"] == "dense"]["value"].item()
    ax.axhline(dense, color="#777777", linewidth=0.8, marker="", linestyle="-", label="nothing dropped")
    for index, ratio in enumerate(results.settings.ratios):
        at = rows[rows["ratio"] == ratio]
        own = at[at["method"] == "nnslicer"].sort_values("theta")
        look = plots.look(index, linestyle="-", label=f"NNSlicer, {ratio:.0%} dropped")
        plots.banded(ax, own["theta"], own, **look)
        for method, dashes in (("weight", (0, (5, 1.5))), ("channel", (0, (1, 1)))):
            level = at[at["method"] == method]["value"].item()
            words = f"{NAMES[method]}, {ratio:.0%} dropped"
            ax.axhline(level, color=look["color"], linestyle=dashes, marker="", label=words)
    ax.set(ylabel="accuracy on\nthe target classes")


def by_ratio(results: Results) -> pd.DataFrame:
    """Accuracies, each with the head of its column."""
    rows = results.values("accuracy")
    centred = rows["compensation"].map({True: ", centred", False: ""})
    return rows.assign(column=rows["ratio"].map("r = {:g}".format) + centred)


def table(results: Results) -> pd.DataFrame:
    """A row a theta: the whole network's slice and the pruned networks; below, the methods that know no theta."""
    found = results.wide(WORDS, ["theta"], layer="all").set_index("theta")
    rows = by_ratio(results)
    wide = rows[rows["theta"].notna()].pivot(index="theta", columns="column", values="value")
    found = found.join(wide).reset_index()
    found.insert(0, "method", NAMES["nnslicer"])
    rivals = rows[rows["theta"].isna() & (rows["method"] != "dense")]
    others = rivals.pivot(index="method", columns="column", values="value").rename(index=NAMES).reset_index()
    return pd.concat([found, others], ignore_index=True)


def neuron_table(results: Results) -> pd.DataFrame:
    """A row a kind of neuron: the whole network's slice and the pruned networks."""
    found = results.wide(WORDS, ["neuron"], layer="all").set_index("neuron")
    rows = by_ratio(results)
    return found.join(rows.pivot(index="neuron", columns="column", values="value")).rename(index=NEURONS).reset_index()


def draw_neurons(results: Results) -> Figure:
    """Layer by layer: the share of synapses in a slice, and what slices of one class and of two share, by neuron."""
    figure, axes = plots.grid(2, 1, 2.2, plots.SINGLE, sharex=True)
    layers = [name for name in dict.fromkeys(results.values("synapses")["layer"]) if name != "all"]
    for index, (neuron, words) in enumerate(NEURONS.items()):
        for ax, shown in zip(axes, (["synapses"], ["same_class", "other_class"]), strict=True):
            for measure in shown:
                rows = results.values(measure, neuron=neuron, layer=layers)
                style = TWO_CLASSES if measure == "other_class" else {"linestyle": "-", "label": words}
                plots.banded(ax, rows["layer"].map(layers.index).to_numpy(), rows, **plots.look(index, **style))
    for ax, label in zip(axes, ("share of the synapses\nin a slice", "Jaccard index of two slices"), strict=True):
        ax.set(ylim=(0, 1.02), ylabel=label)
    axes[1].plot([], [], **TWO_CLASSES, color="#555555", marker="o", label="dotted: images of two classes")
    axes[1].set_xticks(range(len(layers)), map(short, layers), rotation=90)
    plots.legend_below(axes[1:], 1)
    return figure


WORDS = {
    "synapses": "synapses",
    "neurons": "neurons",
    "same_class": "Jaccard, one class",
    "other_class": "Jaccard, two classes",
    "same_class_held": "held by another, one class",
    "other_class_held": "held by another, two classes",
}
OVERLAPS = ("same_class", "other_class", "same_class_held", "other_class_held")
SLICES = {measure: "Jaccard index" if measure in OVERLAPS[:2] else "share" for measure in WORDS}
THETA = Item(
    "nnslicer_theta", swept, {**SLICES, "accuracy": SHARE}, table=table, draw=draw,
    about=("scores_per_class", "subsets", "test_images"),
)  # fmt: skip
NEURON = Item(
    "nnslicer_neurons", granularity, {**SLICES, "accuracy": SHARE}, table=neuron_table, draw=draw_neurons,
    about=("scores_per_class", "subsets", "test_images"),
)  # fmt: skip
SET_SLICE = Item(
    "nnslicer_set_slice", set_slices, {"neurons": "share"}, table=set_table, draw=draw_sets,
    about=("profile_per_class",), drawn_from=("nnslicer-set-slice",),
)  # fmt: skip
ITEMS = (THETA, NEURON, SET_SLICE)
