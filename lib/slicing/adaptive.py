"""An attack that knows what slices are made of: PGD that also draws the activations towards those of a clean class.

A slice follows from the activations' differences to their mean, by sorting and by signs: it has no gradient. The
attack minimises a surrogate in its place: the distance of what enters the sliced layers to what enters them on clean
inputs of the class it aims at; either their mean, or one such input (a guide), whose activations give its slice.

Source: Madry et al. 2018, https://arxiv.org/abs/1706.06083 (PGD); Sabour et al. 2016, "Adversarial manipulation of
deep representations", https://arxiv.org/abs/1511.05122 (guides); Carlini and Wagner 2017, "Adversarial examples are
not easily detected", https://arxiv.org/abs/1705.07263 (attacks that know the detector).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.detectors.evasion import Look, evading_pgd

Aim = Callable[[Tensor], Mapping[str, Tensor]]
"""Positions (B,) of the images attacked -> layer -> activations (B, ...) to draw theirs towards."""


@contextmanager
def watching(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The input of each named module at the network's latest pass, as a mapping that every pass refills."""
    seen: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    missing = [layer for layer in layers if layer not in modules]
    if missing:
        raise ValueError(f"the network has no module {', '.join(missing)}")

    def note(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: seen.__setitem__(layer, inputs[0])

    handles = [modules[layer].register_forward_pre_hook(note(layer)) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Activations:
    """What enters layers on clean inputs.

    Attributes:
        means: layer -> mean by class (classes, ...).
        spreads: layer -> mean squared distance of a class's inputs to their mean, (classes,).
    """

    means: Mapping[str, Tensor]
    spreads: Mapping[str, Tensor]

    def towards_means(self, targets: Tensor) -> Aim:
        """Draw towards the class means.

        Args:
            targets: (N,) the class that each image attacked is to be taken for.
        """
        return lambda chosen: {layer: mean[targets[chosen].to(mean.device)] for layer, mean in self.means.items()}


def activations(
    model: nn.Module, images: Tensor, labels: Tensor, classes: int, layers: Sequence[str], batch: int = 100
) -> Activations:
    """Means and spreads, by class, of what enters layers.

    Args:
        model: evaluation mode; images are moved to its device.
        images: (N, C, H, W) in [0, 1], correctly classified training images.
        labels: (N,) their classes; at least one of each.
        classes: how many.
        layers: dotted names of modules.
        batch: images a pass.
    Raises: ValueError for a layer that is not there, or a class without images.
    """
    device = next(model.parameters()).device
    counts = torch.bincount(labels, minlength=classes).to(device)
    if len(counts) != classes or not bool(counts.all()):
        raise ValueError(f"images a class: {counts.tolist()}; at least one of each of the {classes} is wanted")
    sums: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    with watching(model, layers) as seen, torch.no_grad():
        for start in range(0, len(images), batch):
            model(images[start : start + batch].to(device))
            classes_here = labels[start : start + batch].to(device)
            for layer, values in seen.items():
                values = values.double()
                if layer not in sums:
                    sums[layer] = values.new_zeros(classes, *values.shape[1:])
                    squares[layer] = values.new_zeros(classes)
                sums[layer].index_add_(0, classes_here, values)
                squares[layer].index_add_(0, classes_here, values.flatten(1).square().sum(1))
    means = {layer: total / counts.view(-1, *[1] * (total.ndim - 1)) for layer, total in sums.items()}
    # The mean squared distance to the mean is that to the origin less the mean's own.
    spreads = {layer: squares[layer] / counts - means[layer].flatten(1).square().sum(1) for layer in layers}
    return Activations(
        {layer: means[layer].float().clone() for layer in layers},
        {layer: spreads[layer].clamp_min(1e-12).float().clone() for layer in layers},
    )


def towards_guides(model: nn.Module, guides: Tensor, layers: Sequence[str]) -> Aim:
    """Draw towards the activations of clean inputs.

    Args:
        model: the network attacked.
        guides: (N, C, H, W), one for each image attacked, of the class that it is to be taken for.
        layers: as in `activations`.
    """
    device = next(model.parameters()).device

    def aim(chosen: Tensor) -> Mapping[str, Tensor]:
        with watching(model, layers) as seen, torch.no_grad():
            model(guides[chosen.to(guides.device)].to(device))
            return dict(seen)

    return aim


def adaptive_pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    aim: Aim,
    spreads: Mapping[str, Tensor],
    weight: float,
    epsilon: float,
    steps: int = 40,
    seed: int = 0,
    batch: int = 100,
) -> tuple[Tensor, Tensor, Tensor]:
    """PGD in an L_inf ball that minimises cross-entropy to a target class plus `weight` times the surrogate.

    The surrogate is the squared distance of what enters each layer to the aim's, in units of the target class's own
    spread, averaged over layers: 1 is as far from the mean as a clean input is. Of the iterates that the network
    misclassifies the one with the smallest surrogate is kept; with weight 0 the last one, as by an attacker who does
    not know the detector.

    Args:
        model: evaluation mode, from images in [0, 1] to logits.
        images: (N, C, H, W) in [0, 1].
        labels: (N,) true classes.
        targets: (N,) classes to be taken for, other than the labels.
        aim: what to draw activations towards.
        spreads: layer -> (classes,) from `Activations`; its layers are those of the surrogate.
        weight: from 0.
        epsilon: L_inf radius in [0, 1] units.
        steps: gradient steps, from 1.
        seed: of the random start.
        batch: images a pass.
    Returns: on the CPU: images (N, C, H, W), the clean one where no iterate was misclassified; success, bool (N,); the
        surrogate of each, float32 (N,), infinite where there is no success.
    Raises: ValueError for a target that is the label.
    """
    device = next(model.parameters()).device

    def look_of(chosen: Tensor) -> Look:
        wanted = {layer: values.detach() for layer, values in aim(chosen).items()}
        target = targets[chosen].to(device)

        def look(x: Tensor) -> tuple[Tensor, Tensor]:
            with watching(model, list(spreads)) as seen:
                logits = model(x)
                return logits, surrogate(seen, wanted, spreads, target)

        return look

    made = evading_pgd(look_of, images, labels, targets, weight, epsilon, steps, seed, batch, device)
    return made.images, made.success, made.distance


def surrogate(
    seen: Mapping[str, Tensor], wanted: Mapping[str, Tensor], spreads: Mapping[str, Tensor], targets: Tensor
) -> Tensor:
    """Squared distance of activations to those wanted, in units of the class's spread, mean over layers, (B,).

    Args:
        seen, wanted: layer -> activations (B, ...).
        spreads: layer -> (classes,).
        targets: (B,) classes.
    """
    found = [(seen[layer] - wanted[layer]).flatten(1).square().sum(1) / spreads[layer][targets] for layer in spreads]
    return torch.stack(found).mean(dim=0)
