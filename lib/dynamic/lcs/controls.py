"""Moved to lib.dynamic.lcs.budget."""

from lib.dynamic.lcs.budget import entropies, static_masks, untrained

__all__ = ["entropies", "static_masks", "untrained"]
