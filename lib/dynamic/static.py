"""Static pruning to compare with, at a budget of multiply-accumulates: L1 norm, network slimming, uniform narrowing.

The scores of channels are torch-pruning's; the search for the budget is the one that pruning from scratch uses, so that
structures differ in their scores only.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from lib.dynamic.channels import gated_sites
from lib.dynamic.scratch.search import Structure, search_threshold
from lib.training import Hook, Run


class Slimming(Hook):
    """Adds the L1 norm of the scales of batch normalisation to the loss, where channels are free.

    Args:
        weight: of the norm; 1e-4 is the source's for VGG, 1e-5 for its ResNet.
    Source: Liu et al. 2017, https://arxiv.org/abs/1708.06519, equation 1.
    """

    def __init__(self, weight: float = 1e-4) -> None:
        self.weight = weight
        self.scales: list[Tensor] = []

    def begin(self, run: Run) -> None:
        norms = [site.norm for site in gated_sites(run.model).values()]
        self.scales = [run.model.get_submodule(norm).weight for norm in norms]  # type: ignore[misc]

    def loss(self, run: Run, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return loss + self.weight * torch.cat([scale.abs() for scale in self.scales]).sum()


def l1_structure(model: nn.Module, budget: float, shape: tuple[int, ...], reference: Any = None) -> Structure:
    """The same share of every free convolution's filters goes, those of the smallest L1 norm.

    Args:
        model: a trained network.
        budget: multiply-accumulates, as a share of the reference's, in (0, 1].
        shape: (channels, height, width) of an image.
        reference: as `search_threshold` takes it.
    Returns: the structure; shares are equal up to one channel.
    Raises: DynamicError where the budget cannot be met.
    Source: Li et al. 2017, https://arxiv.org/abs/1608.08710, section 3.1.
    """
    scores = {name: by_rank(score) for name, score in filter_norms(model, shape).items()}
    return search_threshold(model, scores, budget, shape, reference=reference)


def slimming_structure(
    model: nn.Module, budget: float, shape: tuple[int, ...], reference: Any = None, least: float = 0.0
) -> Structure:
    """The channels of the smallest |scale| of batch normalisation go, over all free convolutions together.

    Args:
        model: a network trained with `Slimming`.
        budget, shape, reference: as `l1_structure` takes them.
        least: share of each layer's channels that only go when no others are left, in [0, 1]. 0 is the source's: a
            layer whose scales are small as a whole may be left with one channel.
    Returns: the structure.
    Raises: DynamicError where the budget cannot be met.
    Source: Liu et al. 2017, https://arxiv.org/abs/1708.06519, section 3; `least` is ours.
    """
    scores = norm_scales(model, shape)
    top = max(score.max() for score in scores.values())
    for score in scores.values():
        score[score.argsort(descending=True, stable=True)[: math.ceil(least * len(score))]] += top
    return search_threshold(model, scores, budget, shape, reference=reference)


def uniform_structure(model: nn.Module, budget: float, shape: tuple[int, ...], reference: Any = None) -> Structure:
    """The same share of every free convolution's channels goes, the last ones.

    Args:
        model: any network; its weights do not matter.
        budget, shape, reference: as `l1_structure` takes them.
    Returns: the structure; shares are equal up to one channel. Widths that an addition ties together stay.
    Raises: DynamicError where the budget cannot be met.
    """
    scores = {name: torch.zeros(site.channels) for name, site in gated_sites(model).items()}
    return search_threshold(model, scores, budget, shape, reference=reference)


def by_rank(score: Tensor) -> Tensor:
    """Scores in one layer replaced by the share of its channels that lie below: layers then lose equal shares.

    Args:
        score: (C,).
    Returns: float64 (C,), from 1/(2 C) at the smallest score (of equals, the last) to 1 - 1/(2 C).
    """
    order = score.detach().double().flip(0).argsort(stable=True)
    ranks = torch.empty(len(score), dtype=torch.float64)
    ranks[(len(score) - 1 - order).cpu()] = (torch.arange(len(score)) + 0.5).double() / len(score)
    return ranks


def filter_norms(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """L1 norm of each filter of the free convolutions, as torch-pruning computes it.

    Args:
        model: any network with free convolutions.
        shape: (channels, height, width) of an image.
    Returns: convolution -> float (C_out,).
    """
    import torch_pruning as tp

    scorer = tp.importance.MagnitudeImportance(p=1, group_reduction="first", normalizer=None)
    return _scores(model, shape, scorer)


def norm_scales(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """|scale| of batch normalisation behind each free convolution, as torch-pruning computes it.

    Args:
        model, shape: as `filter_norms` takes them.
    Returns: convolution -> float (C_out,); where depthwise convolutions follow, the mean over their scales too.
    """
    import torch_pruning as tp

    return _scores(model, shape, tp.importance.BNScaleImportance(group_reduction="mean", normalizer=None))


def _scores(model: nn.Module, shape: tuple[int, ...], scorer: Any) -> dict[str, Tensor]:
    """torch-pruning's importance of each channel, group by group of its dependency graph; the model stays as it is."""
    import torch_pruning as tp

    work = copy.deepcopy(model).float().cpu().eval().requires_grad_(True)  # its graph follows the gradients
    graph = tp.DependencyGraph().build_dependency(work, example_inputs=torch.zeros(1, *shape))
    found = {}
    for name, site in gated_sites(work).items():
        layer = work.get_submodule(name)
        group = graph.get_pruning_group(layer, tp.prune_conv_out_channels, idxs=list(range(site.channels)))
        found[name] = scorer(group).detach()
    return found
