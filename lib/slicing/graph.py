"""Moved to lib.slicing.kinds."""

from lib.slicing.kinds import Graph, SlicingError, last_convolution

__all__ = ["Graph", "SlicingError", "last_convolution"]
