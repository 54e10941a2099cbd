"""Moved to lib.models.resnet."""

from lib.models.resnet import PaddedShortcut

__all__ = ["PaddedShortcut"]
