"""How much the choices of a dynamic network differ from image to image, and how much of that follows the class.

A unit that always takes the same row has an entropy of 0: the network is then a static one. Entropy alone is not
usefulness: choices may differ by chance. Mutual information with the class says how far they follow it, but is never
below 0 and, on finitely many images, above 0 even where nothing follows; its values under permuted labels say by how
much.

Source: Wang et al. 2020 (AAAI), https://doi.org/10.1609/aaai.v34i04.6098, which states that decisions follow the class;
entropies and mutual information as in Cover and Thomas, "Elements of information theory", chapter 2. The permutation
baseline is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.dynamic.errors import DynamicError


@dataclass(frozen=True)
class Information:
    """What the choices of one layer tell.

    Attributes:
        entropy: of the choices, bits; at most log2 of the rows.
        information: mutual information of choice and class, bits, the plug-in estimate.
        baseline: mean of the same with the classes permuted among the images: what chance alone gives.
        baseline_high: 95th percentile of the same.
        p_value: share of the permutations, the unpermuted one among them, that reach `information`.
    """

    entropy: float
    information: float
    baseline: float
    baseline_high: float
    p_value: float


def contingency(choices: Tensor, labels: Tensor, rows: int, classes: int) -> Tensor:
    """How many images of each class take each row.

    Args:
        choices: int64 (N,) in 0..rows - 1.
        labels: int64 (N,) in 0..classes - 1.
    Returns: int64 (rows, classes), on the device of the choices.
    Raises: DynamicError where there is no image, or a number is out of its range.
    """
    labels = labels.to(choices.device)
    _check(choices, labels, rows, classes)
    return torch.bincount(choices * classes + labels, minlength=rows * classes).view(rows, classes)


def entropy(counts: Tensor) -> Tensor:
    """Entropy of shares in bits, the plug-in estimate.

    Args:
        counts: (..., K), at least one above 0 along the last axis.
    Returns: float64 (...).
    Source: Cover and Thomas, equation 2.1.
    """
    shares = counts.double() / counts.double().sum(-1, keepdim=True)
    return (-torch.special.xlogy(shares, shares).sum(-1) / math.log(2)).clamp_min(0.0)


def mutual_information(table: Tensor) -> Tensor:
    """Mutual information of row and class in bits, the plug-in estimate: H(row) + H(class) - H(row, class), from 0.

    Args:
        table: (..., rows, classes) counts as `contingency` gives them.
    Returns: float64 (...).
    Source: Cover and Thomas, equation 2.45.
    """
    joint = entropy(table.flatten(-2))
    return (entropy(table.sum(-1)) + entropy(table.sum(-2)) - joint).clamp_min(0.0)


def of_layers(
    choices: Tensor, labels: Tensor, rows: int, classes: int, permutations: int = 200, seed: int = 0
) -> list[Information]:
    """Entropy and mutual information of each layer's choices, with the values of permuted classes beside them.

    Args:
        choices: int64 (N, layers) in 0..rows - 1.
        labels: int64 (N,) in 0..classes - 1.
        permutations: of the labels, the same for every layer; from 20, as a 95th percentile is taken.
        seed: of the permutations.
    Returns: one `Information` a layer.
    Raises: DynamicError as `contingency`, and for fewer permutations.
    """
    if permutations < 20:
        raise DynamicError(f"permutations is {permutations}: 20 at least, as their 95th percentile is taken")
    if choices.ndim != 2:
        raise DynamicError(f"choices have shape {tuple(choices.shape)}: (images, layers) is wanted")
    labels = labels.to(choices.device)
    for layer in choices.unbind(1):
        _check(layer, labels, rows, classes)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(permutations, len(labels), generator=generator).argsort(1).to(choices.device)
    permuted = labels[order] + torch.arange(permutations, device=labels.device)[:, None] * rows * classes
    found = []
    for layer in choices.unbind(1):
        table = contingency(layer, labels, rows, classes)
        places = (permuted + layer[None] * classes).flatten()
        chance = torch.bincount(places, minlength=permutations * rows * classes).view(permutations, rows, classes)
        told, by_chance = mutual_information(table), mutual_information(chance)
        reached = int((by_chance >= told - 1e-12).sum())
        found.append(
            Information(
                entropy=entropy(table.sum(1)).item(),
                information=told.item(),
                baseline=by_chance.mean().item(),
                baseline_high=by_chance.quantile(0.95).item(),
                p_value=(1 + reached) / (1 + permutations),
            )
        )
    return found


def surprisal(choices: Tensor, rows: int) -> Tensor:
    """How rare each image's path is: the sum over layers of -log2 of the share of images that take the same row there.

    Layers are taken one by one, as if they were independent: of whole paths most would be there once.

    Args:
        choices: int64 (N, layers) in 0..rows - 1.
    Returns: float64 (N,), bits, from 0.
    """
    shares = torch.stack([torch.bincount(layer, minlength=rows).double() for layer in choices.unbind(1)]) / len(choices)
    layers = torch.arange(choices.shape[1], device=choices.device)
    return -shares[layers[None], choices].log2().sum(1)


def paths(choices: Tensor) -> tuple[Tensor, Tensor]:
    """The different paths that images take through all layers.

    Args:
        choices: int64 (N, layers).
    Returns: int64 (N,), which path each image takes; int64 (paths,), how many images take each, the most first.
    """
    _, which, counts = torch.unique(choices, dim=0, return_inverse=True, return_counts=True)
    order = torch.argsort(counts, descending=True, stable=True)
    return torch.argsort(order)[which], counts[order]


def _check(choices: Tensor, labels: Tensor, rows: int, classes: int) -> None:
    if choices.ndim != 1 or choices.shape != labels.shape or not len(choices):
        raise DynamicError(
            f"choices {tuple(choices.shape)} and labels {tuple(labels.shape)}: one each for every image, at least one"
        )
    for name, values, end in (("choices", choices, rows), ("labels", labels, classes)):
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= end:
            raise DynamicError(f"{name} lie in {low}..{high}: 0..{end - 1} is wanted")
