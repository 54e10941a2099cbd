"""Moved to lib.models.resnet."""

from lib.models.resnet import PreActResNet

__all__ = ["PreActResNet"]
