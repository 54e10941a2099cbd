"""Moved to lib.dynamic.cost."""

from lib.dynamic.cost import networks_in_turns

__all__ = ["networks_in_turns"]
