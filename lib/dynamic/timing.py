"""Moved to lib.dynamic.cost."""

from lib.dynamic.cost import *  # noqa: F403
