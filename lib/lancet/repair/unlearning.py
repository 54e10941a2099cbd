"""Repairs that train the whole network on clean images: unlearning a trigger, and fine-pruning.

Unlearning trains on with the trigger on a part of each batch and the labels right. Source: Neural Cleanse (Wang et al.,
S&P 2019), section VI-C, https://doi.org/10.1109/SP.2019.00031: one epoch on 10 % of the training data, the reversed
trigger on 20 % of it. AI-Lancet (Zhao et al., CCS 2021) compares with it.

Fine-pruning prunes channels of the last convolution that clean inputs leave dormant, then trains the rest. Source: Liu,
Dolan-Gavitt, Garg, "Fine-Pruning: defending against backdooring attacks on deep neural networks", RAID 2018,
https://arxiv.org/abs/1805.12185.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib import compute
from lib.graph import copied
from lib.lancet.errors import LancetError
from lib.lancet.measures import predictions
from lib.models.layers import weight_layers


@dataclass(frozen=True)
class UnlearnReport:
    """What unlearning did: optimiser steps, different images seen, stamped images over all steps, the last loss."""

    steps: int
    images: int
    stamped: int
    loss: float


def unlearn(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    trigger: Any,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    stamped: float = 0.2,
    learning_rate: float = 1e-3,
    batch: int = 100,
    seed: int = 0,
) -> tuple[nn.Module, UnlearnReport]:
    """Train the whole network on, on clean images of which a part carries the trigger, all with their true labels.

    An epoch is one pass. How many steps that is depends on the number of classes where images are counted by class:
    `steps` asks for as many as another setting had, over and over the images.

    Args:
        model: the network to repair; left as it is.
        images, labels: clean images (N, C, H, W) in [0, 1] and true labels (N,).
        trigger: has `.stamp(images)`; the true one or a reversed one.
        steps, epochs: how long; one of the two.
        stamped: share of each batch that carries the trigger, in [0, 1].
        learning_rate: of Adam.
        batch: images a step.
        seed: of the order, and of dropout.
    Returns: (a trained copy in the mode of `model`, what was done).
    Raises: LancetError for no images, both or none of steps and epochs, or a loss that is not finite.
    Source: Neural Cleanse, section VI-C; Adam and its rate as in AI-Lancet's comparison.
    """
    for fits, message in (
        (
            len(images) > 0 and len(images) == len(labels),
            f"{len(images)} images and {len(labels)} labels: at least one image is needed, each with its label",
        ),
        ((steps is None) != (epochs is None), f"steps is {steps} and epochs {epochs}: give one of the two"),
        ((steps or epochs or 0) >= 1, f"steps is {steps} and epochs {epochs}: a whole number from 1"),
        (0 <= stamped <= 1, f"stamped is {stamped!r}: a share in [0, 1]"),
        (batch >= 1 and learning_rate > 0, f"batch is {batch} and learning_rate {learning_rate!r}: both above 0"),
    ):
        if not fits:
            raise LancetError(f"unlearn: {message}")
    device = next(model.parameters()).device
    images, labels, trigger = images.to(device), labels.to(device), trigger.to(device)
    generator, marked = torch.Generator().manual_seed(seed), 0

    def shown() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal marked
        for _ in count() if epochs is None else range(epochs):
            for index in batches_of(len(labels), batch, generator):
                share, index = round(stamped * len(index)), index.to(device)
                marked += share
                yield torch.cat([trigger.stamp(images[index[:share]]), images[index[share:]]]), labels[index]

    tuned = copied(model, LancetError)
    done, loss = train_on(tuned, islice(shown(), steps), learning_rate, seed, "unlearn")
    return tuned.train(model.training), UnlearnReport(done, len(labels), marked, loss)


def train_on(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    learning_rate: float,
    seed: int,
    what: str,
    after: Callable[[], None] = lambda: None,
) -> tuple[int, float]:
    """Train all of a network in place with Adam; whether parameters ask for a gradient is given back after.

    Args:
        batches: images and labels of each step.
        seed: of dropout.
        what: the caller's name, for messages.
        after: called after each step.
    Returns: steps done, and the last loss.
    Raises: LancetError for a loss that is not finite.
    """
    flags = [parameter.requires_grad for parameter in model.parameters()]
    optimiser = torch.optim.Adam(model.train().requires_grad_(True).parameters(), lr=learning_rate)
    device, steps, loss = next(model.parameters()).device, 0, math.nan
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for images, labels in batches:
            with compute.autocast(device, "float32"):
                value = F.cross_entropy(model(images).float(), labels)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
            after()
            steps, loss = steps + 1, value.item()
            if not math.isfinite(loss):
                raise LancetError(
                    f"{what}: the loss is {loss} at step {steps}: lower learning_rate (now {learning_rate:g})"
                )
    for parameter, flag in zip(model.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
        parameter.grad = None
    return steps, loss


def batches_of(count: int, batch: int, generator: torch.Generator) -> list[Tensor]:
    """One pass in a fresh order; a last batch of a single image is left out, as batch normalisation cannot take it."""
    parts = list(torch.randperm(count, generator=generator).split(batch))
    return parts[:-1] if len(parts) > 1 and len(parts[-1]) == 1 else parts


TRIALS = 32  # sizes of the pruned part that are tried on the way to all channels


@dataclass(frozen=True)
class PruneReport:
    """What fine-pruning did.

    Attributes:
        layer: the convolution whose channels were pruned.
        pruned, channels: how many of how many.
        accuracy_before, accuracy_pruned, accuracy_after: on the images that the number of channels was chosen with:
            of the network given, after pruning, after fine-tuning.
        steps: of the fine-tuning.
    """

    layer: str
    pruned: int
    channels: int
    accuracy_before: float
    accuracy_pruned: float
    accuracy_after: float
    steps: int


def fine_prune(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    held_out: tuple[Tensor, Tensor] | None = None,
    layer: str | None = None,
    accuracy_drop: float = 0.04,
    epochs: int = 5,
    batch: int = 100,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> tuple[nn.Module, PruneReport]:
    """Prune the channels that clean images activate least, then fine-tune the network on those images.

    A channel's activation is the mean of ReLU(output), of the batch normalisation behind the convolution where there
    is one. Channels go in ascending order, an nth at a time, as long as the accuracy does not fall below the floor. A
    pruned channel's filter, bias and normalisation are zero, and stay so.

    Args:
        model: the network to repair; left as it is.
        images, labels: clean training images (N, C, H, W) in [0, 1] and true labels (N,): for the activations and the
            fine-tuning.
        held_out: clean images and labels that the accuracy is measured on; None: those of the fine-tuning.
        layer: dotted name of the convolution; None: the last one.
        accuracy_drop: what pruning may cost, in accuracy on `held_out`; the source's value.
        epochs, batch, learning_rate: of the fine-tuning with Adam; ours. 0 epochs: pruning alone.
        seed: of the order of the batches, and of dropout.
    Returns: (a repaired copy in the mode of `model`, what was done).
    Raises: LancetError for no images, a layer that is no convolution, or a loss that is not finite.
    Source: Liu et al. 2018, section on fine-pruning.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise LancetError(
            f"fine_prune: {len(images)} images and {len(labels)} labels: at least one image is needed, "
            "each with its label"
        )
    if epochs < 0 or batch < 1 or learning_rate <= 0:
        raise LancetError(
            f"fine_prune: epochs is {epochs}, batch {batch}, learning_rate {learning_rate!r}: from 0, from 1, above 0"
        )
    device = next(model.parameters()).device
    images, labels = images.to(device), labels.to(device)
    tried_on = (images, labels) if held_out is None else (held_out[0].to(device), held_out[1].to(device))
    pruned = copied(model, LancetError).eval()
    name = _convolution(pruned, layer)
    activity, zero = _channels(pruned, name, images, batch)

    def accuracy() -> float:
        return (predictions(pruned, tried_on[0]) == tried_on[1].cpu()).float().mean().item()

    before = accuracy()
    floor = before - accuracy_drop
    order = activity.argsort(stable=True)
    count, reached = 0, before
    untouched = copy.deepcopy(pruned.state_dict())
    step = max(1, math.ceil(len(order) / TRIALS))
    for size in range(step, len(order), step):
        zero(order[:size])
        found = accuracy()
        if found < floor:
            break
        count, reached = size, found
    pruned.load_state_dict(untouched)
    zero(order[:count])
    generator = torch.Generator().manual_seed(seed)
    passes = (batches_of(len(labels), batch, generator) for _ in range(epochs))
    shown = ((images[index], labels[index]) for parts in passes for index in (part.to(device) for part in parts))
    steps, _ = train_on(pruned, shown, learning_rate, seed, "fine_prune", lambda: zero(order[:count]))
    pruned.eval()
    report = PruneReport(name, count, len(order), before, reached, accuracy(), steps)
    return pruned.train(model.training), report


def _convolution(model: nn.Module, layer: str | None) -> str:
    known = [name for name, module in weight_layers(model).items() if isinstance(module, nn.Conv2d)]
    if not known:
        raise LancetError("fine_prune: the network has no convolution, whose channels could be pruned")
    if layer is not None and layer not in known:
        raise LancetError(f"fine_prune: {layer!r} is no convolution of this network: one of {', '.join(known)}")
    return layer or known[-1]


@torch.no_grad()
def _channels(model: nn.Module, name: str, images: Tensor, batch: int) -> tuple[Tensor, Callable[[Tensor], None]]:
    """Mean activation of each channel (C,) on the CPU, and a function that sets channels to zero."""
    modules = dict(model.named_modules())
    convolution: Any = modules[name]
    norm = _norm_behind(model, convolution, images[:1])
    watched = convolution if norm is None else norm
    sums: list[Tensor] = []
    hook = watched.register_forward_hook(
        lambda _, __, output: sums.append(output.relu().mean(dim=(2, 3)).sum(dim=0).double().cpu())
    )
    for part in images.split(batch):
        model(part)
    hook.remove()

    def zero(which: Tensor) -> None:
        with torch.no_grad():
            for module in (convolution, norm):
                for tensor in (getattr(module, "weight", None), getattr(module, "bias", None)):
                    if tensor is not None:
                        tensor[which.to(tensor.device)] = 0

    return torch.stack(sums).sum(dim=0) / len(images), zero


def _norm_behind(model: nn.Module, convolution: nn.Module, image: Tensor) -> nn.Module | None:
    """The batch normalisation that takes the convolution's own output, where there is one."""
    given: list[Tensor] = []
    found: list[nn.Module] = []
    hooks = [convolution.register_forward_hook(lambda _, __, output: given.append(output))]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            hooks.append(
                module.register_forward_pre_hook(
                    lambda own, inputs: found.append(own) if any(inputs[0] is output for output in given) else None
                )
            )
    model(image)
    for hook in hooks:
        hook.remove()
    return found[0] if found else None
