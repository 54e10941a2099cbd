"""How much of a network an image runs through, and mask entries set to zero until that fits a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lib import compute
from lib.dynamic.cost import Prices
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.network import LayerwiseChannelSelection

STEPS = 16  # halvings of the number of entries kept


@dataclass(frozen=True)
class Reached:
    """What `threshold` did: mean MACs of the images as a share of the whole network's, the share of mask entries that
    are zero, their mean size, and the smallest entry that was kept (the threshold)."""

    share: float
    sparsity: float
    magnitude: float
    threshold: float


def own_macs(lcs: LayerwiseChannelSelection) -> int:
    """Multiply-accumulates of the decision units, of one image: m x input channels, in each masked layer."""
    return sum(lcs.unit(layer).weight.numel() for layer in lcs.layers)


def kept_counts(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Channels that are not zero: layer -> int64, one less dimension than the masks (..., C_out)."""
    return {layer: (mask != 0).sum(-1) for layer, mask in masks.items()}


def image_macs(
    lcs: LayerwiseChannelSelection, images: Tensor, batch: int = 500, prices: Prices | None = None
) -> Tensor:
    """Multiply-accumulates of each image as masks are chosen now, the decision units' own included.

    Args:
        lcs: a network with decision units; evaluated, its mode is given back.
        images: (N, C, H, W) in [0, 1].
        batch: images a pass.
        prices: of the network without units, where they are known already.
    Returns: int64 (N,). A channel whose mask is zero costs nothing, neither in its convolution nor in what reads it.
    """
    prices = prices or Prices.of(lcs.network, tuple(images.shape[1:]))
    own, parts = own_macs(lcs), []
    with compute.evaluation(lcs), torch.no_grad():
        for part in images.split(batch):
            counts = kept_counts(lcs.run(part.to(lcs.device)).masks)
            parts.append(prices.total(counts) + own)
    return torch.cat(parts)


def share_of(lcs: LayerwiseChannelSelection, images: Tensor, prices: Prices | None = None) -> float:
    """The images' mean MACs as a share of those of the network without units; arguments as `image_macs` takes them."""
    prices = prices or Prices.of(lcs.network, tuple(images.shape[1:]))
    return image_macs(lcs, images, prices=prices).double().mean().item() / prices.total({})


@torch.no_grad()
def threshold(lcs: LayerwiseChannelSelection, budget: float, images: Tensor, least: float = 0.1) -> Reached:
    """Set the smallest mask entries of the whole network to zero, until the images' mean MACs fit the budget.

    Entries of all rows of all layers are ranked together by their size (ties: the earlier layer, row and channel is
    kept first), and as many of the largest are kept as fit, found by halving; decisions are taken anew each time, as a
    mask changes what later layers see. Each row keeps its own largest entries in any case.

    Args:
        lcs: changed in place; its units' masks.
        budget: mean MACs of the images, units included, as a share of the whole network's, in (0, 1].
        images: (N, C, H, W) in [0, 1]; not test images.
        least: the share of its channels that every row keeps, at least one of them.
    Returns: what was reached.
    Raises: DynamicError where even the least that is kept does not fit.
    """
    if not 0 < budget <= 1:
        raise DynamicError(f"budget is {budget}: a share of the network's MACs, above 0 and at most 1")
    prices = Prices.of(lcs.network, tuple(images.shape[1:]))
    units = [lcs.unit(layer) for layer in lcs.layers]
    before = [unit.masks.detach().clone() for unit in units]
    always = torch.cat([_largest(mask, least).flatten() for mask in before])
    values = torch.cat([mask.flatten() for mask in before])
    order = values.masked_fill(always, torch.inf).argsort(descending=True, stable=True)

    def keep(count: int) -> float:
        kept = torch.zeros_like(always)
        kept[order[:count]] = True
        for unit, mask, part in zip(units, before, kept.split([mask.numel() for mask in before]), strict=True):
            unit.masks.copy_(mask * part.view_as(mask))
        return share_of(lcs, images, prices)

    low, high = int(always.sum()), int((values.masked_fill(always, 1) != 0).sum())
    if keep(low) > budget:
        share = share_of(lcs, images, prices)
        for unit, mask in zip(units, before, strict=True):
            unit.masks.copy_(mask)
        raise DynamicError(
            f"a budget of {budget:g} of the MACs cannot be met: with {least:g} of the channels of every row it is "
            f"{share:.3f}; raise the budget or lower `least`"
        )
    if keep(high) > budget:
        for _ in range(STEPS):
            if high - low <= 1:
                break
            middle = (low + high) // 2
            low, high = (middle, high) if keep(middle) <= budget else (low, middle)
    else:
        low = high
    share = keep(low)
    return Reached(share, lcs.sparsity(), lcs.magnitude(), values[order[low - 1]].item())


def _largest(mask: Tensor, least: float) -> Tensor:
    """Where a row's largest entries are, bool as mask (m, C_out); ties go to the earlier channel."""
    count = max(1, round(least * mask.shape[1]))
    places = mask.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(mask, dtype=torch.bool).scatter_(1, places, True)
