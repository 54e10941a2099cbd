"""Boundary: a random walk along the decision boundary towards the clean image, by decisions alone.

Source: Brendel, Rauber and Bethge, "Decision-based adversarial attacks", ICLR 2018,
https://arxiv.org/abs/1712.04248; Foolbox 3's BoundaryAttack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import foolbox
import torch
from torch import Tensor

from lib.attacks.goal import Goal, generators, predictions, unpack


class Boundary(foolbox.attacks.BoundaryAttack):
    """Foolbox's walk from starting points of our own; an image that has none is left clean, and only it.

    Foolbox raises for the whole batch where one image has no starting point. Each image starts from uniform noise of
    another class, blended with the clean image as little as fools.

    Args:
        steps: of the walk, at most.
        directions: noise images; each image takes the first of another class, from a random one on.
        blends: shares of noise tried on the way from the clean image.
        spherical_step, source_step, source_step_convergance, step_adaptation, update_stats_every_k: as in Foolbox.
    """

    def __init__(self, *, steps: int = 25000, directions: int = 1000, blends: int = 50, **walk: Any) -> None:
        super().__init__(steps=steps, **walk)
        self.directions = directions
        self.blends = blends

    def run(
        self,
        model: Any,
        inputs: Any,
        criterion: Any,
        *,
        early_stop: float | None = None,
        starting_points: Any = None,
        seeds: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The images at the end of the walk, as Foolbox's attacks return them.

        The steps of the walk are drawn from torch's global generator and shared by the batch, as in Foolbox: where
        that is seeded anew for every batch, an image's walk does not depend on the others.

        Args:
            model: the network as Foolbox takes it.
            inputs: (N, C, H, W) within the model's bounds.
            criterion: Misclassification or TargetedMisclassification.
            early_stop: not used.
            starting_points: adversarial images (N, C, H, W); None: blended noise.
            seeds: of each image's choice of noise; None: from torch's global generator.
        """
        images, goal, restore = unpack(model, inputs, criterion, early_stop, kwargs)
        randoms = generators(seeds, len(images))
        if starting_points is None:
            starts = self._starts(goal, images, randoms)
        else:
            starts = foolbox.attacks.base.ep.astensor(starting_points).raw
        everyone = torch.arange(len(images), device=images.device)
        ready, still = everyone, goal.fools(starts, everyone)
        while not bool(
            still.all()
        ):  # looked at once more in the company they walk in: Foolbox raises for one that fails
            ready = ready[still]
            still = goal.fools(starts[ready], ready)
        result = images.clone()
        if len(ready):
            walked = super().run(model, images[ready], goal.part(ready), starting_points=starts[ready])
            result[ready] = walked
        return restore(result)

    def _starts(self, goal: Goal, images: Tensor, randoms: Sequence[torch.Generator]) -> Tensor:
        """Noise blended with each image, adversarial with the least share of noise; the image where there is none."""
        low, high = goal.model.bounds
        shape = (self.directions, *images.shape[1:])
        noise = low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(0))
        seen = predictions(goal.model, noise).to(images.device)
        fits = seen == goal.classes[:, None] if goal.targeted else seen != goal.classes[:, None]
        firsts = [int(torch.randint(self.directions, (), generator=random)) for random in randoms]
        shifts = torch.tensor(firsts, dtype=torch.int64, device=images.device)[:, None]
        turns = (torch.arange(self.directions, device=images.device) + shifts) % self.directions
        turn = fits.gather(1, turns).int().argmax(dim=1, keepdim=True)
        chosen = noise[turns.gather(1, turn)[:, 0].cpu()].to(images)
        result = images.clone()
        rows = torch.arange(len(images), device=images.device)[fits.any(dim=1)]
        for blend in range(self.blends + 1):
            if len(rows) == 0:
                break
            share = blend / self.blends
            mixed = ((1 - share) * images[rows] + share * chosen[rows]).clamp(low, high)
            fooled = goal.fools(mixed, rows)
            result[rows[fooled]] = mixed[fooled]
            rows = rows[~fooled]
        return result
