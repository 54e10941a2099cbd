"""Protecting a network: the weights that matter most to some classes are hidden, and an attacker trains them anew.

Of every convolution the share of weights of largest score is hidden, that is, zero for the attacker. He has the rest
of the network and images that the victim labels for him, and trains the convolutions. The lower the accuracy that he
ends with, the better the weights to hide were chosen.

Source: NNSlicer (Zhang et al., FSE 2020), section on model protection, https://arxiv.org/abs/2009.13747.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lib import training
from lib.config import Recipe
from lib.data import ImageSet
from lib.graph import copied
from lib.slicing.masks import Masks, apply, masks_of, ranking
from lib.slicing.pruning import Bank, correct_by_class

METHODS = ("nnslicer", "effective-path", "weight", "random", "position")
OF_CLASSES = ("nnslicer", "effective-path")  # the others hide alike whatever the target classes

ATTACK: dict[str, Any] = {
    "epochs": 10,
    "batch": 256,
    "learning_rate": 5e-3,
    "momentum": 0.5,
    "weight_decay": 5e-4,
    "schedule": "step",
}
"""Ten epochs of SGD, a tenth of the rate from half and from three quarters of them on, as the paper has it, and as
`lib.training` does it: Nesterov's momentum, no augmentation (the victim labels the images as they are)."""


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Every Conv2d layer, by dotted name: what is hidden, and what the attacker trains.

    Raises: ValueError where there is none.
    """
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    if not found:
        raise ValueError(f"{type(model).__name__} has no Conv2d layer: nothing to hide")
    return found


def random_scores(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Scores that hide any weight as likely as any other.

    Args:
        generator: on the CPU.
    """
    return {name: torch.rand(layer.weight.shape, generator=generator) for name, layer in convolutions(model).items()}


def equal_scores(model: nn.Module) -> dict[str, Tensor]:
    """Scores that are all alike, as `hidden_masks` takes them: weights are hidden by their position alone, filter after
    filter from the first on.

    Returns: convolution -> zeros of its weight's shape.
    """
    return {name: torch.zeros(layer.weight.shape) for name, layer in convolutions(model).items()}


def hidden_masks(model: nn.Module, scores: Mapping[str, Tensor], share: float) -> Masks:
    """Masks that hide the int(numel * share) weights of largest score of each convolution.

    Equal scores: the first in (out, in, kh, kw) is hidden first. Other layers are not hidden, as the attacker does not
    train them.

    Args:
        scores: layer -> scores of the weight's shape; layers that are not convolutions are passed over.
        share: in [0, 1].
    Returns: masks, True where the attacker sees the weight.
    Raises: ValueError for a convolution without scores.
    """
    layers = convolutions(model)
    missing = [name for name in layers if name not in scores]
    if missing:
        raise ValueError(f"no scores of convolution {missing[0]!r}: scores are there of {', '.join(scores) or 'none'}")
    return masks_of(ranking({name: scores[name] for name in layers}, descending=True), share)


def visible_norm(model: nn.Module, masks: Mapping[str, Tensor]) -> float:
    """The share of the convolutions' squared norm that masks leave to the attacker, averaged over the layers."""
    shares = []
    for name, layer in convolutions(model).items():
        squares = layer.weight.detach().double().square()
        shares.append(float(squares[masks[name]].sum() / squares.sum()))
    return sum(shares) / len(shares)


def labelled(victim: nn.Module, images: ImageSet, batch: int = 500) -> ImageSet:
    """The images with the victim's arg-max, in float32, in place of their labels: what the attacker has."""
    return replace(images, labels=training.predict(victim, images, batch).argmax(dim=1))


class _Watch(training.Hook):
    """Counts the right decisions of each class at the end of every epoch."""

    def __init__(self, bank: Bank, classes: int) -> None:
        self.bank, self.classes = bank, classes
        self.counts: list[Tensor] = []

    def look(self, model: nn.Module, precision: str) -> None:
        self.counts.append(correct_by_class(model, self.bank, self.classes, precision=precision))

    def step(self, run: training.Run) -> None:
        if run.step % run.steps_per_epoch == 0:
            self.look(run.model, run.recipe.precision)


def retrain(
    victim: nn.Module,
    masks: Mapping[str, Tensor],
    images: ImageSet,
    bank: Bank,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
) -> tuple[Tensor, nn.Module]:
    """The attack: the hidden weights at zero, then the convolutions trained on what the victim says.

    The weights of the convolutions are trained, hidden or not; every other parameter (those of batch normalisation,
    the fully connected layer) is the victim's and stays. Batch normalisation works with the batch's statistics while
    training, and takes new running statistics from them, as training does.

    Args:
        victim: is not changed; on the device of `bank`.
        masks: from `hidden_masks`.
        images: the attacker's, from `labelled`.
        bank: test images with their true labels.
        recipe: None: `ATTACK` in the recipe's usual precision.
        seed: of the batch order.
        device: as `lib.compute.device` takes it.
    Returns: right decisions, int64 (epochs + 1, classes): with the weights hidden, and after every epoch; and the
        network that the attacker ends with.
    """
    recipe = recipe or Recipe(arch="given", data=images.name, **ATTACK)
    stolen = apply(copied(victim), masks)
    for parameter in stolen.parameters():
        parameter.requires_grad_(False)
    for layer in convolutions(stolen).values():
        layer.weight.requires_grad_(True)
    watch = _Watch(bank, len(images.classes))
    watch.look(stolen, recipe.precision)
    training.fit(stolen, images, recipe, seed=seed, hooks=[watch], device=device)
    return torch.stack(watch.counts), stolen
