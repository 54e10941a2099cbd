"""MobileNetV1 and MobileNetV2: depthwise convolutions between pointwise ones, for large images.

Sources: Howard et al. 2017, https://arxiv.org/abs/1704.04861, table 1; Sandler et al. 2018,
https://arxiv.org/abs/1801.04381, table 2.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from lib.models.layers import he_normal

# outputs in units of the stem's filters, stride
V1_BLOCKS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *((16, 1),) * 5, (32, 2), (32, 1))
# expansion, outputs when the stem has 32 filters, repeats, stride of the first
V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
V2_LAST = 1280


class MobileNetV1(nn.Module):
    """A 3x3 stem, then thirteen pairs of a depthwise 3x3 and a pointwise 1x1 convolution, each with BN and ReLU.

    Args:
        shape: (channels, height, width) of an image; 224 x 224 in the source.
        classes: number of logits.
        normalise: first module, on images in [0, 1].
        width: filters of the stem; 32 is the source's.
    """

    def __init__(self, shape: Sequence[int], classes: int, normalise: nn.Module, width: int = 32) -> None:
        super().__init__()
        self.normalise = normalise
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["stem"] = nn.Conv2d(shape[0], width, 3, 2, 1, bias=False)
        layers["stem_bn"] = nn.BatchNorm2d(width)
        layers["stem_relu"] = nn.ReLU()
        inputs = width
        for place, (factor, stride) in enumerate(V1_BLOCKS, 1):
            outputs = factor * width
            layers[f"depthwise{place}"] = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
            layers[f"depthwise{place}_bn"] = nn.BatchNorm2d(inputs)
            layers[f"depthwise{place}_relu"] = nn.ReLU()
            layers[f"pointwise{place}"] = nn.Conv2d(inputs, outputs, 1, bias=False)
            layers[f"pointwise{place}_bn"] = nn.BatchNorm2d(outputs)
            layers[f"pointwise{place}_relu"] = nn.ReLU()
            inputs = outputs
        self.features = nn.Sequential(layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.flatten(self.pool(self.features(self.normalise(images)))))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1 projection; added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self.expand = nn.Conv2d(inputs, inner, 1, bias=False)
            self.expand_bn = nn.BatchNorm2d(inner)
            self.expand_relu = nn.ReLU6()
        self.depthwise = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(inner)
        self.depthwise_relu = nn.ReLU6()
        self.project = nn.Conv2d(inner, outputs, 1, bias=False)
        self.project_bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.expand_relu(self.expand_bn(self.expand(x))) if self.expands else x
        inner = self.depthwise_relu(self.depthwise_bn(self.depthwise(inner)))
        out = self.project_bn(self.project(inner))
        return out + x if self.adds else out


class MobileNetV2(nn.Module):
    """A 3x3 stem, seventeen inverted residuals, a last 1x1 convolution.

    Args:
        shape: (channels, height, width) of an image; 224 x 224 in the source.
        classes: number of logits.
        normalise: first module, on images in [0, 1].
        width: filters of the stem; 32 is the source's, and all others scale with it.
        dropout: share of units dropped before the last layer.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, normalise: nn.Module, width: int = 32, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.stem = nn.Conv2d(shape[0], width, 3, 2, 1, bias=False)
        self.stem_bn = nn.BatchNorm2d(width)
        self.stem_relu = nn.ReLU6()
        inputs, blocks = width, []
        for expansion, base, repeats, stride in V2_STAGES:
            outputs = max(1, round(base * width / 32))
            for k in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, expansion, 1 if k else stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        last = max(1, round(V2_LAST * width / 32))
        self.last = nn.Conv2d(inputs, last, 1, bias=False)
        self.last_bn = nn.BatchNorm2d(last)
        self.last_relu = nn.ReLU6()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(last, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(self.stem_relu(self.stem_bn(self.stem(self.normalise(images)))))
        x = self.last_relu(self.last_bn(self.last(x)))
        return self.fc(self.dropout(self.flatten(self.pool(x))))
