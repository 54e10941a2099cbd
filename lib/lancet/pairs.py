"""Moved to lib.lancet.companions."""

from lib.lancet.companions import *  # noqa: F403
