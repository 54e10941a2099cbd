"""What error-inducing weights respond to, and whether the region they blame is to blame.

A class is visualised by an image that excites it most, before and after its error-inducing weights are isolated: of
their layer all other weights are set to zero, so that only what the error comes from is left. Then the blamed region of
a wrong input is blurred, and beside it an alternative that one might have blamed instead, more and more; where the
network's answer and its confidence follow the one and not the other, the region explains the error.

Source: Zhao, Zhu, Chen and Shen, "AI-Lancet", CCS 2021, section on explaining errors. Visualisation by optimisation
with jitter and a smooth image: Olah, Mordvintsev and Schubert 2017, https://distill.pub/2017/feature-visualization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.compute import evaluation
from lib.graph import copied
from lib.lancet.companions import apply, blur
from lib.lancet.errors import LancetError
from lib.lancet.locating import Votes
from lib.lancet.locating.votes import error_inducing
from lib.models.layers import weight_layers

STEPS = 256
LEARNING_RATE = 0.05
SMOOTH = 0.5  # sigma in pixels of a 32-pixel side, of the blur between the free image and what the network sees
VARIATION = 0.05  # weight of the total variation, a pixel and channel
SIDE = 32


def isolated(model: nn.Module, votes: Votes | Mapping[str, Votes], layer: str, *, least_votes: int = 1) -> nn.Module:
    """A copy in which a layer keeps its error-inducing weights only; its other weights are zero, its bias stays.

    Args:
        model: left as it is.
        votes: from `locate`.
        layer: dotted name.
        least_votes: votes that make a weight error-inducing, from 1.
    Raises: LancetError where the layer is unknown or no weight has so many votes.
    """
    return _masked(model, layer, error_inducing(votes, layer, _weight(model, layer), least_votes))


def ablated(model: nn.Module, votes: Votes | Mapping[str, Votes], layer: str, *, least_votes: int = 1) -> nn.Module:
    """A copy in which a layer's error-inducing weights are zero; arguments as `isolated`."""
    return _masked(model, layer, ~error_inducing(votes, layer, _weight(model, layer), least_votes))


def _weight(model: nn.Module, layer: str) -> Tensor:
    known = weight_layers(model)
    if layer not in known:
        raise LancetError(f"no layer {layer!r} with weights in this network: one of {', '.join(known)}")
    return known[layer].weight


@torch.no_grad()
def _masked(model: nn.Module, layer: str, keep: Tensor) -> nn.Module:
    changed = copied(model, LancetError)
    weight = weight_layers(changed)[layer].weight
    weight.mul_(keep.to(weight))
    return changed


def visualise(
    model: nn.Module,
    classes: Tensor,
    shape: Sequence[int],
    *,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
) -> Tensor:
    """An image for each class that excites it most: its logit less the mean of the others, by Adam.

    The image is the sigmoid of a smoothed free one, from grey noise; it is shifted by up to a sixteenth of its side at
    each step, and its total variation is in the loss, so that what comes out is more than noise.

    Args:
        model: from images in [0, 1] to logits; left as it is.
        classes: int64 (N,).
        shape: (C, H, W) of an image.
        steps: of Adam.
        learning_rate: of Adam.
        seed: of the first image (the same for every class) and the shifts.
    Returns: float32 (N, C, H, W) in [0, 1], on the model's device.
    Raises: LancetError where there is no class.
    Source: AI-Lancet, section on explaining errors; Olah et al. 2017.
    """
    if not len(classes):
        raise LancetError("no class to visualise: give at least one")
    like = next(model.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(seed)
    start = 0.1 * torch.randn(1, *shape, generator=generator)
    free = start.expand(len(classes), *shape).clone().to(like.device).requires_grad_()
    labels, side = classes.to(like.device), min(shape[-2:])
    adam = torch.optim.Adam([free], lr=learning_rate)
    reach = max(1, side // 16)
    with evaluation(model), torch.enable_grad():
        for _ in range(steps):
            rows, columns = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
            images = _seen(free, side)
            logits = model(images.roll((rows, columns), dims=(2, 3)))
            own = logits.gather(1, labels[:, None])[:, 0]
            others = (logits.sum(1) - own) / max(1, logits.shape[1] - 1)
            variation = (images.diff(dim=2) ** 2).sum() + (images.diff(dim=3) ** 2).sum()
            loss = (others - own).sum() + VARIATION * variation
            free.grad = torch.autograd.grad(loss, free)[0]
            adam.step()
    return _seen(free.detach(), side)


def _seen(free: Tensor, side: int) -> Tensor:
    return torch.sigmoid(4 * blur(free, SMOOTH * side / SIDE))


@dataclass(frozen=True, eq=False)
class Blurred:
    """A network's answers with a region blurred.

    Attributes:
        sigmas: of the blurs, in pixels (S,).
        predicted: int64 (S, N).
        wrong_confidence: probability of the class that the input was taken for, (S, N).
        true_confidence: probability of the true class, (S, N).
    """

    sigmas: tuple[float, ...]
    predicted: Tensor
    wrong_confidence: Tensor
    true_confidence: Tensor


@torch.no_grad()
def blurred(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    predicted: Tensor,
    regions: Tensor,
    sigmas: Sequence[float],
    batch: int = 256,
) -> Blurred:
    """A region of each wrong input blurred more and more, and what the network then answers.

    Args:
        model: left as it is.
        images: float (N, C, H, W) in [0, 1].
        labels, predicted: int64 (N,): the true class, and what the network takes the input for.
        regions: float (N, 1, H, W) in [0, 1].
        sigmas: in pixels; 0: the input as it is.
    Returns: `Blurred`, on the CPU.
    Raises: LancetError for shapes that do not fit.
    Source: AI-Lancet, section on explaining errors: the barbed wire and the border of the street sign.
    """
    if regions.shape != (len(images), 1, *images.shape[-2:]):
        raise LancetError(f"regions {tuple(regions.shape)} for images {tuple(images.shape)}: want (1, H, W) for each")
    like = next(model.parameters(), torch.empty(0))
    rows = torch.arange(len(images))
    answers: list[tuple[Tensor, Tensor, Tensor]] = []
    with evaluation(model):
        for sigma in sigmas:
            parts = []
            for start in range(0, len(images), batch):
                part = slice(start, start + batch)
                x = apply(images[part].to(like.device), regions[part].to(like.device), sigma)
                parts.append(F.softmax(model(x).float(), dim=1).cpu())
            odds = torch.cat(parts)
            answers.append((odds.argmax(1), odds[rows, predicted.cpu()], odds[rows, labels.cpu()]))
    found, wrong, true = (torch.stack(entries) for entries in zip(*answers, strict=True))
    return Blurred(tuple(sigmas), found, wrong, true)
