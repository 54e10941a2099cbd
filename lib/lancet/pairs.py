"""Pairs of a backdoored network: a stamped input, and the same without the trigger."""

from __future__ import annotations

from torch import Tensor, nn

from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.errors import LancetError
from lib.lancet.measures import predictions


def stamped_pairs(
    model: nn.Module, trigger: Trigger, images: Tensor, labels: Tensor, target: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs <x, x'> of a backdoor: stamped images that the network takes for the target, and the clean ones.

    Args:
        model: the backdoored network.
        trigger: the true one, or one that was reversed.
        images: clean ones, float (N, C, H, W) in [0, 1], of which those of other classes are used that it gets right.
        labels: int64 (N,).
        target: the class that the trigger is answered with.
        count: how many pairs at most.
    Returns: x (K, C, H, W), x' (K, C, H, W), labels (K,), in the order of the images.
    Raises: LancetError where there is no such image.
    Source: AI-Lancet, section on generating pairs: the clean image is the companion of the stamped one.
    """
    others = labels != target
    images, labels = images[others], labels[others]
    right = predictions(model, images) == labels.cpu()
    fooled = predictions(model, images, trigger) == target
    chosen = (right & fooled).nonzero()[:count, 0].to(images.device)
    if not len(chosen):
        raise LancetError(
            f"of {len(labels)} repair images that are not of class {target}, none is classified right and taken for "
            "that class once it is stamped: the trigger has no effect here, and the network is left as it is"
        )
    clean = images[chosen]
    return trigger.to(clean.device).stamp(clean), clean, labels[chosen]
