"""From wrong inputs to pairs, and from the votes of many pairs to the few weights that they share."""

from __future__ import annotations

from torch import Tensor, nn

from lib.lancet.companions import companions
from lib.lancet.errors import LancetError
from lib.lancet.locating import Votes


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
