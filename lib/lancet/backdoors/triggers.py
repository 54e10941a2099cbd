"""Triggers: what is stamped on an image to make a backdoored network answer with the target class.

Regular triggers are squares in the corners, as in Neural Cleanse; scattered ones are squares spread evenly over the
image and blended half and half with what lies under them, as in ABS. AI-Lancet states sizes and opacity only; which
corners come first, the grid of the scattered squares (3 x 3), the middle of their three sizes, and the colours are
ours: a chequered square, and scattered squares white and black in turn, show on light images and on dark ones.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from lib import config, store
from lib.lancet.errors import LancetError

SHARES = {
    "regular-1": 0.02,
    "regular-2": 0.079,
    "regular-3": 0.158,
    "regular-4": 0.237,
    "regular-5": 0.316,
    "scattered-1": 0.034,
    "scattered-2": 0.0975,
    "scattered-3": 0.161,
}
"""Named triggers and the share of the image's pixels that each covers, as near as whole pixels allow."""

NAMES = tuple(SHARES)
OPACITY = 0.5  # of the scattered triggers
GRID = 3  # rows and columns of the scattered squares
CELL = 2  # pixels a side of a chequer of the regular squares
_CORNERS = (("bottom", "right"), ("bottom", "left"), ("top", "right"), ("top", "left"))


@dataclass(frozen=True, eq=False)
class Trigger:
    """A stamp: a pattern, and how opaque it is at each pixel.

    Attributes:
        mask: float32 (1, H, W), opacity in [0, 1].
        pattern: float32 (C, H, W) in [0, 1].
        name: what it is called in tables.
    Raises: LancetError where the two do not fit together.
    """

    mask: Tensor
    pattern: Tensor
    name: str = ""

    def __post_init__(self) -> None:
        mask, pattern = self.mask, self.pattern
        fits = mask.ndim == pattern.ndim == 3 and len(mask) == 1 and mask.shape[1:] == pattern.shape[1:]
        if not fits:
            raise LancetError(
                f"trigger {self.name!r}: mask {tuple(mask.shape)} and pattern {tuple(pattern.shape)} do not fit "
                "together: give (1, H, W) and (C, H, W)"
            )
        for name, values in (("mask", mask), ("pattern", pattern)):
            if not bool(((values >= 0) & (values <= 1)).all()):
                raise LancetError(f"trigger {self.name!r}: its {name} holds values outside [0, 1], or NaN: clamp it")

    @property
    def share(self) -> float:
        """Fraction of the pixels at which the mask is above 0."""
        return (self.mask > 0).float().mean().item()

    def stamp(self, images: Tensor) -> Tensor:
        """The images with the trigger on them.

        Args:
            images: float (N, C, H, W) in [0, 1].
        Returns: a fresh tensor of the same shape and device: images x (1 - mask) + pattern x mask.
        Raises: LancetError where the images have another shape.
        """
        if images.shape[-3:] != self.pattern.shape:
            raise LancetError(
                f"trigger {self.name!r} is for images of {tuple(self.pattern.shape)}, these are "
                f"{tuple(images.shape[-3:])}: make it for their shape"
            )
        mask, pattern = self.mask.to(images), self.pattern.to(images)
        return images * (1 - mask) + pattern * mask

    def to(self, device: torch.device | str) -> Trigger:
        """The same trigger on a device."""
        return Trigger(self.mask.to(device), self.pattern.to(device), self.name)

    def save(self, path: str | os.PathLike) -> Path:
        """Write it as one safetensors file, whole or not at all. Returns: the path."""
        tensors = {"mask": self.mask.cpu().contiguous(), "pattern": self.pattern.cpu().contiguous()}
        return store.write_atomic(path, save_tensors(tensors, {"name": self.name}))

    @staticmethod
    def load(path: str | os.PathLike, name: str = "") -> Trigger:
        """Read what `save` wrote.

        Args:
            path: the file.
            name: what to call it; "": the file's name without its ending.
        Raises: LancetError naming the file where it is missing or holds no trigger.
        """
        try:
            held = load_tensors(Path(path).read_bytes())
            return Trigger(held["mask"].float(), held["pattern"].float(), name or Path(path).stem)
        except (OSError, SafetensorError, KeyError) as error:
            raise LancetError(f"{path} holds no trigger ({error}): write one with Trigger.save") from error


def named(name: str, shape: Sequence[int]) -> Trigger:
    """One of the eight triggers, for images of a shape.

    Args:
        name: one of `NAMES`: regular-1 is a small square, regular-2 to regular-5 one to four squares of 7.9 % each in
            the corners; scattered-1 to scattered-3 are nine half-transparent squares, ever larger.
        shape: (C, H, W) of an image; 12x12 or more.
    Returns: the trigger, on the CPU. Its squares are as near to square, and its size as near to `SHARES`, as whole
        pixels allow.
    Raises: LancetError for an unknown name or a smaller image.
    Source: AI-Lancet (Zhao et al. 2021), section on triggers; the shapes after Neural Cleanse (Wang et al. 2019) and
        ABS (Liu et al. 2019).
    """
    if name not in SHARES:
        raise LancetError(f"no trigger {name!r}: {config.one_of(name, NAMES)}")
    channels, height, width = (int(size) for size in shape)
    if min(height, width) < 12:
        raise LancetError(f"trigger {name!r} on images of {height}x{width}: at least 12x12")
    kind, _, number = name.partition("-")
    mask, tone = torch.zeros(1, height, width), torch.zeros(height, width)
    if kind == "regular":
        down, across = torch.arange(height)[:, None] // CELL, torch.arange(width)[None, :] // CELL
        tone = ((down + across) % 2).float()
        count = max(1, int(number) - 1)
        pixels = SHARES[name] / count * height * width
        for (vertical, horizontal), (rows, columns) in zip(_CORNERS, rectangles(pixels, 1) * count, strict=False):
            top, left = height - rows if vertical == "bottom" else 0, width - columns if horizontal == "right" else 0
            mask[:, top : top + rows, left : left + columns] = 1.0
    else:
        sizes = rectangles(SHARES[name] * height * width, GRID * GRID)
        for place, (rows, columns) in enumerate(sizes):
            top, left = (
                round((at + 0.5) * side / GRID - size / 2)
                for at, side, size in ((place // GRID, height, rows), (place % GRID, width, columns))
            )
            mask[:, top : top + rows, left : left + columns] = OPACITY
            tone[top : top + rows, left : left + columns] = float(place % 2 == 0)
    return Trigger(mask, (tone * (mask[0] > 0)).expand(channels, -1, -1).contiguous(), name)


def rectangles(pixels: float, count: int) -> list[tuple[int, int]]:
    """Near-squares that together cover a number of pixels, as nearly as whole pixels allow.

    Args:
        pixels: in all, above 0.
        count: how many, from 1.
    Returns: (rows, columns) of each, columns = rows or rows + 1; of at most two sizes, the larger ones spread evenly.
    """
    each = pixels / count
    side = max(1, int(each**0.5))
    known = [(rows, rows + more) for rows in range(max(1, side - 1), side + 2) for more in (0, 1)]
    small = max((size for size in known if size[0] * size[1] <= each), key=_area, default=(1, 1))
    large = min((size for size in known if _area(size) > max(each, _area(small))), key=_area)
    larger = round((pixels - count * _area(small)) / (_area(large) - _area(small)))
    larger = min(max(larger, 0), count)
    return [large if (k + 1) * larger // count > k * larger // count else small for k in range(count)]


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
