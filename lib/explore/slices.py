"""The slices of an image and of its adversarial, side by side: sizes, overlaps, and one layer as a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import pandas as pd
import torch
from torch import Tensor

from lib import plots
from lib.explore.drawing import View, heat_map, label
from lib.explore.network import ExploreError, profile_of
from lib.explore.prediction import Example
from lib.slicing.backward import slice as slice_of
from lib.slicing.slices import Slices

CLEAN, ADVERSARIAL, PEER = IMAGES = ("clean", "adversarial", "another of the class")


@dataclass(frozen=True, eq=False)
class Comparison:
    """The slices of the clean image, of the adversarial and, where there is one, of another image of the class.

    Attributes:
        slices: of the images, in this order.
        synapses, neurons: one row a layer, from the image to the logits, one column an image: share of the layer's
            weight elements, and of its outputs, that are in the slice.
        overlap: the same rows and columns: Jaccard index with the clean image's slice.
        whole: image -> the same of the whole network.
    """

    slices: Slices
    synapses: pd.DataFrame
    neurons: pd.DataFrame
    overlap: pd.DataFrame
    whole: pd.Series

    def maps(self, layer: str) -> tuple[Tensor, Tensor]:
        """One layer of the clean and of the adversarial image's slice.

        Args:
            layer: a convolution or linear layer.
        Returns: share of the kernel's positions that are in the slice, float64 (2, outputs, inputs); and CONTRIB of
            each position, summed over the channels, int64 (2, H, W), or (2, 1, K) of a linear layer.
        Raises: ExploreError for another layer.
        """
        if layer not in self.slices.synapses:
            raise ExploreError(f"no layer {layer!r}: one of {', '.join(self.slices.synapses)}")
        inside, values = (self.slices.synapses[layer][:2] != 0).double(), self.slices.neurons[layer][:2].long()
        return inside.reshape(*inside.shape[:3], -1).mean(3), values.sum(1) if values.ndim == 4 else values[:, None]


@lru_cache(maxsize=32)
def compare(example: Example) -> Comparison:
    """Slice the clean and the adversarial image, each for the class that the network gives it.

    Args:
        example: the two images and their network.
    Raises: SlicingError for a network that cannot be sliced.
    Source: NNSlicer (FSE 2020), section 3; the mean of the predicted class is the reference, as in the released code.
    """
    network = example.network
    peers = [other for other in network.positions(example.label) if other != example.position][:1]
    images = torch.stack([*example.images, *(network.image(other)[0] for other in peers)])
    found = slice_of(network.model, images, profile_of(network))

    def table(values: Mapping[str, Tensor]) -> pd.DataFrame:
        return pd.DataFrame({layer: value.tolist() for layer, value in values.items()}, IMAGES[: len(images)]).T

    active = {layer: (found.neurons[layer] != 0).flatten(1).double().mean(1) for layer in found.synapses}
    overlap = table({layer: found.jaccard(found, [layer])[0] for layer in found.synapses})
    whole = table({"whole": found.jaccard(found)[0]}).loc["whole"]
    return Comparison(found, table(found.share()), table(active), overlap, whole)


def view(example: Example, layer: str | None = None) -> list[View]:
    """The slices by layer, and one layer of them.

    Args:
        example: the two images and their network.
        layer: None: the one with the most weights.
    Raises: ExploreError for a layer that does not exist; SlicingError for a network that cannot be sliced.
    """
    found = compare(example)
    largest = max(found.slices.synapses, key=lambda name: found.slices.synapses[name][0].numel())
    return [_layers(found), _layer(found, layer or largest)]


def _layers(found: Comparison) -> View:
    figure, axes = plots.panels(3, height=2.9)
    panels = {
        "synapses in the slice": found.synapses[[CLEAN, ADVERSARIAL]],
        "neurons in the slice": found.neurons[[CLEAN, ADVERSARIAL]],
        "overlap with clean (Jaccard)": found.overlap.drop(columns=CLEAN),
    }
    look = {"color": dict(zip(IMAGES, plots.PALETTE, strict=False)), "ylim": (0, 1.05), "rot": 90}
    for ax, (title, table) in zip(axes, panels.items(), strict=True):
        table.rename(index=label).plot(ax=ax, title=title, xticks=range(len(table)), **look)
    axes[0].set_ylabel("share")
    least = found.overlap[ADVERSARIAL].idxmin()
    caption = (
        f"The slices of the clean and of the adversarial image share {found.whole[ADVERSARIAL]:.0%} of the synapses "
        f"that are in either, least in {least} ({found.overlap.loc[least, ADVERSARIAL]:.0%})."
    )
    if PEER in found.whole:
        caption += f" Two clean images of the class share {found.whole[PEER]:.0%}."
    return View(figure, caption)


def _layer(found: Comparison, layer: str) -> View:
    synapses, neurons = found.maps(layer)
    figure, axes = plots.mosaic([["synapses 0", "synapses 1", "change", "neurons 0", "neurons 1"]], 2.3, plots.DOUBLE)
    top, shape = max(1, int(neurons.abs().max())), "equal" if neurons.shape[1] > 1 else "auto"
    for number, name in enumerate((CLEAN, ADVERSARIAL)):
        inside, reached = axes[f"synapses {number}"], axes[f"neurons {number}"]
        shares = heat_map(inside, synapses[number], f"synapses, {name}")
        contributions = heat_map(reached, neurons[number], f"neurons, {name}", -top, top, aspect=shape)
        reached.set(xticks=[], yticks=[], xlabel="position" if shape == "equal" else "neuron")
    change = heat_map(axes["change"], synapses[1] - synapses[0], "adversarial less clean", -1)
    for name in ("synapses 0", "synapses 1", "change"):
        axes[name].set_xlabel("input channel")
    axes["synapses 0"].set_ylabel("output channel")
    for image, names, text in (
        (shares, ("synapses 0", "synapses 1"), "share of the kernel in the slice"),
        (change, ("change",), "violet: clean only"),
        (contributions, ("neurons 0", "neurons 1"), "CONTRIB, sum over channels"),
    ):
        beside = [axes[name] for name in names]
        figure.colorbar(image, ax=beside, label=text, location="bottom", aspect=12, shrink=1 / len(names))
    caption = (
        f"{layer}: {found.synapses.loc[layer, CLEAN]:.1%} of its synapses are in the clean image's slice, "
        f"{found.synapses.loc[layer, ADVERSARIAL]:.1%} in the adversarial's; they share "
        f"{found.overlap.loc[layer, ADVERSARIAL]:.0%} of those in either. Orange neurons move the class "
        "score further from its mean, in the direction in which it already differs; purple ones move it back."
    )
    return View(figure, caption)
