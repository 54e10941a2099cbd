"""An attack that knows a detector: PGD that also keeps what the detector looks at near what it should be.

Source: Madry et al. 2018, https://arxiv.org/abs/1706.06083, section 2.1 (PGD); Carlini and Wagner 2017, "Adversarial
examples are not easily detected", https://arxiv.org/abs/1705.07263 (attacks that know the detector).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Look = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (B, C, H, W) -> logits (B, classes) and distance (B,), both with a gradient."""


@dataclass(frozen=True, eq=False)
class Evaded:
    """What the attack made; all tensors on the CPU.

    Attributes:
        images: float32 (N, C, H, W) in [0, 1]; the clean one where no iterate was misclassified.
        success: bool (N,), whether one was.
        distance: float32 (N,), of what the detector looks at to what it should be; infinite without success.
    """

    images: Tensor
    success: Tensor
    distance: Tensor


def evading_pgd(
    look_of: Callable[[Tensor], Look],
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    weight: float,
    epsilon: float,
    steps: int = 40,
    seed: int = 0,
    batch: int = 100,
    device: torch.device | str = "cpu",
) -> Evaded:
    """PGD in an L_inf ball that minimises cross-entropy to a target class plus `weight` times a distance.

    Of the iterates that the network misclassifies the one with the smallest distance is kept; with weight 0 the last
    one, as by an attacker who does not know the detector. A step is 2.5 epsilon / steps, at least 1/1000.

    Args:
        look_of: positions (B,) of the images attacked -> what gives their logits and distances.
        images: (N, C, H, W) in [0, 1].
        labels: int64 (N,), true classes.
        targets: int64 (N,), classes to be taken for, other than the labels.
        weight: from 0.
        epsilon: L_inf radius in [0, 1] units.
        steps: gradient steps, from 1.
        seed: of the random start.
        batch: images a pass.
        device: where `look_of`'s functions compute.
    Raises: ValueError for a target that is the label.
    """
    if bool((targets == labels).any()):
        raise ValueError("a target is the image's own class: name another class for each image")
    size = max(2.5 * epsilon / steps, 1e-3)
    generator = torch.Generator().manual_seed(seed)
    kept, reached = images.detach().clone().cpu().float(), torch.full((len(images),), torch.inf)
    for rows in torch.arange(len(images)).split(batch):
        look, clean = look_of(rows), images[rows].to(device).float()
        label, target = labels[rows].to(device), targets[rows].to(device)
        noise = torch.rand(clean.shape, generator=generator).to(device)
        x = (clean + epsilon * (2 * noise - 1)).clamp(0, 1)
        best, nearest = clean.clone(), torch.full((len(clean),), torch.inf, device=device)
        for _ in range(steps + 1):
            x.requires_grad_(True)
            logits, distance = look(x)
            wrong = logits.detach().argmax(1) != label
            better = wrong & (distance.detach() < nearest) if weight else wrong
            best[better], nearest[better] = x.detach()[better], distance.detach()[better]
            loss = F.cross_entropy(logits, target, reduction="sum") + weight * distance.sum()
            gradient = torch.autograd.grad(loss, x)[0]
            moved = x.detach() - size * gradient.sign()
            x = (clean + (moved - clean).clamp(-epsilon, epsilon)).clamp(0, 1)
        kept[rows], reached[rows] = best.cpu(), nearest.cpu()
    return Evaded(kept, reached.isfinite(), reached)
