"""What neurons do: five studies, reproduced. Submodules load on first use, so `import lib` stays instant."""

from lib.late import attach

__version__ = "0.1.0"
_SUBMODULES = (
    *("config", "compute", "record", "progress", "plots", "store", "data", "models"),
    *("graph", "training", "zoo", "attacks", "evaluations", "detectors"),
    *("slicing", "robustness", "dynamic", "lancet"),
    *("claims", "reduced", "report", "engine"),
)

__getattr__, __dir__, _ = attach(__name__, dict.fromkeys(_SUBMODULES, ()))
