"""Convolutions and pools of every kind, by an engine's plain ones over rows and columns: where their windows lie.

A transposed convolution goes phase by phase. Outputs that lie a stride apart are made of the same taps: together they
are a plain convolution of stride 1 over the input. So the terms are the products that torch forms; the zeros that a
stride would insert are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import numpy as np
import torch
from torch import nn

from lib.slicing.kinds import Operation, SlicingError

Pair = tuple[int, int]
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class Convolution:
    """Geometry of a convolution; pairs are (rows, columns)."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    kernel: Pair

    def reach(self, axis: int, inputs: int, outputs: int) -> Pair:
        """How far windows reach beyond both ends of an axis of so many inputs and outputs."""
        taps = [i * self.dilation[axis] for i in (0, self.kernel[axis] - 1)]
        first, last = -self.padding[axis], (outputs - 1) * self.stride[axis] - self.padding[axis]
        return max(0, -(first + min(taps))), max(0, last + max(taps) - inputs + 1)


POINTWISE = Convolution((1, 1), (0, 0), (1, 1), 1, (1, 1))


@dataclass(frozen=True)
class Windows:
    """Windows of a pool along both axes.

    Attributes:
        top, left: int64, first row or column of each window; with padding it may be negative.
        rows, columns: int64, taps of each window.
        dilation: (rows, columns) between taps.
    """

    top: np.ndarray
    left: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    dilation: Pair

    @staticmethod
    def whole(length: int) -> Windows:
        """One window on a row of `length` values."""
        start, one = np.zeros(1, np.int64), np.ones(1, np.int64)
        return Windows(start, start, one, one * length, (1, 1))


def pair(value: Any) -> Pair:
    """Two whole numbers from one or two."""
    first, *rest = value if isinstance(value, (tuple, list)) else (value,)
    return int(first), int(rest[0] if rest else first)


def convolution(op: Operation) -> Convolution:
    """Geometry of a convolution."""
    layer = op.module
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d, *TRANSPOSED))
    flat = isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d))
    stride, dilation, kernel = (_sizes(v, flat, 1) for v in (layer.stride, layer.dilation, layer.kernel_size))
    if layer.padding == "valid":
        padding = (0, 0)
    elif layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(t % 2 for t in total):
            raise SlicingError(f"Conv2d at {op.layer!r} pads one side more than the other: give its padding in numbers")
        padding = (total[0] // 2, total[1] // 2)
    else:
        padding = _sizes(layer.padding, flat, 0)
    return Convolution(stride, padding, dilation, layer.groups, kernel)


def _sizes(value: Any, flat: bool, missing: int) -> Pair:
    """A setting of a convolution, along both axes; one along a single axis has `missing` for the rows."""
    return (missing, int(value[0])) if flat else pair(value)


def along_one_axis(op: Operation) -> bool:
    """Whether a pool is of one dimension, (N, C, L)."""
    name = getattr(op.node.target, "__name__", "") if op.module is None else type(op.module).__name__
    return name.endswith("1d")


def pool(op: Operation, shape: tuple[int, ...], out: tuple[int, ...], given: tuple[list, dict]) -> Windows:
    """Windows of a pool.

    Args:
        op: a pooling operation: a module, or a function or method.
        shape, out: (.., H, W) of its input and (.., oh, ow) of its output.
        given: positional and named arguments that it is called with, the input first.
    """
    adaptive, settings = _settings(op, given)
    if adaptive:
        (top, rows), (left, columns) = (_adaptive(int(n), int(k)) for n, k in zip(shape[-2:], settings, strict=True))
        return Windows(top, left, rows, columns, (1, 1))
    kernel, stride, padding, dilation = settings
    starts = [np.arange(count) * stride[axis] - padding[axis] for axis, count in enumerate(out[-2:])]
    taps = [np.full(len(starts[axis]), kernel[axis], np.int64) for axis in (0, 1)]
    return Windows(starts[0], starts[1], taps[0], taps[1], dilation)


def _settings(op: Operation, given: tuple[list, dict]) -> tuple[bool, Any]:
    """Whether a pool is adaptive, and its output sizes, or else its kernel, stride, padding and dilation, as pairs.

    A pool of one dimension is one of an image of one row.
    """
    flat, missing = along_one_axis(op), {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    target = op.node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if op.module is not None:
        named = vars(op.module)
    elif name == "mean":
        return True, (1, 1)
    else:
        known = ["output_size"] if "adaptive" in name else list(missing)[: 4 if "max" in name else 3]
        named = {**dict(zip(known, given[0][1:], strict=False)), **given[1]}

    def both(value: Any, row: int) -> Pair:
        return (row, pair(value)[-1]) if flat else pair(value)

    if "output_size" in named:
        sizes = named["output_size"]
        if sizes is None or (isinstance(sizes, (tuple, list)) and None in sizes):
            raise SlicingError(f"pool in {op.where!r} leaves an output size open: give both")
        return True, both(sizes, 1)
    named = {**named, "stride": named.get("stride") or named["kernel_size"]}
    return False, tuple(both(named.get(key, default), default) for key, default in missing.items())


def _adaptive(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of adaptive windows: floor(i size / count) to ceil((i + 1) size / count)."""
    steps = np.arange(count)
    start = steps * size // count
    return start, -((-(steps + 1) * size) // count) - start


@dataclass(frozen=True)
class Phase:
    """Some outputs along one axis, as a convolution of stride 1.

    Attributes:
        outputs, taps: which of them.
        count: how many taps.
        padding, dilation: of the convolution; taps run against the input, so dilation is negative.
    """

    outputs: slice
    taps: slice
    count: int
    padding: int
    dilation: int


def phases(geometry: Convolution, axis: int, length: int) -> Iterator[Phase]:
    """The phases along an axis of `length` outputs; outputs that no tap reaches are in none.

    Tap i takes input h to output h * stride - padding + i * dilation.
    """
    kernel, stride, padding, dilation = (
        pair[axis] for pair in (geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
    )
    common = gcd(stride, dilation)
    for first in range(min(stride, length)):
        taps = [i for i in range(kernel) if (first + padding - i * dilation) % stride == 0]
        if taps:
            start = (first + padding - taps[0] * dilation) // stride  # the input of the first output's first tap
            every = slice(taps[0], None, stride // common)
            yield Phase(slice(first, None, stride), every, len(taps), -start, -(dilation // common))


def convolve(engine: Any, op: Operation, x: Any, weight: Any, marks: Any, synapses: Any, into: Any) -> None:
    """A convolution; `into` and `synapses` are added to.

    Args:
        engine: of the backward phase; all arrays are its own.
        op: a call of the layer.
        x, marks, into: as an engine's `weighted`, or along one axis (N, C, L).
        weight: the layer's, flat from its second axis on; synapses: (N, *weight.shape), or None.
    """
    if x.ndim == 3:  # an image of one row
        x, marks, into = (a.reshape(*a.shape[:2], 1, a.shape[2]) for a in (x, marks, into))
    work = _transposed if isinstance(op.module, TRANSPOSED) else type(engine).weighted
    work(engine, x, weight, marks, synapses, into, convolution(op))


def _transposed(engine: Any, x: Any, weight: Any, marks: Any, synapses: Any, into: Any, geometry: Convolution) -> None:
    groups, outputs = geometry.groups, marks.shape[1]
    shape = (groups, x.shape[1] // groups, outputs // groups, *geometry.kernel)
    whole, signs = torch.as_tensor(weight).reshape(shape).transpose(1, 2), torch.as_tensor(marks)
    kept = None if synapses is None else torch.as_tensor(synapses).view(len(x), *shape).transpose(2, 3)
    for rows in phases(geometry, 0, marks.shape[2]):
        for columns in phases(geometry, 1, marks.shape[3]):
            part = whole[..., rows.taps, columns.taps]
            taps = engine.contributions(part.reshape(outputs, -1).contiguous())
            chosen = engine.contributions(signs[:, :, rows.outputs, columns.outputs].contiguous())
            found = None if kept is None else engine.zeros((len(x), *taps.shape))
            padding, dilation = (rows.padding, columns.padding), (rows.dilation, columns.dilation)
            plain = Convolution((1, 1), padding, dilation, groups, (rows.count, columns.count))
            engine.weighted(x, taps, chosen, found, into, plain)
            if kept is not None:
                kept[..., rows.taps, columns.taps] += torch.as_tensor(found).view(len(x), *part.shape)


def pooled(
    engine: Any, work: Callable[..., None], op: Operation, x: Any, marks: Any, into: Any, given: tuple[list, dict]
) -> None:
    """A pool, or a mean or maximum over some axes: one window that holds them all. `into` is added to.

    Args:
        engine: of the backward phase; all arrays are its own.
        work: its `average` or `maximum`.
        op: the operation.
        x, marks, into: its input, what its outputs have, and where that goes, as the network lays them out.
        given: positional and named arguments that it is called with, the input first.
    """
    axes = pooled_axes(op, x.ndim, given)
    if axes is not None:
        _over_axes(engine, work, axes, x, marks, into)
        return
    if along_one_axis(op):  # an image of one row
        x, marks, into = (a.reshape(*a.shape[:2], 1, a.shape[2]) for a in (x, marks, into))
    work(x, marks, into, pool(op, x.shape, marks.shape, given))


def _over_axes(engine: Any, work: Callable[..., None], axes: list[int], x: Any, marks: Any, into: Any) -> None:
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    moved = torch.as_tensor(x).permute(*kept, *axes)
    length = prod(moved.shape[len(kept) :])
    rows = engine.array(moved.reshape(-1, 1, 1, length))
    found = engine.zeros(tuple(rows.shape))
    work(rows, marks.reshape(-1, 1, 1, 1), found, Windows.whole(length))
    back = torch.as_tensor(found).reshape(moved.shape).permute(*torch.tensor([*kept, *axes]).argsort().tolist())
    into += engine.contributions(back)


def pooled_axes(op: Operation, dimensions: int, given: tuple[list, dict]) -> list[int] | None:
    """The axes of a mean or maximum over some; None for pools of windows, and a mean over those of (N, C, H, W).

    Raises: SlicingError for all axes.
    """
    name = op.node.target if isinstance(op.node.target, str) else getattr(op.node.target, "__name__", "")
    if op.module is not None or name not in ("mean", "amax"):
        return None
    axes = given[1].get("dim", given[0][1] if len(given[0]) > 1 else None)
    if axes is None:
        raise SlicingError(f"{name} over all axes in {op.where!r}: name the axes of one image")
    wanted = sorted(int(axis) % dimensions for axis in (axes if isinstance(axes, (list, tuple)) else [axes]))
    return None if name == "mean" and dimensions == 4 and wanted == [2, 3] else wanted
