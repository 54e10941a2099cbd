"""Small random networks that between them have every operation that slicing knows."""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import StochasticDepth

from lib import models


class Branches(nn.Module):
    """Concatenation, residual sum, pools of every kind, a grouped and a dilated convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.grouped = nn.Conv2d(6, 4, (3, 1), stride=(2, 1), padding=(1, 0), groups=2)
        self.dilated = nn.Conv2d(6, 4, 3, stride=(2, 1), padding=2, dilation=2, bias=False)
        self.maximum = nn.MaxPool2d(3, stride=2, padding=1)
        self.average = nn.AvgPool2d((2, 3), stride=(1, 2), padding=(1, 1))
        self.depthwise = nn.Conv2d(8, 8, 2, groups=8, padding="same", dilation=2)
        self.last = nn.AdaptiveAvgPool2d((2, 3))
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8 * 6, 5)

    def forward(self, x):
        x = self.relu(self.bn(self.stem(x)))
        both = torch.cat([self.grouped(x), self.dilated(x)], 1)
        both = self.average(self.maximum(both))
        both = both + self.depthwise(both)
        return self.fc(self.drop(torch.flatten(self.last(both), 1)))


class Functions(nn.Module):
    """The same operations as functions and methods; a module called twice; sums in place; a mean over the image."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, 2, "valid")
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.fc1 = nn.Linear(4, 6)
        self.fc2 = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.stem(x * 2 - 0.5), inplace=True)
        y = self.twice(self.twice(x).relu())
        y += x
        y = F.max_pool2d(y, 2, ceil_mode=True)
        z = F.avg_pool2d(y, 2, 1)
        z = F.adaptive_avg_pool2d(z, 2).mean((2, 3))
        z = torch.relu(self.fc1(z.view(z.size(0), -1)))
        return self.fc2(z)


def preact():
    return models.build("resnet10-preact", shape=(3, 8, 8), classes=4, width=2)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 5, 5, stride=3, padding=3),
        nn.ReLU6(),
        nn.AdaptiveMaxPool2d((3, 2)),
        nn.Conv2d(5, 4, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 4),
    )


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 4))


def single():
    """Terms of which there is only one."""
    return nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.AvgPool2d(1), nn.Flatten(), nn.Linear(12, 3))


class Modern(nn.Module):
    """Squeeze and excitation, channel shuffle, normalisation of several kinds, linear layers on (N, H, W, C)."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3, 2, 1), nn.GroupNorm(2, 8)
        self.squeeze, self.excite, self.gate = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1), nn.Hardsigmoid()
        self.branch, self.instance = nn.Conv2d(4, 4, 3, padding=1), nn.InstanceNorm2d(4, affine=True)
        self.layer_norm, self.wide, self.narrow = nn.LayerNorm(8), nn.Linear(8, 10), nn.Linear(10, 8)
        self.gamma = nn.Parameter(torch.tensor([0.5, -1.0, 1.5, 0.3, 1.0, -0.2, 0.7, 2.0]).view(8, 1, 1))
        self.depth = StochasticDepth(0.5, "row")
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = F.silu(self.norm(self.stem(x)))
        gate = self.gate(self.excite(F.leaky_relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)), 0.2)))
        x = torch.cat([x[:, :4] * gate[:, :4], x[:, 4:] * gate[:, 4:].expand_as(x[:, 4:]).float()], 1)
        left, right = x.chunk(2, 1)
        x = torch.cat([left, F.elu(self.instance(self.branch(right)))], 1)
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        y = self.narrow(F.gelu(self.wide(self.layer_norm(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        x = x + self.depth(self.gamma * y)
        x = F.hardswish(1 - x)
        return self.fc(x.flatten(2).mean(2))


class Widened(nn.Module):
    """A shortcut that is widened by zeros."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = self.block(x) + torch.cat([x, torch.zeros_like(x)], dim=1)
        return self.fc(F.relu(y).mean([2, 3]))


class Signal(nn.Module):
    """Convolutions along one axis, and a mean over tokens."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 6, 3, 2, 1), nn.Conv1d(6, 5, 2, dilation=2)
        self.mix, self.fc = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.sigmoid(self.second(torch.tanh(self.first(x.flatten(2)))))
        return self.fc(self.mix(x.transpose(1, 2)).mean(1))


class Upward(nn.Module):
    """Transposed convolutions: groups, dilation, strides beyond the kernel; along one axis."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.grouped = nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), groups=2)
        self.dilated = nn.ConvTranspose2d(6, 3, (2, 3), 2, dilation=(2, 1), bias=False)
        self.down, self.row = nn.Conv2d(3, 4, 3, 4), nn.ConvTranspose1d(4, 6, 3, 2, 2, 1, groups=2)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.grouped(torch.relu(self.stem(x))))
        x = torch.relu(self.down(self.dilated(x)))
        return self.fc(torch.relu(self.row(x.flatten(2))).mean(2))


class Rhythm(nn.Module):
    """Pools along one axis, as modules and functions."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.fc = nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(4, 5, 1), nn.Linear(25, 4)
        self.maximum, self.average = nn.MaxPool1d(3, 1, 1, dilation=2), nn.AvgPool1d(2, padding=1)
        self.adapted, self.last = nn.AdaptiveAvgPool1d(7), nn.AdaptiveMaxPool1d(5)

    def forward(self, x):
        x = self.adapted(self.average(self.maximum(self.first(x.flatten(2)))))
        x = F.avg_pool1d(F.max_pool1d(self.second(x), 2, stride=1, padding=1), 2, 1)
        return self.fc(self.last(x).flatten(1))


class Maxout(nn.Module):
    """The larger of two stacked branches, and the largest value of each map."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 3), nn.Linear(8, 4)

    def forward(self, x):
        both = torch.stack([self.a(x), self.b(x)], 2)  # (N, 4, 2, H, W)
        both = both.permute(0, 1, 3, 4, 2)
        tokens = both.amax(4).flatten(2)
        return self.fc(torch.cat([torch.amax(tokens, dim=2), torch.relu(both).amax((2, 3, 4))], 1))


def lopsided():
    """More zeros after the image than before it, as TensorFlow pads for a stride of two; a depthwise convolution."""
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(2, 6, 3, 2, bias=False), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(6, 6, 3, 2, groups=6), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


NETWORKS = {
    "branches": (Branches, (2, 9, 8)),
    "functions": (Functions, (1, 11, 11)),
    "preact": (preact, (3, 8, 8)),
    "convolutional": (convolutional, (3, 10, 9)),
    "linear": (linear, (3, 4, 4)),
    "modern": (Modern, (2, 6, 6)),
    "widened": (Widened, (1, 6, 5)),
    "signal": (Signal, (4, 3, 5)),
    "upward": (Upward, (1, 5, 4)),
    "rhythm": (Rhythm, (3, 4, 5)),
    "maxout": (Maxout, (2, 4, 5)),
    "single": (single, (1, 2, 2)),
    "lopsided": (lopsided, (2, 8, 7)),
}


def build(name, seed=0, whole=False):
    """A network with random weights and batch statistics, and images.

    Args:
        whole: weights in -1, 0, 1 and images in 0, 1/2, 1: many equal terms and sums of zero.
    """
    make, shape = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make().eval()
        images = torch.rand(12, *shape)
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
        if whole:
            images = (images * 2).round() / 2
            with torch.no_grad():
                for module in model.modules():
                    if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
                        module.weight.copy_(torch.randint(-1, 2, module.weight.shape))
                        if module.bias is not None:
                            module.bias.zero_()
        elif isinstance(last := list(model.modules())[-1], nn.Linear):  # so that several classes are predicted
            with torch.no_grad():
                last.bias -= model(images).mean(0)
    return model, images
