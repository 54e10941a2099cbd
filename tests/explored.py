"""Small networks for the tests of the explorer: none is trained, and each is right about all of its images."""

import torch
from torch import nn

from lib import data, models
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.explore import Network


class Small(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 4, 3, stride=2)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(4 * 25, 4)

    def forward(self, x):
        return self.fc(self.relu(self.second(self.relu(self.first(x)))).flatten(1))


def network(model: nn.Module | None = None, name: str = "small", count: int = 24, side: int = 12) -> Network:
    """A network and random images, labelled as it classifies them."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = (model or Small()).eval()
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        images = torch.rand(count, first.in_channels, side, side)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        last.bias.sub_(model(images).mean(0)).mul_(5)  # so that every class is somebody's
        last.weight.mul_(5)
        logits = model(images)
    classes = tuple(f"class {k}" for k in range(logits.shape[1]))
    test = data.ImageSet(images, logits.argmax(1), classes, "random", "test")
    return Network("smoke", name, 0, model, f"sha256:{name:0<64}", test, torch.arange(count), test.labels)


def dynamic() -> Network:
    """A dynamic network with random weights and masks with zeros in them."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = LayerwiseChannelSelection(models.build("resnet20", width=4, shape=(3, 16, 16), classes=10), masks=3)
        for layer in model.layers:
            unit = model.unit(layer)
            unit.weight.data.normal_(0, 5)
            unit.masks.data.bernoulli_(0.6)
    return network(model, "dynamic", side=16)
