"""Which channels of a dynamic network run for which images, and how much that differs from image to image.

Methods that choose channels in different ways, a row of masks or the largest gates, are set beside each other by what
they switch on and off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib import compute
from lib.data import ImageSet
from lib.dynamic import information
from lib.dynamic.boosting import FeatureBoosting
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.network import LayerwiseChannelSelection

OFTEN = 0.99  # share of the images from which on a channel counts as always on; below the rest, as never


@dataclass(frozen=True)
class Switching:
    """How the channels of one layer are switched.

    Attributes:
        share: of images and channels that run.
        entropy: of a channel's being on or off, bits, mean over the channels; 0 where the same ones run for all images.
        ceiling: the same if every channel ran for a share of images of its own choice as large as the layer's: at most
            1 bit.
        information: mutual information of a channel's being on and the class, bits, mean over the channels.
        baseline: the same with the classes permuted among the images: what chance gives.
        always, never: shares of the channels that run for `OFTEN` of the images or more, and for the rest or less.
    """

    share: float
    entropy: float
    ceiling: float
    information: float
    baseline: float
    always: float
    never: float


def running(model: nn.Module, images: ImageSet, batch: int = 500) -> dict[str, Tensor]:
    """Which channels add to the output of a network of LCS or feature boosting, in evaluation mode.

    Returns: layer -> bool (N, channels) on the CPU: the mask is not zero; with feature boosting, the gate.
    Raises: DynamicError for another network.
    """
    if not isinstance(model, (LayerwiseChannelSelection, FeatureBoosting)):
        raise DynamicError(
            f"a {type(model).__name__} does not choose channels: give a network of LCS or feature boosting"
        )
    device: torch.device = next(model.parameters()).device
    parts: list[Mapping[str, Tensor]] = []
    with compute.evaluation(model), torch.no_grad():
        for rows in torch.arange(len(images)).split(batch):
            part = images.float(device, rows)
            found = model.run(part).masks if isinstance(model, LayerwiseChannelSelection) else model.gates(part)
            parts.append({layer: (values != 0).cpu() for layer, values in found.items()})
    return {layer: torch.cat([part[layer] for part in parts]) for layer in model.layers}


def switching(running: Tensor, labels: Tensor, classes: int, permutations: int = 200, seed: int = 0) -> Switching:
    """How one layer's channels are switched.

    Args:
        running: bool (N, channels).
        labels: int64 (N,).
        permutations, seed: as `information.of_layers`.
    Raises: DynamicError as that.
    """
    shares = running.double().mean(0)
    told = information.of_layers(running.long(), labels, 2, classes, permutations, seed)
    whole = shares.mean()
    return Switching(
        share=whole.item(),
        entropy=sum(each.entropy for each in told) / len(told),
        ceiling=information.entropy(torch.stack([whole, 1 - whole])).item(),
        information=sum(each.information for each in told) / len(told),
        baseline=sum(each.baseline for each in told) / len(told),
        always=(shares >= OFTEN).double().mean().item(),
        never=(shares <= 1 - OFTEN).double().mean().item(),
    )
