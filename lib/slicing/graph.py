"""Moved to lib.slicing.kinds."""

from lib.slicing.kinds import *  # noqa: F403
