"""The backward phase on the CPU: arrays of numpy, loops compiled by numba, inputs in parallel on threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba.core import event
from torch import Tensor

from lib import progress
from lib.slicing import float32, kernels
from lib.slicing.kernels import PRESENCE
from lib.slicing.rules import Rule
from lib.slicing.select import VOID
from lib.slicing.windows import POINTWISE, Convolution, Windows

_kernels: Any = kernels  # numba types its dispatchers as taking nothing


class _Telling(event.Listener):
    """Says when the first loop of this process is compiled, as it takes a while; a loop that is kept is only read."""

    def on_start(self, event_: event.Event) -> None:
        event.unregister("numba:compile", self)
        progress.say("compiling loops, once on this machine: up to a minute")

    def on_end(self, event_: event.Event) -> None:
        pass


event.register("numba:compile", _Telling())


class Engine:
    """Operations of the backward phase on numpy arrays.

    Args:
        rule: whose terms and signs are passed on.
        threads: inputs worked on at once.
    """

    def __init__(self, rule: Rule, threads: int) -> None:
        self.rule = rule
        self.threads = threads

    def array(self, value: Tensor) -> np.ndarray:
        """A tensor as float64 array."""
        return np.ascontiguousarray(value.double().numpy())

    def zeros(self, shape: tuple[int, ...]) -> np.ndarray:
        """Contributions of nothing yet."""
        return np.zeros(shape, np.int32)

    def contributions(self, start: Tensor) -> np.ndarray:
        """Contributions from a tensor."""
        return np.ascontiguousarray(start.numpy())

    def result(self, found: np.ndarray) -> Tensor:
        """Contributions as they are returned: presence is 0 or 1."""
        return torch.from_numpy((found != 0).astype(np.int32) if self.rule.code == PRESENCE else found)

    def marks(self, signs: Tensor, contributions: np.ndarray) -> np.ndarray:
        """What each output neuron's terms are multiplied by; 0 where it is out of the slice."""
        found = signs.numpy()
        if self.rule.code == PRESENCE:
            return np.where(contributions != 0, found, np.int8(0))
        return found * np.sign(contributions).astype(np.int8)

    def split(self, contributions: np.ndarray, sizes: Sequence[int], axis: int) -> list[np.ndarray]:
        """Parts along an axis."""
        return np.split(contributions, np.cumsum(sizes)[:-1], axis)

    def scatter(self, into: np.ndarray, places: Tensor, contributions: np.ndarray) -> None:
        """Add each contribution at its place of the flat target; -1 is nowhere."""
        flat, found = places.flatten().numpy(), contributions.reshape(-1)
        if flat.size == into.size and np.array_equal(flat, np.arange(flat.size)):
            into += found.reshape(into.shape)
        else:
            inside = flat >= 0
            np.add.at(into.reshape(-1), flat[inside], found[inside])

    def gathered(self, contributions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Contributions of a broadcast tensor, added up to the shape it was broadcast from."""
        found = contributions.sum(axis=tuple(range(contributions.ndim - len(shape))), dtype=np.int32)
        axes = tuple(d for d, size in enumerate(shape) if size != found.shape[d])
        return found.sum(axis=axes, keepdims=True, dtype=np.int32) if axes else found

    def linear(
        self, x: np.ndarray, weight: np.ndarray, marks: np.ndarray, synapses: np.ndarray | None, into: np.ndarray
    ) -> None:
        """A linear layer on (N, places, features): a 1x1 convolution over the places."""
        x, marks = (np.ascontiguousarray(a.swapaxes(1, 2))[..., None] for a in (x, marks))
        target = np.zeros(x.shape, np.int32)
        self.weighted(x, weight, marks, synapses, target, POINTWISE)
        into += target[..., 0].swapaxes(1, 2)

    def weighted(
        self,
        x: np.ndarray,
        weight: np.ndarray,
        marks: np.ndarray,
        synapses: np.ndarray | None,
        into: np.ndarray,
        geometry: Convolution,
    ) -> None:
        """A convolution; `into` and `synapses` are added to."""
        sides = [geometry.reach(axis, x.shape[2 + axis], marks.shape[2 + axis]) for axis in (0, 1)]
        height, width = x.shape[2:]
        inside = (..., slice(sides[0][0], sides[0][0] + height), slice(sides[1][0], sides[1][0] + width))
        first = (sides[0][0] - geometry.padding[0], sides[1][0] - geometry.padding[1])
        inner = not any(sides[0] + sides[1])
        padded = x if inner else np.pad(x, ((0, 0), (0, 0), *sides))
        outside = np.full(padded.shape[2:], VOID)
        outside[inside] = 0
        found = into if inner and into.flags.c_contiguous else np.zeros(padded.shape, np.int32)
        kept = np.zeros((0, 1, 1), np.int32) if synapses is None else synapses
        weight32 = self._weight32(weight, x)
        self._each(
            lambda start, end: _kernels.convolution(
                *(padded, outside.reshape(-1), weight, weight32, marks, kept, found, first, geometry.stride),
                *(geometry.dilation, geometry.groups, geometry.kernel, *self._rule(), start, end),
            ),
            len(x),
        )
        if found is not into:
            into += found[inside]

    def _weight32(self, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The weights in float32, as `kernels.convolution` wants them; of length 0 where float32 is no help."""
        terms = weight.shape[1]
        none = np.zeros((0, 0), np.float32)
        if self.rule.code == PRESENCE or self.rule.bar < float32.LEAST_BAR or terms > float32.MOST:
            return none
        if any(a.size and not -float32.LARGEST <= a.min() <= a.max() <= float32.LARGEST for a in (weight, x)):
            return none
        patch, _, _ = float32.scratch(terms)
        return np.pad(weight.astype(np.float32), ((0, 0), (0, len(patch) - terms)))

    def average(self, x: np.ndarray, marks: np.ndarray, into: np.ndarray, windows: Windows) -> None:
        """An average pool."""
        height, width = x.shape[-2:]
        edges = [
            np.clip(windows.top, 0, height),
            np.clip(windows.top + windows.rows, 0, height),
            np.clip(windows.left, 0, width),
            np.clip(windows.left + windows.columns, 0, width),
        ]
        marks = marks.reshape(len(x), x.shape[1], len(windows.top), len(windows.left))
        self._each(
            lambda first, last: _kernels.average_pool(x, marks, into, *edges, *self._rule(), first, last), len(x)
        )

    def addition(self, terms: Sequence[np.ndarray], marks: np.ndarray, into: Sequence[np.ndarray]) -> None:
        """A sum of two branches."""
        flat = [np.ascontiguousarray(a).reshape(len(a), -1) for a in (*terms, marks)]
        targets = [a.reshape(len(a), -1) for a in into]
        self._each(lambda first, last: _kernels.addition(*flat, *targets, *self._rule(), first, last), len(marks))

    def maximum(self, x: np.ndarray, contributions: np.ndarray, into: np.ndarray, windows: Windows) -> None:
        """A max pool."""
        found = np.ascontiguousarray(contributions)
        self._each(
            lambda first, last: _kernels.max_pool(
                *(x, found, into, windows.top, windows.left, windows.rows, windows.columns),
                *(windows.dilation, self.rule.code, first, last),
            ),
            len(x),
        )

    def _rule(self) -> tuple[int, float, float]:
        return self.rule.code, float(self.rule.theta), float(self.rule.bar)

    def _each(self, work: Callable[[int, int], Any], count: int) -> None:
        """Work on all inputs, a part of them on each thread."""
        parts = min(self.threads, count)
        edges = [count * k // parts for k in range(parts + 1)]
        if parts == 1:
            work(0, count)
            return
        with ThreadPoolExecutor(parts) as pool:
            for done in [pool.submit(work, a, b) for a, b in pairwise(edges)]:
                done.result()
