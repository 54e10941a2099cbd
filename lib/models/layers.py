"""Parts that every architecture uses: the layers a method works on, normalisation as the first step, first weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def weight_layers(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The Conv2d and Linear layers of a network by dotted name, in order of definition.

    Args:
        model: any network; a layer used at two places appears once.
    Raises: ValueError where there is none.
    """
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    if not found:
        raise ValueError(f"{type(model).__name__} has no Conv2d or Linear layer")
    return found


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


def he_normal(model: nn.Module) -> None:
    """Draw every Conv2d and Linear weight from N(0, 2 / fan_in) and set biases to zero, in place.

    Source: He et al. 2015, https://arxiv.org/abs/1502.01852, section 2.2.
    """
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
