"""ResNet-20, -56 and -110 for small images: three stages of basic blocks, shortcuts without parameters.

Source: He et al. 2016, https://arxiv.org/abs/1512.03385, section 4.2: 6n + 2 layers, option A (where a stage halves the
image, the shortcut takes every second pixel and pads the channels with zeros). Modules are named as in the published
CIFAR-10 weights of the field's usual re-implementation, so that these load.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.initialise import he_normal


class PaddedShortcut(nn.Module):
    """Every second pixel (or each), between as many channels of zeros in front as behind.

    Args:
        before, after: channels of zeros.
        stride: 1 or 2.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.before, self.after, self.stride = before, after, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class CifarBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, added to the input or, where shapes differ, to its padded form."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            wider = outputs - inputs
            self.shortcut = PaddedShortcut(wider // 2, wider - wider // 2, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """Three stages at widths w, 2w, 4w and strides 1, 2, 2.

    Args:
        shape: (channels, height, width) of an image.
        classes: number of logits.
        normalise: first module, on images in [0, 1].
        blocks: blocks a stage: 3, 9 and 18 make 20, 56 and 110 layers.
        width: filters of the stem; 16 is the source's.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, normalise: nn.Module, blocks: int = 3, width: int = 16
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.conv1 = nn.Conv2d(shape[0], width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(width, width, 1, blocks)
        self.layer2 = _stage(width, 2 * width, 2, blocks)
        self.layer3 = _stage(2 * width, 4 * width, 2, blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(4 * width, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(self.normalise(images))))
        return self.linear(self.flatten(self.pool(self.layer3(self.layer2(self.layer1(x))))))


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    first = CifarBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(CifarBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
