"""Moved to lib.dynamic.lcs.skipping."""

from lib.dynamic.lcs.skipping import folded, packed

__all__ = ["folded", "packed"]
