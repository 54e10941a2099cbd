"""Backdoored networks: triggers, poisoned training images, TrojanNN, and an attack that knows the defence."""

from lib.lancet.backdoors.triggers import NAMES, Trigger, named
