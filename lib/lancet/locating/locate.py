"""Locating: pairs of wrong images and companions in, votes on every layer's weights out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from lib.data import as_images, as_labels, with_gradients
from lib.lancet.errors import LancetError
from lib.lancet.locating.ablation import search
from lib.lancet.locating.features import FORMULAS, error_features, importance
from lib.lancet.locating.tail import Network, Point
from lib.lancet.locating.votes import Votes, merged, tally
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
