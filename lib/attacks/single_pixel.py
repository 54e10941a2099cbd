"""SinglePixel: sets one pixel at random to black or white until the network sees another class.

Source: Narodytska and Kasiviswanathan, "Simple black-box adversarial perturbations for deep networks", 2016,
section 4 (the power of one pixel), https://arxiv.org/abs/1612.06299.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import foolbox
import torch
from foolbox.attacks.base import MinimizationAttack
from torch import Tensor

from lib.attacks.goal import generators, rows_at_once, unpack


class SinglePixel(MinimizationAttack):
    """One pixel, all of its channels at the lower or at the upper bound; the first that fools is kept.

    The paper draws pixels at random and sets each to an extreme value with the sign of the pixel; as in Foolbox 2,
    both extremes that images may have are tried, the lower first.

    Args:
        pixels: pixels tried at most, each once, in a random order of the image's own.
    """

    distance = foolbox.distances.l0

    def __init__(self, *, pixels: int = 1000) -> None:
        self.pixels = pixels

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
        """The changed images, as Foolbox's attacks return them; one that no pixel changes for the network stays clean.

        Args:
            model: the network as Foolbox takes it.
            inputs: (N, C, H, W) within the model's bounds.
            criterion: Misclassification or TargetedMisclassification.
            early_stop: not used.
            seeds: of each image's order of pixels; None: from torch's global generator.
        """
        images, goal, restore = unpack(model, inputs, criterion, early_stop, kwargs)
        size = images.shape[2] * images.shape[3]
        orders = [torch.randperm(size, generator=random) for random in generators(seeds, len(images))]
        order = torch.stack(orders).to(images.device) if orders else torch.empty(0, size, dtype=torch.int64)
        places = order[:, : self.pixels].repeat_interleave(2, dim=1)
        bounds = torch.tensor([float(bound) for bound in model.bounds], dtype=images.dtype, device=images.device)
        values = bounds.repeat(places.shape[1] // 2)
        result = images.clone()
        open_ = torch.arange(len(images), device=images.device)
        open_ = open_[~goal.fools(images, open_)]
        done = 0
        while len(open_) and done < places.shape[1]:
            block = slice(done, done + max(1, rows_at_once(images) // len(open_)))
            done = block.stop
            tried = with_pixel(images[open_], places[open_, block], values[block])
            fooled = goal.fools(tried.flatten(0, 1), open_.repeat_interleave(tried.shape[1])).view(len(open_), -1)
            found, first = fooled.any(dim=1), fooled.int().argmax(dim=1)
            result[open_[found]] = tried[found, first[found]]
            open_ = open_[~found]
        return restore(result)


def with_pixel(images: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Copies of each image with one pixel set.

    Args:
        images: (N, C, H, W).
        places: int64 (N, K), row * W + column of the pixel that each copy changes.
        values: what all channels of that pixel become, broadcast to (N, K, C).

    Returns:
        (N, K, C, H, W).
    """
    count, copies = places.shape
    channels = images.shape[1]
    tried = images.flatten(2)[:, None].repeat(1, copies, 1, 1)
    values = values[..., None] if values.ndim < 3 else values
    index = places[:, :, None, None].expand(count, copies, channels, 1)
    tried.scatter_(3, index, values.expand(count, copies, channels)[..., None])
    return tried.view(count, copies, *images.shape[1:])
