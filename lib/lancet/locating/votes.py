"""Votes of the pairs on a layer's weights, and the layer to repair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.lancet.errors import LancetError

RULES = ("most-pairs", "smallest-fraction")
NEAR_TIE = 0.02  # shares of repaired pairs that differ by no more count as very close
GOOD_SHARE = 0.8  # of the best layer's share, that a layer needs to be considered for its small fraction


@dataclass(frozen=True, eq=False)
class Votes:
    """What the pairs say of one layer.

    Attributes:
        layer: dotted name.
        counts: int32, weight.shape: pairs whose error-inducing set holds the weight.
        importance: float32, weight.shape: mean over the pairs of IV / max IV.
        repaired: bool (K,): pairs that some part of the layer repairs.
        fractions: float32 (K,): the part of the layer's weights that is a pair's error-inducing set; NaN where none is.
    """

    layer: str
    counts: Tensor
    importance: Tensor
    repaired: Tensor
    fractions: Tensor

    @property
    def share(self) -> float:
        """Share of the pairs that the layer repairs."""
        return float(self.repaired.float().mean()) if len(self.repaired) else 0.0

    @property
    def fraction(self) -> float:
        """Median part of the layer that repairs a pair; NaN where it repairs none."""
        return float(self.fractions[self.repaired].median()) if bool(self.repaired.any()) else math.nan

    def order(self) -> Tensor:
        """Flat indices of the weights with at least one vote: most votes first, then importance, then index."""
        counts, importance = self.counts.flatten(), self.importance.flatten()
        by_importance = importance.argsort(descending=True, stable=True)
        order = by_importance[counts[by_importance].argsort(descending=True, stable=True)]
        return order[: int((counts > 0).sum())]


def choose_layer(votes: Mapping[str, Votes], rule: str = "most-pairs") -> str:
    """The layer to repair.

    Args:
        votes: from `locate`.
        rule: "most-pairs", as stated: the layer in which most pairs are repaired, of very close ones (2 % of the
            pairs) that with the smallest part; or "smallest-fraction", ours: the smallest part among the layers that
            repair at least 0.8 of what the best does.
    Returns: its name.
    Raises: LancetError where no layer repairs a pair.

    Source: Zhao et al. 2021, section on neuron-flip.
    """
    if rule not in RULES:
        raise LancetError(f"rule is {rule!r}: one of {', '.join(RULES)}")
    best = max((found.share for found in votes.values()), default=0.0)
    if best == 0:
        raise LancetError(
            f"no pair is repaired in any of the layers {list(votes)}: nothing is located. "
            "Give more pairs, other companions, or other layers"
        )
    least = best - NEAR_TIE if rule == "most-pairs" else GOOD_SHARE * best
    near = [name for name, found in votes.items() if found.share >= least - 1e-9 and found.share > 0]
    return min(near, key=lambda name: votes[name].fraction)


def error_inducing(
    votes: Votes | Mapping[str, Votes] | None, layer: str, weight: Tensor, least_votes: int = 1
) -> Tensor:
    """Which weights of a layer are error-inducing: bool, of the weight's shape, on the CPU.

    Args:
        votes: of the layer, or of all layers by name, as `locate` returns them.
        layer: dotted name.
        weight: the layer's.
        least_votes: votes that make a weight error-inducing, from 1.
    Raises: LancetError where there are no votes of the layer, they are of another network, or no weight has so many.
    """
    if isinstance(votes, Mapping):
        if layer not in votes:
            raise LancetError(f"layer {layer!r} has no votes: one of {', '.join(votes) or 'no layer'}")
        votes = votes[layer]
    if votes is None:
        raise LancetError(f"no votes of layer {layer!r}: pass what `locate` returns, or whole=True")
    if votes.counts.shape != weight.shape:
        shapes = f"{tuple(votes.counts.shape)}, its weights {tuple(weight.shape)}"
        raise LancetError(f"votes of layer {layer!r} have the shape {shapes}: they are of another network")
    chosen = votes.counts.cpu() >= max(1, least_votes)
    if not bool(chosen.any()):
        raise LancetError(f"no weight of layer {layer!r} has {max(1, least_votes)} vote(s): nothing is located there")
    return chosen


def tally(layer: str, shape: torch.Size, order: Tensor, counts: Tensor, important: Tensor) -> Votes:
    """Votes from each pair's order of weights (K, N), size of its set (K,) and importance (K, *shape)."""
    size = order.shape[1]
    votes = torch.zeros(size, dtype=torch.int32, device=order.device)
    for chosen, count in zip(order, counts.tolist(), strict=True):
        votes[chosen[:count]] += 1
    flat = important.flatten(1).float()
    top = flat.amax(1, keepdim=True)
    mean = (flat / torch.where(top > 0, top, 1)).mean(0)
    repaired = (counts > 0).cpu()
    fractions = torch.where(repaired, counts.cpu().float() / size, torch.nan)
    return Votes(layer, votes.view(shape), mean.view(shape), repaired, fractions)


def merged(parts: list[Votes]) -> Votes:
    """Votes of several groups of pairs on one layer, as of all at once."""
    sizes = [len(part.repaired) for part in parts]
    mean = sum(part.importance.double() * size for part, size in zip(parts, sizes, strict=True)) / sum(sizes)
    return Votes(
        parts[0].layer,
        torch.stack([part.counts for part in parts]).sum(0).to(torch.int32),
        torch.as_tensor(mean).float(),
        torch.cat([part.repaired for part in parts]),
        torch.cat([part.fractions for part in parts]),
    )
