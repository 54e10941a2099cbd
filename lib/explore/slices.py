"""The slices of an image and of its adversarial, side by side: sizes, overlaps, and one layer as a picture."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from lib.explore.attacking import Attacked
from lib.explore.errors import ExploreError
from lib.explore.subject import Subject, profile_of
from lib.slicing.backward import slice as slice_of
from lib.slicing.slices import Slices

CLEAN, ADVERSARIAL, PEER = range(3)


@dataclass(frozen=True, eq=False)
class Compared:
    """The slices of the clean image, of the adversarial and, where there is one, of another image of the class.

    Attributes:
        slices: of two or three images, in this order.
        table: one row a layer, from the image to the logits: layer, clean, adversarial (share of its weight elements
            in the slice), neurons_clean, neurons_adversarial (share of its outputs), overlap (Jaccard index of clean
            and adversarial), peer (of clean and another image of its class; None without one).
        overlap, peer: the same of the whole network.
    """

    slices: Slices
    table: pd.DataFrame
    overlap: float
    peer: float | None

    @property
    def layers(self) -> list[str]:
        """Names of the layers with weights."""
        return list(self.slices.synapses)

    @property
    def largest(self) -> str:
        """The layer with the most weights."""
        return max(self.layers, key=lambda layer: self.slices.synapses[layer][0].numel())

    def synapses(self, layer: str) -> Tensor:
        """Share of the kernel's positions in the slice, by output and input channel.

        Args:
            layer: one of `layers`.
        Returns: float64 (2, outputs, inputs): clean, adversarial. Of a linear layer, 0 or 1.
        Raises: ExploreError for another layer.
        """
        if layer not in self.slices.synapses:
            raise ExploreError(f"no layer {layer!r}: one of {', '.join(self.layers)}")
        inside = (self.slices.synapses[layer][:PEER] != 0).double()
        return inside.flatten(3).mean(3) if inside.ndim > 3 else inside

    def neurons(self, layer: str) -> Tensor:
        """CONTRIB of each position, summed over the channels.

        Args:
            layer: one of `layers`, or "input": the image.
        Returns: int64 (2, H, W): clean, adversarial; (2, 1, K) of a linear layer.
        """
        if layer not in self.slices.neurons:
            raise ExploreError(f"no layer {layer!r}: one of {', '.join(self.slices.neurons)}")
        values = self.slices.neurons[layer][:PEER].long()
        return values.sum(1) if values.ndim == 4 else values[:, None]


def compared(chosen: Subject, attacked: Attacked) -> Compared:
    """Slice the clean and the adversarial image, each for the class that the network gives it.

    Args:
        chosen: the network.
        attacked: the two images.
    Raises: SlicingError for a network that cannot be sliced.
    Source: NNSlicer (FSE 2020), section 3; the mean of the predicted class is the reference, as in the released code.
    """
    images = [attacked.clean, attacked.adversarial]
    other = chosen.peer(attacked.position)
    if other is not None:
        images.append(chosen.picture(other)[0])
    found = slice_of(chosen.model, torch.stack(images), profile_of(chosen))
    whole = found.jaccard(found)[CLEAN]
    rows = []
    for layer, value in found.synapses.items():
        share = (value != 0).flatten(1).double().mean(1).tolist()
        active = (found.neurons[layer] != 0).flatten(1).double().mean(1).tolist()
        overlap = found.jaccard(found, [layer])[CLEAN].tolist()
        rows.append(
            {
                "layer": layer,
                "clean": share[CLEAN],
                "adversarial": share[ADVERSARIAL],
                "neurons_clean": active[CLEAN],
                "neurons_adversarial": active[ADVERSARIAL],
                "overlap": overlap[ADVERSARIAL],
                "peer": overlap[PEER] if other is not None else None,
            }
        )
    return Compared(
        found, pd.DataFrame(rows), float(whole[ADVERSARIAL]), float(whole[PEER]) if other is not None else None
    )
