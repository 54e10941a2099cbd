"""Adversarial training: signed gradient steps from a random start inside the eps ball.

Source: Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards deep learning models resistant to adversarial attacks",
ICLR 2018, https://arxiv.org/abs/1706.06083, Section 5: on CIFAR-10, 7 steps of 2/255 at eps 8/255.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from lib.training import Hook

APART = 1_000_003  # between the seeds of a run and of its random starts on a device


@contextmanager
def frozen_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation in train mode normalises by the batch but leaves its running statistics alone."""
    tracking = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for layer in tracking:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in tracking:
            layer.track_running_stats = True


class Pgd(Hook):
    """Training hook: replaces each batch by adversarial examples of it (PGD).

    delta ~ U[-eps, eps]; at each step delta <- clip(delta + alpha sign(grad), +-eps); x + delta stays in [0, 1]. Each
    takes an extra forward and backward pass, with gradients of the images only: parameter gradients are not touched,
    and the number of optimiser steps equals the natural twin's. The attack sees the network as it trains (train mode,
    batch statistics, the recipe's temperature and precision), but running statistics move only in the training pass.

    With one step of 1.25 eps it is FGSM from a random start (Wong, Rice and Kolter, "Fast is better than free", ICLR
    2020, https://arxiv.org/abs/2001.03994, Algorithm 3): a quarter of the passes, but some networks that are trained so
    withstand this very step and nothing else.

    On a CPU the random starts come from the run's own generator, on another device from one there, seeded from the
    run's: 1.5 MB a step need not be drawn on the CPU and sent. So the two devices start from different points.

    Args:
        epsilon: L_inf radius on images in [0, 1], in (0, 1].
        steps: >= 1.
        alpha: step size in the same units; None for the source's epsilon / 4.

    Raises:
        ValueError: epsilon outside (0, 1], steps < 1 or alpha <= 0.
    """

    version = 1

    def __init__(self, epsilon: float = 8 / 255, steps: int = 7, alpha: float | None = None) -> None:
        self.epsilon, self.steps = float(epsilon), int(steps)
        self.alpha = self.epsilon / 4 if alpha is None else float(alpha)
        if not 0.0 < self.epsilon <= 1.0:
            raise ValueError(f"epsilon is a distance on images in [0, 1]: need 0 < epsilon <= 1, got {epsilon}")
        if self.steps != steps or steps < 1:
            raise ValueError(f"steps must be a whole number from 1, got {steps}")
        if not self.alpha > 0.0:
            raise ValueError(f"alpha must be positive, got {alpha}")
        self.own: Generator | None = None

    def begin(self, run: Any) -> None:
        self.own = None
        if run.device.type != "cpu":
            # A seed of its own: with the run's, the device's dropout would draw the very numbers of the random starts.
            self.own = Generator(run.device).manual_seed(APART + run.generator.initial_seed())

    def state(self) -> dict[str, Any]:
        return {} if self.own is None else {"noise": self.own.get_state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if (self.own is None) != ("noise" not in state):
            raise ValueError("random starts of one kind of device cannot go on with another kind's")
        if self.own is not None:
            self.own.set_state(state["noise"])

    def images(self, run: Any, images: Tensor, labels: Tensor) -> Tensor:
        if self.own is None:
            noise = torch.rand(images.shape, generator=run.generator).to(images.device, images.dtype)
        else:
            noise = torch.rand(images.shape, generator=self.own, device=images.device, dtype=images.dtype)
        made = (images + self.epsilon * (2.0 * noise - 1.0)).clamp(0.0, 1.0)
        lowest, highest = (images - self.epsilon).clamp_min(0.0), (images + self.epsilon).clamp_max(1.0)
        for _ in range(self.steps):
            made = made.detach().requires_grad_()
            with torch.enable_grad(), frozen_batch_statistics(run.model):
                with run.autocast():
                    logits = run.model(made)
                loss = nn.functional.cross_entropy(logits.float() / run.temperature, labels)
                (gradient,) = torch.autograd.grad(loss, made)
            made = torch.clamp(made.detach() + self.alpha * gradient.sign(), lowest, highest)
        return made
