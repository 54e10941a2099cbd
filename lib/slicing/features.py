"""Moved to lib.slicing.scores."""

from lib.slicing.scores import feature_map

__all__ = ["feature_map"]
