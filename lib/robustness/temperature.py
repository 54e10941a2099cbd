"""Training at a high softmax temperature, softmax(g / T): what a network needs to start, and the post-hoc control.

Source: Maestrati 2020, equation 4 and Figures 7 and 8.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def scale_last_layer(model: nn.Module, factor: float) -> nn.Module:
    """Multiply the last Linear layer (weight and bias) by a factor, so that logits / T start as large as at T = 1.

    Without it a network trained at T = 20 .. 100 starts with gradients T times smaller and hardly moves.

    Args:
        model: network whose last Linear layer gives the logits; changed in place.
        factor: > 0, usually the training temperature T.

    Returns:
        The same network.

    Raises:
        ValueError: factor <= 0, or the network has no Linear layer.
    """
    if not factor > 0:
        raise ValueError(f"factor must be positive, got {factor}")
    linears = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not linears:
        raise ValueError("the network has no Linear layer whose logits could be scaled")
    linears[-1].weight.mul_(factor)
    if linears[-1].bias is not None:
        linears[-1].bias.mul_(factor)
    return model


class ScaledLogits(nn.Module):
    """A network whose logits are multiplied by T after training: every decision stays, every confidence grows.

    The control for gradient masking: whatever accuracy under attack this gains, robustness it is not.

    Args:
        model: trained network, logits (N, classes).
        factor: T > 0.
    """

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        if not factor > 0:
            raise ValueError(f"factor must be positive, got {factor}")
        self.model, self.factor = model, float(factor)
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) * self.factor
