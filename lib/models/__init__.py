"""Architectures, one file a family. Every network takes images in [0, 1]; its normalisation is inside."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from inspect import signature
from typing import Any

import torch
from torch import nn

from lib import config
from lib.models.alexnet import AlexNet
from lib.models.deepid import DeepID
from lib.models.digits_cnn import DigitsCNN
from lib.models.fully_connected import FC5
from lib.models.gtsrb_cnn import SignsCNN
from lib.models.layers import Normalise
from lib.models.mobilenet import MobileNetV1, MobileNetV2
from lib.models.resnet import BottleneckResNet, CifarResNet, PreActResNet, ResNet
from lib.models.vgg import VGG

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "resnet18": partial(ResNet, blocks=(2, 2, 2, 2)),
    "resnet10-preact": partial(PreActResNet, blocks=(1, 1, 1, 1)),
    "resnet18-preact": partial(PreActResNet, blocks=(2, 2, 2, 2)),
    "alexnet": AlexNet,
    "fc5": FC5,
    "digits-cnn": DigitsCNN,
    "gtsrb-cnn": SignsCNN,
    "deepid": DeepID,
    "vgg16-bn": partial(VGG, blocks=(2, 2, 3, 3, 3)),
    "vgg19-bn": partial(VGG, blocks=(2, 2, 4, 4, 4)),
    "resnet20": partial(CifarResNet, blocks=3),
    "resnet56": partial(CifarResNet, blocks=9),
    "resnet110": partial(CifarResNet, blocks=18),
    "resnet50": partial(BottleneckResNet, blocks=(3, 4, 6, 3)),
    "mobilenet-v1": MobileNetV1,
    "mobilenet-v2": MobileNetV2,
}


@lru_cache(maxsize=64)
def defaults(arch: str) -> Mapping[str, Any]:
    """The arguments of an architecture and the values they have where none are given, as {"width": 64}.

    Args:
        arch: a name in `ARCHITECTURES`.
    """
    with torch.device("meta"):  # no memory, and no random numbers drawn
        kind = type(build(arch))
    own = {"self", "shape", "classes", "normalise", "blocks"}
    return {name: p.default for name, p in signature(kind.__init__).parameters.items() if name not in own}


def build(
    arch: str,
    shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **args: Any,
) -> nn.Module:
    """A network with fresh weights from torch's global random state.

    Args:
        arch: a name in `ARCHITECTURES`.
        shape: (channels, height, width) of an image.
        classes: number of logits.
        mean, std: per channel, of images in [0, 1]; None leaves the input as it is.
        args: the architecture's own, as `width`.
    Returns: a module from float images (N, C, H, W) in [0, 1] to logits (N, classes).
    Raises: ValueError naming the architectures that exist.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"no architecture {arch!r}: {config.one_of(arch, ARCHITECTURES)}")
    return ARCHITECTURES[arch](shape=tuple(shape), classes=classes, normalise=Normalise.of(mean, std), **args)
