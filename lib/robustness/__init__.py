"""Robustness under sparsification and regularisation (Maestrati 2020): attack, methods, spectra, masking.

Submodules load on first use: a recipe that names one hook does not load the attacks.
"""

from typing import TYPE_CHECKING

from lib import lazy

if TYPE_CHECKING:
    from lib.robustness.adversarial_training import Pgd
    from lib.robustness.autoattack import autoattack_correct
    from lib.robustness.bounds import certified_epsilons, lipschitz_bound, operator_norm, sensitivities
    from lib.robustness.fgsm import cross_entropy_gradient, fgsm_correct, fgsm_sweep
    from lib.robustness.low_rank import NuclearNorm, decompose, nuclear_norm
    from lib.robustness.magnitude_pruning import GradualPruning, schedule, sparsity
    from lib.robustness.masking import cw_distances, diagnose, exact_sign_gradient, examine, pgd_correct
    from lib.robustness.smallest import minimal_epsilons, smallest_epsilons
    from lib.robustness.spectra import effective_rank, layer_spectra, prunable_share, singular_values, stable_rank
    from lib.robustness.temperature import ScaledLogits, scale_last_layer

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "adversarial_training": ("Pgd",),
        "autoattack": ("autoattack_correct",),
        "bounds": ("certified_epsilons", "lipschitz_bound", "operator_norm", "sensitivities"),
        "fgsm": ("cross_entropy_gradient", "fgsm_correct", "fgsm_sweep"),
        "low_rank": ("NuclearNorm", "decompose", "nuclear_norm"),
        "magnitude_pruning": ("GradualPruning", "schedule", "sparsity"),
        "masking": ("cw_distances", "diagnose", "exact_sign_gradient", "examine", "pgd_correct"),
        "smallest": ("minimal_epsilons", "smallest_epsilons"),
        "spectra": ("effective_rank", "layer_spectra", "prunable_share", "singular_values", "stable_rank"),
        "temperature": ("ScaledLogits", "scale_last_layer"),
    },
)
