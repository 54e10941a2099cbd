"""Small networks and images for these tests."""

from typing import Any

import torch
from torch import Tensor, nn

from lib.data import ImageSet


def small(seed: int = 0, scale: float = 4.0) -> Any:
    """Two convolutions with BN and a Linear layer, (N, 3, 8, 8) -> 5 logits, evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12 * 16, 5),
        )
        with torch.no_grad():
            model.train()(torch.rand(64, 3, 8, 8))
            model[-1].weight.mul_(scale)
    return model.eval()


def batch(count: int = 60, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random images (count, 3, 8, 8) in [0, 1] and labels (count,) in 0..4."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 8, 8, generator=generator)
    return images, torch.randint(0, 5, (count,), generator=generator)


def image_set(count: int = 64, seed: int = 1) -> ImageSet:
    """The same as an `ImageSet` of bytes, for training."""
    images, labels = batch(count, seed)
    return ImageSet((images * 255).to(torch.uint8), labels, tuple("abcde"), "random", "train")
