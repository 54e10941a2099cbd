"""Pointwise: starts from salt-and-pepper noise and gives back, value by value, all that is not needed to fool.

Source: Schott, Rauber, Bethge and Brendel, "Towards the first adversarially robust neural network model on MNIST",
ICLR 2019, https://arxiv.org/abs/1805.09190; Foolbox 3's PointwiseAttack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import foolbox
import torch
from torch import Tensor

from lib.attacks.goal import Goal, generators, uniform, unpack


class Pointwise(foolbox.attacks.PointwiseAttack):
    """Foolbox's attack with random numbers of each image's own, and without work on images that are done.

    First every changed value (a channel of a pixel) is set back to the clean one, in a random order, wherever the
    image stays adversarial, until none can be; then each of those left is moved towards its clean value by a
    binary search, pass after pass. Foolbox evaluates the whole batch for every value of its slowest image, starts
    from a thousand steps of noise, and goes on as long as any bit of a value changes.

    Args:
        noise_steps: shares of noisy pixels tried for the start, from 1 / noise_steps to 1.
        noise_draws: patterns of noise tried at each share.
        l2_binary_search: whether the second phase takes place.
        passes: of the second phase, at most.
        tolerance: a pass that moves no value of an image by more ends its second phase; in units of the image.
    """

    def __init__(
        self,
        *,
        noise_steps: int = 100,
        noise_draws: int = 1,
        l2_binary_search: bool = True,
        passes: int = 10,
        tolerance: float = 0.01,
    ) -> None:
        super().__init__(l2_binary_search=l2_binary_search)
        self._distance = foolbox.distances.l0
        self.noise_steps = noise_steps
        self.noise_draws = noise_draws
        self.passes = passes
        self.tolerance = tolerance

    def run(
        self,
        model: Any,
        inputs: Any,
        criterion: Any = None,
        *,
        starting_points: Any = None,
        early_stop: float | None = None,
        seeds: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The changed images, as Foolbox's attacks return them; one without an adversarial start stays clean.

        Args:
            model: the network as Foolbox takes it.
            inputs: (N, C, H, W) within the model's bounds.
            criterion: Misclassification or TargetedMisclassification.
            starting_points: adversarial images (N, C, H, W); None: salt and pepper.
            early_stop: not used.
            seeds: of each image's noise and orders; None: from torch's global generator.
        """
        images, goal, restore = unpack(model, inputs, criterion, early_stop, kwargs)
        randoms = generators(seeds, len(images))
        if starting_points is None:
            starts = salt_and_pepper(goal, images, randoms, self.noise_steps, self.noise_draws)
        else:
            starts = foolbox.attacks.base.ep.astensor(starting_points).raw
        everyone = torch.arange(len(images), device=images.device)
        adversarial = goal.fools(starts, everyone)
        result = torch.where(adversarial[:, None, None, None], starts, images)
        clean, changed = images.flatten(1), result.flatten(1)
        rows = everyone[adversarial]
        while len(rows):
            rows = rows[self._pass(goal, clean, changed, images.shape, rows, randoms, self._reset) > 0]
        rows = everyone[adversarial]
        for _ in range(self.passes if self.l2_binary_search else 0):
            moved = self._pass(goal, clean, changed, images.shape, rows, randoms, self._shrink)
            rows = rows[moved > self.tolerance]
            if len(rows) == 0:
                break
        return restore(changed.view(images.shape))

    def _pass(
        self,
        goal: Goal,
        clean: Tensor,
        changed: Tensor,
        shape: torch.Size,
        rows: Tensor,
        randoms: Sequence[torch.Generator],
        move: Callable[..., Tensor],
    ) -> Tensor:
        """Move every value that differs, one after another, in `changed`; the largest move of each row."""
        # An image's decisions follow one another, so the loop is over values; images go through it together.
        differs = (changed[rows] != clean[rows]).cpu()
        orders = [
            places[torch.randperm(len(places), generator=randoms[row])]
            for places, row in zip((d.nonzero()[:, 0] for d in differs), rows.tolist(), strict=True)
        ]
        moved = torch.zeros(len(rows), dtype=clean.dtype, device=clean.device)
        counts = torch.tensor([len(order) for order in orders])
        padded = torch.nn.utils.rnn.pad_sequence(orders, batch_first=True) if orders else counts[:, None]
        padded, counts = padded.to(clean.device), counts.to(clean.device)
        for turn in range(int(counts.max()) if len(counts) else 0):
            has = (counts > turn).nonzero()[:, 0]
            owners, places = rows[has], padded[has, turn]
            before = changed[owners, places]
            after = move(goal, changed, owners, places, before, clean[owners, places], shape)
            changed[owners, places] = after
            moved[has] = torch.maximum(moved[has], (after - before).abs())
        return moved

    @staticmethod
    def _reset(
        goal: Goal, changed: Tensor, owners: Tensor, places: Tensor, before: Tensor, clean: Tensor, shape: torch.Size
    ) -> Tensor:
        """The clean value where the image stays adversarial with it, else the one before."""
        return torch.where(_stays(goal, changed, owners, places, clean, shape), clean, before)

    @staticmethod
    def _shrink(
        goal: Goal, changed: Tensor, owners: Tensor, places: Tensor, before: Tensor, clean: Tensor, shape: torch.Size
    ) -> Tensor:
        """The value nearest to the clean one, to a thousandth of the way, that keeps the image adversarial."""
        fooling, other = before, clean
        stays = _stays(goal, changed, owners, places, clean, shape)
        fooling = torch.where(stays, clean, fooling)
        for _ in range(10):
            middle = (fooling + other) / 2
            stays = _stays(goal, changed, owners, places, middle, shape)
            fooling, other = torch.where(stays, middle, fooling), torch.where(stays, other, middle)
        return fooling


def _stays(goal: Goal, changed: Tensor, owners: Tensor, places: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """Whether images stay adversarial with one value of each replaced."""
    tried = changed[owners]
    tried[torch.arange(len(owners), device=tried.device), places] = values
    return goal.fools(tried.view(-1, *shape[1:]), owners)


def salt_and_pepper(
    goal: Goal, images: Tensor, randoms: Sequence[torch.Generator], steps: int = 100, draws: int = 1
) -> Tensor:
    """The image with the least salt-and-pepper noise that fools: whole pixels at the lower or the upper bound.

    A pattern grows with the share of noisy pixels: what is noisy at one share stays so at the next.

    Args:
        goal: what counts as adversarial.
        images: (N, C, H, W).
        randoms: a generator for each image.
        steps: shares tried, from 1 / steps to 1.
        draws: patterns tried at each share.

    Returns:
        (N, C, H, W); the image itself where no noise fools.
    """
    low, high = goal.model.bounds
    patterns = uniform(randoms, (draws, 1, *images.shape[2:]), images)
    result = images.clone()
    rows = torch.arange(len(images), device=images.device)
    for step in range(steps + 1):
        share = step / steps
        for draw in range(draws if step else 1):
            if len(rows) == 0:
                return result
            pattern = patterns[rows, draw]
            noisy = torch.where(pattern < share / 2, low, images[rows])
            noisy = torch.where(pattern >= 1 - share / 2, high, noisy)
            fooled = goal.fools(noisy, rows)
            result[rows[fooled]] = noisy[fooled]
            rows = rows[~fooled]
    return result
