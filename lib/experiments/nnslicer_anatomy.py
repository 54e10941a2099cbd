"""What is a slice (notebook 12): how much of each layer it holds, what slices of one class share, one as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from lib import plots
from lib.experiments import nnslicer
from lib.experiments.item import Item, Results
from lib.experiments.nnslicer import SlicingRun, first_correct
from lib.experiments.run import measures
from lib.experiments.settings import Count
from lib.slicing.backward import effective_path, slice
from lib.slicing.slices import Slices

VERSION = 2  # raise it when the numbers change

NAMES = {"nnslicer": "NNSlicer", "nnslicer-dataset": "NNSlicer, mean over the set", "effective-path": "EffectivePath"}
"""The methods as figures show them: with the mean of the predicted class, with that of the whole set, EffectivePath."""


class Settings(nnslicer.NNSlicer):
    """Settings of the experiment; it compares both references, so that `reference` has no part in it.

    Attributes:
        images_per_class: correctly classified test images of each class that are sliced; not in the source.
        picture: position among them of the image whose slice is drawn, from 0.
    """

    section: ClassVar[str] = "anatomy"

    images_per_class: Count = Field(20, title="test images a class")
    picture: int = Field(0, ge=0)


class AnatomyRun(SlicingRun[Settings]):
    """Slices of one network's test images."""

    def chosen(self) -> tuple[Tensor, Tensor]:
        """The first correctly classified test images of each class, uint8, and their labels."""
        test = self.images("test")
        each = [
            first_correct(self.model, test, (test.labels == k).nonzero()[:, 0], self.settings.images_per_class)
            for k in range(len(test.classes))
        ]
        index = torch.cat(each)
        return test.images[index], test.labels[index]

    @lru_cache(maxsize=1)  # noqa: B019 (a run is short-lived)
    def slices(self, method: str) -> tuple[Slices, Tensor]:
        """The images' slices by a method of `NAMES`, and their labels."""
        images, labels = self.chosen()
        if method == "effective-path":
            return effective_path(self.model, images), labels
        reference = "dataset" if method == "nnslicer-dataset" else "predicted"
        return slice(self.model, images, self.profile(), self.settings.theta, reference=reference), labels

    def layers(self, method: str) -> pd.DataFrame:
        """Each layer's part in the slices; kept.

        Returns: rows of layer, synapses (share of its weight elements in a slice, mean over the images), neurons (share
            of its outputs), same_class and other_class (mean Jaccard overlap of two images' synapses, of pairs of which
            one image at least has any in the layer), n (images); a last row is the whole network, layer "all".
        """

        def rows() -> Iterator[dict[str, Any]]:
            found, labels = self.slices(method)
            alike = labels[:, None] == labels[None]
            same, other = alike & ~torch.eye(len(labels), dtype=torch.bool), ~alike
            for layer in [*found.synapses, None]:
                there = any_synapse(found, layer)
                overlap = found.jaccard(found, [layer] if layer else None)
                overlap[~(there[:, None] | there[None])] = torch.nan
                if layer:
                    used, neurons = (found.synapses[layer] != 0).double().mean().item(), [found.neurons[layer]]
                else:
                    used = _share(list(found.synapses.values()))
                    neurons = [value for name, value in found.neurons.items() if name != "input"]
                row = {"layer": layer or "all", "synapses": used, "neurons": _share(neurons)}
                row |= {"same_class": overlap[same].nanmean().item(), "other_class": overlap[other].nanmean().item()}
                yield {**row, "n": len(found)}

        return self._kept("nnslicer-anatomy-layers", method, rows)

    def classes_overlap(self, method: str) -> pd.DataFrame:
        """Mean overlap of two images' whole slices, class against class; kept.

        Returns: rows of first, second (class names), value (mean Jaccard overlap of different images), n (pairs).
        """

        def rows() -> Iterator[dict[str, Any]]:
            found, labels = self.slices(method)
            names, overlap = self.train.classes, found.jaccard(found)
            different = ~torch.eye(len(found), dtype=torch.bool)
            for (a, first), (b, second) in itertools.product(enumerate(names), repeat=2):
                pairs = (labels == a)[:, None] & (labels == b)[None] & different
                if pairs.any():
                    value, n = overlap[pairs].mean().item(), int(pairs.sum())
                    yield {"first": first, "second": second, "value": value, "n": n}

        return self._kept("nnslicer-anatomy-classes", method, rows)

    def picture(self) -> pd.DataFrame:
        """One image's slice by position; kept.

        Returns: rows of layer, row, column, value, as `maps` has them.
        """
        position = self.settings.picture

        def rows() -> Iterator[dict[str, Any]]:
            one = self.chosen()[0][position : position + 1]
            if len(one) == 0:
                raise ValueError(f"picture is {position}: fewer test images than that are classified correctly")
            found = maps(one, slice(self.model, one, self.profile(), self.settings.theta))
            for layer, value in found.items():
                for (r, c), contribution in np.ndenumerate(value.cpu().numpy()):
                    yield {"layer": layer, "row": r, "column": c, "value": float(contribution)}

        return self._kept("nnslicer-anatomy-picture", f"nnslicer-{position}", rows)

    def _kept(self, kind: str, method: str, make: Any) -> pd.DataFrame:
        images, chosen = self.images("test").fingerprint, self.settings
        key = {"method": method, "per_class": chosen.images_per_class, "profile": self.profile_key(), "images": images}
        if not method.startswith("effective"):
            key |= chosen.unusual("theta")
        return self.table(kind, key, make, chosen.network, VERSION)


def any_synapse(slices: Slices, layer: str | None) -> Tensor:
    """Which slices hold a synapse of a layer (None: of any), bool (N,)."""
    values = slices.synapses.values() if layer is None else [slices.synapses[layer]]
    return torch.stack([(value != 0).flatten(1).any(1) for value in values]).any(0)


def maps(image: Tensor, slices: Slices) -> dict[str, Tensor]:
    """One image's slice as pictures: CONTRIB of each neuron, summed over the channels of each position.

    Args:
        image: (1, C, H, W), uint8.
        slices: of it alone.
    Returns: "image" (mean of its channels, in [0, 1]), "input" (the slice's pixels), and layer -> (H, W); linear layers
        have one row of neurons.
    """
    found = {"image": (image[0].float() / 255).mean(0), "input": slices.neurons["input"][0].sum(0)}
    layers = {layer: value for layer, value in slices.neurons.items() if layer != "input"}
    return found | {layer: value[0].sum(0) if value.ndim == 4 else value for layer, value in layers.items()}


def measured(settings: Settings, seed: int) -> pd.DataFrame:
    """Sizes and overlaps of slices, and at the first seed one image's slice.

    Returns: tidy, the measures of `MEASURES` at {method, layer}, layer "all" is the whole network; "class_overlap" at
        {method, first, second}; beyond the record "picture" at {layer, row, column}.
    """
    run = AnatomyRun(settings, seed)
    rows: list[dict[str, Any]] = []
    for method in NAMES:
        rows += measures(run.layers(method), MEASURES, ["layer"], method=method)
        overlaps = run.classes_overlap(method).rename(columns={"value": "class_overlap"})
        rows += measures(overlaps, ["class_overlap"], ["first", "second"], method=method)
    if seed == settings.seeds[0]:
        rows += [{"measure": "picture", **row, "n": 1} for row in run.picture().to_dict("records")]
    return run.tidy(rows)


def _share(values: list[Tensor]) -> float:
    """Share of all elements that are not zero."""
    return sum(float((value != 0).sum()) for value in values) / sum(value.numel() for value in values)


TWO_CLASSES: dict[str, Any] = {"linestyle": (0, (1, 1)), "markerfacecolor": "white"}


def draw(results: Results) -> Figure:
    """Synapses, neurons and overlaps from the image to the logits; a line a method, solid for images of one class."""
    figure, panels = plots.mosaic("S;N;O", height=6.2, sharex=True)
    axes = list(panels.values())
    layers = [name for name in dict.fromkeys(results.values("synapses")["layer"]) if name != "all"]
    for ax, shown in zip(axes, (["synapses"], ["neurons"], ["same_class", "other_class"]), strict=True):
        for index, (method, name) in enumerate(NAMES.items()):
            for measure in shown:
                rows = results.values(measure, method=method)
                rows = rows[rows["layer"] != "all"]  # of slices that hold nothing in a layer, there is no overlap
                style = TWO_CLASSES if measure == "other_class" else {"linestyle": "-", "label": name}
                plots.banded(ax, rows["layer"].map(layers.index).to_numpy(), rows, **plots.look(index, **style))
        ax.set(ylim=(0, 1.02), title=f"{shown[0]} in a slice", ylabel=f"share of the {shown[0]}")
        ax.set_xticks(range(len(layers)), map(short, layers), rotation=90)
    axes[2].set(title="what two images' slices share", ylabel="Jaccard index", xlabel="layer, from image to logits")
    for words, style in (("images of one class", {"linestyle": "-"}), ("of two classes", TWO_CLASSES)):
        axes[2].plot([], [], color="#555555", marker="o", label=words, **style)
    plots.legend_below(axes[2:], 2)
    return figure


def draw_classes(results: Results) -> Figure:
    """Overlap of whole slices, class against class, a panel a method."""
    import seaborn

    figure, axes = plots.panels(3, height=2.5)
    for ax, (method, name) in zip(axes, NAMES.items(), strict=True):
        rows = results.values("class_overlap", method=method)
        order = list(dict.fromkeys(rows["first"]))
        wide = rows.pivot(index="first", columns="second", values="value").loc[order, order]
        seaborn.heatmap(wide, ax=ax, cmap="viridis", square=True, cbar_kws={"shrink": 0.7, "label": "Jaccard index"})
        ax.set(title=name.replace(", ", ",\n"), xlabel="", ylabel="")
    return figure


def draw_maps(found: dict[str, Any], layers: list[str]) -> Figure:
    """One image's slice: the image, then CONTRIB by position, a panel a layer; positive and negative.

    Args:
        found: layer -> (H, W), as `maps` gives it.
        layers: of it, one for each panel.
    """
    figure, axes = plots.panels(len(layers), height=1.5)
    for ax, layer in zip(axes, layers, strict=True):
        value = np.asarray(found[layer])
        top = max(np.abs(value).max(), 1)
        gray = {"cmap": "gray", "vmin": 0, "vmax": 1}
        ax.imshow(value, **(gray if layer == "image" else {"cmap": "PuOr_r", "vmin": -top, "vmax": top}))
        ax.set_title({"image": "image", "input": "pixels"}.get(layer, short(layer)))
        plots.bare(ax, frame=True)
    return figure


def short(layer: str) -> str:
    """A layer's name on an axis: blocks.0.conv1 -> b0.conv1."""
    return layer.replace("blocks.", "b")


MEASURES = {"synapses": "share", "neurons": "share", "same_class": "Jaccard index", "other_class": "Jaccard index"}
ANATOMY = Item(
    "nnslicer_anatomy", measured, {**MEASURES, "class_overlap": "Jaccard index"}, draw=draw, about=("images_per_class",)
)  # fmt: skip
ITEMS = (ANATOMY,)
