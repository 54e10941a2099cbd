"""Unlearning a trigger: training on, with the trigger on a part of each batch and the labels right.

Source: Neural Cleanse (Wang et al., S&P 2019), section VI-C, https://doi.org/10.1109/SP.2019.00031: one epoch on 10 %
of the training data, the reversed trigger on 20 % of it. AI-Lancet (Zhao et al., CCS 2021) compares with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.graph import copied
from lib.lancet.errors import LancetError


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
