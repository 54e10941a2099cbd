"""Gradual magnitude pruning while training: the smallest weights of each layer become zero and stay zero.

Source: Zhu and Gupta, "To prune, or not to prune", 2017, https://arxiv.org/abs/1710.01878, section 3;
Maestrati 2020, Figures 1-4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from lib.models.layers import weight_layers
from lib.training import Hook


def schedule(t: float, begin: float, every: float, updates: int, final: float, initial: float = 0.0) -> float:
    """Sparsity after `t` optimiser steps: s_f + (s_i - s_f)(1 - (t - t0)/(n dt))^3, held before and after.

    Args:
        t: optimiser steps done, >= 0.
        begin: t0, step of the first mask.
        every: dt, steps between two masks, > 0.
        updates: n, number of masks after the first, >= 1; the final sparsity is reached at t0 + n dt.
        final, initial: s_f and s_i, shares of zero weights in [0, 1].

    Returns:
        Share of zero weights in [0, 1]; `initial` before t0 and `final` from t0 + n dt on.

    Source: Zhu and Gupta 2017, equation 1.
    """
    progress = min(max((t - begin) / (updates * every), 0.0), 1.0)
    return final + (initial - final) * (1.0 - progress) ** 3


def grow_mask(weight: Tensor, mask: Tensor, sparsity: float) -> Tensor:
    """A mask with round(sparsity * weight.numel()) zeros: the old zeros, then the smallest |w| of the rest.

    Args:
        weight: any shape.
        mask: bool, same shape, True where a weight is kept.
        sparsity: wanted share of zeros in [0, 1]; a mask that already has as many is returned as it is.

    Returns:
        bool mask of the same shape; its zeros include those of `mask`.
    """
    kept = weight.detach()[mask]
    more = round(sparsity * weight.numel()) - (weight.numel() - kept.numel())
    if more <= 0:
        return mask
    grown = mask.clone()
    grown[mask] = prune.L1Unstructured(amount=more).compute_mask(kept, torch.ones_like(kept)).bool()
    return grown


def sparsity(model: nn.Module) -> dict[str, float]:
    """Share of exactly zero weights of every Conv2d and Linear layer, by dotted name."""
    return {name: float((layer.weight == 0).double().mean()) for name, layer in weight_layers(model).items()}


class GradualPruning(Hook):
    """Training hook: zeroes the smallest |w| of each layer, more of them step by step, and keeps them at zero.

    Every Conv2d and Linear weight is pruned, first and last layer too, each layer to the same share;
    biases and normalisation are not. After each optimiser step the mask is applied in place to the weight and to every
    optimiser buffer of its shape (momentum, exp_avg, exp_avg_sq), so that no masked weight carries momentum.
    Before step `begin` the hook does nothing, to the bit.

    Args:
        final_sparsity: s_f, share of zero weights of each layer at the end, in [0, 1); exact to one weight.
        initial_sparsity: s_i, share at `begin`, in [0, final_sparsity].
        begin, end: first and last mask, in epochs (may be fractions), 0 <= begin < end <= epochs of the recipe.
        every: optimiser steps between two masks, >= 1; reduced to the length of begin..end when that is shorter.

    Raises:
        ValueError: a sparsity, epoch or interval outside its range.

    Source: Zhu and Gupta 2017, section 3.
    """

    version = 1

    def __init__(
        self,
        final_sparsity: float,
        initial_sparsity: float = 0.0,
        begin: float = 0.0,
        end: float = 1.0,
        every: int = 1,
    ) -> None:
        if not 0.0 <= initial_sparsity <= final_sparsity < 1.0:
            raise ValueError(
                f"need 0 <= initial_sparsity <= final_sparsity < 1, got {initial_sparsity} and {final_sparsity}"
            )
        if not 0.0 <= begin < end:
            raise ValueError(f"need 0 <= begin < end (epochs), got {begin} and {end}")
        if every < 1 or every != int(every):
            raise ValueError(f"every is a whole number of optimiser steps >= 1, got {every}")
        self.final, self.initial = float(final_sparsity), float(initial_sparsity)
        self.begin_epoch, self.end_epoch, self.every = float(begin), float(end), int(every)
        self.masks: dict[str, Tensor] = {}
        self._layers: dict[str, nn.Conv2d | nn.Linear] = {}
        self._factors: dict[str, Tensor] = {}  # the masks as numbers of the weights' type

    def begin(self, run: Any) -> None:
        self.first = round(self.begin_epoch * run.steps_per_epoch)
        last = max(round(self.end_epoch * run.steps_per_epoch), self.first + 1)
        if last > run.total_steps:
            raise ValueError(
                f"pruning ends at epoch {self.end_epoch} (step {last}), after the run's last step {run.total_steps}"
            )
        self.interval = min(self.every, last - self.first)
        self.updates = (last - self.first) // self.interval
        self._layers = weight_layers(run.model)
        self.masks, self._factors = {}, {}
        if run.step > self.first:
            raise ValueError(
                f"pruning begins at step {self.first}, before the step {run.step} that training goes on from"
            )
        if run.step == self.first:
            self._grow(run.step)
            self._apply(run.optimizer)

    def step(self, run: Any) -> None:
        since = run.step - self.first
        if since < 0:
            return
        if since % self.interval == 0 and since <= self.updates * self.interval:
            self._grow(run.step)
        self._apply(run.optimizer)

    def end(self, run: Any) -> None:
        for name, layer in self._layers.items():
            zeros = layer.weight.numel() - int(self.masks[name].sum())
            wanted = round(self.final * layer.weight.numel())
            if zeros != wanted or bool(layer.weight.detach()[~self.masks[name]].any()):
                raise RuntimeError(f"layer {name}: {zeros} masked weights at the end, {wanted} expected")

    def state(self) -> dict[str, Any]:
        return dict(self.masks)

    def load_state(self, state: Mapping[str, Any]) -> None:
        unknown = set(state) - set(self._layers)
        if unknown:
            raise ValueError(f"saved masks of {sorted(unknown)}, but the pruned layers are {list(self._layers)}")
        self.masks = {name: mask.to(self._layers[name].weight.device, torch.bool) for name, mask in state.items()}
        self._factors = {}

    def _grow(self, t: int) -> None:
        share = schedule(t, self.first, self.interval, self.updates, self.final, self.initial)
        for name, layer in self._layers.items():
            mask = self.masks.get(name)
            if mask is None:
                mask = torch.ones_like(layer.weight, dtype=torch.bool)
            self.masks[name] = grow_mask(layer.weight, mask, share)
        self._factors = {}

    @torch.no_grad()
    def _apply(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._factors:  # kept until the masks change
            self._factors = {name: mask.to(self._layers[name].weight.dtype) for name, mask in self.masks.items()}
        masked, factors = [], []
        for name, factor in self._factors.items():
            weight = self._layers[name].weight
            state = optimizer.state.get(weight, {}).values()
            held = [weight, *(b for b in state if isinstance(b, Tensor) and b.shape == weight.shape)]
            masked += held
            factors += [factor] * len(held)
        zero_where_masked(masked, factors)


def zero_where_masked(tensors: list[Tensor], factors: list[Tensor]) -> None:
    """Set tensors to +0 where their factor is 0, in place, in two launches on a GPU however many they are.

    Args:
        tensors: finite; all of one type and on one device.
        factors: of the tensors' shapes and type, 0 or 1.
    """
    if tensors:
        torch._foreach_mul_(tensors, factors)
        torch._foreach_add_(tensors, 0.0)  # a negative weight times 0 is -0, other bytes than those of zero
