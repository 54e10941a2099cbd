"""Tiny networks of each family, their normalisation as if trained."""

from typing import Any

import torch
from torch import nn

from lib import models

SHAPE = (3, 32, 32)
FAMILIES: dict[str, dict[str, Any]] = {
    "vgg16-bn": {"width": 4},
    "vgg19-bn": {"width": 2},
    "resnet18": {"width": 4},
    "resnet20": {"width": 4},
    "resnet56": {"width": 2},
    "resnet110": {"width": 2},
    "resnet50": {"width": 4},
    "mobilenet-v1": {"width": 4},
    "mobilenet-v2": {"width": 4},
}
QUICK = [arch for arch in FAMILIES if arch not in ("vgg19-bn", "resnet56", "resnet110")]


def build(arch: str, seed: int = 0, trained: bool = True, **args: Any) -> nn.Module:
    """A tiny network in float64; `trained`: scales, shifts and running statistics away from their first values."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = models.build(arch, **{**FAMILIES[arch], **args})
        if trained:
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.data.uniform_(0.5, 1.5)
                    module.bias.data.normal_(0, 0.2)
                    assert module.running_mean is not None and module.running_var is not None
                    module.running_mean.normal_(0, 0.2)
                    module.running_var.uniform_(0.5, 1.5)
    return model.double().eval()


def some_images(count: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random uint8 images and labels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=generator), torch.arange(count) % 10
