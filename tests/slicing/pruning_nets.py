"""A small network and scores for the tests of pruning and protection."""

import torch
from torch import nn

from lib import models
from lib.slicing import masks


def resnet(seed: int = 0) -> nn.Module:
    """A small pre-activation ResNet10 whose batch normalisation has statistics of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = models.build("resnet10-preact", shape=(3, 8, 8), classes=4, width=2)
        for name, value in model.state_dict().items():  # the values are those of the model
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif name.endswith(("running_mean", "bias")):
                value.uniform_(-0.4, 0.4)
    return model.eval()


def random_scores(model: nn.Module, classes: int = 4, top: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Counts of few values, so that there are ties everywhere."""
    draw = torch.Generator().manual_seed(seed)
    layers = masks.weight_layers(model)
    return {n: torch.randint(0, top, (classes, *layer.weight.shape), generator=draw) for n, layer in layers.items()}


@torch.no_grad()
def mean_inputs(model: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean input of every layer, one mean a position, over images (N, C, H, W)."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0].double().mean(dim=0)}))
        for name, layer in masks.weight_layers(model).items()
    ]
    model(pixels.float().div(255) if pixels.dtype == torch.uint8 else pixels)
    for handle in handles:
        handle.remove()
    return seen
