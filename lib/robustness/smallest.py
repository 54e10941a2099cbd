"""Each image's smallest eps: the first change of class on FGSM's ray, and a minimal attack that may leave the ray.

Source: Maestrati 2020, equation 7, and after equation 8: "on continue à augmenter eps jusqu'à observer un changement de
classe". The minimal attack: Pintor, Roli, Brendel and Biggio, "Fast minimum-norm adversarial attacks through adaptive
norm constraints", 2021, https://arxiv.org/abs/2102.12827, as Foolbox's LInfFMNAttack.
"""

from __future__ import annotations

from dataclasses import dataclass

import foolbox
import torch
from torch import Tensor, nn

from lib.attacks.goal import attackable
from lib.compute import evaluation
from lib.data import with_gradients
from lib.graph import logits_in
from lib.robustness.fgsm import Gradient, batches, check
from lib.robustness.masking import exact_sign_gradient


@dataclass(frozen=True)
class Ray:
    """What lies on FGSM's ray of each image.

    Attributes:
        epsilon: float64 (N,), smallest eps found; 0 where the image is misclassified as it is, infinity where no point
            of the grid is misclassified.
        returns: bool (N,), whether a larger eps of the grid is classified rightly again: the ray crosses a boundary
            more than once.
    """

    epsilon: Tensor
    returns: Tensor


@with_gradients
def smallest_epsilons(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    largest: float = 16 / 255,
    steps: int = 32,
    halvings: int = 6,
    gradient: Gradient = exact_sign_gradient,
    batch_size: int | None = None,
) -> Ray:
    """The smallest eps at which x + eps sign(gradient), clipped to [0, 1], is misclassified, for all images at once.

    A network need not stay wrong along the ray, so bisection alone would find some crossing, not the first. Here every
    point of a grid is tried; the first that is misclassified and the one before it are halved between. What is found
    is exact to largest / steps / 2^halvings, but for a stretch of errors that lies between two points of the grid.

    Args:
        model, images, labels, batch_size: as in `fgsm_sweep`.
        largest: end of the grid, an L_inf distance in (0, 1].
        steps: points of the grid, largest / steps apart, >= 1.
        halvings: of the bracket, >= 0.
        gradient: whose sign is followed. The default has the sign of the cross-entropy's and does not vanish where p_y
            rounds to 1.

    Returns:
        `Ray`, on the CPU.

    Raises:
        ValueError: as in `fgsm_sweep`; largest, steps or halvings outside their range.

    Source: Maestrati 2020, equations 7 and 8.
    """
    if not 0 < largest <= 1 or steps < 1 or halvings < 0:
        raise ValueError(f"need 0 < largest <= 1, steps >= 1 and halvings >= 0, got {largest}, {steps} and {halvings}")
    images, labels = check(images, labels, [float(largest)], batch_size=batch_size)
    epsilons, returns = [], []
    for _, x, y in batches(model, images, labels, batch_size):
        with evaluation(model):
            sign = gradient(model, x, y, 1.0).sign()
            with torch.inference_mode():
                found, again = _on_ray(model, x, y, sign, float(largest), steps, halvings)
        epsilons.append(found.cpu())
        returns.append(again.cpu())
    return Ray(torch.cat(epsilons), torch.cat(returns))


def _on_ray(
    model: nn.Module, x: Tensor, y: Tensor, sign: Tensor, largest: float, steps: int, halvings: int
) -> tuple[Tensor, Tensor]:
    def wrong(epsilons: Tensor) -> Tensor:
        moved = (x + epsilons.to(x).view(-1, 1, 1, 1) * sign).clamp_(0.0, 1.0)
        return logits_in(model(moved)).argmax(dim=1) != y

    grid = torch.linspace(0, largest, steps + 1, dtype=torch.float64, device=x.device)
    fooled = torch.stack([wrong(epsilon.expand(len(x))) for epsilon in grid])
    first = fooled.int().argmax(dim=0)  # of equal ones the first
    high, low = grid[first], grid[(first - 1).clamp(min=0)]
    for _ in range(halvings):
        middle = (low + high) / 2
        hit = wrong(middle)
        high, low = torch.where(hit, middle, high), torch.where(hit, low, middle)
    ever, behind = fooled.any(dim=0), torch.arange(len(grid), device=x.device)[:, None] > first
    found = torch.where(first == 0, 0.0, high)
    return torch.where(ever, found, torch.inf), ever & (behind & ~fooled).any(dim=0)


def minimal_epsilons(
    model: nn.Module, images: Tensor, labels: Tensor, steps: int = 100, batch_size: int | None = None
) -> Tensor:
    """The smallest L_inf distance at which the fast minimum-norm attack finds each image misclassified.

    It starts from the image itself, follows a difference of logits, which no temperature saturates, and is not bound to
    FGSM's ray. Like any attack it gives an upper bound of the distance that equation (7) asks for.

    Args:
        model, images, labels, batch_size: as in `fgsm_sweep`.
        steps: gradient steps, >= 1.

    Returns:
        float64 (N,) on the CPU: 0 where the image is misclassified as it is, infinity where nothing was found.

    Raises:
        ValueError: as in `fgsm_sweep`; steps below 1.

    Source: Maestrati 2020, equation 7; Pintor et al. 2021, algorithm 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    images, labels = check(images, labels, [0.0], batch_size=batch_size)
    attack = foolbox.attacks.LInfFMNAttack(steps=steps)
    found = []
    with attackable(model, seed=0) as target:
        for _, x, y in batches(model, images, labels, batch_size):
            moved = attack.run(target, x, foolbox.criteria.Misclassification(y))
            with torch.no_grad():  # looked at again: what it hands back need not be misclassified
                wrong, fooled = ((logits_in(model(each)).argmax(dim=1) != y) for each in (x, moved))
            distance = (moved - x).abs().flatten(1).amax(dim=1).double()
            distance = torch.where(fooled, distance, torch.inf)
            found.append(torch.where(wrong, 0.0, distance).cpu())
    return torch.cat(found)
