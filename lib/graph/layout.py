"""Where the images of a batch lie in a tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Which entries of a tensor belong to which image.

    Attributes:
        dim: the dimension that the images lie in.
        pieces: how many entries of it each image has.
        spread: False: an image's entries lie side by side; True: the first entries of all images come first.
    """

    dim: int = 0
    pieces: int = 1
    spread: bool = False

    @property
    def plain(self) -> bool:
        """Whether the first dimension is the batch."""
        return self.dim == 0 and self.pieces == 1

    def rows(self, value: Tensor) -> Tensor:
        """The tensor with the images first: (N, *the rest); where an image has several pieces, (N, pieces, *rest)."""
        if self.plain:
            return value
        if self.pieces == 1:
            return value.movedim(self.dim, 0)
        whole = value.movedim(self.dim, 0)
        rest = whole.shape[1:]
        if self.spread:
            return whole.reshape(self.pieces, -1, *rest).transpose(0, 1)
        return whole.reshape(-1, self.pieces, *rest)

    def back(self, rows: Tensor) -> Tensor:
        """The inverse of `rows`."""
        if self.plain:
            return rows
        if self.pieces > 1:
            rows = rows.transpose(0, 1) if self.spread else rows
            rows = rows.reshape(-1, *rows.shape[2:])
        return rows.movedim(0, self.dim)

    def take(self, value: Tensor, index: Tensor) -> Tensor:
        """The same tensor of some images, in that order."""
        return value[index] if self.plain else self.back(self.rows(value)[index])


PLAIN = Layout()


def layout_of(alone: list[Tensor], both: Tensor, same: float) -> Layout | str | None:
    """Where the images lie, from a value of each of two images alone and of the two together.

    Args:
        alone: its value for each image alone.
        both: for the two as one batch.
        same: largest difference of equal values, relative to the largest.
    Returns: the layout; None where the value depends on no image; else, in words, why there is no layout.
    """
    one = alone[0].shape
    if alone[1].shape != one or both.ndim != len(one):
        return f"it is {tuple(one)} for one image and {tuple(both.shape)} for two"
    grown = [d for d in range(both.ndim) if both.shape[d] != one[d]]
    if not grown:
        if all(near(value, both, same) for value in alone):
            return None
        return "its value for one image depends on the other images of the batch"
    if len(grown) > 1 or both.shape[grown[0]] != 2 * one[grown[0]]:
        return f"it is {tuple(one)} for one image and {tuple(both.shape)} for two"
    dim, pieces = grown[0], one[grown[0]]
    for layout in (Layout(dim, pieces), Layout(dim, pieces, True)) if pieces > 1 else (Layout(dim),):
        rows = layout.rows(both)
        if all(near(layout.rows(value)[0], rows[k], same, both) for k, value in enumerate(alone)):
            return layout
    return "its value for one image depends on the other images of the batch"


def near(one: Tensor, other: Tensor, same: float, scale: Tensor | None = None) -> bool:
    """Whether two tensors are equal up to rounding, relative to the largest value of `scale` (None: of both)."""
    if one.shape != other.shape:
        return False
    if not one.dtype.is_floating_point and not one.dtype.is_complex:
        return torch.equal(one, other)
    if one.numel() == 0 or torch.equal(one, other):
        return True
    largest = max(
        float(value.abs().nan_to_num(0, 0, 0).max()) for value in ((one, other) if scale is None else (scale,))
    )
    finite = torch.isfinite(one)
    if not torch.equal(finite, torch.isfinite(other)):
        return False
    return bool(((one - other)[finite].abs() <= same * largest).all())
