"""Pools of every kind, by an engine's own over rows and columns."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch

from lib.slicing.graph import Operation, SlicingError
from lib.slicing.windows import Windows, along_one_axis, pool


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
