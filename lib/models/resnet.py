"""ResNets with post-activation blocks: basic ones in CIFAR form (3x3 stem, no first pooling), and bottlenecks.

Source: He et al. 2016, https://arxiv.org/abs/1512.03385; widths 64 to 512 as torchvision's ResNet18. Bottlenecks are
those of table 1, for large images (7x7 stem, first pooling); the stride lies in the 3x3 convolution, and modules are
named as in torchvision's resnet50, whose weights load.
"""

from collections.abc import Callable, Sequence

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
