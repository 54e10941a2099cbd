"""The weights that AI-Lancet blames for one adversarial image, and what the network says without them."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lib import compute
from lib.explore.attacking import Attacked
from lib.explore.errors import ExploreError
from lib.explore.subject import Subject
from lib.lancet.companions import companions
from lib.lancet.locating import Votes, choose_layer, locate

MASK, CLEAN = "companion", "clean image"
WITH = (MASK, CLEAN)
STEPS = 80
"""Of the companion's mask; AI-Lancet's own study takes 150."""


@dataclass(frozen=True, eq=False)
class Blame:
    """What one pair says of the network's weights.

    Attributes:
        attacked: the adversarial image.
        asked, companion: which other half was asked for and which was taken (`CLEAN` where no mask made the network
            right); image: that half, float32 (C, H, W); mask: float32 (1, H, W), what it takes from the image, or None.
        votes: layer -> votes of the pair; none where the network is right about the adversarial image.
        table: one row a layer: layer, weights, blamed (smallest number, of those tried, whose removal makes the network
            right; 0 where none does), part (of the layer), truth, top (probability of the true class, and the class
            given, for the adversarial image without them), clean_top (for the clean image without them).
        chosen: the layer with the smallest part; None where no layer repairs it.
    """

    attacked: Attacked
    asked: str
    companion: str
    image: Tensor
    mask: Tensor | None
    votes: dict[str, Votes]
    table: pd.DataFrame
    chosen: str | None

    @property
    def wrong(self) -> bool:
        """Whether there was an error to locate."""
        return bool(self.votes)

    def map(self, layer: str) -> tuple[Tensor, Tensor]:
        """A layer's blame by output and input channel.

        Args:
            layer: one of `votes`.
        Returns: importance (largest of the kernel's positions, in [0, 1]) and blamed weights (number), both
            (outputs, inputs).
        Raises: ExploreError for another layer.
        """
        if layer not in self.votes:
            raise ExploreError(f"no layer {layer!r}: one of {', '.join(self.votes) or 'none, there is no error'}")
        found = self.votes[layer]
        heat, counts = found.importance.cpu(), found.counts.cpu()
        if heat.ndim > 2:
            heat, counts = heat.flatten(2).amax(2), counts.flatten(2).sum(2)
        return heat, counts


def blame(chosen: Subject, attacked: Attacked, other: str = MASK) -> Blame:
    """Locate the weights that make the network wrong about an adversarial image.

    Args:
        chosen: the network.
        attacked: the image, attacked on this network.
        other: the pair's other half: `MASK`, AI-Lancet's companion, a part of the adversarial image blurred until the
            network is right (ours: a hard mask); or `CLEAN`, the image before the attack.
    Raises: ExploreError for another half.
    Source: AI-Lancet (CCS 2021), sections on error localisation and on locating error-inducing neurons.
    """
    if other not in WITH:
        raise ExploreError(f"other half {other!r}: one of {', '.join(map(repr, WITH))}")
    model, truth = chosen.model, torch.tensor([attacked.truth])
    wrong = attacked.adversarial[None]
    columns = ["layer", "weights", "blamed", "part", "truth", "top", "clean_top"]
    if int(attacked.after.argmax()) == attacked.truth:
        return Blame(attacked, other, other, attacked.clean, None, {}, pd.DataFrame(columns=columns), None)
    half, image, mask = CLEAN, attacked.clean[None], None
    if other == MASK:
        found = companions(model, wrong, truth, steps=STEPS)
        if bool(found.found[0]):
            half, image, mask = MASK, found.images.cpu(), found.masks[0].cpu()
    votes = locate(model, wrong, image, truth)
    both = torch.stack([attacked.adversarial, attacked.clean])
    rows = []
    for layer, vote in votes.items():
        count = int(vote.counts.sum())
        after = (
            without(model, both, layer, vote.counts > 0) if count else torch.stack([attacked.after, attacked.before])
        )
        rows.append(
            {
                "layer": layer,
                "weights": vote.counts.numel(),
                "blamed": count,
                "part": count / vote.counts.numel(),
                "truth": float(after[0, attacked.truth]),
                "top": int(after[0].argmax()),
                "clean_top": int(after[1].argmax()),
            }
        )
    repaired = any(vote.share > 0 for vote in votes.values())
    least = choose_layer(votes, "smallest-fraction") if repaired else None
    return Blame(attacked, other, half, image[0], mask, votes, pd.DataFrame(rows, columns=columns), least)


def without(model: nn.Module, images: Tensor, layer: str, removed: Tensor) -> Tensor:
    """A network's probabilities with some weights of a layer set to zero; the network itself stays as it is.

    Args:
        model: the network.
        images: float (N, C, H, W) in [0, 1].
        layer: dotted name.
        removed: bool, of the weight's shape.
    Returns: float32 (N, classes) on the CPU.
    """
    weight = model.get_parameter(f"{layer}.weight")
    changed = {f"{layer}.weight": weight.detach().masked_fill(removed.to(weight.device), 0)}
    with compute.evaluation(model), torch.no_grad():
        return functional_call(model, changed, (images.to(weight.device),)).float().softmax(1).cpu()
