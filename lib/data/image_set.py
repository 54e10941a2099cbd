"""A labelled image set, in memory or read from its files as needed."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.data import splits

MEMORY_LIMIT = 16 * 2**30  # bytes of decoded images that a subset may take


class ImageFiles:
    """Images that stay on disk; indexing decodes, so `files[index]` is what a tensor's would be.

    Args:
        paths: one file an image.
        shape: (C, H, W) of a decoded image.
        read: decodes one file to a uint8 array of that shape.
    """

    dtype = torch.uint8
    device = torch.device("cpu")

    def __init__(self, paths: Sequence[Path], shape: tuple[int, int, int], read: Callable[[Path], np.ndarray]) -> None:
        self.paths = list(paths)
        self.shape = torch.Size((len(self.paths), *shape))
        self.ndim = 4
        self._read = read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> torch.Tensor:
        chosen = self._positions(index)
        if chosen.ndim == 0:
            return torch.from_numpy(self._read(self.paths[int(chosen)]))
        size = len(chosen) * prod(self.shape[1:])
        if size > MEMORY_LIMIT:
            raise ValueError(
                f"{len(chosen):,} images would take {size / 2**30:.0f} GiB of memory: take fewer at a time, "
                "with .stratified(n, seed) or .subset(index)"
            )
        images = torch.empty(len(chosen), *self.shape[1:], dtype=torch.uint8)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            each: Any = map if torch.get_num_threads() == 1 else pool.map
            for position, image in enumerate(each(self._read, [self.paths[i] for i in chosen.tolist()])):
                images[position] = torch.from_numpy(image)
        return images

    def take(self, index: Any) -> "ImageFiles":
        """The chosen images, still on disk."""
        chosen = [self.paths[i] for i in self._positions(index).tolist()]
        return ImageFiles(chosen, (self.shape[1], self.shape[2], self.shape[3]), self._read)

    def _positions(self, index: Any) -> torch.Tensor:
        return torch.arange(len(self))[_beside(index, torch.device("cpu"))]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images. `load` shares one copy a process: never change the tensors in place.

    Attributes:
        images: uint8 (N, C, H, W) in 0..255, or floating in [0, 1]. For `imagenet` an `ImageFiles`, which has a
            shape and a length, and reads from disk whatever is indexed.
        labels: int64 (N,), index into `classes`.
        classes: the class names.
        name, split: what was asked of `load`.
    Raises: ValueError where these do not fit together.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    name: str
    split: str

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or len(images) != len(labels) or labels.ndim != 1:
            raise ValueError(f"images {tuple(images.shape)} and labels {tuple(labels.shape)}: want (N,C,H,W) and (N,)")
        if labels.dtype != torch.int64:
            raise ValueError(f"labels are {labels.dtype}: want int64")
        if images.dtype != torch.uint8 and not images.dtype.is_floating_point:
            raise ValueError(f"images are {images.dtype}: want uint8 in 0..255, or floating in [0, 1]")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            raise ValueError(f"labels from {int(labels.min())} to {int(labels.max())} for {len(self.classes)} classes")
        if images.dtype != torch.uint8 and images.numel() and not bool(((images >= 0) & (images <= 1)).all()):
            raise ValueError("floating images hold values outside [0, 1], or NaN")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"ImageSet({self.name} {self.split}: {len(self):,} images {tuple(self.images.shape[1:])})"

    @property
    def in_memory(self) -> bool:
        """Whether `images` is a tensor."""
        return isinstance(self.images, torch.Tensor)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of images and labels, as "sha256:<hex>"; of file names, sizes and labels where images are on disk."""
        digest = hashlib.sha256(f"{self.images.dtype} {tuple(self.images.shape)}\n".encode())
        if isinstance(self.images, ImageFiles):
            for path in self.images.paths:
                digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode())
        else:
            digest.update(_bytes(self.images))
        digest.update(_bytes(self.labels))
        return "sha256:" + digest.hexdigest()

    def float(self, device: torch.device | str | None = None, index: Any = None) -> torch.Tensor:
        """Images as networks take them.

        Args:
            device: where to; None: where they are.
            index: which (integers, a mask, a slice); None: all.
        Returns: float32 (n, C, H, W) in [0, 1], a fresh tensor.
        Raises: ValueError where all are asked of a set that stays on disk and does not fit in memory.
        """
        index = slice(None) if index is None else _beside(index, self.images.device)
        chosen = self.images[index].to(device)
        if chosen.dtype == torch.uint8:
            return chosen.to(torch.float32).div_(255)
        return chosen.to(torch.float32, copy=True)

    def subset(self, index: Any) -> "ImageSet":
        """The chosen images, in memory.

        Args:
            index: integers, a mask (N,) or a slice.
        """
        images, labels = (
            self.images[_beside(index, self.images.device)],
            self.labels[_beside(index, self.labels.device)],
        )
        return replace(self, images=images, labels=labels)

    def stratified(self, n: int, seed: int = 0) -> "ImageSet":
        """`n` images in memory, as many of each class as of any other, as near as the set allows.

        The classes take turns, so every prefix is balanced; with one seed a smaller `n` is a prefix of a larger one.

        Args:
            n: how many, 0 <= n <= len(self).
            seed: which images.
        Raises: ValueError where the set has fewer than `n` images.
        """
        try:
            chosen = splits.stratified(self.labels.cpu().numpy(), n, seed)
        except ValueError as error:
            raise ValueError(f"{self.name} {self.split}: {error}") from None
        return self.subset(torch.from_numpy(chosen))

    def part(self, index: np.ndarray, split: str) -> "ImageSet":
        """The chosen images as a split of its own; they stay on disk where they are there."""
        chosen = torch.from_numpy(index)
        images: Any = self.images.take(chosen) if isinstance(self.images, ImageFiles) else self.images[chosen]
        return replace(self, images=images, labels=self.labels[chosen], split=split)


def _beside(index: Any, device: torch.device) -> Any:
    """An index that a tensor on `device` takes, wherever it was computed."""
    return index.to(device) if isinstance(index, torch.Tensor) else index


def _bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor's bytes in row-major order, whatever its type."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
