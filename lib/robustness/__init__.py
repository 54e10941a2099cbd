"""Robustness under sparsification and regularisation (Maestrati 2020): attack, methods, spectra, masking.

Submodules load on first use: a recipe that names one hook does not load the attacks.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lib.robustness.adversarial_training import FgsmRs
    from lib.robustness.evaluation import masking_of, spectra_of, sweep
    from lib.robustness.fgsm import cross_entropy_gradient, fgsm_correct, fgsm_sweep
    from lib.robustness.low_rank import NuclearNorm, decompose, nuclear_norm
    from lib.robustness.magnitude_pruning import GradualPruning, schedule, sparsity
    from lib.robustness.masking import cw_distances, diagnose, exact_sign_gradient, examine, pgd_correct
    from lib.robustness.spectra import effective_rank, layer_spectra, prunable_share, singular_values, stable_rank
    from lib.robustness.temperature import ScaledLogits, scale_last_layer

__all__ = [
    "FgsmRs",
    "GradualPruning",
    "NuclearNorm",
    "ScaledLogits",
    "cross_entropy_gradient",
    "cw_distances",
    "decompose",
    "diagnose",
    "effective_rank",
    "exact_sign_gradient",
    "examine",
    "fgsm_correct",
    "fgsm_sweep",
    "layer_spectra",
    "masking_of",
    "nuclear_norm",
    "pgd_correct",
    "prunable_share",
    "scale_last_layer",
    "schedule",
    "singular_values",
    "sparsity",
    "spectra_of",
    "stable_rank",
    "sweep",
]

_HOMES = {
    "adversarial_training": ("FgsmRs",),
    "evaluation": ("masking_of", "spectra_of", "sweep"),
    "fgsm": ("cross_entropy_gradient", "fgsm_correct", "fgsm_sweep"),
    "low_rank": ("NuclearNorm", "decompose", "nuclear_norm"),
    "magnitude_pruning": ("GradualPruning", "schedule", "sparsity"),
    "masking": ("cw_distances", "diagnose", "exact_sign_gradient", "examine", "pgd_correct"),
    "spectra": ("effective_rank", "layer_spectra", "prunable_share", "singular_values", "stable_rank"),
    "temperature": ("ScaledLogits", "scale_last_layer"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return importlib.import_module(f"lib.robustness.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"lib.robustness.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lib.robustness' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_HOME])
