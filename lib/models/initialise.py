"""First weights for networks without batch normalisation."""

from torch import nn


def he_normal(model: nn.Module) -> None:
    """Draw every Conv2d and Linear weight from N(0, 2 / fan_in) and set biases to zero, in place.

    Source: He et al. 2015, https://arxiv.org/abs/1502.01852, section 2.2.
    """
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
