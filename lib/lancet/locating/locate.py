"""Locating: pairs of wrong images and companions in, votes on every layer's weights out; and the layer to repair."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lib.data import as_images, as_labels, with_gradients
from lib.lancet.errors import LancetError
from lib.lancet.locating.ablation import search
from lib.lancet.locating.tail import FORMULAS, Network, Point, error_features, importance
from lib.progress import bar

UNTIL = ("label", "not-target")
MEMORY = 2**30  # bytes of recorded values and of importances that a group of pairs may take


@with_gradients
def locate(
    model: nn.Module,
    inputs: Tensor,
    companions: Tensor,
    labels: Tensor,
    *,
    layers: Iterable[str] | None = None,
    formula: str = "constant",
    until: str = "label",
    target: int | None = None,
    signed: bool = False,
) -> dict[str, Votes]:
    """The weights that cause errors, layer by layer.

    Args:
        model: any network that torch.fx can trace; from images in [0, 1] to logits. It is left as it is.
        inputs: float (K, C, H, W): images that it gets wrong.
        companions: float (K, C, H, W): the same without what causes the error; it should get them right.
        labels: int64 (K,): the true ones.
        layers: dotted names of Conv2d and Linear layers; None: all.
        formula: "constant" or "both", see `features.importance`.
        until: what removal must reach: "label", the prediction is the true label; "not-target", it is no longer
            `target` (None: each pair's own wrong prediction).
        signed: rank weights by what their removal takes from the feature, see `features.importance`. Ours.
    Returns: layer -> votes, in the order of the forward pass.
    Raises: LancetError where the network is right on every input, shapes do not fit, a name or option is unknown.

    Source: Zhao et al. 2021, AI-Lancet, section "locating error-inducing neurons".
    """
    for name, value, known in (("formula", formula, FORMULAS), ("until", until, UNTIL)):
        if value not in known:
            raise LancetError(f"{name} is {value!r}: one of {', '.join(known)}")
    inputs = as_images(inputs, "inputs", LancetError)
    labels = as_labels(labels, len(inputs), error=LancetError)
    companions = as_images(companions, "companions", LancetError)
    inputs, companions = (x / 255 if x.dtype == torch.uint8 else x for x in (inputs, companions))
    if inputs.shape != companions.shape or len(inputs) != len(labels) or inputs.ndim != 4 or not len(inputs):
        raise LancetError(
            f"inputs {tuple(inputs.shape)}, companions {tuple(companions.shape)}, labels {tuple(labels.shape)}: "
            "want (K, C, H, W) twice and (K,), with at least one pair"
        )
    network, exact = Network(model), Network(model, torch.float64)
    network.adopt(exact.verify(model, inputs))
    as_labels(labels, classes=network.classes, error=LancetError)
    if target is not None and not 0 <= target < network.classes:
        raise LancetError(f"target is {target}: a class in 0..{network.classes - 1} is wanted")
    points, exact_points = network.points(layers), exact.points(layers)
    inputs, companions = inputs.to(network.device), companions.to(network.device)
    labels = labels.to(network.device)
    with torch.no_grad():
        predicted = torch.cat([network.logits_of(part).argmax(1) for part in inputs.split(256)])
        wrong = predicted != labels
        if not bool(wrong.any()):
            raise LancetError(f"the network is right on all {len(inputs)} inputs: there is no error to locate")
        if not bool(wrong.all()):
            raise LancetError(
                f"the network is right on {int((~wrong).sum())} of {len(inputs)} inputs: leave those pairs out"
            )
        wanted = labels if until == "label" else predicted if target is None else torch.full_like(labels, target)
        size = _pairs_at_once(network, points, inputs)
        found: dict[str, list[Votes]] = {point.layer: [] for point in points}
        groups = torch.arange(len(inputs), device=inputs.device).split(size)
        for group in bar(groups, "pairs"):
            right = partial(_right, wanted[group], until)
            for votes in _of_group(
                network,
                exact,
                points,
                exact_points,
                inputs[group],
                companions[group],
                labels[group],
                right,
                formula,
                signed,
            ):
                found[votes.layer].append(votes)
    return {layer: merged(parts) for layer, parts in found.items()}


def _of_group(
    network: Network,
    exact: Network,
    points: list[Point],
    exact_points: list[Point],
    inputs: Tensor,
    companions: Tensor,
    labels: Tensor,
    right: Callable[[Tensor, Tensor], Tensor],
    formula: str,
    signed: bool,
) -> Iterable[Votes]:
    """Votes of pairs that fit in memory together. Orders are of float64 values rounded to float32: ties stay ties."""
    values = network.record(inputs)
    ours, others = exact.record(inputs), exact.record(companions)
    features = error_features(exact, exact_points, ours, others, labels)
    for point, exact_point in zip(points, exact_points, strict=True):
        feature, emphasis = features[point.layer]
        important = importance(exact, exact_point, ours, others, feature, emphasis, formula, signed).float()
        ablated = search(network, point, values, important, right)
        yield tally(point.layer, point.module.weight.shape, ablated.order, ablated.counts, important)


def _right(wanted: Tensor, until: str, logits: Tensor, pairs: Tensor) -> Tensor:
    return (logits.argmax(1) == wanted[pairs]) == (until == "label")


def _pairs_at_once(network: Network, points: list[Point], inputs: Tensor) -> int:
    values = network.record(inputs[:1])
    activations = sum(value.numel() for value in values.values() if isinstance(value, Tensor))
    weights = max(point.module.weight.numel() for point in points)
    return max(1, int(MEMORY // (5 * 4 * activations + 6 * 4 * weights)))


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
