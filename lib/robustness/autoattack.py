"""Three attacks without a parameter to tune, one after another on what is left: is it robust, or hard to attack?

APGD ascends the cross-entropy, then the targeted DLR loss, which neither the size of the logits nor saturated
probabilities can mislead, and Square needs no gradient at all. AutoAttack's fourth, FAB, is not among them;
`lib.robustness.smallest` has a minimal attack.

Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", ICML 2020, https://arxiv.org/abs/2003.01690, Algorithm 1 and section 4; Andriushchenko, Croce, Flammarion and
Hein, "Square attack", ECCV 2020, https://arxiv.org/abs/1912.00049, Algorithms 1 and 2. As in the authors' code, and not
in Algorithm 1, APGD's checkpoints are rounded down, and after a return to the best point the next value is compared
with that of the point left.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from lib.compute import evaluation
from lib.data import with_gradients
from lib.graph import logits_in
from lib.robustness.fgsm import batches, check, known

STAGES = ("none", "APGD, cross-entropy", "APGD, both losses", "APGD and Square")
"""What has been tried on an image, row by row of what `autoattack_correct` returns."""
MOMENTUM, RISES = 0.75, 0.75  # alpha and rho of Algorithm 1
FIRST, SHORTER, LEAST = 0.22, 0.03, 0.06  # of all steps: the first checkpoint, each next one's shortening, the shortest
START = 0.8  # share of the pixels in Square's first windows, as AutoAttack has it
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: where that share is halved

Loss = Callable[[Tensor], Tensor]
"""Logits (B, classes) -> what is ascended, (B,)."""


@with_gradients
def autoattack_correct(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int = 100,
    targets: int = 9,
    queries: int = 5000,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Whether each image is still classified as its label after each of the attacks of `STAGES`, in the L_inf ball.

    Args:
        model, images, labels, batch_size: as in `fgsm_sweep`.
        epsilon: L_inf distance in [0, 1].
        steps: gradient steps of each run of APGD, >= 1; the source: 100.
        targets: most likely wrong classes that the targeted loss is ascended for, one run each, >= 1, all there are
            where the network has fewer; the source: 9.
        queries: forward passes of Square, >= 1; the source: 5000.
        seed: of the random starts and windows. They are drawn on the CPU, batch by batch: another size of batch, as a
            GPU has by default, gives others.

    Returns:
        bool (4, N) on the CPU, in the order of `STAGES`. Each attack is tried on what the ones before have left.

    Raises:
        ValueError: as in `fgsm_sweep`; steps, targets or queries below 1; a network with fewer than four classes, which
            the DLR loss needs.
    """
    if min(steps, targets, queries) < 1:
        raise ValueError(f"steps, targets and queries must be at least 1, got {steps}, {targets} and {queries}")
    images, labels = check(images, labels, [float(epsilon)], batch_size=batch_size)
    generator, found = Generator().manual_seed(seed), []
    for _, x, y in batches(model, images, labels, batch_size):
        with evaluation(model):
            found.append(_tried(model, x, y, float(epsilon), steps, targets, queries, generator).cpu())
    return torch.cat(found, dim=1)


def _tried(
    model: nn.Module, x: Tensor, y: Tensor, epsilon: float, steps: int, targets: int, queries: int, generator: Generator
) -> Tensor:
    with torch.no_grad():
        logits = logits_in(model(x))
    known(y, logits)
    if logits.shape[1] < 4:
        raise ValueError(f"the DLR loss needs four classes or more, the network has {logits.shape[1]}")
    ranked = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)  # wrong classes first
    left = [logits.argmax(dim=1) == y]

    def attack(withstands: Callable[[Tensor, Tensor, Tensor], Tensor], before: Tensor) -> Tensor:
        after = before.clone()
        if before.any():
            after[before] = withstands(x[before], y[before], ranked[before])
        return after

    def by_cross_entropy(x: Tensor, y: Tensor, _: Tensor) -> Tensor:
        def loss(logits: Tensor) -> Tensor:
            return nn.functional.cross_entropy(logits, y, reduction="none")

        return _apgd(model, x, y, epsilon, loss, steps, generator)

    left.append(attack(by_cross_entropy, left[-1]))
    after = left[-1]
    for rank in range(min(targets, logits.shape[1] - 1)):

        def by_dlr(x: Tensor, y: Tensor, ranked: Tensor, rank: int = rank) -> Tensor:
            return _apgd(model, x, y, epsilon, lambda logits: dlr(logits, y, ranked[:, rank]), steps, generator)

        after = attack(by_dlr, after)
    left.append(after)
    left.append(attack(lambda x, y, _: _square(model, x, y, epsilon, queries, generator), after))
    return torch.stack(left)


def dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The targeted difference of logits ratio, (z_t - z_y) / (z_1st - (z_3rd + z_4th) / 2): no scale changes it.

    Args:
        logits: (B, classes), four or more.
        labels, targets: (B,) true and wanted classes.
    Returns: (B,).
    Source: Croce and Hein 2020, equation 7.
    """
    top = logits.topk(4, dim=1).values
    wanted, true = (logits.gather(1, classes[:, None])[:, 0] for classes in (targets, labels))
    return (wanted - true) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def _apgd(
    model: nn.Module, x: Tensor, y: Tensor, epsilon: float, loss: Loss, steps: int, generator: Generator
) -> Tensor:
    """Which images, classified rightly as they are, withstand one run of APGD, bool (B,)."""
    lowest, highest = (x - epsilon).clamp_min(0.0), (x + epsilon).clamp_max(1.0)
    column = (len(x), *[1] * (x.ndim - 1))

    def look(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            at = at.detach().requires_grad_()
            logits = logits_in(model(at))
            values = loss(logits)
            (gradient,) = torch.autograd.grad(values.sum(), at)
        return values.detach(), gradient, logits.detach().argmax(dim=1) == y

    noise = _uniform(x, generator) * 2 - 1
    at = (x + epsilon * noise / noise.abs().flatten(1).amax(dim=1).view(column)).clamp(lowest, highest)
    value, gradient, right = look(at)
    best, best_value, best_gradient, previous = at, value, gradient, at
    step, rises = torch.full_like(value, 2 * epsilon), torch.zeros_like(value)
    shortened, value_then = torch.ones_like(right), value
    length, since = max(int(FIRST * steps), 1), 0
    for index in range(steps):
        if not right.any():
            break
        ahead = (at + step.view(column) * gradient.sign()).clamp(lowest, highest)
        share = MOMENTUM if index else 1.0
        previous, at = at, (at + share * (ahead - at) + (1 - share) * (at - previous)).clamp(lowest, highest)
        before, (value, gradient, still) = value, look(at)
        right, rises, since = right & still, rises + (value > before), since + 1
        better = value > best_value
        best = torch.where(better.view(column), at, best)
        best_gradient = torch.where(better.view(column), gradient, best_gradient)
        best_value = torch.where(better, value, best_value)
        if since == length:
            stuck = (rises <= RISES * length) | (~shortened & (value_then >= best_value))
            step = torch.where(stuck, step / 2, step)
            at = torch.where(stuck.view(column), best, at)
            gradient = torch.where(stuck.view(column), best_gradient, gradient)
            shortened, value_then, rises, since = stuck, best_value, torch.zeros_like(rises), 0
            length = max(length - max(int(SHORTER * steps), 1), int(LEAST * steps), 1)
    return right


def _square(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, queries: int, generator: Generator) -> Tensor:
    """Which images, classified rightly as they are, withstand Square, bool (B,). A batch shares its windows."""
    lowest, highest = (x - epsilon).clamp_min(0.0), (x + epsilon).clamp_max(1.0)
    height, width = x.shape[2:]

    def look(at: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            logits = logits_in(model(at))
        own = logits.gather(1, y[:, None])[:, 0]
        return own - logits.scatter(1, y[:, None], -torch.inf).amax(dim=1), logits.argmax(dim=1) == y

    stripes = _uniform(x[:, :, :1], generator).sub_(0.5).sign_()
    at = (x + epsilon * stripes).clamp(lowest, highest)
    margin, left = look(at, y)
    for query in range(queries - 1):
        if not left.any():
            break
        reached = query * 10_000 / queries
        share = START / 2 ** sum(reached > limit for limit in HALVED)
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        top, start = (int(torch.randint(size - side + 1, (), generator=generator)) for size in (height, width))
        window = (..., slice(top, top + side), slice(start, start + side))
        signs = _uniform(x[:, :, :1, :1], generator).sub_(0.5).sign_()
        tried = at[left].clone()
        tried[window] = (tried[window] + 2 * epsilon * signs[left]).clamp(lowest[left][window], highest[left][window])
        found, right = look(tried, y[left])
        better, place = found < margin[left], left.nonzero()[:, 0]
        at[place[better]], margin[place[better]] = tried[better], found[better]
        left[place[~right]] = False
    return left


def _uniform(like: Tensor, generator: Generator) -> Tensor:
    """Numbers from 0 to 1 of a tensor's shape, drawn on the CPU."""
    return torch.rand(like.shape, generator=generator).to(like.device, like.dtype)
