"""From scores of channels to a structure that meets a budget of multiply-accumulates, by binary search."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from lib.dynamic.cost import Prices, macs
from lib.dynamic.errors import DynamicError
from lib.dynamic.scratch.gates import Gates


@dataclass(frozen=True)
class Structure:
    """Which channels a narrower network keeps.

    Attributes:
        keep: convolution -> bool (C_out,) on the CPU, True where the channel stays.
        channels: convolution -> how many stay; at least one.
        macs: multiply-accumulates of one image.
        share: macs over those of the network the budget is a share of.
        dropped: share of the channels that goes.
        iterations: structures that the search looked at.
        seconds: what the search took.
    """

    keep: Mapping[str, Tensor]
    channels: Mapping[str, int]
    macs: int
    share: float
    dropped: float
    iterations: int
    seconds: float = field(default=0.0, compare=False)


def search_threshold(
    model: nn.Module,
    gates: Gates | Mapping[str, Tensor],
    budget: float,
    shape: tuple[int, ...],
    *,
    steps: int = 10,
    tolerance: float = 1e-3,
    reference: nn.Module | int | None = None,
) -> Structure:
    """The share of channels to drop, smallest gates first over all layers, whose network meets the budget.

    A binary search over how many channels go. It ends within `tolerance` of the budget, after `steps` structures, or
    where one channel more or less is all that is left to choose; the best structure seen counts (of two equally near,
    the smaller). The largest gate of a layer never goes. Among equal gates (many are zero) those farther back in their
    layer, as a share of its width, go first, then those of later layers: gates that are all equal narrow every layer
    alike. Ours are the rule for equal gates, the best structure instead of the last, that no layer is emptied, and that
    the tolerance is relative to what stays: in the released code it is relative to what goes.

    Args:
        model: the network that the gates belong to.
        gates: learned gates, or any scores: convolution -> (C_out,).
        budget: multiply-accumulates, as a share of the reference's, in (0, 1].
        shape: (channels, height, width) of an image.
        steps: largest number of structures looked at.
        tolerance: of the budget, relative.
        reference: the unexpanded network or its multiply-accumulates; None: the model itself.
    Returns: the structure.
    Raises: DynamicError where no structure is small enough, or settings are out of range.
    Source: Wang et al. 2020, https://arxiv.org/abs/1909.12579, section 3.2.
    """
    began = time.perf_counter()
    scores = gates.values if isinstance(gates, Gates) else gates
    if not 0 < budget <= 1:
        raise DynamicError(f"budget is {budget}: a share of the network's multiply-accumulates, above 0, up to 1")
    if steps < 1:
        raise DynamicError(f"steps is {steps}: from 1")
    prices = Prices.of(model, shape)
    unknown = [name for name in scores if prices.channels.get(name) != len(scores[name])]
    if unknown or not scores:
        raise DynamicError(
            f"scores of {unknown[0] if unknown else 'no layer'} do not fit: one score a channel is wanted, for any of "
            f"{dict(prices.channels)}"
        )
    whole = prices.total({}) if reference is None else reference
    target = budget * (macs(whole, shape) if isinstance(whole, nn.Module) else whole)
    order = drop_order(scores)
    widths = np.array([len(score) for score in scores.values()])

    def counts(dropped: int) -> dict[str, int]:
        gone = np.bincount(order[:dropped, 0], minlength=len(widths))
        return dict(zip(scores, (widths - gone).tolist(), strict=True))

    dropped, iterations = _nearest(lambda n: prices.total(counts(n)), len(order), target, steps, tolerance, budget)
    keep = {name: torch.ones(len(score), dtype=torch.bool) for name, score in scores.items()}
    for place, name in enumerate(scores):
        keep[name][order[:dropped][order[:dropped, 0] == place, 1]] = False
    kept, found = counts(dropped), int(prices.total(counts(dropped)))
    share, gone = found / (target / budget), dropped / int(widths.sum())
    return Structure(keep, kept, found, share, gone, iterations, time.perf_counter() - began)


def drop_order(scores: Mapping[str, Tensor]) -> np.ndarray:
    """The channels in the order in which they go; the best of each layer is not among them.

    Args:
        scores: convolution -> (C_out,), finite.
    Returns: int64 (channels - layers, 2): place of the layer in `scores`, channel; ties as `search_threshold` says.
    Raises: DynamicError for a score that is not finite.
    """
    parts = []
    for place, (name, score) in enumerate(scores.items()):
        value = score.detach().cpu().double().numpy()
        if not np.isfinite(value).all():
            raise DynamicError(f"scores of {name} are not finite")
        channel = np.arange(len(value))
        front = (len(value) - channel - 0.5) / len(value)  # 1 at the first channel of a layer, 0 at the last
        part = np.stack([value, front, np.full(len(value), -place), channel], axis=1)
        parts.append(np.delete(part, int(value.argmax()), axis=0))
    whole = np.concatenate(parts)
    order = np.lexsort((whole[:, 2], whole[:, 1], whole[:, 0]))
    return np.stack([-whole[order, 2], whole[order, 3]], axis=1).astype(np.int64)


def _nearest(
    cost: Callable[[int], int], most: int, target: float, steps: int, tolerance: float, budget: float
) -> tuple[int, int]:
    """How many channels to drop, 0 to `most`, for a cost nearest the target; and how many costs were asked for."""
    if cost(0) <= target * (1 + tolerance):
        return 0, 1
    if cost(most) > target * (1 + tolerance):
        raise DynamicError(
            f"a budget of {budget} cannot be met: with one channel a layer, {cost(most):,} multiply-accumulates are "
            f"left of the {target:,.0f} allowed; the layers that no gate prunes cost too much: raise the budget"
        )
    low, high, asked = 0, most, 0
    best = (abs(cost(most) - target), cost(most), most)
    while high - low > 1 and asked < steps:
        middle = (low + high) // 2
        found, asked = cost(middle), asked + 1
        best = min(best, (abs(found - target), found, middle))
        if abs(found - target) <= tolerance * target:
            break
        low, high = (middle, high) if found > target else (low, middle)
    return best[2], max(1, asked)
