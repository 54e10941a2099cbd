"""Which weights to drop: scores of synapses, their order within a layer, and masks.

A synapse's score is the sum of |CONTRIB| over a class's clean training inputs, of several classes the sum of theirs.

Source: NNSlicer (Zhang et al., FSE 2020), sections on network simplification and model protection,
https://arxiv.org/abs/2009.13747.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from lib.graph import parametrised
from lib.models.layers import weight_layers

Masks = dict[str, Tensor]
"""Dotted layer name -> bool of the weight's shape, True where a weight is kept."""


def subsets(classes: int = 10, size: int = 4, count: int | None = None, seed: int = 0) -> list[tuple[int, ...]]:
    """The subsets of target classes, all of them or a seeded sample, in lexicographic order.

    Args:
        classes, size: C(classes, size) subsets there are; 210 of four in ten.
        count: how many; None or more than there are: all.
        seed: of the sample; the same subsets for every network and method.
    Raises: ValueError where size does not fit, or count is below 1.
    """
    if not 1 <= size <= classes:
        raise ValueError(f"subsets of {size} classes out of {classes}: want 1 <= size <= classes")
    if count is not None and count < 1:
        raise ValueError(f"{count} subsets of classes: want at least one, or None for all")
    every = list(itertools.combinations(range(classes), size))
    if count is None or count >= len(every):
        return every
    chosen = np.random.RandomState(seed).permutation(len(every))[:count]
    return [every[index] for index in sorted(chosen)]


def subset_scores(scores: Mapping[str, Tensor], classes: Sequence[int]) -> dict[str, Tensor]:
    """A score for each synapse: the sum of the classes' own.

    Args:
        scores: layer -> (classes of the network, *weight.shape), integers.
        classes: the target classes, each once.
    Returns: layer -> int64 of the weight's shape.
    Raises: ValueError for classes that repeat or do not exist.
    """
    known = min(len(score) for score in scores.values())
    if len(classes) == 0 or len({*classes}) != len(classes) or not all(0 <= index < known for index in classes):
        raise ValueError(f"target classes {tuple(classes)}: want different ones from 0 to {known - 1}")
    return {layer: score[list(classes)].sum(dim=0) for layer, score in scores.items()}


def weight_scores(model: nn.Module) -> dict[str, Tensor]:
    """|w| of every Conv2d and Linear layer: the score of Weight."""
    return {name: layer.weight.detach().abs() for name, layer in weight_layers(model).items()}


def share(numel: int, ratio: float) -> int:
    """int(numel * ratio), where a product that rounding left just below a whole number is that number.

    Raises: ValueError for a ratio outside [0, 1].
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"a share of the weights lies in [0, 1], not {ratio}")
    return int(numel * ratio + 1e-9)


def ranking(
    scores: Mapping[str, Tensor], descending: bool = False, ties: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The place of every weight in its layer's order of scores, from 0.

    Equal scores are in the order of their position (out, in, kh, kw): stable, so that a mask is one and the same on
    every machine. A slice leaves many weights at zero, so that position decides among them.

    Args:
        scores: layer -> real numbers, not NaN.
        descending: whether the largest comes first.
        ties: layer -> a second score that orders equal ones, in the same direction; None: their position alone.
    Returns: layer -> int64 of the score's shape.
    Raises: ValueError naming a layer with NaN.
    """
    places = {}
    for layer, score in scores.items():
        flat = score.flatten()
        if flat.is_floating_point() and bool(flat.isnan().any()):
            raise ValueError(f"layer {layer}: scores hold NaN")
        if ties is None:
            order = flat.argsort(stable=True, descending=descending)
        else:
            first = ties[layer].flatten().argsort(stable=True, descending=descending)
            order = first[flat[first].argsort(stable=True, descending=descending)]
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        places[layer] = place.view(score.shape)
    return places


def masks_of(places: Mapping[str, Tensor], ratio: float) -> Masks:
    """Masks that drop the first int(numel * ratio) weights of each layer's ranking.

    Args:
        places: from `ranking`; ascending to prune the lowest, descending to hide the highest.
        ratio: share to drop, in [0, 1].
    """
    return {layer: place >= share(place.numel(), ratio) for layer, place in places.items()}


def channel_masks(model: nn.Module, ratio: float, output: str | None = None) -> Masks:
    """Masks of whole channels: of each layer the int(channels * ratio) output channels of smallest sum |w|.

    The output layer is the exception. Its output channels are the logits, and to drop one is to give up its class
    whatever the target; there the int(inputs * ratio) *input* channels of smallest sum |w| go, so that the layer loses
    the same share of its weights as the others. Equal sums: the first goes first.

    Args:
        ratio: share of channels to drop, in [0, 1].
        output: name of the layer that gives the logits; None: the last layer, where it is Linear.
    Returns: masks.
    Raises: ValueError for an output layer that does not exist.
    """
    layers = weight_layers(model)
    last = list(layers)[-1]
    output = output or (last if isinstance(layers[last], nn.Linear) else "")
    if output and output not in layers:
        raise ValueError(f"no layer {output!r} to take for the output: one of {', '.join(layers)}")
    masks = {}
    for name, layer in layers.items():
        weight = layer.weight.detach().abs().double()
        axis = 1 if name == output else 0
        sums = weight.sum(dim=[d for d in range(weight.ndim) if d != axis])
        kept = masks_of(ranking({name: sums}), ratio)[name]
        shape = [-1 if d == axis else 1 for d in range(weight.ndim)]
        masks[name] = kept.view(shape).expand_as(weight).clone()
    return masks


def whole_masks(model: nn.Module, method: str, ratio: float) -> Masks:
    """Masks of a method that knows no target.

    Args:
        method: "weight", "channel", or "" for masks that drop nothing.
        ratio: share to drop, in [0, 1].
    """
    if method == "channel":
        return channel_masks(model, ratio)
    return masks_of(ranking(weight_scores(model)), ratio) if method == "weight" else {}


def by_position(scores: Mapping[str, Tensor], places: Mapping[str, Tensor], ratio: float) -> float:
    """The share of dropped weights that only their position told from a kept one, as their scores are equal.

    Args:
        scores, places: layer -> scores, and their `ranking`.
        ratio: as in `masks_of`.
    Returns: a share in [0, 1]; 0 where nothing is dropped.
    """
    tied = dropped = 0
    for layer, place in places.items():
        count, score = share(place.numel(), ratio), scores[layer]
        dropped += count
        if 0 < count < place.numel():
            edge = score[place == count - 1]
            if bool(score[place == count] == edge):
                tied += int(((score == edge) & (place < count)).sum())
    return tied / dropped if dropped else 0.0


def apply(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Set the weights that masks drop to zero, in place.

    Raises: ValueError for a layer that does not exist or whose weights are computed from others, or a mask that is not
        bool of the weight's shape.
    """
    layers = weight_layers(model)
    computed = [name for name in parametrised(model) if name in masks]
    if computed:
        raise ValueError(
            f"the weights of {computed[:3]} are computed at every call (pruning, weight norm, spectral norm): a mask "
            "on them would be lost; mask lib.graph.copied(model), whose weights are plain"
        )
    for name, mask in masks.items():
        if name not in layers:
            raise ValueError(
                f"mask of layer {name!r}, which is no Conv2d or Linear layer of the network: one of {', '.join(layers)}"
            )
        weight = layers[name].weight
        if mask.shape != weight.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"layer {name}: the mask is {mask.dtype} {tuple(mask.shape)}; want bool {tuple(weight.shape)}"
            )
        with torch.no_grad():
            weight.masked_fill_(~mask.to(weight.device), 0.0)
    return model


@contextmanager
def masked(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """The network with masks applied; its own weights are given back at the end."""
    dense = {name: layer.weight.detach().clone() for name, layer in weight_layers(model).items()}
    try:
        yield apply(model, masks)
    finally:
        with torch.no_grad():
            for name, layer in weight_layers(model).items():
                layer.weight.copy_(dense[name])
