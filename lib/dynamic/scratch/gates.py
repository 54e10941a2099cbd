"""A scalar gate an output channel, learned on a network whose weights stay as they are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib import compute
from lib.data import as_batch, splits, with_gradients
from lib.dynamic.channels import Site, gated_sites
from lib.dynamic.errors import DynamicError
from lib.graph import Network, copied, logits_in
from lib.progress import bar

STATED, FALLBACK = "enough zeros", "most zeros"


@dataclass(frozen=True)
class Gates:
    """Learned gates.

    Attributes:
        values: convolution -> float32 (C_out,) on the CPU, in [0, 1].
        history: one mapping an epoch: epoch, loss, accuracy (validation), mean (of all gates), zeros (share).
        zeros: share of gates that are zero at the chosen epoch.
        chosen_epoch: counted from 1.
        rule: how it was chosen: "enough zeros", the best validation accuracy among the epochs whose share of nonzero
            gates is at most the ratio; or, where there is none, "most zeros", the epoch with the largest share of zeros
            (of equals, the latest). The second is ours: the released code keeps the last epoch there.
        by_epoch: the values after each epoch.
        steps: of the optimiser in an epoch.
        fitted: images that the gates were learned on; the others were held out.
        seconds: what the learning took.
    """

    values: Mapping[str, Tensor]
    history: tuple[Mapping[str, float], ...]
    zeros: float
    chosen_epoch: int
    rule: str
    by_epoch: tuple[Mapping[str, Tensor], ...] = field(default=(), compare=False, repr=False)
    steps: int = field(default=0, compare=False)
    fitted: int = field(default=0, compare=False)
    seconds: float = field(default=0.0, compare=False)

    @property
    def mean(self) -> float:
        """Mean over all gates."""
        return torch.cat(list(self.values.values())).mean().item()


@contextmanager
def gated(model: nn.Module, values: Mapping[str, Tensor], found: Mapping[str, Site] | None = None) -> Iterator[None]:
    """Inside, each gate multiplies the output of the normalisation behind its convolution.

    Args:
        model: any network with the sites.
        values: convolution -> (C_out,), on the model's device.
        found: its sites, where they are known already.
    Raises: DynamicError for a convolution without a gate's place, or another number of gates than channels.
    """
    places = gated_sites(model) if found is None else found
    for layer, value in values.items():
        if layer not in places or len(value) != places[layer].channels:
            wanted = f"{places[layer].channels} gates" if layer in places else f"no gates: one of {', '.join(places)}"
            raise DynamicError(f"{layer} has {wanted}, and {len(value)} are given")

    def times(layer: str) -> Any:
        return lambda _module, _inputs, output: output * values[layer].view(1, -1, 1, 1).to(output.dtype)

    handles = [model.get_submodule(places[layer].norm).register_forward_hook(times(layer)) for layer in values]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@with_gradients
def learn_gates(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    ratio: float = 0.2,
    weight: float = 0.5,
    epochs: int = 10,
    batch: int = 128,
    learning_rate: float = 0.01,
    seed: int = 0,
    validation: float = 0.1,
    precision: str = "float32",
) -> Gates:
    """Gates learned on frozen weights: Adam on cross-entropy + weight (mean |g| - ratio)^2, clamped to [0, 1].

    The weights, random in the method as stated, do not change. How they are drawn is not stated, and decides how far
    gates fall: those of the last layer set how much the cross-entropy weighs beside the penalty. While the gates are
    learned, batch normalisation takes each batch's own statistics, as in training; its running statistics follow, and
    the validation images see those.
    This leaves the penalty a free path, a common factor on all gates, which the next normalisation takes away: read
    the mean and the share of zeros apart. Images are taken as they are; the released code crops and mirrors them.

    Args:
        model: a network with gate places (`gated_sites`); left as found.
        images: uint8 or float in [0, 1], (N, C, H, W); a part of them, class by class, is held out.
        labels: int64 (N,).
        ratio: the mean that the penalty asks for, in (0, 1].
        weight: of the penalty.
        epochs, batch, learning_rate: of the learning.
        seed: of the order of the images; the same seed gives the same gates on one machine.
        validation: share of the images held out, in (0, 1).
        precision: bfloat16 or float32, of the forward passes.
    Returns: the gates of the chosen epoch (see `Gates`); all start at 1.
    Raises: DynamicError for settings out of range, or where a gate is not finite.
    Source: Wang et al. 2020, https://arxiv.org/abs/1909.12579, section 3.1; 45,000 and 5,000 images of CIFAR-10.
    """
    images, labels = as_batch(images, labels, DynamicError)
    _check(images, labels, ratio, epochs, batch, validation)
    began = time.perf_counter()
    Network(model, error=DynamicError).verify(model, images[:1])
    work = copied(model, DynamicError).float().requires_grad_(False)
    device = next(work.parameters()).device
    places = gated_sites(work)
    values = {name: torch.ones(site.channels, device=device, requires_grad=True) for name, site in places.items()}
    optimiser = torch.optim.Adam(values.values(), lr=learning_rate)
    fitted, held = (torch.from_numpy(part) for part in splits.partition(labels.cpu().numpy(), validation))
    generator = torch.Generator().manual_seed(seed)
    history: list[dict[str, float]] = []
    snapshots: list[dict[str, Tensor]] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), gated(work, values, places):
        torch.manual_seed(seed)
        for epoch in bar(range(1, epochs + 1), desc="gates", total=epochs):
            loss = _epoch(work, values, optimiser, images, labels, fitted, generator, batch, ratio, weight, precision)
            if not torch.isfinite(torch.cat([value.detach() for value in values.values()])).all():
                raise DynamicError(f"gates are not finite after epoch {epoch}: lower learning_rate ({learning_rate})")
            now = {name: value.detach().cpu().clone() for name, value in values.items()}
            accuracy = _accuracy(work, images, labels, held, batch, precision)
            whole = torch.cat(list(now.values()))
            about = {"mean": whole.mean().item(), "zeros": (whole == 0).float().mean().item()}
            history.append({"epoch": float(epoch), "loss": loss, "accuracy": accuracy, **about})
            snapshots.append(now)
    chosen, rule = choose(history, ratio)
    return Gates(
        snapshots[chosen],
        tuple(history),
        history[chosen]["zeros"],
        chosen + 1,
        rule,
        tuple(snapshots),
        _steps(fitted, batch),
        len(fitted),
        time.perf_counter() - began,
    )


def choose(history: list[dict[str, float]], ratio: float) -> tuple[int, str]:
    """The epoch whose gates are kept (from 0), and the rule that chose it; see `Gates`.

    Args:
        history: one mapping an epoch, with accuracy and zeros.
        ratio: largest share of nonzero gates that is enough.
    """
    enough = [k for k, epoch in enumerate(history) if 1 - epoch["zeros"] <= ratio]
    if enough:
        return max(enough, key=lambda k: history[k]["accuracy"]), STATED
    return max(range(len(history)), key=lambda k: (history[k]["zeros"], k)), FALLBACK


def _check(images: Tensor, labels: Tensor, ratio: float, epochs: int, batch: int, validation: float) -> None:
    if len(images) != len(labels) or len(images) < 2:
        raise DynamicError(f"{len(images)} images and {len(labels)} labels: one label an image, and two or more")
    for name, value, fits, wanted in (
        ("ratio", ratio, 0 < ratio <= 1, "above 0, up to 1"),
        ("epochs", epochs, epochs >= 1, "from 1"),
        ("batch", batch, batch >= 2, "from 2: batch normalisation takes the batch's statistics"),
        ("validation", validation, 0 < validation < 1, "a share between 0 and 1"),
    ):
        if not fits:
            raise DynamicError(f"{name} is {value}: {wanted}")


def _steps(index: Tensor, batch: int) -> int:
    return max(1, len(index) // batch)  # a last batch that is not full is left out, unless it is the only one


def _taken(images: Tensor, index: Tensor, device: torch.device) -> Tensor:
    part = images[index.to(images.device)].to(device)
    return part.float().div_(255) if part.dtype == torch.uint8 else part.float()


def _epoch(
    work: nn.Module,
    values: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    fitted: Tensor,
    generator: torch.Generator,
    batch: int,
    ratio: float,
    weight: float,
    precision: str,
) -> float:
    device = next(work.parameters()).device
    order = fitted[torch.randperm(len(fitted), generator=generator)]
    steps = _steps(order, batch)
    total = torch.zeros((), device=device)
    work.train()
    for step in range(steps):
        index = order[step * batch : (step + 1) * batch]
        with compute.autocast(device, precision):
            logits = logits_in(work(_taken(images, index, device)), DynamicError)
        mean = torch.cat([value.abs() for value in values.values()]).mean()
        loss = F.cross_entropy(logits.float(), labels[index.to(labels.device)].to(device))
        loss = loss + weight * (mean - ratio) ** 2
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for value in values.values():
                value.clamp_(0, 1)
        total += loss.detach()
    return (total / steps).item()


@torch.no_grad()
def _accuracy(work: nn.Module, images: Tensor, labels: Tensor, held: Tensor, batch: int, precision: str) -> float:
    device = next(work.parameters()).device
    work.eval()
    right = torch.zeros((), device=device)
    for index in held.split(batch):
        with compute.autocast(device, precision):
            logits = logits_in(work(_taken(images, index, device)), DynamicError)
        right += (logits.argmax(1) == labels[index.to(labels.device)].to(device)).sum()
    return right.item() / len(held)
