"""What shaped an output: NNSlicer's dynamic slices (FSE 2020), EffectivePath, FeatureMap, and what they are used for.

Submodules load on first use.
"""

from typing import TYPE_CHECKING

from lib import lazy

if TYPE_CHECKING:
    from lib.slicing.backward import effective_path, slice, slices_by_chunk
    from lib.slicing.detection import slice_features
    from lib.slicing.kinds import SlicingError
    from lib.slicing.profiling import NeuronProfile, profile
    from lib.slicing.rules import EffectivePath, NNSlicer
    from lib.slicing.scores import class_scores, feature_map
    from lib.slicing.slices import Slices

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "backward": ("effective_path", "slice", "slices_by_chunk"),
        "detection": ("slice_features",),
        "kinds": ("SlicingError",),
        "profiling": ("NeuronProfile", "profile"),
        "rules": ("EffectivePath", "NNSlicer"),
        "scores": ("class_scores", "feature_map"),
        "slices": ("Slices",),
    },
)
