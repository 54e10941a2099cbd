"""Moved to lib.lancet.companions."""

from lib.lancet.companions import found_companions, least_votes

__all__ = ["found_companions", "least_votes"]
