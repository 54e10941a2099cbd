"""Neural Cleanse: for each class the smallest stamp that makes the network answer with it; a backdoor's is far smaller.

Source: Wang et al. 2019, "Neural Cleanse" (IEEE S&P), sections IV and V; its released settings: Adam at 0.1 with betas
(0.5, 0.9), cost doubled while the stamp succeeds on 99 %, divided by 2^1.5 while it does not. Masks of several classes
are optimised side by side: their losses do not share a variable, so that each is what it would be alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.lancet.backdoors.excite import frozen
from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.errors import LancetError
from lib.progress import bar

CONSISTENCY = 1.4826  # makes the median absolute deviation of normal values their standard deviation
FLAGGED_ABOVE = 2.0
CHECKED = 500  # images, at most, on which a stamp is checked before it is taken
EPSILON = 1e-7  # the released code's: keeps tanh's inverse finite


@dataclass(frozen=True, eq=False)
class Reversed:
    """A trigger reversed from a network.

    Attributes:
        trigger: mask (1, H, W) and pattern (C, H, W), ready to stamp; to show: `trigger.mask`, `trigger.pattern`, and
            their product.
        target: the class that it leads to.
        success: share of all the given images that, stamped, are predicted as the target.
        norm: sum of the mask, in pixels.
        reached: whether it succeeded on the wanted share of a round's images; else it is the most successful one found.
        rounds: updates of the cost that were done.
    """

    trigger: Trigger
    target: int
    success: float
    norm: float
    reached: bool
    rounds: int


def reverse(model: nn.Module, images: Tensor, target: int, **settings: Any) -> Reversed:
    """The smallest stamp found that makes a network predict one class; arguments as `reverse_all`."""
    return reverse_all(model, images, [target], **settings)[0]


def reverse_all(
    model: nn.Module,
    images: Tensor,
    classes: int | Sequence[int],
    *,
    steps: int = 1000,
    cost: float = 1e-3,
    threshold: float = 0.99,
    batch: int = 32,
    batches: int = 10,
    patience: int = 5,
    stop_after: int = 25,
    learning_rate: float = 0.1,
    group: int = 8,
    seed: int = 0,
) -> list[Reversed]:
    """For each of several classes the smallest stamp found that makes a network predict it.

    Args:
        model: any classifier of images in [0, 1]; in evaluation mode, left as it was found.
        images: float (N, C, H, W) in [0, 1], clean; best without those of the target class, which need no stamp.
        classes: which; a number stands for all classes below it.
        steps: of Adam, at most.
        cost: weight of the mask's sum once the stamp first succeeds; adapted from there.
        threshold: share of a round's stamped images to be predicted as the target.
        batch: images a step.
        batches: steps a round; after each round the cost may change (the released code: one pass over 1,000 images).
        patience: rounds above (below) the threshold before the cost goes up (down).
        stop_after: rounds without a stamp at least 1 % smaller than the best before it ends, once the cost has gone
            both ways.
        learning_rate: Adam's; its betas are (0.5, 0.9).
        group: classes optimised side by side, in one forward pass of `group` x `batch` images.
        seed: of the first mask and pattern, and of the order of the images.
    Returns: one for each class, in order: the smallest stamp that reached the threshold, over a round and once more by
        itself; where none did, the most successful one, `reached` False.
    Raises: LancetError where there is no image or class, or a class is none of the network's.
    """
    wanted = list(range(classes)) if isinstance(classes, int) else [int(c) for c in classes]
    if len(images) == 0 or not wanted:
        raise LancetError(
            f"{len(images)} images and {len(wanted)} classes: a trigger is reversed from at least one each"
        )
    settings = (steps, cost, threshold, batch, batches, patience, stop_after, learning_rate, seed)
    with frozen(model):
        with torch.no_grad():
            count = model(_on(model, images[:1])).shape[1]
        if not all(0 <= c < count for c in wanted):
            raise LancetError(f"classes {wanted}: the network has logits for 0 to {count - 1}")
        found: list[Reversed] = []
        for start in bar(range(0, len(wanted), group), desc="reversed triggers"):
            found += _Search(model, images, wanted[start : start + group], *settings).run()
        return found


def anomaly_index(norms: Sequence[float] | Tensor) -> Tensor:
    """How far each class's norm lies from the median, in robust standard deviations.

    Args:
        norms: (L,), the sums of the classes' masks.
    Returns: float64 (L,): |norm - median| / (1.4826 MAD); where the MAD is 0, 0 at the median and infinite elsewhere.
    Raises: LancetError for fewer than three norms: an outlier needs others to differ from.
    Source: Neural Cleanse, section IV-B (outlier detection).
    """
    values = torch.as_tensor(norms, dtype=torch.float64)
    if values.ndim != 1 or len(values) < 3:
        raise LancetError(f"{values.numel()} norms: an anomaly index needs those of at least three classes")
    away = (values - _median(values)).abs()
    spread = CONSISTENCY * _median(away)
    return torch.where(away == 0, torch.zeros_like(away), away / spread)


def flagged(norms: Sequence[float] | Tensor, above: float = FLAGGED_ABOVE) -> list[int]:
    """Positions of the classes whose norm is an outlier on the small side, the most anomalous first."""
    values, index = torch.as_tensor(norms, dtype=torch.float64), anomaly_index(norms)
    outlying = (index > above) & (values < _median(values))
    return [k for k in index.argsort(descending=True, stable=True).tolist() if outlying[k]]


def _median(values: Tensor) -> Tensor:
    """The middle value, or the mean of the two in the middle (torch's takes the lower one)."""
    return values.quantile(0.5)


def _on(model: nn.Module, images: Tensor) -> Tensor:
    first = next(model.parameters(), None)
    return images if first is None else images.to(first.device)


class _Search:
    """The optimisation of a few classes' stamps side by side; every state but the model is (L, ...), L classes."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        targets: Sequence[int],
        steps: int,
        cost: float,
        threshold: float,
        batch: int,
        batches: int,
        patience: int,
        stop_after: int,
        learning_rate: float,
        seed: int,
    ) -> None:
        self.model, self.images, self.targets = model, _on(model, images), list(targets)
        self.rounds = max(1, steps // batches)
        self.first_cost, self.threshold, self.patience, self.stop_after = cost, threshold, patience, stop_after
        self.batch, self.batches = min(batch, len(images)), batches
        channels, height, width = images.shape[1:]
        self.device, size = self.images.device, len(targets)
        masks, patterns = [], []
        for target in targets:  # drawn by class, so that a class's result does not depend on its company
            generator = torch.Generator().manual_seed(seed * 100_003 + target)
            masks.append(torch.rand(1, height, width, generator=generator))
            patterns.append(torch.rand(channels, height, width, generator=generator))
        self.raw_mask = _untanh(torch.stack(masks)).to(self.device).requires_grad_(True)
        self.raw_pattern = _untanh(torch.stack(patterns)).to(self.device).requires_grad_(True)
        self.adam = torch.optim.Adam([self.raw_mask, self.raw_pattern], lr=learning_rate, betas=(0.5, 0.9))
        self.order = torch.Generator().manual_seed(seed)
        self.pool = torch.empty(0, dtype=torch.long)
        zeros = torch.zeros(size, device=self.device)
        self.cost, self.above, self.below, self.stalled = (zeros.clone() for _ in range(4))
        self.went_up, self.went_down, self.done = (zeros.bool() for _ in range(3))
        self.used = zeros.long()
        self.best_norm, self.best_success = zeros + float("inf"), zeros - 1
        self.best_mask, self.best_pattern = (t.detach().clone() for t in self._stamps())

    def run(self) -> list[Reversed]:
        """The classes' results."""
        for _ in range(self.rounds):
            self._adapt(*self._round())
            if bool(self.done.all()):
                break
        return [self._result(place) for place in range(len(self.targets))]

    def _stamps(self) -> tuple[Tensor, Tensor]:
        """Masks (L, 1, H, W) and patterns (L, C, H, W) in [0, 1]."""
        return _tanh(self.raw_mask), _tanh(self.raw_pattern)

    def _next_images(self) -> Tensor:
        if len(self.pool) < self.batch:
            self.pool = torch.randperm(len(self.images), generator=self.order)
        chosen, self.pool = self.pool[: self.batch], self.pool[self.batch :]
        return self.images[chosen.to(self.device)]

    def _round(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Steps of one round. Returns: success over it (L,), and the norms (L,), masks and patterns at its end."""
        targets = torch.tensor(self.targets, device=self.device)
        hits = torch.zeros(len(targets), device=self.device)
        for _ in range(self.batches):
            images = self._next_images()
            masks, patterns = self._stamps()
            stamped = images * (1 - masks[:, None]) + (masks * patterns)[:, None]  # (L, B, C, H, W)
            logits = self.model(stamped.flatten(0, 1)).float()
            wanted = targets.repeat_interleave(len(images))
            losses = F.cross_entropy(logits, wanted, reduction="none").view(len(targets), -1).mean(1)
            norms = masks.sum((1, 2, 3))
            hits += (logits.argmax(1) == wanted).view(len(targets), -1).float().mean(1)
            self.adam.zero_grad(set_to_none=True)
            (losses + self.cost * norms).sum().backward()
            self.adam.step()
        masks, patterns = (t.detach() for t in self._stamps())
        return hits / self.batches, masks.sum((1, 2, 3)), masks, patterns

    def _adapt(self, success: Tensor, norms: Tensor, masks: Tensor, patterns: Tensor) -> None:
        """Keep the best stamps; change the cost of each class as its rounds went."""
        right, live = success >= self.threshold, ~self.done
        found = torch.isfinite(self.best_norm)
        smaller = self._held(live & right & (norms < self.best_norm), masks, patterns)
        nearer = ~right & ~found & (success > self.best_success)
        self.stalled = torch.where(smaller & (norms < 0.99 * self.best_norm), 0.0, self.stalled + 1.0)
        take = live & (smaller | nearer)
        self.best_norm = torch.where(live & smaller, norms, self.best_norm)
        self.best_success = torch.where(take, success, self.best_success)
        chosen = take[:, None, None, None]
        self.best_mask = torch.where(chosen, masks, self.best_mask)
        self.best_pattern = torch.where(chosen, patterns, self.best_pattern)
        self.used += live.long()
        self.above, self.below = (
            torch.where(now, seen + 1, 0.0) for now, seen in ((right, self.above), (~right, self.below))
        )
        up, down = self.above >= self.patience, self.below >= self.patience
        unset = self.cost == 0
        raised = torch.where(unset, self.first_cost, self.cost * 2.0)
        self.cost = torch.where(up, raised, torch.where(down, self.cost / 2.0**1.5, self.cost))
        self.went_up, self.went_down = self.went_up | (up & ~unset), self.went_down | (down & ~unset)
        self.above, self.below = torch.where(up, 0.0, self.above), torch.where(down, 0.0, self.below)
        self.done |= self.went_up & self.went_down & (self.stalled >= self.stop_after)

    @torch.no_grad()
    def _held(self, candidates: Tensor, masks: Tensor, patterns: Tensor) -> Tensor:
        """Which of the candidates (L,) succeed as they are now: a round's success is that of stamps still changing."""
        kept = candidates.clone()
        for place in candidates.nonzero()[:, 0].tolist():
            trigger = Trigger(masks[place].clamp(0, 1), patterns[place].clamp(0, 1))
            kept[place] = self._success(trigger, self.targets[place], CHECKED) >= self.threshold
        return kept

    @torch.no_grad()
    def _success(self, trigger: Trigger, target: int, most: int | None = None) -> float:
        """Share of the first `most` images that are predicted as the target once stamped."""
        images = self.images[:most]
        hits = [(self.model(trigger.stamp(part)).argmax(1) == target).sum() for part in images.split(500)]
        return int(torch.stack(hits).sum()) / len(images)

    @torch.no_grad()
    def _result(self, place: int) -> Reversed:
        target = self.targets[place]
        trigger = Trigger(self.best_mask[place].clamp(0, 1), self.best_pattern[place].clamp(0, 1), f"reversed-{target}")
        norm = trigger.mask.sum().item()
        reached = bool(torch.isfinite(self.best_norm[place]))
        return Reversed(trigger, target, self._success(trigger, target), norm, reached, int(self.used[place]))


def _tanh(raw: Tensor) -> Tensor:
    return torch.tanh(raw) / (2 - EPSILON) + 0.5


def _untanh(values: Tensor) -> Tensor:
    return torch.arctanh((values - 0.5) * (2 - EPSILON))
