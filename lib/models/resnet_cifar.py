"""ResNet-20, -56 and -110 for small images: three stages of basic blocks, shortcuts without parameters.

Source: He et al. 2016, https://arxiv.org/abs/1512.03385, section 4.2: 6n + 2 layers, option A (where a stage halves the
image, the shortcut takes every second pixel and pads the channels with zeros). Modules are named as in the published
CIFAR-10 weights of the field's usual re-implementation, so that these load.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.layers import he_normal
from lib.models.resnet import BasicBlock


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


def padded(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Option A: the shortcut of `BasicBlock` without parameters."""
    wider = outputs - inputs
    return PaddedShortcut(wider // 2, wider - wider // 2, stride)


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
    first = BasicBlock(inputs, outputs, stride, padded)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
