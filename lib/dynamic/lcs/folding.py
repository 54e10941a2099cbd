"""Moved to lib.dynamic.lcs.skipping."""

from lib.dynamic.lcs.skipping import *  # noqa: F403
