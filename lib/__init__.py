"""What neurons do: five studies, reproduced. Submodules load on first use, so `import lib` stays instant."""

import importlib
from types import ModuleType

__version__ = "0.1.0"
_SUBMODULES = (
    *("config", "compute", "record", "progress", "plots", "store", "data", "models"),
    *("training", "zoo", "attacks", "evaluations", "detectors", "slicing", "robustness"),
    *("claims", "reduced", "report", "engine"),
)


def __getattr__(name: str) -> ModuleType:
    if name in _SUBMODULES:
        return importlib.import_module(f"lib.{name}")
    raise AttributeError(f"module 'lib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES])
