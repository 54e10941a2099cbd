"""Moved to lib.slicing.scores."""

from lib.slicing.scores import *  # noqa: F403
