"""A small network with decision units that calls random images by all four of its names."""

from typing import Any

import torch

from lib import models
from lib.data import ImageSet
from lib.dynamic.lcs.features import see
from lib.dynamic.lcs.network import LayerwiseChannelSelection

CLASSES = tuple("abcd")


def images(count: int, seed: int) -> torch.Tensor:
    """Random images."""
    return torch.rand((count, 1, 16, 16), generator=torch.Generator().manual_seed(seed))


def network() -> LayerwiseChannelSelection:
    """An untrained ResNet-20 with units, its masks drawn."""
    torch.manual_seed(0)
    plain = models.build("resnet20", (1, 16, 16), len(CLASSES), width=4)
    made = LayerwiseChannelSelection(plain, 3, "standardised", logit_scale=2.0).eval()
    pictures = images(200, 7)
    with torch.no_grad():
        for layer in made.layers:
            made.unit(layer).masks.uniform_(0.2, 1.5)
        made.recalibrate_bn(pictures)
        for layer, values in see(made, pictures).pooled.items():
            made.unit(layer).mean.copy_(values.mean(0))
            made.unit(layer).variance.copy_(values.var(0))
        last: Any = made.network.linear
        last.weight.mul_(30)
        last.bias.copy_(-made(pictures).mean(0) + last.bias)
    return made


def image_set(model: LayerwiseChannelSelection, count: int = 240) -> ImageSet:
    """Random images under the names that the network gives them."""
    pictures = images(count, 1)
    with torch.no_grad():
        return ImageSet(pictures, model(pictures).argmax(1), CLASSES, "random", "test")
