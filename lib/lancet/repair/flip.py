"""Neuron-flip: negate the weights that cause an error, in order of votes, until the error is gone. No training data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib.data import as_images, as_labels, with_gradients
from lib.graph import copied
from lib.lancet.errors import LancetError
from lib.lancet.locating.ablation import counts_of, fractions, refined
from lib.lancet.locating.locate import Votes, choose_layer
from lib.lancet.locating.tail import Network, Point
from lib.lancet.measures import predictions
from lib.models.layers import weight_layers

MODES = ("flip", "zero", "random")


@dataclass(frozen=True)
class FlipReport:
    """What a repair did to one layer.

    Attributes:
        layer, mode: which, and how.
        flipped, fraction: weights changed, and the part of the layer's that they are.
        voted: weights with at least one vote: the most that could be changed.
        success_before, success_after: share of the inputs that show the error.
        threshold, reached: what success was to fall to, and whether it did; where not, the best found was kept.
        accuracy_before, accuracy_after: on the clean images given; None without.
    """

    layer: str
    mode: str
    flipped: int
    fraction: float
    voted: int
    success_before: float
    success_after: float
    threshold: float
    reached: bool
    accuracy_before: float | None = None
    accuracy_after: float | None = None


@with_gradients
def flip(
    model: nn.Module,
    votes: Mapping[str, Votes],
    inputs: Tensor,
    labels: Tensor,
    *,
    layer: str | None = None,
    target: int | None = None,
    threshold: float = 0.01,
    mode: str = "flip",
    weights: int | None = None,
    seed: int = 0,
    clean: tuple[Tensor, Tensor] | None = None,
    verified: Network | None = None,
) -> tuple[nn.Module, FlipReport]:
    """Negate a layer's error-inducing weights, the most voted first, until inputs no longer show the error.

    Numbers of weights go up the ladder of progressive ablation (j 10^-u of the voted weights, then in tenths).

    Args:
        model: left as it is.
        votes: from `locate`.
        inputs: float (N, C, H, W): of the repair split, showing the error, as stamped images; never those reported on.
        labels: int64 (N,): the true ones.
        layer: dotted name; None: `choose_layer(votes)`, the stated rule.
        target: the error is this prediction; None: any wrong one.
        threshold: share of the inputs that may still show it.
        mode: "flip" negates, "zero" removes, "random" negates weights drawn from the whole layer.
        weights: change just so many; None: as many as it takes.
        seed: of the random ones.
        clean: images and labels to report accuracy on; they change nothing.
        verified: this network, as `Network.verify` has found it; None: it is verified here.
    Returns: a repaired copy, and what was done. Where the threshold is never reached, the smallest number of weights
        with the lowest success found, with `reached` False.
    Raises: LancetError where the layer has no votes (nothing is changed then), or a name or option is unknown.

    Source: Zhao et al. 2021, section on neuron-flip.
    """
    if mode not in MODES:
        raise LancetError(f"mode is {mode!r}: one of {', '.join(MODES)}")
    inputs = as_images(inputs, "inputs", LancetError)
    labels = as_labels(labels, len(inputs), error=LancetError)
    layer = choose_layer(votes) if layer is None else layer
    if layer not in votes:
        raise LancetError(f"layer {layer!r} has no votes: one of {', '.join(votes)}")
    order = votes[layer].order()
    size, voted = votes[layer].counts.numel(), len(order)
    if voted == 0:
        raise LancetError(
            f"no weight of layer {layer!r} has a vote: none is changed. Choose a layer in which pairs are repaired"
        )
    if mode == "random":
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(size, generator=generator)[:voted]
    trial = _Trial(model, layer, order, inputs, labels, target, mode, verified)
    before = trial.success(0)
    if weights is not None:
        if not 0 < weights <= voted:
            raise LancetError(f"weights is {weights}: from 1 to the {voted} of layer {layer!r} that have votes")
        count, after = weights, trial.success(weights)
    else:
        count, after = _smallest(trial, voted, threshold)
    repaired = trial.changed(model, count)
    accuracies = [None, None] if clean is None else [_accuracy(each, *clean) for each in (model, repaired)]
    report = FlipReport(
        *(layer, mode, count, count / size, voted, before, after, threshold, after <= threshold),
        *accuracies,
    )
    return repaired, report


def flip_by_trial(
    model: nn.Module,
    votes: Mapping[str, Votes],
    inputs: Tensor,
    labels: Tensor,
    *,
    clean: tuple[Tensor, Tensor],
    target: int | None = None,
    threshold: float = 0.01,
    mode: str = "flip",
) -> tuple[nn.Module, FlipReport, dict[str, FlipReport]]:
    """Flip in every layer that has votes, and keep the one after which accuracy less success is highest. Ours.

    Whether the threshold is reached does not decide: a network that is flipped to pieces reaches it too.

    Args:
        clean: a few clean images of the repair split and their labels, which choose the layer.
        others: as `flip`.
    Returns: the repaired copy, its report, and every layer's report.
    Raises: LancetError where no layer has votes.
    """
    inputs = as_images(inputs, "inputs", LancetError)
    ways: dict[str, Any] = {"target": target, "threshold": threshold, "mode": mode, "clean": clean}
    ways["verified"] = Network(model).verify(model, inputs)
    tried = {
        layer: flip(model, votes, inputs, labels, layer=layer, **ways)
        for layer, found in votes.items()
        if bool((found.counts > 0).any())
    }
    if not tried:
        raise LancetError(f"no weight of the layers {list(votes)} has a vote: the network is left as it is")

    def worth(layer: str) -> float:
        report = tried[layer][1]
        assert report.accuracy_after is not None
        return report.accuracy_after - report.success_after

    best = max(tried, key=worth)
    return *tried[best], {layer: report for layer, (_, report) in tried.items()}


def _smallest(trial: _Trial, voted: int, threshold: float) -> tuple[int, float]:
    """The smallest tried number of weights that reaches the threshold, else that of the lowest success."""
    tried: dict[int, float] = {}
    for part in [*fractions(), 1.0]:
        for count in counts_of([part], voted, voted):
            if count in tried:
                continue
            tried[count] = trial.success(count)
            if tried[count] > threshold:
                continue
            for finer in counts_of(refined(part), voted, voted):
                if finer not in tried and finer < count:
                    tried[finer] = trial.success(finer)
                if tried.get(finer, math.inf) <= threshold:
                    return finer, tried[finer]
            return count, tried[count]
    return min(tried.items(), key=lambda pair: (pair[1], pair[0]))


class _Trial:
    """A layer with some of its weights changed, and how often the error then shows."""

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        order: Tensor,
        inputs: Tensor,
        labels: Tensor,
        target: int | None,
        mode: str,
        verified: Network | None,
        batch: int = 256,
    ) -> None:
        self.network = Network(model)
        self.network.adopt(verified) if verified else self.network.verify(model, inputs)
        self.point: Point = self.network.points([layer])[0]
        self.original = self.point.module.weight.detach().clone()
        self.order, self.mode, self.target = order.to(self.original.device), mode, target
        self.labels = labels.to(self.original.device)
        with torch.no_grad():
            self.parts = [self._before(part) for part in inputs.split(batch)]

    def _before(self, images: Tensor) -> tuple[dict, Tensor]:
        values = self.network.record(images)
        needed = {*self.point.beside, self.point.source, self.network.input}
        rows = torch.arange(len(images), device=self.network.device)
        return {node: value for node, value in values.items() if node in needed}, rows

    @torch.no_grad()
    def success(self, count: int) -> float:
        """Share of the inputs that show the error once so many weights are changed."""
        self.point.module.weight.copy_(self.weight(count))
        logits = [
            self.network.rest(self.point, self.point.module(values[self.point.source]), values, rows)
            for values, rows in self.parts
        ]
        predicted = torch.cat(logits).argmax(1)
        shown = predicted != self.labels if self.target is None else predicted == self.target
        return float(shown.float().mean())

    def weight(self, count: int) -> Tensor:
        """The layer's weight with the first of the order changed."""
        changed = self.original.flatten().clone()
        chosen = self.order[:count]
        changed[chosen] = 0 if self.mode == "zero" else -changed[chosen]
        return changed.view(self.original.shape)

    @torch.no_grad()
    def changed(self, model: nn.Module, count: int) -> nn.Module:
        """A copy of the network with the change."""
        repaired = copied(model, LancetError)
        weight_layers(repaired)[self.point.layer].weight.copy_(self.weight(count))
        return repaired


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((predictions(model, images).cpu() == labels.cpu()).float().mean())
