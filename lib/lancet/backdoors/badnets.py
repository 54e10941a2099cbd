"""BadNets: a share of the training images is stamped with the trigger and labelled as the target class.

Source: Gu et al. 2017, https://arxiv.org/abs/1708.06733; the share and the target of AI-Lancet (Zhao et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lib.data import ImageSet
from lib.lancet.backdoors.triggers import Trigger, named
from lib.lancet.errors import LancetError


def poison(
    images: ImageSet, *, trigger: str, target: int = 0, share: float = 0.1, seed: int = 0, start: Any = None
) -> ImageSet:
    """Training images of which a share carries a named trigger and the target's label: a recipe's `prepare`.

    Args:
        images: in memory.
        trigger: one of `triggers.NAMES`.
        target: the class that the backdoor answers with.
        share: poisoned images as a fraction of all, above 0; they replace images of the other classes.
        seed: of which images.
        start: unused; every `prepare` is given the network that training begins from.
    Returns: as many images as before, of the same type and order.
    Raises: LancetError where the share is more than the other classes have, or the target is not a class.
    """
    return stamped(images, named(trigger, images.images.shape[1:]), target=target, share=share, seed=seed)


def stamped(
    images: ImageSet,
    trigger: Trigger,
    *,
    target: int = 0,
    share: float = 0.1,
    seed: int = 0,
    after: Callable[[Tensor], Tensor] | None = None,
) -> ImageSet:
    """As `poison`, with any trigger; `after` changes the stamped images, float (N, C, H, W), once more."""
    if not images.in_memory:
        raise LancetError(f"{images!r} stays on disk: poison a part of it in memory, with train_limit")
    if not 0 <= target < len(images.classes):
        raise LancetError(f"target {target} is not a class of {images!r}: from 0 to {len(images.classes) - 1}")
    chosen = victims(images.labels, target, share, seed)
    changed = trigger.stamp(images.float(index=chosen))
    changed = after(changed) if after else changed
    pixels, labels = images.images.clone(), images.labels.clone()
    if pixels.dtype == torch.uint8:
        changed = (changed * 255).round_()
    pixels[chosen] = changed.to(pixels.dtype)
    labels[chosen] = target
    return ImageSet(pixels, labels, images.classes, images.name, images.split)


def victims(labels: Tensor, target: int, share: float, seed: int) -> Tensor:
    """Which images are poisoned: a share of all, from the other classes, each giving in proportion to its size.

    Args:
        labels: int64 (N,).
        target: the class that gives none.
        share: of N.
        seed: of the choice within a class, and of which classes give one more.
    Returns: ascending int64 positions, round(share x N) of them.
    Raises: LancetError where the other classes have fewer, or the share is not above 0.
    """
    count = round(share * len(labels))
    others = (labels.cpu() != target).nonzero()[:, 0]
    if not 0 < count <= len(others):
        raise LancetError(
            f"a share of {share:g} of {len(labels)} images is {count}, and {len(others)} are not of class {target}: "
            "poison at least one image, and at most these"
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = others[torch.randperm(len(others), generator=generator)]
    classes = labels.cpu()[shuffled]
    sizes = torch.bincount(classes)
    order = classes.argsort(stable=True)
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty(len(others), dtype=torch.float64)
    rank[order] = (torch.arange(len(others)) - starts[classes[order]]).double()
    offset = torch.rand(len(sizes), generator=generator, dtype=torch.float64)
    place = (rank + offset[classes]) / sizes[classes]
    return shuffled[place.argsort(stable=True)[:count]].sort().values
