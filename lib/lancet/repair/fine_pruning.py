"""Moved to lib.lancet.repair.unlearning."""

from lib.lancet.repair.unlearning import fine_prune

__all__ = ["fine_prune"]
