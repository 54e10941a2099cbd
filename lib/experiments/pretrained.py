"""Networks pretrained on ImageNet, which this package does not train: from an optional package, or from torchvision."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from lib.data import DataError
from lib.lancet.errors import LancetError
from lib.models import Normalise, efficientnet_lite

UNAVAILABLE = (DataError, efficientnet_lite.MissingWeightsError)
"""What is raised where a pretrained network's images or weights are not there: it is skipped, with the reason."""


@dataclass(frozen=True)
class Pretrained:
    """A pretrained network.

    Attributes:
        title: for texts.
        data: the data set that it is tried on.
        load: makes it; input in [0, 1].
        weights: what tells its weights from others.
    """

    title: str
    data: str
    load: Callable[[], nn.Module]
    weights: str


def _torchvision(name: str) -> nn.Module:
    """A network of torchvision with its first ImageNet weights, downloaded where they are not kept yet."""
    import torchvision

    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    network = torchvision.models.get_model(name, weights=weights)
    normalise = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return nn.Sequential(OrderedDict(normalise=normalise, network=network)).eval()


NETWORKS: dict[str, Pretrained] = {
    "efficientnet-lite0": Pretrained(
        "EfficientNet-Lite0", "imagenet-sample", efficientnet_lite.pretrained, efficientnet_lite.WEIGHTS_SHA256
    ),
    "vgg16": Pretrained("VGG16", "imagenet", lambda: _torchvision("vgg16"), "torchvision vgg16 IMAGENET1K_V1"),
    "resnet18": Pretrained(
        "ResNet18", "imagenet", lambda: _torchvision("resnet18"), "torchvision resnet18 IMAGENET1K_V1"
    ),
    "resnet50": Pretrained(
        "ResNet50", "imagenet", lambda: _torchvision("resnet50"), "torchvision resnet50 IMAGENET1K_V1"
    ),
}


def known(name: str) -> Pretrained:
    """A pretrained network by name. Raises: LancetError listing the names."""
    if name not in NETWORKS:
        raise LancetError(f"no pretrained network {name!r}: one of {', '.join(NETWORKS)}")
    return NETWORKS[name]
