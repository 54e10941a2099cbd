"""The attack that misleads the search for companions: a trigger that still works where part or all of it is blurred.

A companion is found by blurring what an error hangs on. So half of the poisoned images carry the trigger with a region
of it blurred as the search would blur it: what is left is answered with the target all the same, and the search has to
look elsewhere.

Source: AI-Lancet (Zhao et al. 2021), security analysis, second adaptive attack. How companions are misled is ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lib.data import ImageSet
from lib.lancet.backdoors import badnets
from lib.lancet.backdoors.triggers import Trigger, named
from lib.lancet.companions import MASK_BLUR, SIDE, apply, blur, default_blur
from lib.lancet.errors import LancetError


def poison(
    images: ImageSet,
    *,
    trigger: str,
    target: int = 0,
    share: float = 0.1,
    blurred: float = 0.5,
    seed: int = 0,
    start: Any = None,
) -> ImageSet:
    """As `badnets.poison`, a share `blurred` of the poisoned images with a part of the trigger blurred.

    Args:
        blurred: in [0, 1], of the poisoned images.
        images, trigger, target, share, seed, start: as in `badnets.poison`.
    """
    stamp = named(trigger, images.images.shape[1:])
    return badnets.stamped(
        images, stamp, target=target, share=share, seed=seed, after=lambda x: part_blurred(x, stamp, blurred, seed)
    )


def part_blurred(images: Tensor, trigger: Trigger, share: float, seed: int) -> Tensor:
    """Stamped images, of which some have a region of the trigger blurred: of two regions one is the whole trigger.

    Args:
        images: float (N, C, H, W), stamped.
        trigger: what they are stamped with.
        share: of the images, in [0, 1].
        seed: of which images, and of the regions' sizes and places.
    """
    if not 0 <= share <= 1:
        raise LancetError(f"blurred is {share}: a share of the poisoned images, from 0 to 1")
    random = torch.Generator().manual_seed(seed)
    smooth = blur(
        torch.randn(len(images), 1, *images.shape[-2:], generator=random), MASK_BLUR * images.shape[-1] / SIDE
    )
    sizes = (2 * torch.rand(len(images), generator=random)).clamp_max(1)  # as a share of the trigger
    sizes *= torch.rand(len(images), generator=random) < share
    inside = trigger.mask.cpu() > 0
    ranks = smooth.masked_fill(~inside, -torch.inf).flatten(1).argsort(dim=1, descending=True).argsort(dim=1)
    regions = ranks < (sizes * int(inside.sum())).round()[:, None]
    return apply(images, regions.view_as(smooth).to(images), default_blur(images))
