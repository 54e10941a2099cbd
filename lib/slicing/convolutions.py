"""Convolutions of every kind, by an engine's plain ones over rows and columns.

A transposed convolution goes phase by phase. Outputs that lie a stride apart are made of the same taps: together they
are a plain convolution of stride 1 over the input. So the terms are the products that torch forms; the zeros that a
stride would insert are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch

from lib.slicing.graph import Operation
from lib.slicing.windows import TRANSPOSED, Convolution, convolution


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
