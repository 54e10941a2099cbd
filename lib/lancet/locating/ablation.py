"""Progressive ablation: the smallest part of a layer's weights whose removal makes the error go away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
import torch
from numba import njit
from torch import Tensor, fx, nn

from lib.lancet.locating.tail import Network, Point, as_columns, as_outputs, columns

DIGITS, EXPONENTS = range(1, 10), range(6, 0, -1)
ROWS = 64  # images that the rest of the network is run on at once
VALUES = 2**25  # floats of the layer's changed outputs that are held at once
MARGIN = 1e-4
"""Logits nearer to a decision than this, relative to the largest before or after, are computed again from the start:
where all of a last layer goes, nothing but rounding is left of them."""


def fractions() -> list[float]:
    """The parts of a layer that are tried: j 10^-u for u = 6..1, j = 1..9."""
    return [j * 10.0**-u for u in EXPONENTS for j in DIGITS]


def counts_of(parts: list[float], weights: int, usable: int) -> list[int]:
    """Numbers of weights of those parts: max(1, ceil(r N)), at most the usable ones, each once."""
    return sorted({min(max(1, ceil(part * weights - 1e-9)), usable) for part in parts}) if usable else []


def refined(part: float) -> list[float]:
    """The ten steps of a tenth that lead up to a part of `fractions`."""
    exponent = next((u for u in EXPONENTS if part < 10.0 ** (1 - u) * (1 - 1e-9)), 1)
    digit = round(part * 10**exponent)
    return [(digit - 1 + step / 10) * 10.0**-exponent for step in range(1, 11)]


@dataclass(frozen=True)
class Ablation:
    """What progressive ablation found in one layer.

    Attributes:
        order: int64 (K, N): a pair's weights by importance, the largest first, ties by index.
        counts: int64 (K,): how many of them are the pair's error-inducing set; 0 where no part repairs it.
    """

    order: Tensor
    counts: Tensor


def search(
    network: Network,
    point: Point,
    values: Mapping[fx.Node, Tensor],
    important: Tensor,
    right: Callable[[Tensor, Tensor], Tensor],
    tensors: bool = False,
) -> Ablation:
    """The smallest of the tried parts of a layer whose removal makes the predictions of each image right.

    Weights go in order of importance, only those whose importance is above 0. Every part is tried on all pairs that
    are still wrong at once, and only the calls behind the layer are run again; each part's output is the last one's
    less what the weights added to it contribute. A decision by a hair is made again on the whole network.

    Args:
        network: in float32.
        values: what `network.record` gives for the K wrong images.
        important: float (K, *weight.shape), never negative.
        right: from logits (R, classes) and the pair of each row (R,), whether the prediction is as wanted.
        tensors: work as on a GPU, by tensor operations only, on the CPU too.
    Source: Zhao et al. 2021, section on progressive ablation, with its modified search.
    """
    order = descending(important.float().flatten(1))
    usable = (important.float().flatten(1) > 0).sum(1).tolist()
    size = order.shape[1]
    ladder = [counts_of(fractions(), size, most) for most in usable]
    trial = _Trial(network, point, values, order, right, tensors)
    coarse = trial.first(ladder)
    finer: list[list[int]] = []
    for pair, count in enumerate(coarse.tolist()):
        if not count:
            finer.append([])
            continue
        part = next(p for p in fractions() if min(max(1, ceil(p * size - 1e-9)), usable[pair]) == count)
        tried = set(ladder[pair])
        finer.append([n for n in counts_of(refined(part), size, usable[pair]) if n not in tried and n < count])
    fine = trial.first(finer)
    return Ablation(order, torch.where(fine > 0, fine, coarse))


def descending(values: Tensor) -> Tensor:
    """Indices (K, N) of non-negative float32 values (K, N) from the largest down, equal ones by index."""
    if values.device.type != "cpu":
        return values.argsort(dim=1, descending=True, stable=True)
    order = torch.empty(values.shape, dtype=torch.int64)
    _radix_order(values.contiguous().numpy().view(np.uint32), order.numpy())
    return order


class _Trial:
    def __init__(
        self,
        network: Network,
        point: Point,
        values: Mapping[fx.Node, Tensor],
        order: Tensor,
        right: Callable[[Tensor, Tensor], Tensor],
        tensors: bool,
    ) -> None:
        self.network, self.point, self.values, self.order, self.right = network, point, values, order, right
        self.tensors = tensors
        self.weight = point.module.weight.detach().flatten().contiguous()
        self.layout = network.layout(point.node)
        self.outputs = as_columns(point.module, self.layout, values[point.node])
        groups = point.module.groups if isinstance(point.module, nn.Conv2d) else 1
        self.read = columns(point.module, values[point.source], network.layout(point.source)).contiguous()
        self.fan_in, self.places = self.read.shape[2], self.read.shape[3]
        self.per_group = self.outputs.shape[1] // groups

    def first(self, ladders: list[list[int]]) -> Tensor:
        """For each pair the first of its counts, ascending, whose removal makes it right; 0 where none does."""
        found = torch.zeros(len(ladders), dtype=torch.int64)
        position = [0] * len(ladders)
        done = [0] * len(ladders)  # weights whose contributions are already out of `current`
        current = self.outputs.clone()
        active = [pair for pair, ladder in enumerate(ladders) if ladder]
        while active:
            block = max(4, ceil(ROWS / len(active)))
            block = max(1, min(block, VALUES // (len(active) * self.outputs[0].numel())))
            share = max(1, VALUES // (block * self.outputs[0].numel()))
            for part in [active[i : i + share] for i in range(0, len(active), share)]:
                steps = [ladders[pair][position[pair] : position[pair] + block] for pair in part]
                changed = self._without(
                    part, current, [[done[pair], *step] for pair, step in zip(part, steps, strict=True)]
                )
                good = self._judged(part, steps, changed)
                for row, (pair, step) in enumerate(zip(part, steps, strict=True)):
                    hits = [count for count, hit in zip(step, good[row], strict=True) if hit]
                    found[pair] = hits[0] if hits else 0
                    position[pair] += len(step)
                    done[pair] = step[-1]
                    current[pair] = changed[row, len(step) - 1]
            active = [pair for pair in active if not found[pair] and position[pair] < len(ladders[pair])]
        return found

    def _without(self, pairs: list[int], current: Tensor, edges: list[list[int]]) -> Tensor:
        """The layer's outputs (pairs, steps, O, L) without the first edges[k][i] weights of each pair's order.

        What follows the last step of a pair that has fewer of them is undefined.
        """
        if current.device.type == "cpu" and not self.tensors:
            return self._compiled(pairs, current, edges)
        steps = max(len(edge) for edge in edges) - 1
        which, moves = [], []  # weights that go, and the pair and step at which
        for row, (pair, edge) in enumerate(zip(pairs, edges, strict=True)):
            which.append(self.order[pair, edge[0] : edge[-1]])
            sizes = torch.tensor([high - low for low, high in pairwise(edge)])
            moves.append(row * steps + torch.arange(len(sizes)).repeat_interleave(sizes))
        weights, place = torch.cat(which), torch.cat(moves).to(self.order.device)
        delta = self._summed(pairs, steps, weights, place).view(len(pairs), steps, -1, self.places)
        return current[pairs][:, None] - delta.cumsum(1)

    def _compiled(self, pairs: list[int], current: Tensor, edges: list[list[int]]) -> Tensor:
        steps = max(len(edge) for edge in edges) - 1
        bounds = np.array([edge + [edge[-1]] * (steps + 1 - len(edge)) for edge in edges], np.int64)
        changed = current.new_empty(len(pairs), steps, *current.shape[1:])
        _remove(
            *(np.array(pairs, np.int64), bounds, self.order.numpy(), self.weight.numpy()),
            *(self.read.numpy(), current.numpy(), self.per_group, changed.numpy()),
        )
        return changed

    def _summed(self, pairs: list[int], steps: int, weights: Tensor, place: Tensor) -> Tensor:
        """What single weights contribute, added up by pair, step and output channel."""
        channels = self.outputs.shape[1]
        delta = self.weight.new_zeros(len(pairs) * steps * channels, self.places)
        out, into = weights // self.fan_in, weights % self.fan_in
        pair = torch.tensor(pairs, device=place.device)[place // steps]
        target, group = place * channels + out, out // self.per_group
        for part in torch.arange(len(weights), device=place.device).split(max(1, VALUES // self.places)):
            read = self.read[pair[part], group[part], into[part]]
            delta.index_add_(0, target[part], read * self.weight[weights[part], None])
        return delta

    def _judged(self, pairs: list[int], steps: list[list[int]], changed: Tensor) -> list[list[bool]]:
        """Whether each pair is right after each of its steps."""
        width = changed.shape[1]
        rows = [(row, step) for row, counts in enumerate(steps) for step in range(len(counts))]
        index = torch.tensor(rows, device=changed.device)
        good = torch.zeros(len(pairs), width, dtype=torch.bool)
        for part in index.split(ROWS):
            outputs = changed[part[:, 0], part[:, 1]]
            pair = torch.tensor(pairs, device=changed.device)[part[:, 0]]
            put = as_outputs(self.point.module, self.layout, outputs, self.values[self.point.node])
            logits = self.network.rest(self.point, put, self.values, pair)
            verdict = self.right(logits, pair)
            top = logits.topk(2, dim=1).values
            size = torch.maximum(logits.abs().amax(1), self.values[self.network.logits][pair].abs().amax(1))
            near = (top[:, 0] - top[:, 1] < MARGIN * size).nonzero()[:, 0].tolist()
            for hair in near:
                row, step = part[hair].tolist()
                verdict[hair] = self._whole(pairs[row], steps[row][step])
            good[part[:, 0].cpu(), part[:, 1].cpu()] = verdict.cpu()
        return [good[row, : len(counts)].tolist() for row, counts in enumerate(steps)]

    def _whole(self, pair: int, count: int) -> bool:
        """Whether a pair is right without its first weights, on the whole network."""
        module = self.point.module
        kept = module.weight.detach().clone()
        try:
            less = kept.flatten().clone()
            less[self.order[pair, :count]] = 0
            module.weight.copy_(less.view(kept.shape))
            logits = self.network.logits_of(self.values[self.network.input][pair : pair + 1])
        finally:
            module.weight.copy_(kept)
        return bool(self.right(logits, torch.tensor([pair], device=logits.device))[0])


@njit(nogil=True, cache=True)
def _remove(
    pairs: np.ndarray,
    bounds: np.ndarray,
    order: np.ndarray,
    weight: np.ndarray,
    read: np.ndarray,
    current: np.ndarray,
    per_group: int,
    changed: np.ndarray,
) -> None:
    """Fill `changed`: each step is the one before it less what the weights that it removes contribute.

    Args:
        pairs: int64 (P,): rows of the other arrays.
        bounds: int64 (P, S + 1): step s removes the weights order[pair, bounds[s]:bounds[s + 1]].
        order: int64 (K, N): flat indices of weights.
        weight: float32 (N,), of O outputs with J inputs each.
        read: float32 (K, G, J, L): what they are multiplied with.
        current: float32 (K, O, L): outputs before the first step.
        per_group: outputs of a group, O / G.
        changed: float32 (P, S, O, L).
    """
    fan_in, places = read.shape[2], read.shape[3]
    for row in range(len(pairs)):
        pair = pairs[row]
        for step in range(bounds.shape[1] - 1):
            now = changed[row, step]
            now[:] = current[pair] if step == 0 else changed[row, step - 1]
            for place in range(bounds[row, step], bounds[row, step + 1]):
                index = order[pair, place]
                out = index // fan_in
                value = weight[index]
                source = read[pair, out // per_group, index % fan_in]
                target = now[out]
                for k in range(places):
                    target[k] -= value * source[k]


@njit(nogil=True, cache=True)
def _radix_order(bits: np.ndarray, order: np.ndarray) -> None:
    """Fill `order` with the indices of each row from the largest value down, equal ones by index.

    A radix sort in three passes of 11 bits, each stable; five times faster than a comparison sort of the same keys.

    Args:
        bits: uint32 (K, N): of non-negative float32 values, which sort as these integers do.
        order: int64 (K, N).
    """
    rows, size = bits.shape
    keys, next_keys = np.empty(size, np.uint32), np.empty(size, np.uint32)
    index, next_index = np.empty(size, np.int32), np.empty(size, np.int32)
    start = np.empty((3, 2048), np.int64)  # of each digit in each pass
    for row in range(rows):
        start[:] = 0
        for k in range(size):
            key = bits[row, k] & np.uint32(0x7FFFFFFF)  # -0.0 is 0.0
            keys[k], index[k] = key, k
            start[0, key & 2047] += 1
            start[1, (key >> 11) & 2047] += 1
            start[2, key >> 22] += 1
        for turn in range(3):
            before = 0
            for digit in range(2047, -1, -1):
                count = start[turn, digit]
                start[turn, digit] = before
                before += count
            for k in range(size):
                key = keys[k]
                digit = (key >> (11 * turn)) & 2047
                place = start[turn, digit]
                start[turn, digit] = place + 1
                next_keys[place], next_index[place] = key, index[k]
            keys, next_keys = next_keys, keys
            index, next_index = next_index, index
        order[row] = index
