"""Per-channel normalisation as the first step inside a network, so that attacks work on [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """(x - mean) / std by channel.

    Args:
        mean, std: one number a channel, of images in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    @staticmethod
    def of(mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
        """`Normalise`, or the identity where no mean and standard deviation are given."""
        if (mean is None) != (std is None):
            raise ValueError("give mean and std both, or neither")
        return nn.Identity() if mean is None or std is None else Normalise(mean, std)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std
