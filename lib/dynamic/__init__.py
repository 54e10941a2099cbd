"""Dynamic pruning by layerwise channel selection, pruning from scratch, and what they are compared with.

Submodules load on first use.
"""

from typing import TYPE_CHECKING

from lib import lazy

if TYPE_CHECKING:
    from lib.dynamic.boosting import FeatureBoosting
    from lib.dynamic.cost import latency, macs, parameters
    from lib.dynamic.errors import DynamicError
    from lib.dynamic.lcs.network import LayerwiseChannelSelection
    from lib.dynamic.lcs.skipping import SkippingNetwork
    from lib.dynamic.scratch.build import build_pruned, shrink
    from lib.dynamic.scratch.gates import Gates, learn_gates
    from lib.dynamic.scratch.search import Structure, search_threshold
    from lib.dynamic.static import l1_structure, slimming_structure, uniform_structure

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "boosting": ("FeatureBoosting",),
        "cost": ("latency", "macs", "parameters"),
        "errors": ("DynamicError",),
        "lcs.network": ("LayerwiseChannelSelection",),
        "lcs.skipping": ("SkippingNetwork",),
        "scratch.build": ("build_pruned", "shrink"),
        "scratch.gates": ("Gates", "learn_gates"),
        "scratch.search": ("Structure", "search_threshold"),
        "static": ("l1_structure", "slimming_structure", "uniform_structure"),
    },
)
