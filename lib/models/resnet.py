"""ResNets: post-activation ones in CIFAR form and for large images, those for small images, and pre-activation ones.

Source: He et al. 2016, https://arxiv.org/abs/1512.03385.
- `ResNet`: basic blocks, 3x3 stem, no first pooling; widths 64 to 512 as torchvision's ResNet18.
- `BottleneckResNet`: table 1 (7x7 stem, first pooling); the stride lies in the 3x3 convolution, and modules are named
  as in torchvision's resnet50, whose weights load.
- `CifarResNet`: section 4.2, 6n + 2 layers, option A (where a stage halves the image, the shortcut takes every second
  pixel and pads the channels with zeros). Modules are named as in the published CIFAR-10 weights of the field's usual
  re-implementation, so that these load.
- `PreActResNet`: NNSlicer (FSE 2020), released code; blocks after He et al. 2016, https://arxiv.org/abs/1603.05027.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.layers import he_normal


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A 1x1 convolution and BN: option B."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, added to the input.

    Args:
        inputs, outputs: channels.
        stride: of the first convolution.
        shortcut: makes what stands in the input's way where shapes differ, from the three.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, shortcut: Callable[[int, int, int], nn.Module] = projection
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = shortcut(inputs, outputs, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + self.shortcut(x))


class ResNet(nn.Module):
    """Four stages of basic blocks at widths w, 2w, 4w, 8w and strides 1, 2, 2, 2.

    Args:
        shape: (channels, height, width) of an image.
        classes: number of logits.
        normalise: first module, on images in [0, 1].
        blocks: blocks a stage.
        width: filters of the stem; 64 is the standard ResNet18.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, normalise: nn.Module, blocks: Sequence[int], width: int = 64
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.conv1 = nn.Conv2d(shape[0], width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        inputs = width
        stages = []
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            stages.append(
                nn.Sequential(
                    *(
                        BasicBlock(inputs if k == 0 else outputs, outputs, 2 if stage and k == 0 else 1)
                        for k in range(count)
                    )
                )
            )
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(self.normalise(images))))
        return self.fc(self.flatten(self.pool(self.stages(x))))


EXPANSION = 4  # channels of a block's output, in units of its inner width


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions, each with BN, added to the input (projected where shapes differ)."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * inner
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        return self.relu3(self.bn3(self.conv3(out)) + self.downsample(x))


class BottleneckResNet(nn.Module):
    """Four stages of bottlenecks at inner widths w, 2w, 4w, 8w and strides 1, 2, 2, 2.

    Args:
        shape: (channels, height, width) of an image; 224 x 224 in the source.
        classes: number of logits.
        normalise: first module, on images in [0, 1].
        blocks: blocks a stage; (3, 4, 6, 3) is ResNet-50.
        width: filters of the stem; 64 is the source's.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        normalise: nn.Module,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.conv1 = nn.Conv2d(shape[0], width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = width
        for stage, count in enumerate(blocks):
            inner = width * 2**stage
            parts = [
                Bottleneck(EXPANSION * inner if k else inputs, inner, 2 if stage and not k else 1) for k in range(count)
            ]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*parts))
            inputs = EXPANSION * inner
        self.stages = len(blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.normalise(images)))))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.fc(self.flatten(self.avgpool(x)))


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


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv, added to a 1x1 projection of the first activation; convolutions without bias."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        return self.conv2(self.relu2(self.bn2(self.conv1(active)))) + self.shortcut(active)


class PreActResNet(nn.Module):
    """A stem without BN, four stages at widths w, 2w, 4w, 8w and strides 1, 2, 2, 2, a last BN and ReLU.

    Args:
        shape: (channels, height, width) of an image.
        classes: number of logits.
        normalise: first module, on images in [0, 1]; NNSlicer's networks take the image as it is.
        blocks: blocks a stage; (1, 1, 1, 1) is ResNet10 with 14 weight tensors.
        width: filters of the stem.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, normalise: nn.Module, blocks: Sequence[int], width: int = 16
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.stem = nn.Conv2d(shape[0], width, 3, 1, 1, bias=False)
        inputs = width
        stages = []
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            for k in range(count):
                stages.append(PreActBlock(inputs, outputs, 2 if stage and k == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(self.stem(self.normalise(images)))
        return self.fc(self.flatten(self.pool(self.relu(self.bn(x)))))
