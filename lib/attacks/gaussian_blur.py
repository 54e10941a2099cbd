"""Gaussian blur: the least blurred image that the network misclassifies.

Source: Foolbox 3's GaussianBlurAttack, https://arxiv.org/abs/1707.04131.
"""

from __future__ import annotations

from typing import Any

import foolbox
import torch

from lib.attacks.goal import rows_at_once, unpack
from lib.attacks.smoothing import gaussian_matrix, smooth


class GaussianBlur(foolbox.attacks.GaussianBlurAttack):
    """Foolbox's attack and its answer, found some tens of times faster.

    It tries `steps` standard deviations from max_sigma / steps to max_sigma in order and keeps the first that fools.
    Foolbox blurs the whole batch, image by image, until its last image is found; here an image leaves when it is
    found, and blurring is two small matrix products for many standard deviations at once.

    Args:
        steps: standard deviations tried.
        max_sigma: the largest, in pixels; None: the image's longer side.
    """

    def __init__(self, *, steps: int = 1000, max_sigma: float | None = None) -> None:
        super().__init__(distance=foolbox.distances.l2, steps=steps, channel_axis=1, max_sigma=max_sigma)

    def run(self, model: Any, inputs: Any, criterion: Any, *, early_stop: float | None = None, **kwargs: Any) -> Any:
        """The blurred images, as Foolbox's attacks return them; one that no blur changes for the network stays clean.

        Args:
            model: the network as Foolbox takes it.
            inputs: (N, C, H, W) within the model's bounds.
            criterion: Misclassification or TargetedMisclassification.
            early_stop: not used.
        """
        images, goal, restore = unpack(model, inputs, criterion, early_stop, kwargs)
        low, high = model.bounds
        count, _, height, width = images.shape
        largest = max(height, width) if self.max_sigma is None else self.max_sigma
        sigmas = [largest * (step + 1) / self.steps for step in range(self.steps)]
        result = images.clone()
        open_ = torch.arange(count, device=images.device)
        open_ = open_[~goal.fools(images, open_)]
        done = 0
        while len(open_) and done < len(sigmas):
            block = sigmas[done : done + max(1, rows_at_once(images) // len(open_))]
            done += len(block)
            rows, columns = (
                torch.stack([gaussian_matrix(size, sigma) for sigma in block]).to(images) for size in (height, width)
            )
            blurred = smooth(images[open_, None], rows[:, None], columns[:, None]).clamp(low, high)
            fooled = goal.fools(blurred.flatten(0, 1), open_.repeat_interleave(len(block))).view(len(open_), -1)
            found, first = fooled.any(dim=1), fooled.int().argmax(dim=1)
            result[open_[found]] = blurred[found, first[found]]
            open_ = open_[~found]
        return restore(result)
