"""Small random networks for locating, with the module at which each layer's feature lies."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn


class Sum(nn.Module):
    def forward(self, a, b):
        return a + b


class Plain(nn.Module):
    """Grouped, dilated and strided convolutions, normalisation, pools, two linear layers; in-place activations."""

    shape = (2, 12, 12)
    features: ClassVar[dict[str, str]] = {
        "conv1": "pool1",
        "conv2": "relu2",
        "depthwise": "pool2",
        "fc1": "drop",
        "fc2": "fc2",
    }

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu1 = nn.ReLU(inplace=True)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 8, (3, 2), stride=(1, 2), padding=(1, 0), groups=2, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu2 = nn.ReLU(inplace=True)
        self.depthwise = nn.Conv2d(8, 8, 3, padding="same", dilation=2, groups=8, padding_mode="reflect")
        self.relu3 = nn.LeakyReLU(0.1)
        self.pool2 = nn.AdaptiveAvgPool2d(3)
        self.fc1 = nn.Linear(72, 10)
        self.relu4 = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.fc2 = nn.Linear(10, 4)

    def forward(self, x):
        x = self.pool1(self.relu1(self.bn1(self.conv1(x))))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.pool2(self.relu3(self.depthwise(x)))
        x = x.view(x.size(0), -1)
        return self.fc2(self.drop(self.relu4(self.fc1(x))))


class Residual(nn.Module):
    """A projected and an identity shortcut, a concatenation, functions in place of modules."""

    shape = (1, 10, 10)
    features: ClassVar[dict[str, str]] = {
        "stem": "relu",
        "a1": "a_relu",
        "a2": "a_sum",
        "short": "a_sum",
        "b1": "b_sum",
        "left": "left",
        "fc": "fc",
    }

    def __init__(self):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()
        self.a1, self.a_bn, self.a_relu = nn.Conv2d(4, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
        self.a2, self.short, self.a_sum = nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(4, 6, 1, 2), Sum()
        self.b1, self.b_sum = nn.Conv2d(6, 6, 3, 1, 1), Sum()
        self.left = nn.Conv2d(6, 3, 1)
        self.fc = nn.Linear(9, 4)

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = F.relu(self.a_sum(self.a2(self.a_relu(self.a_bn(self.a1(x)))), self.short(x)), inplace=True)
        x = self.b_sum(x, self.b1(x))
        x = torch.cat([self.left(x), x], 1)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def make(kind, seed=0):
    """A network whose normalisation has seen a batch, and whose classes are equally likely on noise."""
    torch.manual_seed(seed)
    model = kind()
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(32, *kind.shape))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.uniform_(-0.3, 0.3)
        *_, last = (module for module in model.modules() if isinstance(module, nn.Linear))
        last.bias -= model.eval()(torch.rand(200, *kind.shape)).mean(0)
    return model.eval()


def pairs(model, count=4, seed=1):
    """Wrong inputs, companions near them, and labels: the class that comes second for the input."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, *type(model).shape, generator=generator)
    others = (images + 0.4 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    with torch.no_grad():
        labels = model(images).topk(2).indices[:, 1]
    return images, others, labels
