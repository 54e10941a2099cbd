"""From wrong inputs to pairs, and from the votes of many pairs to the few weights that they share."""

from __future__ import annotations

from torch import Tensor, nn

from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.companions import companions
from lib.lancet.errors import LancetError
from lib.lancet.locating import Votes
from lib.lancet.measures import predictions


def least_votes(votes: Votes, share: float) -> int:
    """The fewest votes that at most a share of the layer's weights have; where even the most are too many, the most.

    Over many pairs nearly every weight of a layer has some vote: those with the most are what the errors share.

    Raises: LancetError where no weight has a vote.
    """
    counts = votes.counts.flatten()
    most = int(counts.max())
    if most < 1:
        raise LancetError(f"no weight of layer {votes.layer!r} has a vote: nothing is located, nothing is changed")
    for least in range(1, most):
        if int((counts >= least).sum()) <= share * counts.numel():
            return least
    return most


def found_companions(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs <x, x'> and labels of those inputs whose companion is found.

    Raises: LancetError where none is.
    """
    made = companions(model, images, labels, steps=steps)
    found = made.found.cpu()
    if not bool(found.any()):
        raise LancetError(
            f"no companion was found for any of {len(images)} wrong inputs in {steps} steps, so nothing can be located "
            "and the network is left as it is: give more steps or other inputs"
        )
    return images[found], made.images.cpu()[found], labels[found]


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
