"""Moved to lib.lancet.explanation."""

from lib.lancet.explanation import grad_cam, hottest, random_regions

__all__ = ["grad_cam", "hottest", "random_regions"]
