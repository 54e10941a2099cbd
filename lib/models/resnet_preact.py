"""Moved to lib.models.resnet."""

from lib.models.resnet import *  # noqa: F403
