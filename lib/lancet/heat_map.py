"""Moved to lib.lancet.explanation."""

from lib.lancet.explanation import *  # noqa: F403
