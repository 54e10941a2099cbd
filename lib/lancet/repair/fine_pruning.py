"""Moved to lib.lancet.repair.unlearning."""

from lib.lancet.repair.unlearning import *  # noqa: F403
