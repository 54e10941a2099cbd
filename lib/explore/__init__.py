"""One image, one attack, looked at with every method: predictions, slices, decision paths, blamed weights.

What `notebooks/00_explore.ipynb` shows. Everything is computed by plain functions that return data (`attacking`,
`slices`, `paths`, `blame`) and drawn by others that return figures (`draw`); `Session` remembers what was computed,
and `panel` sets buttons and sliders before it. Submodules load on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lib.explore.attacking import ATTACKS, Attacked, strengths
    from lib.explore.blame import Blame
    from lib.explore.errors import ExploreError
    from lib.explore.front import show
    from lib.explore.paths import Path
    from lib.explore.session import Choice, Session
    from lib.explore.slices import Compared
    from lib.explore.subject import Subject, deciders, networks, subject_of

__all__ = [
    "ATTACKS",
    "Attacked",
    "Blame",
    "Choice",
    "Compared",
    "ExploreError",
    "Path",
    "Session",
    "Subject",
    "deciders",
    "networks",
    "show",
    "strengths",
    "subject_of",
]

_HOMES = {
    "attacking": ("ATTACKS", "Attacked", "strengths"),
    "blame": ("Blame",),
    "errors": ("ExploreError",),
    "front": ("show",),
    "paths": ("Path",),
    "session": ("Choice", "Session"),
    "slices": ("Compared",),
    "subject": ("Subject", "deciders", "networks", "subject_of"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"lib.explore.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lib.explore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
