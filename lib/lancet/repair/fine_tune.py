"""Neuron-fine-tune: only the error-inducing weights of one layer are trained on, beside a few old samples.

The loss is the cross-entropy on the misclassified samples N_e and the old samples N_o together, and the distance of
the features from the original network's, on the old samples: of the misclassified ones the original's features are
the error itself. Batch normalisation and dropout stay in evaluation mode, so that nothing but the chosen weights
changes.

Source: AI-Lancet (Zhao, Zhu, Chen, Shen, CCS 2021), section on error repair, https://doi.org/10.1145/3460120.3484818;
rates, epochs and the weight of the distillation are not stated there and are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from lib import compute
from lib.data import ImageSet
from lib.graph import copied
from lib.lancet.errors import LancetError
from lib.lancet.explanation import ablated
from lib.lancet.locating.locate import error_inducing
from lib.lancet.measures import predictions
from lib.models.layers import weight_layers

NEURONS = ("error-inducing", "random", "all")
Samples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class TuneReport:
    """What a fine-tuning did.

    Attributes:
        layer: the layer whose weights were trained; "" for the whole network.
        neurons: which of its weights; "whole network" for all parameters.
        weights: how many numbers could change.
        fraction: of the layer's weights, or of the network's parameters.
        errors, old: samples of N_e and N_o.
        steps: optimiser steps done.
        right_before, right_after: share of N_e that is classified right.
        loss: mean loss of the last epoch, distillation included.
    """

    layer: str
    neurons: str
    weights: int
    fraction: float
    errors: int
    old: int
    steps: int
    right_before: float
    right_after: float
    loss: float


def fine_tune(
    model: nn.Module,
    votes: Any,
    errors: Samples,
    old: Samples,
    *,
    layer: str | None = None,
    neurons: str = "error-inducing",
    whole: bool = False,
    distillation: float = 1.0,
    epochs: int = 5,
    batch: int = 64,
    learning_rate: float = 1e-3,
    least_votes: int = 1,
    seed: int = 0,
) -> tuple[nn.Module, TuneReport]:
    """Fine-tune the error-inducing weights of one layer, and nothing else.

    Args:
        model: the network to repair; left as it is.
        votes: of the layer, or of all layers by name, as `locate` returns them; None with `whole`.
        errors: N_e: misclassified images (N, C, H, W) in [0, 1] and their true labels (N,).
        old: N_o: a few samples that the network should go on to classify as it does, likewise; may be empty.
        layer: dotted name of the layer; may be left out with `whole`.
        neurons: "error-inducing" (weights with votes), "random" (as many weights of the layer, drawn by the seed), or
            "all" weights of the layer.
        whole: train every parameter of the network instead, which is what the method is compared with.
        distillation: weight of the mean squared distance of the features of old samples from the original network's,
            relative to their mean square. Features are the last layer's input, or its output where that layer is
            the one trained. 0: none.
        epochs, batch: passes over N_e and N_o together, and samples a step.
        learning_rate: of Adam, without weight decay.
        least_votes: votes that make a weight error-inducing, from 1.
        seed: of the order of the samples and the draw of random weights.
    Returns: (a fine-tuned copy in the mode of `model`, what was done).
    Raises: LancetError where N_e is empty, the layer is unknown, no weight has votes, or the loss is not finite; the
        network given is unchanged then too.
    Source: AI-Lancet, "neuron-fine-tuning"; joint training and distillation as in incremental learning.
    """
    _check(errors, old, neurons, epochs, batch, learning_rate)
    if not whole and layer is None:
        raise LancetError("fine_tune: no layer is named: pass layer=choose_layer(votes), or whole=True")
    generator = torch.Generator().manual_seed(seed)
    tuned = copied(model, LancetError).eval()
    flags = [parameter.requires_grad for parameter in tuned.parameters()]
    at = _whole(tuned) if whole else _part(tuned, votes, str(layer), neurons, least_votes, generator)
    device = next(model.parameters()).device
    images = torch.cat([errors[0], old[0].to(errors[0])]).to(device)
    labels = torch.cat([errors[1], old[1].to(errors[1])]).to(device)
    right_before = _right(tuned, errors)
    first_old = len(errors[0]) if distillation > 0 and len(old[0]) else None
    with _features(tuned, images[:1], "" if whole else str(layer)) as caught:
        steps, loss = _descend(
            at, images, labels, caught, first_old, distillation, epochs, batch, learning_rate, generator
        )
    at.put_back()
    for parameter, flag in zip(tuned.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
        parameter.grad = None
    right_after = _right(tuned, errors)
    counts = (len(errors[0]), len(old[0]), steps)
    report = TuneReport(at.layer, at.neurons, at.weights, at.fraction, *counts, right_before, right_after, loss)
    return tuned.train(model.training), report


def similar_errors(
    model: nn.Module,
    votes: Any,
    layer: str,
    images: Tensor | ImageSet,
    labels: Tensor,
    *,
    least_votes: int = 1,
    batch: int = 256,
) -> Tensor:
    """Which samples err in the way that was located: wrong under M, right under M' without the error-inducing weights.

    Args:
        model: M; left as it is.
        votes: of the layer, or of all layers by name.
        layer: whose error-inducing weights M' has at zero.
        images: (N, C, H, W) in [0, 1], or an image set.
        labels: true labels (N,).
        least_votes: votes that make a weight error-inducing.
    Returns: bool (N,) on the CPU.
    Raises: LancetError for an unknown layer, or one without votes.
    Source: AI-Lancet, "neuron-fine-tuning", second way to collect N_e.
    """
    without = ablated(model, votes, layer, least_votes=least_votes)
    truth = labels.cpu()
    return (predictions(model, images, None, batch) != truth) & (predictions(without, images, None, batch) == truth)


def transforms_of(
    images: Tensor,
    *,
    copies: int = 4,
    rotation: float = 15.0,
    shift: float = 0.1,
    zoom: float = 0.1,
    brightness: float = 0.1,
    seed: int = 0,
) -> Tensor:
    """Images turned, shifted, zoomed and brightened at random: more samples with the same or a similar error.

    Args:
        images: (N, C, H, W) in [0, 1].
        copies: how many of each.
        rotation: largest angle, in degrees.
        shift: largest shift, as a share of the side.
        zoom, brightness: largest change, as a share.
        seed: of all draws.
    Returns: (copies * N, C, H, W) in [0, 1]: all images once, then all once more, ...; their labels are
        `labels.repeat(copies)`.
    Source: AI-Lancet, "neuron-fine-tuning", first way to collect N_e ("rotation, etc."); the ranges are ours.
    """
    if copies < 1:
        raise LancetError(f"transforms_of: copies is {copies}: a whole number from 1")
    count = copies * len(images)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(5, count, generator=generator) * 2 - 1
    angle, scale = drawn[0] * math.radians(rotation), 1 + drawn[1] * zoom
    rows = [
        torch.stack([scale * angle.cos(), -scale * angle.sin(), 2 * shift * drawn[2]], dim=1),
        torch.stack([scale * angle.sin(), scale * angle.cos(), 2 * shift * drawn[3]], dim=1),
    ]
    wanted = images.repeat(copies, 1, 1, 1)
    grid = F.affine_grid(torch.stack(rows, dim=1).to(images), list(wanted.shape), align_corners=False)
    moved = F.grid_sample(wanted, grid, padding_mode="border", align_corners=False)
    return (moved * (1 + brightness * drawn[4].to(images).view(-1, 1, 1, 1))).clamp_(0, 1)


def _check(errors: Samples, old: Samples, neurons: str, epochs: int, batch: int, learning_rate: float) -> None:
    for what, (images, labels) in (("errors", errors), ("old", old)):
        if len(images) != len(labels):
            raise LancetError(f"fine_tune: {what} has {len(images)} images and {len(labels)} labels")
    for fits, message in (
        (len(errors[0]) > 0, "errors is empty: there is no misclassified sample to learn from"),
        (neurons in NEURONS, f"neurons is {neurons!r}: one of {', '.join(NEURONS)}"),
        (epochs >= 1 and batch >= 1, f"epochs and batch are {epochs} and {batch}: whole numbers from 1"),
        (learning_rate > 0, f"learning_rate is {learning_rate!r}: a number above 0"),
    ):
        if not fits:
            raise LancetError(f"fine_tune: {message}")


@dataclass(frozen=True)
class _Trained:
    """What is trained: parameters, a forward pass in which only they can change, and how they get into the network."""

    layer: str
    neurons: str
    weights: int
    fraction: float
    parameters: list[nn.Parameter]
    forward: Callable[[Tensor], Tensor]
    put_back: Callable[[], None]


def _part(
    model: nn.Module, votes: Any, layer: str, neurons: str, least_votes: int, generator: torch.Generator
) -> _Trained:
    """The chosen weights of a layer as a parameter of its own."""
    known = weight_layers(model)
    if layer not in known:
        raise LancetError(f"no layer {layer!r} with weights in this network: one of {', '.join(known)}")
    module, count = known[layer], known[layer].weight.numel()
    chosen = torch.arange(count)
    if neurons != "all":
        chosen = error_inducing(votes, layer, module.weight, least_votes).flatten().nonzero()[:, 0]
    if neurons == "random":
        chosen = torch.randperm(count, generator=generator)[: len(chosen)].sort().values
    model.requires_grad_(False)
    place = chosen.to(module.weight.device)
    base = module.weight.detach().clone().reshape(-1)
    values = nn.Parameter(base[place].clone())

    def forward(images: Tensor) -> Tensor:
        weight = base.index_copy(0, place, values).view_as(module.weight)
        return functional_call(model, {f"{layer}.weight": weight}, (images,))

    def put_back() -> None:
        with torch.no_grad():
            module.weight.copy_(base.index_copy(0, place, values.detach()).view_as(module.weight))

    return _Trained(layer, neurons, len(chosen), len(chosen) / count, [values], forward, put_back)


def _whole(model: nn.Module) -> _Trained:
    parameters = list(model.requires_grad_(True).parameters())
    count = sum(parameter.numel() for parameter in parameters)
    return _Trained("", "whole network", count, 1.0, parameters, model, lambda: None)


def _descend(
    at: _Trained,
    images: Tensor,
    labels: Tensor,
    caught: Mapping[str, Tensor],
    first_old: int | None,
    distillation: float,
    epochs: int,
    batch: int,
    learning_rate: float,
    generator: torch.Generator,
) -> tuple[int, float]:
    """Steps done, and the mean loss of the last epoch; old samples start at `first_old` (None: no distillation)."""
    wanted = None if first_old is None else _original(at.forward, caught, images[first_old:], batch)
    optimiser = torch.optim.Adam(at.parameters, lr=learning_rate)
    steps, loss = 0, math.nan
    for _ in range(epochs):
        total = torch.zeros((), device=images.device)
        for index in torch.randperm(len(labels), generator=generator).to(images.device).split(batch):
            with compute.autocast(images.device, "float32"):
                value = F.cross_entropy(at.forward(images[index]).float(), labels[index])
            if wanted is not None and first_old is not None:
                value = value + distillation * _distance(caught["value"], wanted, index - first_old)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
            total, steps = total + value.detach() * len(index), steps + 1
        loss = (total / len(labels)).item()
        if not math.isfinite(loss):
            raise LancetError(
                f"fine_tune: the loss is {loss} after {steps} steps: lower learning_rate (now {learning_rate:g})"
            )
    return steps, loss


@contextmanager
def _features(model: nn.Module, image: Tensor, trained: str) -> Iterator[dict[str, Tensor]]:
    """What distillation compares, caught at each pass: the last layer's input, or its output where it is trained."""
    order: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, layer in weight_layers(model).items()
    ]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    last = weight_layers(model)[order[-1]]
    caught: dict[str, Tensor] = {}

    def at_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        caught["value"] = inputs[0].flatten(1)

    def at_output(_: nn.Module, __: Any, output: Tensor) -> None:
        caught["value"] = output.flatten(1)

    hook = last.register_forward_hook(at_output) if order[-1] == trained else last.register_forward_pre_hook(at_input)
    try:
        yield caught
    finally:
        hook.remove()


@torch.no_grad()
def _original(forward: Callable[..., Any], caught: Mapping[str, Tensor], images: Tensor, batch: int) -> Tensor:
    """Features of the untouched network, (N, features)."""
    parts = []
    for part in images.split(batch):
        forward(part)
        parts.append(caught["value"].clone())
    return torch.cat(parts)


def _distance(found: Tensor, wanted: Tensor, place: Tensor) -> Tensor:
    """Mean squared distance of the batch's old samples (place >= 0) from their own features, relative to the latter."""
    own = place >= 0
    if not bool(own.any()):
        return found.new_zeros(())
    scale = wanted.square().mean().clamp_min(1e-12)
    return (found[own] - wanted[place[own]]).square().mean() / scale


def _right(model: nn.Module, samples: Samples) -> float:
    return (predictions(model, samples[0]) == samples[1].cpu()).float().mean().item()
