"""Pre-activation ResNet10 and ResNet18 of 16 to 128 filters.

Source: NNSlicer (FSE 2020), released code; blocks after He et al. 2016, https://arxiv.org/abs/1603.05027.
"""

from collections.abc import Sequence

from torch import Tensor, nn


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
