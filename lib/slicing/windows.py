"""Where the windows of convolutions and pools lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import nn

from lib.slicing.graph import Operation, SlicingError

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
    first, second = value if isinstance(value, (tuple, list)) else (value, value)
    return int(first), int(second)


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
    layer = op.module
    if along_one_axis(op):
        return _settings_of_one_axis(op, given)
    if isinstance(layer, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        return True, _sides(layer.output_size, op)
    if isinstance(layer, (nn.AvgPool2d, nn.MaxPool2d)):
        stride = layer.kernel_size if layer.stride is None else layer.stride
        dilation = layer.dilation if isinstance(layer, nn.MaxPool2d) else 1
        return False, tuple(pair(value) for value in (layer.kernel_size, stride, layer.padding, dilation))
    arguments, keywords = given[0][1:], given[1]
    target = op.node.target
    if target == "mean" or getattr(target, "__name__", "") == "mean":
        return True, (1, 1)
    if target in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d):
        return True, _sides(keywords.get("output_size", arguments[0] if arguments else None), op)
    names = (
        ["kernel_size", "stride", "padding", "dilation"]
        if target is not F.avg_pool2d
        else ["kernel_size", "stride", "padding"]
    )
    named = {**dict(zip(names, arguments, strict=False)), **keywords}
    step = named.get("stride") or named["kernel_size"]
    return False, tuple(
        pair(value) for value in (named["kernel_size"], step, named.get("padding", 0), named.get("dilation", 1))
    )


def _settings_of_one_axis(op: Operation, given: tuple[list, dict]) -> tuple[bool, Any]:
    """Settings of a pool of one dimension, as of an image of one row."""
    missing = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    if op.module is not None:
        named = vars(op.module)
    else:
        name = op.node.target.__name__  # type: ignore[union-attr]
        known = ["output_size"] if "adaptive" in name else list(missing)[: 4 if "max" in name else 3]
        named = {**dict(zip(known, given[0][1:], strict=False)), **given[1]}
    one = {key: value[0] if isinstance(value, (tuple, list)) else value for key, value in named.items()}
    if "output_size" in one:
        return True, (1, int(one["output_size"]))
    one["stride"] = one.get("stride") or one["kernel_size"]
    return False, tuple((default, int(one.get(key, default))) for key, default in missing.items())


def _sides(size: Any, op: Operation) -> Pair:
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    if any(side is None for side in sides):
        raise SlicingError(f"pool in {op.where!r} leaves an output size open: give both")
    return pair(sides)


def _adaptive(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of adaptive windows: floor(i size / count) to ceil((i + 1) size / count)."""
    steps = np.arange(count)
    start = steps * size // count
    return start, -((-(steps + 1) * size) // count) - start
