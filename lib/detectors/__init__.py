"""Detectors of adversarial inputs that any study compares with: arrays of features, logits or labels in, scores out.

A score is the higher, the more the input looks adversarial. Features are numpy arrays, torch tensors or scipy sparse
matrices with one row an input. Detectors that need no adversarials are fitted on clean inputs alone. Submodules load
on first use.
"""

from typing import TYPE_CHECKING

from lib import lazy

if TYPE_CHECKING:
    from lib.detectors.kernel_density import KernelDensity, MaxSoftmax, choose_bandwidth
    from lib.detectors.layerwise import LID, LayerRegression, Mahalanobis, local_dimension
    from lib.detectors.metrics import auroc, auroc_interval, rates, threshold_at
    from lib.detectors.trees import BinaryForest, TreeRule

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "arrays": (),
        "kernel_density": ("KernelDensity", "MaxSoftmax", "choose_bandwidth"),
        "layerwise": ("LID", "LayerRegression", "Mahalanobis", "local_dimension"),
        "metrics": ("auroc", "auroc_interval", "rates", "threshold_at"),
        "trees": ("BinaryForest", "TreeRule"),
    },
)
