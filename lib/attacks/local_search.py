"""LocalSearch: a greedy search for the few pixels on which the network's score for the true class hangs.

Source: Narodytska and Kasiviswanathan, "Simple black-box adversarial perturbations for deep networks", 2016,
section 5, Algorithm LocSearchAdv, https://arxiv.org/abs/1612.06299.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import foolbox
import torch
from foolbox.attacks.base import MinimizationAttack
from torch import Tensor

from lib.attacks.goal import Goal, generators, rows_at_once, unpack
from lib.attacks.single_pixel import with_pixel


class LocalSearch(MinimizationAttack):
    """Greedy local search.

    In a round each pixel of a set is tried alone: set to p times its sign, far outside the image's range, to see
    how much the true class's probability hangs on it. The t pixels that lower it most are changed for good, their
    values multiplied by r and wrapped around into the range; the next round's set are the pixels within d of these.
    Signs and factors are those of values centred at the middle of the range, as in the paper.

    Args:
        rounds: R, at most.
        pixels: t, changed in a round.
        reach: d, of the neighbourhood, along rows and columns, in pixels.
        factor: r, in [0, 2].
        probe: p, in units of the image's range.
        start: share of all pixels in the first set, drawn at random.
        tried: pixels tried in a round at most; a larger set is thinned at random. None: all.

    Raises:
        ValueError: for a factor outside [0, 2].
    """

    distance = foolbox.distances.l0

    def __init__(
        self,
        *,
        rounds: int = 150,
        pixels: int = 5,
        reach: int = 5,
        factor: float = 1.5,
        probe: float = 10.0,
        start: float = 0.1,
        tried: int | None = 128,
    ) -> None:
        if not 0 <= factor <= 2:
            raise ValueError(f"factor is {factor}: from 0 to 2, so that one wrap brings a value back into its range")
        self.rounds = rounds
        self.pixels = pixels
        self.reach = reach
        self.factor = factor
        self.probe = probe
        self.start = start
        self.tried = tried

    def run(
        self,
        model: Any,
        inputs: Any,
        criterion: Any,
        *,
        early_stop: float | None = None,
        seeds: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The changed images, as Foolbox's attacks return them, adversarial or as the last round left them.

        Args:
            model: the network as Foolbox takes it.
            inputs: (N, C, H, W) within the model's bounds.
            criterion: Misclassification or TargetedMisclassification.
            early_stop: not used.
            seeds: of each image's random pixels; None: from torch's global generator.
        """
        images, goal, restore = unpack(model, inputs, criterion, early_stop, kwargs)
        low, high = model.bounds
        middle, span = (low + high) / 2, high - low
        count, _, height, width = images.shape
        randoms = generators(seeds, count)
        images = images.clone()
        size = height * width
        first = torch.full((count, size), True, device=images.device)
        pools = _thinned(first, max(self.pixels, round(self.start * size)), randoms)
        rows = torch.arange(count, device=images.device)
        rows = rows[~goal.fools(images, rows)]
        for _ in range(self.rounds):
            if len(rows) == 0:
                break
            if self.tried is not None:
                pools[rows] = _thinned(pools[rows], self.tried, [randoms[row] for row in rows.tolist()])
            scores = self._scores(goal, images[rows], pools[rows], rows, middle, span)
            # The sort is stable, so equal scores are taken in the order of the image's pixels.
            chosen = scores.sort(dim=1, stable=True)
            picked = torch.zeros_like(pools[rows]).scatter(
                1, chosen.indices[:, : self.pixels], chosen.values[:, : self.pixels].isfinite()
            )
            centred = images[rows] - middle
            changed = cyclic(centred, self.factor, span) + middle
            mask = picked.view(-1, 1, height, width)
            images[rows] = torch.where(mask, changed, images[rows]).clamp(low, high)
            pools[rows] = neighbourhood(picked.view(-1, height, width), self.reach).flatten(1)
            rows = rows[~goal.fools(images[rows], rows)]
        return restore(images)

    @torch.no_grad()
    def _scores(self, goal: Goal, images: Tensor, pools: Tensor, rows: Tensor, middle: float, span: float) -> Tensor:
        """Log-odds of the class to leave (negative: to reach) with each pixel of a pool probed; others inf."""
        scores = torch.full(pools.shape, torch.inf, dtype=images.dtype, device=images.device)
        owner, place = pools.nonzero(as_tuple=True)
        probes = middle + self.probe * span * (images - middle).sign().flatten(2)  # (N, C, H W)
        size = rows_at_once(images)
        for own, at in zip(owner.split(size), place.split(size), strict=True):
            tried = with_pixel(images[own], at[:, None], probes[own, :, at][:, None])[:, 0]
            classes = goal.classes[rows[own]][:, None]
            logits = goal.model(tried)
            # The log-odds of the probability, which order pixels alike and do not saturate.
            others = logits.scatter(1, classes, -torch.inf).logsumexp(dim=1)
            likely = logits.gather(1, classes)[:, 0] - others
            scores[own, at] = -likely if goal.targeted else likely
        return scores


def cyclic(values: Tensor, factor: float, span: float = 1.0) -> Tensor:
    """Values in [-span / 2, span / 2] times a factor in [0, 2], wrapped around into that range."""
    raised = factor * values
    raised = torch.where(raised > span / 2, raised - span, raised)
    return torch.where(raised < -span / 2, raised + span, raised)


def neighbourhood(picked: Tensor, reach: int) -> Tensor:
    """Pixels within `reach` of a picked one along rows and along columns: bool (N, H, W) -> bool (N, H, W)."""
    grown = torch.nn.functional.max_pool2d(picked[:, None].float(), 2 * reach + 1, stride=1, padding=reach)
    return grown[:, 0] > 0


def _thinned(pools: Tensor, most: int, randoms: Sequence[torch.Generator]) -> Tensor:
    """At most so many of each row's pixels, drawn by the row's own generator; bool (N, H W)."""
    draws = [torch.rand(pools.shape[1], generator=random) for random in randoms]
    ranks = torch.stack(draws).to(pools.device) if draws else pools.float()
    ranks = torch.where(pools, ranks, torch.inf)
    threshold = ranks.sort(dim=1).values[:, min(most, pools.shape[1]) - 1 :][:, :1]
    return pools & (ranks <= threshold)
